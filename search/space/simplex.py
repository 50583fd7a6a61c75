"""Weights that sum to a fixed number, with one dimension less than there are weights.

Stick-breaking: of a stick of length 1, model k of K takes the part 1 − (1 − u_k)^(1/(K−k)) of what is left, and the
last model the rest. With u uniform on [0, 1]^(K−1) that part is Beta(1, K−k), so the weights are uniform on the simplex
(Devroye, Non-uniform random variate generation, 1986, XI.4), and every corner and face is reached. Normalising K
numbers instead would add a direction in which nothing changes, and which model-based samplers have to learn. Where
models are left out, the others in proportion are uniform on their own simplex (a Dirichlet vector's neutrality).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import FloatDistribution

from mergesearch.errors import UserError
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.search.space.dimension import AUTO, SHAPE_KEYS, Hole, check_keys
from mergesearch.search.space.parameters import Draft, Readers, Shape, methods_with
from mergesearch.search.space.paths import Path, Place, put, value_at

SIMPLEX_KEYS = ("search", "sums_to", *SHAPE_KEYS)


def weights_of(shares: Sequence[float]) -> list[float]:
    """K weights that sum to one from K − 1 numbers between 0 and 1."""
    rest, weights = 1.0, []
    for place, share in enumerate(shares):
        weights.append(rest * (1 - (1 - share) ** (1 / (len(shares) - place))))
        rest -= weights[-1]
    return [*weights, rest]


def shares_of(weights: Sequence[float]) -> list[float]:
    """The numbers from which ``weights_of`` makes these weights."""
    rest, shares = sum(weights), []
    for place, weight in enumerate(weights[:-1]):
        part = min(weight / rest, 1.0) if rest > 0 else 0.0
        shares.append(1 - (1 - part) ** (len(weights) - 1 - place))
        rest -= weight
    return shares


@dataclass
class Simplex:
    """One parameter of several models, whose values sum to ``total`` at every depth.

    ``fixed`` are the models with a number of their own, which counts.
    """

    places: Sequence[Place]
    fixed: Mapping[Path, float]
    total: float
    shape: Shape
    holes: Sequence[Hole]
    readers: Readers

    def asked_by(self, method: Method) -> bool:
        return self.readers.read(self.places[0].parameter, method)

    def fill(self, draft: Draft) -> None:
        present = [place.owner not in draft.absent for place in self.places]
        total = self.total - sum(value for owner, value in self.fixed.items() if owner not in draft.absent)
        knots = [_scaled(weights, present, total) for weights in self._drawn(draft.values)]
        curves = [self.shape.spread(list(values)) for values in zip(*knots, strict=True)]
        if self.shape.form == "monotone":
            # A cubic through each model's knots does not keep the sum between them.
            at_layers = [_scaled(values, present, total) for values in zip(*curves, strict=True)]
            curves = [list(values) for values in zip(*at_layers, strict=True)]
        for place, curve in zip(self.places, curves, strict=True):
            put(draft.data, place.path, curve)

    def start(self, _: Mapping[str, Scalar]) -> dict[str, Scalar]:
        even = shares_of([1.0] * len(self.places))
        return {hole.name: even[number % len(even)] for number, hole in enumerate(self.holes)}

    def _drawn(self, values: Mapping[str, Scalar]) -> list[list[float]]:
        """The weights at each knot, before models are left out."""
        step = len(self.places) - 1
        numbers = [float(values[hole.name]) for hole in self.holes]
        return [weights_of(numbers[start : start + step]) for start in range(0, len(numbers), step)]


def _scaled(weights: Sequence[float], present: Sequence[bool], total: float) -> list[float]:
    """The weights of those present, in proportion, with that sum; even where all of them are zero."""
    kept = [weight if here else 0.0 for weight, here in zip(weights, present, strict=True)]
    if sum(kept) <= 0:
        kept = [float(here) for here in present]
    return [weight * total / sum(kept) if sum(kept) else 0.0 for weight in kept]


def spread_shorthand(recipe: dict[str, Any]) -> None:
    """``parameters: {weight: {search: auto, sums_to: 1}}`` at the top stands for each model that says nothing."""
    shared = recipe.get("parameters")
    if not isinstance(shared, dict) or not isinstance(recipe.get("models"), list):
        return
    for name in [name for name, setting in shared.items() if isinstance(setting, dict) and "sums_to" in setting]:
        setting = shared.pop(name)
        for entry in (entry for entry in recipe["models"] if isinstance(entry, dict)):
            entry.setdefault("parameters", {})
            if isinstance(entry["parameters"], dict) and entry.get("model") != recipe.get("base_model"):
                entry["parameters"].setdefault(name, setting)


def simplexes(
    recipe: Mapping[str, Any], places: Sequence[Place], readers: Callable[[Path], Readers], layers: int, where: str
) -> list[Simplex]:
    """The places with ``sums_to``, those of one parameter in one list of models together."""
    groups: dict[tuple[Any, ...], list[Place]] = {}
    for place in (place for place in places if "sums_to" in place.spec):
        if place.owner is None or place.in_list:
            raise UserError(f"{where}: {place.where}.sums_to: goes with a parameter of the models, as its whole value")
        groups.setdefault((place.owner[:-1], place.parameter, place.inner), []).append(place)
    return [_simplex(recipe, group, readers(group[0].path), layers, where) for group in groups.values()]


def _simplex(recipe: Mapping[str, Any], places: Sequence[Place], readers: Readers, layers: int, where: str) -> Simplex:
    first, here = places[0], f"{where}: {places[0].where}"
    _check_spec(places, where)
    total, shape = float(first.spec["sums_to"]), Shape.read(first.spec, layers, here)
    methods_with(first.parameter, readers.all, here)
    fixed = _fixed(recipe, places, where)
    if len(places) < 2:
        raise UserError(f"{here}.sums_to: is said of one model alone, expected two or more that share the sum")
    if sum(fixed.values()) >= total:
        raise UserError(f"{here}.sums_to: the other models have {sum(fixed.values()):g} of {total:g}: nothing is left")
    holes = [
        Hole(
            f"{place.name}.share{suffix}",
            FloatDistribution(0.0, 1.0),
            tuple(other.path for other in places),
            first.parameter,
            meaning=f"of what is left of the sum {total:g}",
        )
        for suffix in shape.suffixes
        for place in places[:-1]
    ]
    return Simplex(places, fixed, total, shape, holes, readers)


def _check_spec(places: Sequence[Place], where: str) -> None:
    for place in places:
        here = f"{where}: {place.where}"
        check_keys(place.spec, SIMPLEX_KEYS, here)
        total = place.spec["sums_to"]
        if isinstance(total, bool) or not isinstance(total, int | float) or total <= 0:
            raise UserError(f"{here}.sums_to: found {total!r}, expected a number above 0")
        if place.spec["search"] not in (AUTO, [0, total]):
            raise UserError(f"{here}: search: found {place.spec['search']!r}, expected auto or [0, {total:g}]")
        if dict(place.spec) | {"search": AUTO} != dict(places[0].spec) | {"search": AUTO}:
            raise UserError(f"{here}: differs from {places[0].where}, expected the same in all that share the sum")


def _fixed(recipe: Mapping[str, Any], places: Sequence[Place], where: str) -> dict[Path, float]:
    """The numbers of the models beside those of the simplex; a listed base may have none."""
    first = places[0]
    assert first.owner is not None
    parent, owners = first.owner[:-1], {place.owner for place in places}
    fixed: dict[Path, float] = {}
    for index, entry in enumerate(value_at(recipe, parent)):
        path: Path = (*parent, index)
        setting = (entry.get("parameters") or {}).get(first.parameter)
        if path in owners or (setting is None and entry.get("model") == recipe.get("base_model")):
            continue
        if isinstance(setting, bool) or not isinstance(setting, int | float):
            raise UserError(
                f"{where}: {first.where}.sums_to: another model of the list has {setting!r}, "
                "expected a number or the same hole"
            )
        fixed[path] = float(setting)
    return fixed

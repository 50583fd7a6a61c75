"""Weights that sum to a fixed number (``sums_to``), with one dimension less than there are weights.

Stick-breaking: of a stick of length 1, model k of K takes the fraction 1 − (1 − u_k)^(1/(K−k)) of what is left, and the
last model takes the rest. With u uniform on [0, 1]^(K−1) that fraction is Beta(1, K−k), so the weights are uniform on
the simplex (Devroye, Non-uniform random variate generation, 1986, XI.4), and every corner and face can be reached.
Normalising K numbers instead would add a direction in which nothing changes, which model-based samplers would have to
learn. Where models are left out, the weights of the others, in proportion, are uniform on their own simplex (neutrality
of Dirichlet vectors).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import FloatDistribution

from mergesearch.errors import UserError
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.search.space.checks import check_keys
from mergesearch.search.space.dimension import Dimension
from mergesearch.search.space.dimension_group import Draft, Usual
from mergesearch.search.space.parameters import DEPTH_KEYS, DepthProfile
from mergesearch.search.space.paths import Hole, Path, format_path, get_at, set_at
from mergesearch.search.space.ranges import AUTO
from mergesearch.search.space.recipe_methods import Readers, methods_with
from mergesearch.text import quoted

SIMPLEX_KEYS = ("search", "sums_to", *DEPTH_KEYS)


def weights_of(shares: Sequence[float]) -> list[float]:
    """K weights that sum to 1, from K − 1 numbers between 0 and 1."""
    rest, weights = 1.0, []
    for index, share in enumerate(shares):
        weights.append(rest * (1 - (1 - share) ** (1 / (len(shares) - index))))
        rest -= weights[-1]
    return [*weights, rest]


def shares_of(weights: Sequence[float]) -> list[float]:
    """The inverse of ``weights_of``: the K − 1 numbers that give these K weights, in proportion."""
    rest, shares = sum(weights), []
    for index, weight in enumerate(weights[:-1]):
        fraction = min(weight / rest, 1.0) if rest > 0 else 0.0
        shares.append(1 - (1 - fraction) ** (len(weights) - 1 - index))
        rest -= weight
    return shares


@dataclass
class Simplex:
    """The dimensions of one parameter of several models, whose values sum to ``total`` at every depth.

    Attributes:
        holes: the hole of each model.
        fixed: the values of the models without a hole, by their path; they count towards the total.
        total: the sum.
        profile: how the values of each model are laid out over depth.
        dimensions: K − 1 shares for each of the profile's values.
        readers: the methods that these dimensions are for.
    """

    holes: Sequence[Hole]
    fixed: Mapping[Path, float]
    total: float
    profile: DepthProfile
    dimensions: Sequence[Dimension]
    readers: Readers

    @property
    def extremes(self) -> list[Scalar]:
        """The least and the largest value that a model can have."""
        return [0, self.total]

    def fills(self, hole: Hole) -> bool:
        return any(hole.path == own.path for own in self.holes)

    def applies_to(self, method: Method) -> bool:
        return self.readers.read(self.holes[0].parameter, method)

    def fill(self, draft: Draft) -> None:
        present = [hole.owner not in draft.absent for hole in self.holes]
        total = self.total - sum(value for owner, value in self.fixed.items() if owner not in draft.absent)
        knots = [_scaled(weights, present, total) for weights in self._weights(draft.values)]
        curves = [self.profile.spread(list(values)) for values in zip(*knots, strict=True)]
        if self.profile.form == "monotone":
            # Cubics through the models' knots do not keep the sum between the knots.
            layers = [_scaled(values, present, total) for values in zip(*curves, strict=True)]
            curves = [list(values) for values in zip(*layers, strict=True)]
        for hole, curve in zip(self.holes, curves, strict=True):
            set_at(draft.data, hole.path, curve)

    def start(self, usual: Usual) -> dict[str, Scalar]:
        """The models' usual values, in proportion; the same value for all where one of them has none."""
        wanted = [usual(hole.parameter, hole.owner) for hole in self.holes]
        weights = [max(float(value), 0.0) for value in wanted if value is not None]
        if len(weights) < len(self.holes) or not sum(weights):
            weights = [1.0] * len(self.holes)
        shares = shares_of(weights)
        return {dimension.name: shares[number % len(shares)] for number, dimension in enumerate(self.dimensions)}

    def _weights(self, values: Mapping[str, Scalar]) -> list[list[float]]:
        """The weights at each knot, of sum 1, before models are left out."""
        count = len(self.holes) - 1
        shares = [float(values[dimension.name]) for dimension in self.dimensions]
        return [weights_of(shares[start : start + count]) for start in range(0, len(shares), count)]


def _scaled(weights: Sequence[float], present: Sequence[bool], total: float) -> list[float]:
    """The weights of the models that are present, scaled to the total; all alike where all of them are zero."""
    weights = [weight if here else 0.0 for weight, here in zip(weights, present, strict=True)]
    if sum(weights) <= 0:
        weights = [float(here) for here in present]
    return [weight * total / sum(weights) if sum(weights) else 0.0 for weight in weights]


def expand_shared_sums(recipe: dict[str, Any]) -> None:
    """Moves ``parameters: {weight: {search: auto, sums_to: 1}}`` from the top of a recipe to its models.

    Each model without a setting of its own gets the hole, but for the model that is the base.
    """
    shared = recipe.get("parameters")
    if not isinstance(shared, dict) or not isinstance(recipe.get("models"), list):
        return
    for name in [name for name, setting in shared.items() if isinstance(setting, dict) and "sums_to" in setting]:
        setting = shared.pop(name)
        for entry in (entry for entry in recipe["models"] if isinstance(entry, dict)):
            entry.setdefault("parameters", {})
            if isinstance(entry["parameters"], dict) and entry.get("model") != recipe.get("base_model"):
                entry["parameters"].setdefault(name, setting)


def read_simplexes(
    recipe: Mapping[str, Any], holes: Sequence[Hole], readers_at: Callable[[Path], Readers], layers: int, where: str
) -> list[Simplex]:
    """The holes with ``sums_to``: those of one parameter in one list of models share a simplex."""
    groups: dict[tuple[Any, ...], list[Hole]] = {}
    for hole in (hole for hole in holes if "sums_to" in hole.spec):
        if hole.owner is None or hole.in_gradient:
            raise UserError(
                f"{where}: {hole.where}.sums_to: expected in a parameter of a model, for its whole value; "
                f"found {'inside of a gradient' if hole.in_gradient else 'outside of a model'}"
            )
        groups.setdefault((hole.owner[:-1], hole.parameter, hole.inner), []).append(hole)
    return [_read_simplex(recipe, group, readers_at(group[0].path), layers, where) for group in groups.values()]


def _read_simplex(
    recipe: Mapping[str, Any], holes: Sequence[Hole], readers: Readers, layers: int, where: str
) -> Simplex:
    first, at = holes[0], f"{where}: {holes[0].where}"
    for hole in holes:
        _check_hole(hole, first, f"{where}: {hole.where}")
    total, profile = float(first.spec["sums_to"]), DepthProfile.read(first.spec, layers, at)
    methods_with(first.parameter, readers.all, at)
    fixed = _fixed_values(recipe, holes, at)
    if len(holes) < 2:
        raise UserError(f"{at}.sums_to: found in one model, expected in two or more, which share the sum")
    if sum(fixed.values()) >= total:
        raise UserError(
            f"{at}.sums_to: found {total:g}, expected more than {sum(fixed.values()):g}, the sum of the models' fixed "
            "values"
        )
    return Simplex(holes, fixed, total, profile, _share_dimensions(holes, profile, total), readers)


def _share_dimensions(holes: Sequence[Hole], profile: DepthProfile, total: float) -> list[Dimension]:
    paths, meaning = tuple(hole.path for hole in holes), f"share of the rest of the sum {total:g}"
    return [
        Dimension(f"{hole.name}.share{suffix}", FloatDistribution(0.0, 1.0), paths, hole.parameter, meaning)
        for suffix in profile.suffixes
        for hole in holes[:-1]
    ]


def _check_hole(hole: Hole, first: Hole, where: str) -> None:
    check_keys(hole.spec, SIMPLEX_KEYS, where)
    total = hole.spec["sums_to"]
    if isinstance(total, bool) or not isinstance(total, int | float) or total <= 0:
        raise UserError(f"{where}.sums_to: found {quoted(total)}, expected a number above 0")
    if hole.spec["search"] not in (AUTO, [0, total]):
        raise UserError(f"{where}.search: found {quoted(hole.spec['search'])}, expected auto or [0, {total:g}]")
    if dict(hole.spec) | {"search": AUTO} != dict(first.spec) | {"search": AUTO}:
        raise UserError(
            f"{where}: found {dict(hole.spec)}, expected {dict(first.spec)} as in {first.where}, which shares the sum"
        )


def _fixed_values(recipe: Mapping[str, Any], holes: Sequence[Hole], where: str) -> dict[Path, float]:
    """The numbers of the models beside those with a hole, by path. A base among the models may have none."""
    parameter, owners, parent = holes[0].parameter, {hole.owner for hole in holes}, (holes[0].owner or ())[:-1]
    fixed: dict[Path, float] = {}
    for index, entry in enumerate(get_at(recipe, parent)):
        path: Path = (*parent, index)
        setting = (entry.get("parameters") or {}).get(parameter)
        if path in owners or (setting is None and entry.get("model") == recipe.get("base_model")):
            continue
        if isinstance(setting, bool) or not isinstance(setting, int | float):
            other = format_path((*path, "parameters", parameter))
            raise UserError(
                f"{where}.sums_to: found {quoted(setting)} in {other}, expected a number or that hole there"
            )
        fixed[path] = float(setting)
    return fixed

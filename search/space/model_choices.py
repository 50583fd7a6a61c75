"""Which models take part, which is the base, and in which order they stand."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from optuna.distributions import CategoricalDistribution

from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.search.space.dimension import Hole, check_keys
from mergesearch.search.space.layer_stack import stack_models
from mergesearch.search.space.parameters import Draft, OneHole
from mergesearch.search.space.paths import Path, entry_labels, spelled, value_at

BASE, ORDER, INCLUDE = "base_model", "order", "include"
MOST_ORDERED = 4
"""Models of which all orders are tried: 24 of them."""


@dataclass
class Reference(OneHole):
    """A checkpoint as a choice: the base, or a model of the list."""

    @property
    def choices(self) -> list[str]:
        return [str(choice) for choice in self.hole.ends]


@dataclass
class Include(OneHole):
    """A model that may be left out. It is asked for its numbers all the same, so that the space stays one."""

    entry: Path

    def fill(self, draft: Draft) -> None:
        """Nothing: ``absent`` reads the value, and the entry goes last of all."""

    def start(self, _: Mapping[str, Scalar]) -> dict[str, Scalar]:
        return {self.hole.name: True}


@dataclass
class Order(OneHole):
    """The order of the models, for methods that tell the first from the second."""

    orders: Mapping[str, Sequence[int]]

    def asked_by(self, method: Method) -> bool:
        return not method.symmetric

    def fill(self, draft: Draft) -> None:
        """Nothing: the entries change places when all values stand in them."""

    def applied(self, draft: Draft) -> list[int]:
        return list(self.orders[str(draft.values[self.hole.name])])


def references(recipe: Mapping[str, Any], where: str) -> Iterator[Reference]:
    """``base_model: {search: [...]}``, at the top and in slices, and ``model: {search: [...]}``."""
    for path in _reference_places(recipe):
        spec = value_at(recipe, path)
        if isinstance(spec, dict) and "search" in spec:
            name = spelled(path)
            choices = _paths(spec, f"{where}: {name}")
            yield Reference(Hole(name, CategoricalDistribution(choices), (path,)))


def _reference_places(recipe: Mapping[str, Any]) -> Iterator[Path]:
    for owner, path in _groups(recipe):
        yield from ((*path, BASE) for _ in [0] if BASE in owner)
        for key in ("models", "sources"):
            for index, entry in enumerate(owner.get(key) or []):
                if isinstance(entry, dict) and "model" in entry:
                    yield (*path, key, index, "model")


def _groups(recipe: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Path]]:
    """The recipe, its modules, and the slices of each: whatever lists models."""
    modules = recipe.get("modules")
    named = modules.items() if isinstance(modules, dict) else []
    for owner, path in [(recipe, ()), *((module, ("modules", name)) for name, module in named)]:
        if not isinstance(owner, dict):
            continue
        yield owner, path
        slices = owner.get("slices")
        for index, piece in enumerate(slices if isinstance(slices, list) else []):
            if isinstance(piece, dict):
                yield piece, (*path, "slices", index)


def _paths(spec: Mapping[str, Any], where: str) -> list[str]:
    check_keys(spec, ("search",), where)
    values = spec["search"]
    if not isinstance(values, list) or len(values) < 2 or not all(isinstance(value, str) for value in values):
        raise UserError(f"{where}: search: found {values!r}, expected a list of two or more checkpoints")
    if len(set(values)) < len(values):
        raise UserError(f"{where}: search: found {values!r}, expected each checkpoint once")
    return values


def includes(recipe: dict[str, Any], where: str) -> Iterator[Include]:
    """``include`` in the entries of ``models``: a hole is asked, false drops the entry; the key itself goes."""
    models = recipe.get("models")
    entries = [entry for entry in models if isinstance(entry, dict)] if isinstance(models, list) else []
    labels = entry_labels(entries)
    for index, (entry, label) in enumerate(zip(entries, labels, strict=True)):
        if INCLUDE in entry:
            spec, here = entry.pop(INCLUDE), f"{where}: models[{index}].{INCLUDE}"
            if not isinstance(spec, dict) or set(spec) != {"search"} or spec["search"] not in ([True, False], "auto"):
                raise UserError(f"{here}: found {spec!r}, expected {{search: [true, false]}}")
            yield Include(Hole(f"{label}.{INCLUDE}", CategoricalDistribution([True, False])), ("models", index))


def order_of(recipe: dict[str, Any], methods: Sequence[Method], where: str) -> Order | None:
    """``order: {search: permutations}`` or ``order: {search: [[one, two], [two, one]]}``; the key itself goes."""
    if ORDER not in recipe:
        return None
    spec, here, entries = recipe.pop(ORDER), f"{where}: {ORDER}", recipe.get("models")
    if not isinstance(spec, dict) or "search" not in spec or not isinstance(entries, list):
        raise UserError(f"{here}: found {spec!r}, expected {{search: permutations}} beside models")
    check_keys(spec, ("search",), here)
    _check_order_matters(methods, here)
    labels = entry_labels(entries)
    orders = {" > ".join(labels[i] for i in order): order for order in _orders(spec["search"], labels, here)}
    return Order(Hole(ORDER, CategoricalDistribution(list(orders))), orders)


def _check_order_matters(methods: Sequence[Method], where: str) -> None:
    if all(method.symmetric for method in methods):
        names = ", ".join(method.name for method in methods)
        hint = "; which of two models is the base is a choice of base_model: {search: [A, B]}"
        single = any(method.most == 1 for method in methods)
        raise UserError(f"{where}: the order of the models changes nothing for {names}{hint if single else ''}")


def _orders(wished: Any, labels: Sequence[str], where: str) -> list[tuple[int, ...]]:
    if wished == "permutations":
        if not 2 <= len(labels) <= MOST_ORDERED:
            raise UserError(f"{where}: found {len(labels)} models, expected 2 to {MOST_ORDERED}, or a list of orders")
        return list(permutations(range(len(labels))))
    if not isinstance(wished, list) or len(wished) < 2:
        raise UserError(f"{where}: search: found {wished!r}, expected permutations or a list of orders")
    for order in wished:
        for name in order if isinstance(order, list) else [order]:
            if name not in labels:
                raise UserError(f"{where}: search: there is no model {name!r}{nearest(str(name), labels)}")
        if not isinstance(order, list) or sorted(order) != sorted(labels):
            raise UserError(f"{where}: search: found {order!r}, expected each of {', '.join(labels)} once")
    return [tuple(labels.index(name) for name in order) for order in wished]


def absent(draft: Draft, chosen: Sequence[Include]) -> frozenset[Path]:
    """The entries that the candidate goes without.

    Those that are switched off, and the base among the models, whose task vector is zero. Where too few are left for
    the method, the first of those that are off take part.
    """
    models = draft.data.get("models")
    if not isinstance(models, list):
        return frozenset()
    base = None if draft.method.base == "input" else draft.data.get(BASE)
    based = [("models", index) for index, entry in enumerate(models) if entry.get("model") == base]
    off = [part.entry for part in chosen if part.entry not in based and not draft.values[part.hole.name]]
    missing = max(draft.method.fewest, 1) - (len(models) - len(based) - len(off))
    return frozenset([*based, *off[max(missing, 0) :]])


def arranged(draft: Draft, order: Order | None) -> None:
    """Leaves out what is absent and puts the models in their order."""
    models = draft.data.get("models")
    if isinstance(models, list):
        indices = order.applied(draft) if order and order.asked_by(draft.method) else range(len(models))
        draft.data["models"] = [models[i] for i in indices if ("models", i) not in draft.absent]


def named_references(recipe: Mapping[str, Any]) -> list[Any]:
    """Every checkpoint that a candidate may name, the first base first, each once; what is no name stays as it is."""
    found: list[Any] = []
    for path in _reference_places(recipe):
        value = value_at(recipe, path)
        found += value["search"] if isinstance(value, dict) and isinstance(value.get("search"), list) else [value]
    found += stack_models(recipe)
    return [value for index, value in enumerate(found) if value is not None and value not in found[:index]]

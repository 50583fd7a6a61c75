"""Searched models: which checkpoint an entry is, which is the base, which models take part, and in which order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from optuna.distributions import CategoricalDistribution

from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.search.space.alignment_choices import aligned_references
from mergesearch.search.space.checks import check_keys
from mergesearch.search.space.dimension import Dimension
from mergesearch.search.space.dimension_group import Draft, SingleDimension, Usual
from mergesearch.search.space.layer_stack import stack_models
from mergesearch.search.space.paths import ENTRIES, Path, entry_labels, entry_lists, format_path, get_at, model_owners
from mergesearch.text import quoted

BASE, ORDER, INCLUDE = "base_model", "order", "include"
MOST_ORDERED = 4
"""The most models that ``order: {search: permutations}`` takes: 24 orders."""


# Which checkpoint


class CheckpointChoice(SingleDimension):
    """A checkpoint that is one of several: a base, or the model of an entry."""

    def start(self, usual: Usual) -> dict[str, Scalar]:
        (*owner, key), *_ = self.dimension.paths
        value = usual(str(key), tuple(owner) or None)
        return {self.dimension.name: self.dimension.middle if value is None else self.dimension.nearest(value)}


def read_checkpoint_choices(recipe: Mapping[str, Any], where: str) -> Iterator[CheckpointChoice]:
    """``model: {search: [...]}`` in the entries, and ``base_model: {search: [...]}`` at the top and in slices."""
    for path in _reference_paths(recipe):
        spec = get_at(recipe, path)
        if isinstance(spec, dict) and "search" in spec:
            name = format_path(path)
            choices = _read_checkpoints(spec, f"{where}: {name}")
            yield CheckpointChoice(Dimension(name, CategoricalDistribution(choices), (path,)))


def named_references(recipe: Mapping[str, Any]) -> list[Any]:
    """Every checkpoint that a candidate may have, the first base first, each once.

    A value that is no name stays as it is, for the caller to refuse.
    """
    return _references(recipe, list(_reference_paths(recipe)), every=True)


def merged_references(recipe: Mapping[str, Any]) -> list[Any]:
    """Every checkpoint that is merged, without the base; a model that may be aligned counts as aligned."""
    return _references(recipe, [path for path in _reference_paths(recipe) if path != (BASE,)], every=False)


def _references(recipe: Mapping[str, Any], paths: Sequence[Path], every: bool) -> list[Any]:
    references: list[Any] = []
    anchors = {path: anchor for path, _, anchor in entry_lists(recipe)}
    for path in paths:
        value = get_at(recipe, path)
        is_choice = isinstance(value, dict) and isinstance(value.get("search"), list)
        choices = value["search"] if is_choice else [value]
        if path[-1] != BASE:
            choices = aligned_references(get_at(recipe, path[:-1]), choices, anchors[path[:-2]], every)
        references += choices
    references += stack_models(recipe)
    return [value for index, value in enumerate(references) if value is not None and value not in references[:index]]


def _reference_paths(recipe: Mapping[str, Any]) -> Iterator[Path]:
    for owner, path in model_owners(recipe):
        if BASE in owner:
            yield (*path, BASE)
        for key in ENTRIES:
            entries = owner.get(key)
            for index, entry in enumerate(entries if isinstance(entries, list) else []):
                if isinstance(entry, dict) and "model" in entry:
                    yield (*path, key, index, "model")


def _read_checkpoints(spec: Mapping[str, Any], where: str) -> list[str]:
    check_keys(spec, ("search",), where)
    values = spec["search"]
    if not isinstance(values, list) or len(values) < 2 or not all(isinstance(value, str) for value in values):
        raise UserError(f"{where}.search: found {quoted(values)}, expected a list of two or more checkpoints")
    if len(set(values)) < len(values):
        raise UserError(f"{where}.search: found {quoted(values)}, expected each checkpoint once")
    return values


# Which models take part


@dataclass
class ModelInclusion(SingleDimension):
    """Whether a model takes part. Its parameters are asked for in any case, so that the space does not change."""

    entry: Path

    def fill(self, draft: Draft) -> None:
        """Does nothing: ``absent_models`` reads the value, and ``arrange_models`` removes the entry."""

    def start(self, usual: Usual) -> dict[str, Scalar]:
        return {self.dimension.name: usual(INCLUDE, self.entry) is not False}


def take_inclusions(recipe: dict[str, Any], where: str) -> Iterator[ModelInclusion]:
    """``include: {search: [true, false]}`` in the entries of ``models``; removes the key, which no recipe has."""
    models = recipe.get("models")
    entries = [entry for entry in models if isinstance(entry, dict)] if isinstance(models, list) else []
    labels = entry_labels(entries)
    for index, (entry, label) in enumerate(zip(entries, labels, strict=True)):
        if INCLUDE in entry:
            dimension = take_inclusion(entry, label, f"{where}: models[{index}]")
            yield ModelInclusion(dimension, ("models", index))


def take_inclusion(owner: dict[str, Any], label: str, where: str) -> Dimension:
    """Removes ``include: {search: [true, false]}`` from its owner, and returns the dimension."""
    spec = owner.pop(INCLUDE)
    if not isinstance(spec, dict) or set(spec) != {"search"} or spec["search"] not in ([True, False], "auto"):
        raise UserError(f"{where}.{INCLUDE}: found {quoted(spec)}, expected {{search: [true, false]}}")
    return Dimension(f"{label}.{INCLUDE}", CategoricalDistribution([True, False]))


def absent_models(draft: Draft, inclusions: Sequence[ModelInclusion]) -> frozenset[Path]:
    """The paths of the entries that the candidate leaves out.

    These are the models that are switched off and, for methods that merge task vectors, the base, whose task vector is
    zero. Where fewer models are left than the method needs, the first of those that are off take part.
    """
    models = draft.data.get("models")
    if not isinstance(models, list):
        return frozenset()
    base = None if draft.method.base == "input" else draft.data.get(BASE)
    bases = [
        ("models", index)
        for index, entry in enumerate(models)
        if isinstance(entry, dict) and entry.get("model") == base
    ]
    off = [each.entry for each in inclusions if each.entry not in bases and not draft.values[each.dimension.name]]
    missing = max(draft.method.min_models, 1) - (len(models) - len(bases) - len(off))
    return frozenset([*bases, *off[max(missing, 0) :]])


# In which order


@dataclass
class ModelOrder(SingleDimension):
    """The order of the models, for methods that tell the first from the second. ``orders``: indices by name."""

    orders: Mapping[str, Sequence[int]]

    def applies_to(self, method: Method) -> bool:
        return not method.symmetric

    def fill(self, draft: Draft) -> None:
        """Does nothing: ``arrange_models`` reorders the entries after all holes are filled."""

    def indices(self, draft: Draft) -> Sequence[int]:
        """The indices of the models in the candidate's order."""
        return self.orders[str(draft.values[self.dimension.name])]


def take_order(recipe: dict[str, Any], methods: Sequence[Method], where: str) -> ModelOrder | None:
    """``order: {search: permutations}`` or ``order: {search: [[one, two], [two, one]]}``.

    Removes the key, which no recipe has.
    """
    if ORDER not in recipe:
        return None
    spec, at, entries = recipe.pop(ORDER), f"{where}: {ORDER}", recipe.get("models")
    if not isinstance(spec, dict) or "search" not in spec or not isinstance(entries, list):
        raise UserError(f"{at}: found {quoted(spec)}, expected {{search: permutations}} beside models")
    check_keys(spec, ("search",), at)
    _check_order_matters(methods, at)
    labels = entry_labels(entries)
    orders = {" > ".join(labels[i] for i in order): order for order in _read_orders(spec["search"], labels, at)}
    return ModelOrder(Dimension(ORDER, CategoricalDistribution(list(orders))), orders)


def _check_order_matters(methods: Sequence[Method], where: str) -> None:
    if all(method.symmetric for method in methods):
        names = ", ".join(method.name for method in methods)
        single = any(method.max_models == 1 for method in methods)
        hint = ", or to search which of two models is the base, give base_model: {search: [A, B]}" if single else ""
        raise UserError(f"{where}: found, but the order of the models changes nothing for {names}; remove it{hint}")


def _read_orders(value: Any, labels: Sequence[str], where: str) -> list[tuple[int, ...]]:
    if value == "permutations":
        if not 2 <= len(labels) <= MOST_ORDERED:
            raise UserError(
                f"{where}.search: found permutations of {len(labels)} models, expected 2 to {MOST_ORDERED} models, "
                "or a list of orders"
            )
        return list(permutations(range(len(labels))))
    if not isinstance(value, list) or len(value) < 2:
        raise UserError(f"{where}.search: found {quoted(value)}, expected permutations or a list of two or more orders")
    for order in value:
        for name in order if isinstance(order, list) else [order]:
            if name not in labels:
                raise UserError(f"{where}.search: there is no model {name!r}{nearest(str(name), labels)}")
        if not isinstance(order, list) or sorted(order) != sorted(labels):
            raise UserError(f"{where}.search: found {quoted(order)}, expected each of {', '.join(labels)} once")
    return [tuple(labels.index(name) for name in order) for order in value]


def arrange_models(draft: Draft, order: ModelOrder | None) -> None:
    """Removes the absent entries of ``models`` and puts the others in the candidate's order."""
    models = draft.data.get("models")
    if isinstance(models, list):
        indices = order.indices(draft) if order and order.applies_to(draft.method) else range(len(models))
        draft.data["models"] = [models[i] for i in indices if ("models", i) not in draft.absent]

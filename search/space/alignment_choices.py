"""Searched alignments: whether an entry's model is aligned before the merge, and by what."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution
from pydantic import ValidationError

from mergesearch.errors import UserError
from mergesearch.merge_ops.methods import Scalar
from mergesearch.merge_ops.recipe.schema import NO_ALIGNMENT, ModelInput
from mergesearch.search.space.checks import check_keys
from mergesearch.search.space.dimension import Dimension
from mergesearch.search.space.dimension_group import Draft, SingleDimension, Usual
from mergesearch.search.space.paths import entry_labels, entry_lists, format_path, is_hole, set_at
from mergesearch.text import quoted

ALIGN = "align"


@dataclass
class AlignmentChoice(SingleDimension):
    """How the model of an entry is aligned. ``values``: what the key may be, by what it is called."""

    values: Mapping[str, Any]

    def fill(self, draft: Draft) -> None:
        for path in self.dimension.paths:
            set_at(draft.data, path, self.values[str(draft.values[self.dimension.name])])

    def start(self, usual: Usual) -> dict[str, Scalar]:
        (*owner, _), *_ = self.dimension.paths
        value = usual(ALIGN, tuple(owner))
        return {self.dimension.name: self.dimension.ends[0] if value is None else self.dimension.nearest(value)}


def read_alignment_choices(recipe: Mapping[str, Any], where: str) -> Iterator[AlignmentChoice]:
    """``align: {search: [weights, none]}`` in the entries of models and sources."""
    for path, entries, _ in entry_lists(recipe):
        labels = entry_labels([entry for _, entry in entries])
        for (index, entry), label in zip(entries, labels, strict=True):
            if is_hole(entry.get(ALIGN)):
                at = (*path, index, ALIGN)
                values = _choices(entry[ALIGN], f"{where}: {format_path(at)}")
                yield AlignmentChoice(
                    Dimension(f"{label}.{ALIGN}", CategoricalDistribution(list(values)), (at,)), values
                )


def _choices(spec: Mapping[str, Any], where: str) -> dict[str, Any]:
    check_keys(spec, ("search",), where)
    given = spec["search"] if isinstance(spec["search"], list) else []
    values = {str(value.get("by") if isinstance(value, dict) else value): value for value in given}
    if len(values) < 2 or len(values) < len(given):
        raise UserError(f"{where}.search: found {quoted(spec['search'])}, expected a list such as [weights, none]")
    return values


def pin_alignments(recipe: Mapping[str, Any]) -> None:
    """Writes into each ``align`` what the model is aligned to, where candidates have other bases or first models."""
    for _, entries, anchor in entry_lists(recipe):
        if isinstance(recipe.get("base_model"), str) or anchor is None:
            continue
        for _, entry in entries:
            value = entry.get(ALIGN)
            if is_hole(value) and isinstance(value["search"], list):
                entry[ALIGN] = {**value, "search": [_pinned(each, anchor) for each in value["search"]]}
            elif value is not None:
                entry[ALIGN] = _pinned(value, anchor)


def _pinned(value: Any, anchor: str) -> Any:
    if isinstance(value, str) and value != NO_ALIGNMENT:
        return {"by": value, "to": anchor}
    return {"to": anchor, **value} if isinstance(value, dict) else value


def aligned_references(entry: Mapping[str, Any], models: Sequence[Any], anchor: str | None, every: bool) -> list[Any]:
    """The references that an entry may have: each of its models, as it is or aligned.

    ``every``: all of them; else of each model the first that is aligned, if any is.
    """
    value = entry.get(ALIGN)
    choices = value["search"] if is_hole(value) and isinstance(value["search"], list) else [value]
    references: list[Any] = []
    for model in models:
        found = [_reference(model, choice, anchor) for choice in choices]
        references += found if every else [next((each for each in found if each != model), model)]
    return references


def _reference(model: Any, align: Any, anchor: str | None) -> Any:
    """The reference, or the model where something is wrong, which reading the recipe tells."""
    try:
        return ModelInput.model_validate({"model": model, ALIGN: align}).reference(anchor or model)
    except (ValidationError, UserError):
        return model

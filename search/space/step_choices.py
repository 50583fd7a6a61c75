"""Searched steps after the merge: whether a candidate has them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mergesearch.merge_ops.methods import Scalar
from mergesearch.merge_ops.recipe.recipe import STEPS_AFTER_MERGE
from mergesearch.search.space.dimension_group import Draft, SingleDimension, Usual
from mergesearch.search.space.model_choices import INCLUDE, take_inclusion


@dataclass
class StepInclusion(SingleDimension):
    """Whether a candidate has a step after the merge."""

    key: str

    def fill(self, draft: Draft) -> None:
        if not draft.values[self.dimension.name]:
            del draft.data[self.key]

    def start(self, _: Usual) -> dict[str, Scalar]:
        return {self.dimension.name: True}


def take_step_inclusions(recipe: dict[str, Any], where: str) -> Iterator[StepInclusion]:
    """``include: {search: [true, false]}`` in a step after the merge; removes the key, which no recipe has."""
    for key in STEPS_AFTER_MERGE:
        step = recipe.get(key)
        if isinstance(step, dict) and INCLUDE in step:
            yield StepInclusion(take_inclusion(step, key, f"{where}: {key}"), key)

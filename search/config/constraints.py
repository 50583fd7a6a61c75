"""Constraints: values that a winner must keep, in numbers or measured on one of the baselines.

Candidates are ordered as Deb does (Computer Methods in Applied Mechanics and Engineering 186, 2000): one that keeps all
constraints is before any that does not, and of two that do not, the one that misses by less is better.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mergesearch.errors import UserError, nearest
from mergesearch.evaluators import Metric
from mergesearch.parsing import Strict
from mergesearch.search.candidates.baselines import Endpoints

FLOORS, CEILINGS = ("at_least", "never_below"), ("at_most", "never_above")
"""The keys for metrics of which more is better, and those for metrics of which less is."""
Value = TypeVar("Value", float, NDArray[np.float64])


class Constraint(Strict):
    """One task's value on the search items is ``at_least`` or ``at_most`` a number, or that of a baseline.

    ``never_below: base`` with ``by: 0.01``: no more than that below the base, in the metric's own units;
    ``never_above`` is the same for metrics of which less is better.
    """

    task: str
    at_least: float | None = None
    at_most: float | None = None
    never_below: str | None = None
    never_above: str | None = None
    by: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _says_one_thing(self) -> "Constraint":
        keys = [key for key in (*FLOORS, *CEILINGS) if getattr(self, key) is not None]
        if len(keys) != 1:
            expected = ", ".join((*FLOORS, *CEILINGS))
            raise ValueError(f"found {' and '.join(keys) or 'no bound'}, expected one of {expected}")
        if self.by and not self.baseline:
            raise ValueError(f"by: goes with never_below or never_above, found with {keys[0]}")
        return self

    @property
    def is_floor(self) -> bool:
        """Whether more is allowed, rather than less."""
        return self.at_least is not None or self.never_below is not None

    @property
    def baseline(self) -> str | None:
        """The name of the baseline that the value is compared with; None where the bound is a number."""
        return self.never_below or self.never_above

    def margin(self, value: Value, baseline: Value | None = None) -> Value:
        """How far the task's value is on the right side, in its units; below 0 where the constraint is broken.

        ``baseline``: the task's value of the baseline on the same items.
        """
        bound = (self.at_least if self.is_floor else self.at_most) if baseline is None else baseline
        if bound is None:
            raise ValueError(f"{self}: needs the value of {self.baseline}")
        return (value - bound if self.is_floor else bound - value) + self.by

    def __str__(self) -> str:
        side = "below" if self.is_floor else "above"
        if self.baseline:
            return f"{self.task} never {side} {self.baseline}{f' by more than {self.by:g}' if self.by else ''}"
        return f"{self.task} at least {self.at_least:g}" if self.is_floor else f"{self.task} at most {self.at_most:g}"


def check_tasks(constraints: Sequence[Constraint], metrics: Mapping[str, Metric]) -> None:
    """Raises UserError for a task that the search has no items of, and for a bound on the wrong side.

    metrics: those of the search's tasks, by name.
    """
    for index, constraint in enumerate(constraints):
        name, where = constraint.task, f"constraints[{index}]"
        if name not in metrics:
            raise UserError(f"{where}: there is no task {name!r} that the search scores{nearest(name, metrics)}")
        metric = metrics[name]
        if metric.higher_is_better != constraint.is_floor:
            better, keys = ("more", FLOORS) if metric.higher_is_better else ("less", CEILINGS)
            raise UserError(
                f"{where}: task {name!r} is scored by {metric.name}, of which {better} is better: "
                f"say {' or '.join(keys)}"
            )


def check_baselines(constraints: Sequence[Constraint], baselines: Endpoints) -> None:
    """Raises UserError for a constraint by a baseline that there is not."""
    for index, constraint in enumerate(constraints):
        if constraint.baseline is None:
            continue
        try:
            baselines.recipe_named(constraint.baseline)
        except KeyError as error:
            raise UserError(f"evaluate: constraints[{index}]: {error.args[0]}") from None

"""Constraints: bounds on tasks' values that a winner must satisfy, as numbers or relative to a baseline.

Candidates are ranked by Deb's rule (Computer Methods in Applied Mechanics and Engineering 186, 2000): a candidate that
satisfies all constraints ranks before one that does not; of two that do not, the one with the smaller violation ranks
first.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mergesearch.errors import UserError, nearest
from mergesearch.evaluators import Metric
from mergesearch.parsing import Strict

FLOORS, CEILINGS = ("at_least", "never_below"), ("at_most", "never_above")
"""The keys for metrics of which more is better, and those for metrics of which less is."""
Value = TypeVar("Value", float, NDArray[np.float64])


class Constraint(Strict):
    """A bound on one task's value on the search items.

    ``at_least`` and ``at_most`` are numbers. ``never_below: base`` with ``by: 0.01`` allows at most 0.01 below the
    base, in the metric's units; ``never_above`` is the same for metrics of which less is better.
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
        """Whether the bound is a lower one."""
        return self.at_least is not None or self.never_below is not None

    @property
    def baseline(self) -> str | None:
        """The name of the baseline that the value is compared with; None where the bound is a number."""
        return self.never_below or self.never_above

    def margin(self, value: Value, baseline: Value | None = None) -> Value:
        """The distance of the task's value from the bound, in its units; negative where the constraint is broken.

        ``baseline`` is the baseline's value on the same items.
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
    """Raises UserError for a task without search items, and for a bound in the wrong direction.

    ``metrics`` are those of the search's tasks, by name.
    """
    for index, constraint in enumerate(constraints):
        name, where = constraint.task, f"constraints[{index}]"
        if name not in metrics:
            raise UserError(f"{where}: the search has no task {name!r}{nearest(name, metrics)}")
        metric = metrics[name]
        if metric.higher_is_better != constraint.is_floor:
            better, keys = ("more", FLOORS) if metric.higher_is_better else ("less", CEILINGS)
            raise UserError(
                f"{where}: task {name!r} is scored by {metric.name}, of which {better} is better: "
                f"say {' or '.join(keys)}"
            )

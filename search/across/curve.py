"""Scores along a path of merges: each task's metric at every point, with intervals and paired differences to the ends.

The path is what one hole of a recipe leaves open, as from a base to its fine-tune, or over the densities of a method.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

from mergesearch.evaluators import has_contributions
from mergesearch.merge_ops.methods import Scalar
from mergesearch.notebook import paragraph, table
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.statistics import (
    LEVEL,
    Combine,
    Estimate,
    Outcome,
    Stratum,
    difference_of,
    sign_flip_test,
    value_of,
)
from mergesearch.search.verdict.formatting import interval
from mergesearch.search.verdict.result import as_json
from mergesearch.seeds import derive
from mergesearch.text import as_line

if TYPE_CHECKING:
    from pandas import DataFrame

OBJECTIVE = "objective"
"""The name of the curve of all tasks together."""


@dataclass(frozen=True)
class TaskCurve:
    """A task's metric along the path.

    Attributes:
        task: the task; ``objective`` for all tasks together, as a search would take them.
        metric: the name of its metric; of the objective, how it is made.
        higher_is_better: the metric's direction.
        items: how many items were scored at each point.
        values: the metric at each point, with its 95 % interval.
        minus_first: the paired difference to the first point, for each point; empty where the metric is no mean over
            items. ``together``, ``p_together`` hold for all points of the curve.
        minus_last: the paired difference to the last point.
    """

    task: str
    metric: str
    higher_is_better: bool
    items: int
    values: Sequence[Estimate]
    minus_first: Sequence[Outcome] = ()
    minus_last: Sequence[Outcome] = ()

    @property
    def best(self) -> int:
        """The place of the best point, the first one of equals."""
        sign = 1 if self.higher_is_better else -1
        return max(range(len(self.values)), key=lambda place: sign * self.values[place].value)

    @property
    def beyond_both_ends(self) -> list[int]:
        """The places of the points that are proven to be better than either end, whatever the number of points."""
        pairs = zip(self.minus_first, self.minus_last, strict=True)
        return [place for place, pair in enumerate(pairs) if all(map(self._is_better, pair))]

    def _is_better(self, difference: Outcome) -> bool:
        return difference.p_together < LEVEL and (difference.estimate.value > 0) is self.higher_is_better


@dataclass(frozen=True)
class Curve:
    """A path of merges with its scores on the search items, see ``mergesearch.curve``.

    Attributes:
        name: the name of the curve, and of its folder.
        dimension: the name of the hole.
        is_log: whether the hole's range is logarithmic.
        points: the hole's value at each point, in order.
        tasks: a curve for each task, and one of the objective where several tasks count in it.
        recipes: the recipe of each point, as YAML.
        notes: what the user should know.
    """

    name: str
    dimension: str
    is_log: bool
    points: Sequence[Scalar]
    tasks: Sequence[TaskCurve]
    recipes: Sequence[str]
    notes: Sequence[str] = ()

    @property
    def labels(self) -> list[str]:
        """The points in words."""
        return [label_of(point) for point in self.points]

    @property
    def is_numeric(self) -> bool:
        """Whether the points are numbers; else they are choices."""
        return all(isinstance(point, int | float) and not isinstance(point, bool) for point in self.points)

    @property
    def sentences(self) -> list[str]:
        """What each task's curve says, a sentence or two for each."""
        return [" ".join(self._sentences_of(each)) for each in self.tasks]

    def _sentences_of(self, curve: TaskCurve) -> Iterator[str]:
        best, ends = curve.values[curve.best], (curve.values[0], curve.values[-1])
        direction = "highest" if curve.higher_is_better else "lowest"
        at = f"{self.dimension} = {self.labels[curve.best]}"
        first, last = (f"{end.value:.3f}" for end in ends)
        yield f"{curve.task} is {direction} at {at}: {interval(best)}; the ends have {first} and {last}."
        if beyond := curve.beyond_both_ends:
            yield f"Proven to be better than both ends: {', '.join(self._stretches(beyond))}."
        elif curve.minus_first:
            yield "No point is proven to be better than both ends."

    def _stretches(self, places: Sequence[int]) -> Iterator[str]:
        """Places that follow each other as ``0.2 to 0.6``."""
        for place in places:
            if place - 1 not in places:
                end = next(n for n in range(place, len(self.points)) if n + 1 not in places)
                yield self.labels[place] if end == place else f"{self.labels[place]} to {self.labels[end]}"

    @property
    def table(self) -> "DataFrame":
        """A row for each task and point: task, metric, the hole's value, the metric's value, low and high, and the
        differences to both ends with their intervals."""
        from pandas import DataFrame

        return DataFrame([row for curve in self.tasks for row in self._rows(curve)])

    def _rows(self, curve: TaskCurve) -> Iterator[dict[str, Any]]:
        for place, (point, value) in enumerate(zip(self.points, curve.values, strict=True)):
            row = {"task": curve.task, "metric": curve.metric, self.dimension: point, **_flat("", value)}
            for name, differences in (("minus first ", curve.minus_first), ("minus last ", curve.minus_last)):
                row |= _flat(name, differences[place].estimate) if differences else {}
            yield row

    def to_json(self) -> dict[str, Any]:
        """All attributes as JSON has them; an end of an interval that nothing bounds is null."""
        return asdict(self, dict_factory=as_json)

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def _repr_html_(self) -> str:
        cells = [[label, *(interval(c.values[n]) for c in self.tasks)] for n, label in enumerate(self.labels)]
        heads = (self.dimension, *(f"{curve.task} {curve.metric}" for curve in self.tasks))
        return paragraph(self.name, strong=True) + table(heads, cells) + "".join(map(paragraph, self.sentences))


def label_of(point: Scalar) -> str:
    """A value of the hole in words."""
    return f"{point:.6g}" if isinstance(point, float) else as_line(point, 80)


def _flat(name: str, estimate: Estimate) -> dict[str, float]:
    return {f"{name}{key}": number for key, number in asdict(estimate).items()}


def task_curves(tasks: TaskSet, scores: Sequence[Scores], seed: int) -> list[TaskCurve]:
    """The curves of all tasks with search items, and of the objective, from the scores at each point."""
    curves = [_of_task(task, [each[task.name] for each in scores], seed) for task in tasks if task.search]
    if len(tasks.counted("search")) > 1 and tasks.directions is None:
        strata = [tasks.strata("search", each) for each in scores]
        values, differences = _inferred(strata, tasks.objective("search").combine, seed)
        items = sum(len(task.search) for task in tasks.counted("search"))
        curves.append(TaskCurve(OBJECTIVE, tasks.aggregate, True, items, values, *differences))
    return curves


def _of_task(task: Task, scores: Sequence[Any], seed: int) -> TaskCurve:
    metric, items = task.evaluator.metric, len(task.search)
    numbers = [task.value("search", each) for each in scores]
    if not has_contributions(task.evaluator) or items < 2:
        unbounded = [Estimate(number, -inf, inf) for number in numbers]
        return TaskCurve(task.name, metric.name, metric.higher_is_better, items, unbounded)
    strata = [[task.stratum("search", each)] for each in scores]
    values, differences = _inferred(strata, lambda values: values[0], seed)
    values = [replace(value, value=number) for value, number in zip(values, numbers, strict=True)]
    return TaskCurve(task.name, metric.name, metric.higher_is_better, items, values, *differences)


def _inferred(
    strata: Sequence[Sequence[Stratum]], combine: Combine, seed: int
) -> tuple[list[Estimate], list[list[Outcome]]]:
    """The number at each point, and its differences to the first and the last point."""
    flips = derive(seed, "sign flips")
    values = [each.estimate for each in sign_flip_test([value_of(each, combine) for each in strata], flips)]
    ends = (strata[0], strata[-1])
    return values, [sign_flip_test([difference_of(each, end, combine) for each in strata], flips) for end in ends]

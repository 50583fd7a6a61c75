"""A task of a run: an evaluator, its items on each side of the split, and its share in the objective."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from mergesearch.errors import UserError, in_words
from mergesearch.evaluators import Evaluator, Item, LoadedModel, aggregate, limited, open_evaluator
from mergesearch.evaluators.contract.graded import Graded, is_graded
from mergesearch.files import is_disk_full
from mergesearch.foreign import other_code
from mergesearch.search.config.evaluate import Evaluate, TaskEntry
from mergesearch.search.problem.objective import Share
from mergesearch.search.statistics import Stratum
from mergesearch.steps import step, units

Scores = dict[str, Tensor]
"""Each task's scores, one float64 per item of one side of the split."""
Margins = dict[str, Tensor]
"""The margins behind the scores, of the tasks that have them; see ``Graded.score_with_margins``."""


@dataclass(frozen=True)
class Task:
    """An evaluator with its items on each side of the split, and its share in the objective.

    ``normalize``: whether the objective takes its values normalised, by ``chance`` where that is said, or by what the
    items say of themselves. ``keeps_margins``: whether its items are scored with margins, where its evaluator has any.
    ``unused``: items that a split leaves out, which nothing looks at.
    """

    name: str
    evaluator: Evaluator
    weight: float
    search: Sequence[Item]
    test: Sequence[Item]
    normalize: bool = False
    chance: float | None = None
    keeps_margins: bool = False
    unused: Sequence[Item] = ()

    @property
    def used(self) -> list[Item]:
        """The search and the test items, in the order of the evaluator."""
        ids = {item.id for item in (*self.search, *self.test)}
        return [item for item in self.evaluator.items if item.id in ids]

    @cached_property
    def graded(self) -> Graded | None:
        """Its evaluator where items are scored with margins; else None."""
        return self.evaluator if self.keeps_margins and is_graded(self.evaluator) else None

    def items(self, side: str) -> Sequence[Item]:
        """The items of ``search`` or ``test``."""
        return self.search if side == "search" else self.test

    def value(self, side: str, scores: Tensor) -> float:
        """The metric over one side's items."""
        return self.evaluator.value(self.items(side), scores)

    def contributions(self, side: str, scores: Tensor) -> Tensor:
        """[items] float64: what each of one side's items adds to the metric; see ``Evaluator.contributions``."""
        return self.evaluator.contributions(self.items(side), scores)

    def score(self, model: LoadedModel, items: Sequence[Item]) -> Tensor:
        """The scores of some items; see ``Evaluator.score``. Passes on whatever the evaluator raises."""
        with other_code(f"task {self.name!r}"), units(len(items)):
            return self.evaluator.score(model, items)

    def score_with_margins(self, model: LoadedModel, items: Sequence[Item]) -> tuple[Tensor, Tensor | None]:
        """The scores of some items, and their margins where it is graded. Passes on whatever the evaluator raises."""
        if self.graded is None:
            return self.score(model, items), None
        with other_code(f"task {self.name!r}"), units(len(items)):
            return self.graded.score_with_margins(model, items)

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turns what the evaluator raises, which may be anything, into UserError that names the task."""
        try:
            yield
        except UserError:
            raise
        except FloatingPointError as error:
            raise UserError(str(error)) from error
        except Exception as error:
            raise UserError(f"task {self.name!r}: cannot be scored: {in_words(error)}") from error

    @property
    def is_averaged(self) -> bool:
        """Whether its scores come from logits, which an ensemble averages."""
        return bool(getattr(self.evaluator, "averages", False))

    def stratum(self, side: str, scores: Tensor) -> Stratum:
        """One side's scores as comparisons of the metric take them."""
        return self.stratum_of(self.items(side), scores)

    def strata(self, side: str, scores: Tensor) -> list[Stratum]:
        """One side's scores as comparisons of the objective take them: by part."""
        return [self.stratum_of(items, scores[places]) for items, places in self.parts(side)]

    def values(self, side: str, scores: Tensor) -> list[float]:
        """What the objective takes of one side's scores: the metric over each part."""
        return [self.evaluator.value(items, scores[places]) for items, places in self.parts(side)]

    def share(self, side: str) -> Share:
        """The task's share of that side's objective. Raises UserError where its chance level is needed and unknown."""
        return Share(self.name, self.weight, self.evaluator.metric, self.chances(side) if self.normalize else ())

    def chances(self, side: str) -> list[float]:
        """What guessing scores, for each part. Raises UserError where it is not known."""
        return [self._chance(items) for items, _ in self.parts(side)]

    def prepare(self, model: LoadedModel) -> list[str]:
        """Checks the task against the model before anything is scored. Returns notes for the user; raises UserError."""
        try:
            with other_code(f"task {self.name!r}"), step(f"preparing {self.name}"):
                notes = list(self.evaluator.prepare(model))
        except UserError as error:
            text = str(error)
            prefix = "" if text.startswith(f"task {self.name!r}") else f"task {self.name!r}: "
            raise UserError(f"evaluate: {prefix}{text}") from None
        except Exception as error:  # an evaluator may run any code
            if is_disk_full(error):
                raise
            raise UserError(f"evaluate: task {self.name!r}: cannot be prepared: {in_words(error)}") from error
        if len(self.search) == 1 and not self.test and self.weight:
            notes.append("gives one number for the whole model: it counts in the search, without interval or verdict")
        return [f"task {self.name!r}: {note}" for note in notes]

    def stratum_of(self, items: Sequence[Item], scores: Tensor) -> Stratum:
        """The scores of some items as comparisons of the metric take them."""
        contributions = self.evaluator.contributions(items, scores).tolist()
        return Stratum.of([item.fingerprint for item in items], [item.weight for item in items], contributions)

    def parts(self, side: str) -> list[tuple[Sequence[Item], list[int]]]:
        """One side's items with their places; of a group that is normalised, each subtask's by themselves."""
        items = self.items(side)
        names = dict.fromkeys(item.subtask for item in items) if self.normalize else {}
        if len(names) < 2:
            return [(items, list(range(len(items))))]
        places = [[n for n, item in enumerate(items) if item.subtask == name] for name in names]
        return [([items[n] for n in part], part) for part in places]

    def _chance(self, items: Sequence[Item]) -> float:
        if self.chance is not None:
            return self.chance
        if not self.evaluator.metric.higher_is_better:
            return 0.0  # Objective refuses it, whatever the chance
        known = [item.chance for item in items if item.chance is not None]
        if len(known) < len(items):
            raise UserError(
                f"normalize: what guessing scores in task {self.name!r} is not known; say chance: 0.25, for example"
            )
        return aggregate(items, known)


def opened_task(evaluate: Evaluate, entry: TaskEntry, side: str) -> Task:
    """A task of the config with its items, as far as its limit goes, on one side. Raises UserError if it is unknown."""
    evaluator = open_evaluator(entry.evaluator, entry.options, evaluate.shared())
    limit = entry.limit or evaluate.limit
    items = limited(evaluator.items, limit) if limit else list(evaluator.items)
    normalize = (entry.normalize or evaluate.normalize) == "leaderboard"
    search, test = (items, []) if side == "search" else ([], items)
    return Task(evaluator.task, evaluator, entry.weight, search, test, normalize, entry.chance)


def distinct(tasks: list[Task]) -> list[Task]:
    """A task that is listed with several metrics is named by task and metric."""
    names = [task.name for task in tasks]
    named = [
        replace(task, name=f"{task.name}:{task.evaluator.metric.name}") if names.count(task.name) > 1 else task
        for task in tasks
    ]
    labels = [task.name for task in named]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"tasks: {label} is listed {labels.count(label)} times, expected once")
    return named

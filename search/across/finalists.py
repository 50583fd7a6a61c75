"""The finalists of a run as a file: what each test item adds to each task, for whatever compares runs.

Nothing else of the run is read then: no model, no data set, no evaluator. The table has a row for each test item of
each task. Where the objective takes a task by parts, as it does groups that it normalises, it has another row for each
item with its ``part``. The columns are those of ITEM, and the contributions of each candidate under its trial's number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, equal

from mergesearch.errors import DamagedFileError, UserError, in_words, listed
from mergesearch.evaluators import Document, Item, Metric, Source, content_hash, sources_of
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.across.documents import read_documents
from mergesearch.search.across.scored_task import Asked, Measured, ScoredTask, asked_of, only_whole, version_of
from mergesearch.search.config.evaluate import Aggregation
from mergesearch.search.problem.objective import Objective, Share
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Task
from mergesearch.search.statistics import Array, Estimate, Stratum, estimated, value_of
from mergesearch.search.study import trials as t
from mergesearch.search.study.answers import ItemKey, load_answers
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.study.table_file import REMEDY, read_table, write_table
from mergesearch.search.verdict.result import Verdict
from mergesearch.seeds import derive

Contents = Mapping[str, Mapping[str, str]]
FINALISTS = "finalists.parquet"
ITEM = ("task", "part", "item", "cluster", "weight", "document", "prompt")
ANSWER = "answer "
"""Before a trial's number: the name of the column with what the candidate answered."""


@dataclass(frozen=True)
class FinalTask:
    """A task of the test items. ``chances``: what guessing scores, by part; empty where that is not known.

    ``is_normalized``: whether the objective takes its values normalised by them; ``is_mean``: whether the metric is the
    mean of the contributions over any items. ``sources``: the data sets on the Hub that its items are of.
    """

    name: str
    metric: str
    higher_is_better: bool
    weight: float
    chances: list[float]
    is_normalized: bool
    is_mean: bool
    version: dict[str, str]
    sources: list[Source] = field(default_factory=list)

    @property
    def share(self) -> Share:
        """Its share of the objective."""
        chances = self.chances if self.is_normalized else ()
        return Share(self.name, self.weight, Metric(self.metric, self.higher_is_better), chances)


@dataclass(frozen=True)
class Finalist:
    """A candidate of the verdict. ``weights``: equal for candidates that are the same model, in other runs too.

    ``role`` is winner, recovered, baseline, soup, parent where it is one of the models as it
    was given. ``scored`` is when its trial ended, in ISO 8601.
    """

    name: str
    trial: int
    role: str
    method: str
    weights: str
    parameters: int
    scored: str


@dataclass(frozen=True)
class About:
    """What the file says beside its table. ``recommended`` and ``winner`` are numbers of trials."""

    tasks: list[FinalTask]
    aggregate: Aggregation
    candidates: list[Finalist]
    recommended: int
    winner: int


@dataclass(frozen=True)
class Finalists:
    """The finalists of a run, which is in ``folder``, with the test items."""

    folder: Path
    about: About
    columns: Mapping[str, Sequence[Any]] = field(repr=False)

    @classmethod
    def of(
        cls,
        folder: Path,
        about: About,
        tasks: TaskSet,
        scores: Mapping[int, Mapping[str, Tensor]],
        answers: Mapping[int, Mapping[ItemKey, str]],
    ) -> "Finalists":
        """From the candidates' scores on the test items, by trial and task, and what they answered."""
        columns: dict[str, list[Any]] = {name: [] for name in (*ITEM, *map(str, scores))}
        for task in (each for each in tasks if each.name in {one.name for one in about.tasks}):
            for part, items, places in _parts(task):
                rows = [_row(task, part, item) for item in items]
                for name, values in zip(ITEM, zip(*rows, strict=True), strict=True):
                    columns[name] += values
                for trial, by_task in scores.items():
                    columns[str(trial)] += task.evaluator.contributions(items, by_task[task.name][places]).tolist()
        keys = list(zip(columns["task"], columns["item"], strict=True))
        columns |= {f"{ANSWER}{trial}": [given.get(key, "") for key in keys] for trial, given in answers.items()}
        return cls(folder, about, columns)

    def write(self) -> None:
        """Writes the file atomically."""
        write_table(self.folder / FINALISTS, self.columns, TypeAdapter(About).dump_json(self.about))

    @classmethod
    def read(cls, folder: Path) -> "Finalists":
        """Reads a run's file. Raises UserError where there is none, or it is damaged."""
        file = folder / FINALISTS
        columns, content = read_table(file, ITEM)
        try:
            about = TypeAdapter(About).validate_json(content, strict=True)
        except ValidationError as error:
            raise DamagedFileError(file, f"is damaged ({in_words(error).splitlines()[0]})", REMEDY) from None
        if missing := {str(each.trial) for each in about.candidates} - columns.keys():
            raise DamagedFileError(file, f"has no column {listed(missing)}", REMEDY)
        return cls(folder, about, columns)

    def candidate(self, trial: int) -> Finalist:
        """The candidate of a trial. Raises UserError where the verdict was held without it."""
        found = next((each for each in self.about.candidates if each.trial == trial), None)
        if found is None:
            raise UserError(f"{self.folder}: trial {trial} has no scores on the test items")
        return found

    def measured(self, trial: int) -> Measured:
        """What a candidate scored, task by task."""
        name = f"{self.folder.name}: {self.candidate(trial).name}"
        return Measured(name, {(task.name, task.metric): self._task(task, trial) for task in self.about.tasks})

    def _task(self, task: FinalTask, trial: int) -> ScoredTask:
        places = self._places[task.name, ""]
        items = [self._asked(task.name, n, trial) for n in places]
        contributions = self._contributions(trial, places)

        def contribute(chosen: Sequence[int]) -> Array:
            return contributions[list(chosen)]

        take = contribute if task.is_mean else only_whole(contributions)
        return ScoredTask(task.name, task.metric, task.higher_is_better, items, take, task.version)

    def _asked(self, task: str, place: int, trial: int) -> Asked:
        item, cluster, document, prompt, weight = (
            self.columns[name][place] for name in ("item", "cluster", "document", "prompt", "weight")
        )
        about, answer = self.documents[task, item], self.answer(trial, place)
        return Asked(item, cluster, document, prompt, weight, about.question, about.right, answer, about.choices)

    def answer(self, trial: int, place: int) -> str:
        """What a candidate answered to the item of a row; empty where it is not known."""
        answers = self.columns.get(f"{ANSWER}{trial}")
        return str(answers[place]) if answers else ""

    def places(self, task: str) -> Sequence[int]:
        """The rows of a task's items."""
        return self._places[task, ""]

    def contributions(self, task: str, trial: int) -> Array:
        """[items] float64: what each item of a task adds to a candidate's metric."""
        return self._contributions(trial, self._places[task, ""])

    def values(self, trial: int) -> dict[str, float]:
        """A candidate's metric on each task."""
        return {task.name: self._stratum(trial, self._places[task.name, ""]).value for task in self.about.tasks}

    def estimates(self, trial: int, seed: int) -> dict[str, Estimate]:
        """A candidate's metric on each task, with its interval; ``seed`` is the run's."""
        names, drawn = [task.name for task in self.about.tasks], derive(seed, "sign flips")
        strata = [self._stratum(trial, self._places[name, ""]) for name in names]
        values = [value_of([stratum], lambda values: values[0]) for stratum in strata]
        return {name: estimated(value, drawn) for name, value in zip(names, values, strict=True)}

    def items(self, task: str) -> int:
        """How many test items a task has."""
        return len(self._places[task, ""])

    def normalized(self, trial: int) -> dict[str, float]:
        """A candidate's metric on each task, 0 for guessing and 1 at most; of those whose chance level is known."""
        known = [task for task in self.about.tasks if task.chances]
        return {
            task.name: float(
                Objective([Share(task.name, 1.0, Metric(task.metric), task.chances)]).each(
                    np.array([stratum.value for stratum in self._parts_of(task, trial)])
                )[0]
            )
            for task in known
        }

    @property
    def objective(self) -> Objective:
        """The run's objective on the test items."""
        return Objective([task.share for task in self.about.tasks if task.weight], self.about.aggregate)

    def strata(self, trial: int) -> list[Stratum]:
        """A candidate's scores as comparisons of the objective take them."""
        counted = [task for task in self.about.tasks if task.weight]
        return [stratum for task in counted for stratum in self._parts_of(task, trial)]

    @property
    def content(self) -> str:
        """A digest of what is measured: the objective, the tasks' versions and items, and what the models are asked."""
        about = asdict(self.about)
        rows = sorted(zip(*(self.columns[name] for name in ITEM), strict=True))
        return content_hash([about["tasks"], about["aggregate"], rows])

    def _parts_of(self, task: FinalTask, trial: int) -> list[Stratum]:
        parts = [part for name, part in self._places if name == task.name and part] or [""]
        return [self._stratum(trial, self._places[task.name, part]) for part in parts]

    def _stratum(self, trial: int, places: Sequence[int]) -> Stratum:
        clusters, weights = ([self.columns[name][n] for n in places] for name in ("cluster", "weight"))
        return Stratum.of(clusters, weights, self._contributions(trial, places).tolist())

    def _contributions(self, trial: int, places: Sequence[int]) -> Array:
        return np.array([self.columns[str(trial)][n] for n in places], dtype=np.float64)

    @cached_property
    def documents(self) -> Mapping[ItemKey, Document]:
        """What the run's items are about, by task and item."""
        return read_documents(self.folder)

    @cached_property
    def _places(self) -> dict[tuple[str, str], list[int]]:
        """The rows of each task and part, in order."""
        places: dict[tuple[str, str], list[int]] = {}
        for place, key in enumerate(zip(self.columns["task"], self.columns["part"], strict=True)):
            places.setdefault(key, []).append(place)
        return places


def _parts(task: Task) -> list[tuple[str, Sequence[Item], list[int]]]:
    """A task's test items with their places: all, and where the objective takes it by parts each part, by name."""
    parts, whole = task.parts("test"), list(range(len(task.test)))
    return [("", task.test, whole), *((part[0].subtask, part, places) for part, places in parts if len(parts) > 1)]


def _row(task: Task, part: str, item: Item) -> tuple[Any, ...]:
    one = asked_of(task, item, Document(""))
    return task.name, part, one.id, one.cluster, one.weight, one.document, one.prompt


def final_task(task: Task, scores: Sequence[Tensor]) -> FinalTask:
    """A task with test items; ``scores`` are those of any candidates on them."""
    try:
        chances = task.chances("test") if task.evaluator.metric.higher_is_better else []
    except UserError:  # what guessing scores is not known
        chances = []
    metric = task.evaluator.metric
    return FinalTask(
        task.name,
        metric.name,
        metric.higher_is_better,
        task.weight,
        chances,
        task.normalize,
        all(equal(task.contributions("test", each), each) for each in scores),
        version_of(task),
        sources_of(task.evaluator),
    )


def write_finalists(
    tasks: TaskSet, store: RunStore, verdict: Verdict, parameters: Callable[[Recipe], int], contents: Contents
) -> Finalists:
    """Writes the file of a run whose verdict is held, and returns what is in it.

    A candidate that lacks test scores of a task is left out.
    ``parameters`` gives how many a recipe's model has, ``contents`` digests of the checkpoints' tensors, by reference.
    """
    trials = store.study.get_trials(deepcopy=False)
    tested = [task for task in tasks if task.test and "test" in verdict.winner.tasks.get(task.name, {})]
    names = {row.trial: t.side_name("test", trials[row.trial].user_attrs[t.PHENOTYPE]) for row in verdict.rows}
    scores: dict[int, Mapping[str, Tensor]] = {}
    for trial, name in names.items():
        found = store.folder.load_scores(name, tasks.items("test")) if store.folder.has_scores(name) else {}
        if all(task.name in found for task in tested):
            scores[trial] = found
    about = About(
        [final_task(task, [found[task.name] for found in scores.values()]) for task in tested],
        tasks.aggregate,
        [_finalist(trials[trial], verdict, parameters, contents) for trial in scores],
        verdict.recommended_row.trial,
        verdict.winner.trial,
    )
    answers = {trial: load_answers(store.folder.path, names[trial]) for trial in scores}
    finalists = Finalists.of(store.folder.path, about, tasks, scores, answers)
    finalists.write()
    return finalists


def _finalist(
    trial: FrozenTrial, verdict: Verdict, parameters: Callable[[Recipe], int], contents: Contents
) -> Finalist:
    recipe = t.recipe_of(trial)
    digests = sorted(content_hash(contents.get(reference, reference)) for reference in recipe.references)
    scored = trial.datetime_complete.isoformat(timespec="seconds") if trial.datetime_complete else ""
    return Finalist(
        t.label_of(trial),
        trial.number,
        _role(trial, verdict),
        recipe.merge_method,
        content_hash([trial.user_attrs[t.PHENOTYPE], digests]),
        parameters(recipe),
        scored,
    )


def _role(trial: FrozenTrial, verdict: Verdict) -> str:
    if trial.number == verdict.winner.trial and t.kind_of(trial) != t.BASELINE:
        return "winner"
    if t.recipe_of(trial).only_model is not None:
        return "parent"
    return {t.BASELINE: "baseline", t.RECOVERED: "recovered"}.get(t.kind_of(trial), "soup")

"""A bed and a seed as one search problem: the same search items for all arms, and many other items for the truth.

A bed is a folder of checkpoints and tasks (see search_beds.py). A seed draws the items anew: whole sources (files,
texts) are either material of the run, which has search and test items, or of the truth, which no search ever sees.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from search_beds import Bed
from search_common import Array, SearchEndedError, bounds_of, ranges_of, score_baselines

from mergesearch.evaluators import LoadedModel
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.plan import SearchPlan, open_plan
from mergesearch.search.config import Config
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.scoring.live_model import open_engine

LINEAR = "task_arithmetic"
"""The merge method of every bed."""


@dataclass
class Spent:
    """What an arm has spent: items scored (each model, each item once), and seconds of the processor."""

    items: float = 0.0
    seconds: float = 0.0


@dataclass
class Trace:
    """What an arm would hand over after what it had spent: a recipe, by its effect."""

    points: list[tuple[Spent, str]] = field(default_factory=list)
    recipes: dict[str, Recipe] = field(default_factory=dict)

    def note(self, spent: Spent, key: str, recipe: Recipe) -> None:
        """Adds a point where the recipe is another than before."""
        if not self.points or self.points[-1][1] != key:
            self.points.append((Spent(spent.items, spent.seconds), key))
            self.recipes[key] = recipe


class SearchProblem:
    """One bed with the items of one seed. ``folder`` gets the items."""

    def __init__(self, bed: Bed, seed: int, folder: Path) -> None:
        self.bed, self.seed, self.folder = bed, seed, folder
        bed.write_items(seed, folder)
        self.plan = self.new_plan()
        self.space = self.plan.problem.space
        self.tasks: TaskSet = self.plan.problem.tasks
        self.names = list(ranges_of(self.space, self.space.methods[0]))
        self.bounds = bounds_of(self.space, self.space.methods[0])
        self._engine = open_engine(self.plan.problem, takes_gradients=False)
        self._live = LoadedModel(self._engine.model, self._engine.tokenizer)

    def new_plan(self, name: str = "bench", **search: Any) -> SearchPlan:
        """The plan of a run with these keys under ``search``."""
        config = self.bed.config(self.folder, "run", self.seed)
        config["search"] = {"seed": self.seed, "trials": 100, **search}
        return open_plan(Config.model_validate({**config, "output": {"name": name}}), "search_accuracy.py")

    @cached_property
    def _truth(self) -> TaskSet:
        config = self.bed.config(self.folder, "truth", self.seed)
        return open_plan(Config.model_validate({**config, "output": {"name": "truth"}}), "truth").problem.tasks

    @property
    def search_items(self) -> int:
        """How many items a full evaluation scores."""
        return self.tasks.search_items

    def recipe(self, values: Array) -> Recipe:
        """The recipe at a point; values are clipped to the ranges."""
        point = dict(zip(self.names, np.clip(values, *self.bounds).tolist(), strict=True))
        return self.space.fill(self.space.methods[0], point)

    def key(self, recipe: Recipe) -> str:
        """Equal for recipes with the same effect."""
        return recipe.phenotype(self._engine.names)

    def search_scores(self, recipe: Recipe) -> dict[str, Any]:
        """The scores on the search items."""
        self._engine.build(recipe)
        return self.tasks.score(self._live, "search")

    def search_value(self, recipe: Recipe) -> float:
        """The objective on the search items."""
        return self.tasks.combined("search", self.search_scores(recipe))

    def scores_of(self, recipe: Recipe, numbers: Mapping[str, Array]) -> dict[str, Array]:
        """The scores on some search items of each task, by their numbers."""
        self._engine.build(recipe)
        tasks = {task.name: task for task in self.tasks.counted("search")}
        return {
            name: tasks[name].score(self._live, [tasks[name].search[n] for n in chosen]).numpy()
            for name, chosen in numbers.items()
        }

    def truth(self, recipe: Recipe) -> float:
        """The objective on the items of the truth."""
        self._engine.build(recipe)
        return self._truth.combined("test", self._truth.score(self._live, "test"))

    def baselines(self) -> list[Recipe]:
        """The baselines that every run scores first, the greedy soup on these search items included."""
        scored = score_baselines(self.plan.baselines, self.search_value)
        return [baseline.recipe for baseline in scored]


class Meter:
    """The black box that rivals maximise, with what they spend. See ``search_rivals.BlackBox``."""

    def __init__(self, problem: SearchProblem, budget: float) -> None:
        self.space = problem.space
        self.spent, self.trace = Spent(), Trace()
        self._problem, self._budget, self._best = problem, budget, -np.inf
        self._began = time.process_time()

    def bounds(self, method: str) -> tuple[Array, Array]:  # noqa: ARG002 - a bed has one method
        """See ``BlackBox.bounds``."""
        return self._problem.bounds

    def score(self, method: str, values: Array) -> float:  # noqa: ARG002
        """See ``BlackBox.score``. The best-scored candidate is what the arm would hand over."""
        recipe = self._problem.recipe(values)
        value = self._problem.search_value(recipe)
        self.charge(self._problem.search_items)
        if value > self._best:
            self._best = value
            self.note(recipe)
        self.check_budget()
        return value

    def charge(self, items: float) -> None:
        """Adds items, and the processor's seconds since the last call."""
        now = time.process_time()
        self.spent.items += items
        self.spent.seconds += now - self._began
        self._began = now

    def note(self, recipe: Recipe) -> None:
        """Says what the arm would hand over now."""
        self.trace.note(self.spent, self._problem.key(recipe), recipe)

    def recommend(self, values: Array) -> None:
        """See ``BlackBox.recommend``."""
        self.note(self._problem.recipe(values))

    def check_budget(self) -> None:
        """Raises SearchEndedError where the budget is spent."""
        if self.spent.items >= self._budget:
            raise SearchEndedError

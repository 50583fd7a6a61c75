"""The demo's checkpoints and items in memory: what any merge of them scores, and the merge that an oracle finds.

The oracle knows what no search knows at its price: it follows gradients of the merge's coefficients on thousands of
items. What is left between it and the best baseline is what there is to win.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from search_common import Array, score_baselines

from mergesearch.evaluators import Item, LoadedModel
from mergesearch.evaluators.contract.graded import is_graded, spread
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.gradient.chart import Chart
from mergesearch.search.candidates.plan import SearchPlan, open_plan
from mergesearch.search.config import Config
from mergesearch.search.problem.tasks import Task
from mergesearch.search.scoring.live_model import open_engine
from mergesearch.search.statistics import Contrast, difference_of
from mergesearch.seeds import derive

BANDWIDTH = 0.12
"""Of the oracle's grades, in spreads of a candidate's own margins (see ``graded``). At 0.35 it is worse."""
RATE, MEMORY = 0.2, (0.5, 0.999)
"""Of the oracle's Adam (arXiv:1412.6980): the first step, as a share of each range, and the decays of its averages."""
BATCH = 1_000
"""Items of one step of the oracle."""
RUN = 10
"""Neighbouring items that are taken together."""
WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)
"""The single weights for all models that are tried."""

Weight = Any
"""The value of ``weight`` in a recipe, holes included."""


def with_split(config: Config, seed: int) -> Config:
    """The config with another seed of the split and of the search."""
    assert config.evaluate.split is not None
    evaluate = config.evaluate.model_copy(update={"split": config.evaluate.split.model_copy(update={"seed": seed})})
    return config.model_copy(update={"evaluate": evaluate, "search": config.search.model_copy(update={"seed": seed})})


def levels(config: Config) -> dict[str, Sequence[Weight]]:
    """For each level of a search the weights of the models: one for all, one for each, and the config's own."""
    own = [model["parameters"]["weight"] for model in config.recipe["models"]]
    hole = {"search": [0.0, 1.0]}
    return {
        "one weight for all": [{**hole, "name": "all"}, *[{"same_as": "all"}] * (len(own) - 1)],
        "one weight per model": [deepcopy(hole) for _ in own],
        "layers, attention and MLP": own,
    }


def with_weights(config: Config, weights: Sequence[Weight]) -> Config:
    """The config with other weights of its models."""
    recipe = deepcopy(config.recipe)
    for model, weight in zip(recipe["models"], weights, strict=True):
        model["parameters"] = {"weight": deepcopy(weight)}
    return config.model_copy(update={"recipe": recipe})


@dataclass(frozen=True)
class Found:
    """A merge with its accuracies. ``rows``: by side and task the items' scores."""

    name: str
    recipe: Recipe
    rows: Mapping[str, Mapping[str, Any]]


class Bed:
    """One config's checkpoints and items in memory."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.plan: SearchPlan = open_plan(config, "benchmarks")
        problem = self.plan.problem
        self.tasks = problem.tasks
        self.engine = open_engine(problem, takes_gradients=True)
        self.live = LoadedModel(self.engine.model, self.engine.tokenizer)
        self.tasks.prepare(self.live)

    def score(self, name: str, recipe: Recipe, sides: Sequence[str] = ("search", "test")) -> Found:
        """Scores a merge on all items of these sides."""
        self.engine.build(recipe)
        return Found(name, recipe, {side: self.tasks.score(self.live, side) for side in sides})

    def value(self, found: Found, side: str) -> float:
        """The mean of the tasks' accuracies."""
        return self.tasks.combined(side, found.rows[side])

    def by_task(self, found: Found, side: str) -> dict[str, float]:
        """The accuracy of each task."""
        return self.tasks.values(side, found.rows[side])

    def difference(self, one: Found, two: Found) -> Contrast:
        """One merge less another on the test items, with the standard error over files."""
        strata = [self.tasks.strata("test", found.rows["test"]) for found in (one, two)]
        return difference_of(strata[0], strata[1], self.tasks.objective("test").combine)

    def baselines(self) -> list[Found]:
        """The baselines that every run scores."""
        found: dict[str, Found] = {}

        def objective(recipe: Recipe) -> float:
            found[recipe.to_yaml()] = merge = self.score("", recipe)
            return self.value(merge, "search")

        scored = score_baselines(self.plan.baselines, objective)
        return [Found(each.name, each.recipe, found[each.recipe.to_yaml()].rows) for each in scored]

    def single_weights(self, weights: Sequence[float] = WEIGHTS) -> list[Found]:
        """The merges with one weight for all models."""
        return [self.score(f"all at {weight:g}", self._with_weight(weight)) for weight in weights]

    def _with_weight(self, weight: float) -> Recipe:
        data = with_weights(self.config, [weight] * len(self.config.recipe["models"])).recipe
        return Recipe.read(data, "benchmarks")


class Oracle:
    """Descends on the graded accuracy of the search items; the test items say where to stop.

    So it is no way to search. It says, rather too high, what a descent in these dimensions can have.
    """

    def __init__(self, bed: Bed, weights: Sequence[Weight]) -> None:
        self._bed = bed
        self._space = open_plan(with_weights(bed.config, weights), "benchmarks").problem.space
        self.dimensions = len(self._space.dimensions)
        self._scales: dict[str, float] = {}

    def descend(self, weight: float, steps: int, every: int, seed: int = 0) -> list[Found]:
        """The merges after every so many steps, begun at one weight for all models."""
        method = self._space.methods[0]
        point = dict.fromkeys(self._space.start(method, {}), weight)
        chart = Chart(self._space, self._bed.engine, method, point)
        units, first, second = chart.origin, np.zeros(self.dimensions), np.zeros(self.dimensions)
        path: list[Found] = []
        for step in range(1, steps + 1):
            recipe = chart.recipe(units)
            if step % every == 1 or every == 1:
                self._bed.engine.build(recipe)
                self._scales = {task.name: BANDWIDTH * self._spread(task) for task in self._bed.tasks}
            _, slopes = self._bed.engine.coefficient_gradients(recipe, lambda: self._backward(derive(seed, step)))  # noqa: B023
            gradient = chart.jacobian(units).T @ np.hstack([*slopes.values()])
            first = MEMORY[0] * first + (1 - MEMORY[0]) * gradient
            second = MEMORY[1] * second + (1 - MEMORY[1]) * gradient**2
            mean, variance = first / (1 - MEMORY[0] ** step), second / (1 - MEMORY[1] ** step)
            rate = RATE * (1 - (step - 1) / steps)
            units = np.clip(units - rate * mean / (np.sqrt(variance) + 1e-8), 0, 1)
            if step % every == 0 or step == steps:
                path.append(self._bed.score(f"step {step}", chart.recipe(units), ["test"]))
        return path

    def best(self, path: Sequence[Found]) -> Found:
        """The merge with the highest accuracy on the test items."""
        return max(path, key=lambda found: self._bed.value(found, "test"))

    def _backward(self, seed: int) -> float:
        total = 0.0
        for task in self._bed.tasks:
            assert is_graded(task.evaluator)
            items = self._batch(task, seed)
            targets: Any = task.evaluator.targets(self._bed.live, items)  # type: ignore[attr-defined]
            for loss in targets.losses("graded", self._scales[task.name]):
                (loss / len(self._bed.tasks.all)).backward()
                total += loss.item()
        return total

    def _spread(self, task: Task) -> float:
        """The candidate's own spread of margins, on some items."""
        items = self._batch(task, 0)
        return spread(task.evaluator.score_with_margins(self._bed.live, items)[1])  # type: ignore[attr-defined]

    def _batch(self, task: Task, seed: int) -> list[Item]:
        """Runs of neighbouring items, of many files: neighbours share their context."""
        runs = [task.search[start : start + RUN] for start in range(0, len(task.search), RUN)]
        count = round(BATCH / len(self._bed.tasks.all) / RUN)
        chosen = np.random.default_rng(derive(seed, task.name)).permutation(len(runs))[:count]
        return [item for number in chosen for item in runs[number]]


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def mean(values: Sequence[float] | Array) -> float:
    return float(np.mean(values))

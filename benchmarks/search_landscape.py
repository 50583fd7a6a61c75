"""Recorded margins of the demo's merges, and a regression that predicts the margins of every other merge.

The margin of an item is the log-probability of its right choice minus that of the best other one; the item is right
where its margin is positive. ``record`` measures the margins of a few hundred merges once. ``Landscape`` predicts those
of any recipe of the space by kernel ridge regression, item by item. The baselines have their recorded margins.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from machine import FOLDER
from scipy.spatial.distance import cdist
from scipy.stats import qmc
from search_common import Array, ranges_of

from mergesearch.evaluators import LoadedModel
from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.merge_ops.methods import Method
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.baselines import Baseline, Endpoints
from mergesearch.search.candidates.plan import SearchPlan
from mergesearch.search.config import Config
from mergesearch.search.problem.tasks import Task
from mergesearch.search.scoring.live_model import open_engine
from mergesearch.search.space.space import Space

RECORDING = FOLDER / "search_efficiency_demo.npz"
CONFIG = Path(__file__).with_name("search_efficiency_replayed.yml")
ItemScore = Literal["accuracy", "probability"]
"""The score of an item: 1 where it is right, else 0; or the probability of the right choice."""
NARROW = (0.1, 0.65)
"""The part of each range in which every other recorded point lies: the good merges are there."""
LENGTHS = (0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)


def read_config(**search: Any) -> Config:
    """The benchmark's config, with the keys of ``search`` replaced by these."""
    config = Config.read(CONFIG)
    return config.model_copy(update={"search": config.search.model_copy(update=search)})


@dataclass(frozen=True)
class Regression:
    """The kernel ridge regression of one method's margins, and its leave-one-out errors.

    explained: the share of the margins' variance that is explained; agreement: the share of items that are predicted
    right or wrong correctly; error: the root mean square error of the accuracy.
    """

    method: str
    points: Array
    coefficients: Array
    mean: Array
    length: float
    ridge: float
    explained: float
    agreement: float
    error: float

    def predict(self, point: Array) -> Array:
        """[items]: the margins at one point, given as ``features``."""
        return np.asarray(self.mean + _kernel(point[None], self.points, self.length)[0] @ self.coefficients)


def features(method: str, values: Array) -> Array:
    """[..., features] of [..., values]: the quantities that a merge depends on.

    TIES divides by the sum of the weights of the models that agree, so only the ratio of the two weights of each layer
    matters.
    """
    if method == "task_arithmetic":
        return values
    first, first_density, second, second_density = np.split(values, 4, axis=-1)
    ratio = first / np.maximum(first + second, 1e-9)
    return np.concatenate([ratio, first_density, second_density], axis=-1)


def _kernel(a: Array, b: Array, length: float) -> Array:
    """A linear kernel, which extrapolates, plus a Gaussian one."""
    smooth = np.exp(-cdist(a, b, "sqeuclidean") / (2 * length**2))
    return np.asarray(smooth + (a - 0.5) @ (b - 0.5).T)


def fit(method: str, values: Array, margins: Array, shares: Array) -> Regression:
    """The best regression of a few length scales and ridges by leave-one-out error of the margins.

    shares: [items], the weight of each item in the objective.
    """
    points = features(method, values)
    fits = [_fit(method, points, margins, shares, (length, ridge)) for length in LENGTHS for ridge in RIDGES]
    return max(fits, key=lambda regression: regression.explained)


def _fit(method: str, points: Array, margins: Array, shares: Array, smoothness: tuple[float, float]) -> Regression:
    """Leave-one-out residuals: (G⁻¹ y)ᵢ / (G⁻¹)ᵢᵢ, G = K + ridge I (Rasmussen and Williams 2006, equation 5.12)."""
    length, ridge = smoothness
    inverse = np.linalg.inv(_kernel(points, points, length) + ridge * np.eye(len(points)))
    mean = margins.mean(0)
    coefficients = inverse @ (margins - mean)
    left_out = margins - coefficients / np.diag(inverse)[:, None]
    explained = 1 - ((left_out - margins) ** 2).sum() / ((margins - mean) ** 2).sum()
    right, predicted = margins > 0, left_out > 0
    error = np.sqrt(np.mean(((right.astype(float) - predicted) @ shares) ** 2))
    agreement = float((right == predicted).mean())
    return Regression(method, points, coefficients, mean, length, ridge, float(explained), agreement, float(error))


class Landscape:
    """The margins of every recipe of the space: recorded ones of the baselines, predicted ones of all others.

    ``baselines`` are those of the space, in the order in which they were recorded.
    """

    def __init__(self, item_score: ItemScore, baselines: Endpoints) -> None:
        self.item_score = item_score
        data = np.load(RECORDING)
        self._names: list[str] = data["names"].tolist()
        self._points, self._margins = data["points"], data["margins"].astype(float)
        self._sizes: list[list[int]] = data["sizes"].tolist()
        recorded = iter(self._margins)
        self._of_baselines: dict[str, Array] = {}

        def objective(recipe: Recipe) -> float:
            self._of_baselines[recipe.to_yaml()] = margins = next(recorded)
            return self.objective(margins, "search")

        score_baselines(baselines, objective)

    @cached_property
    def columns(self) -> list[dict[str, Array]]:
        """For each task and side of the split, the columns of its items in the margins."""
        ends = np.cumsum([0, *np.ravel(self._sizes)])
        spans = [np.arange(begin, end) for begin, end in pairwise(ends)]
        return [{"search": spans[2 * n], "test": spans[2 * n + 1]} for n in range(len(self._sizes))]

    @cached_property
    def regressions(self) -> dict[str, Regression]:
        """By method."""
        first = 1 + max(n for n, name in enumerate(self._names) if name == "greedy soup")
        regressions = {}
        for method in dict.fromkeys(self._names[first:]):
            rows = [n for n in range(first, len(self._names)) if self._names[n] == method]
            values = self._points[rows]
            values = values[:, ~np.isnan(values).any(0)]
            regressions[method] = fit(method, values, self._margins[rows], self._shares("search"))
        return regressions

    def _shares(self, side: str) -> Array:
        """[items]: the weight of each item in the objective of that side."""
        shares = np.zeros(self._margins.shape[1])
        for columns in self.columns:
            shares[columns[side]] = 1 / len(columns[side]) / len(self.columns)
        return shares

    def scores(self, margins: Array) -> Array:
        """[items]: see ``ItemScore``."""
        return np.asarray(margins > 0, dtype=float) if self.item_score == "accuracy" else 1 / (1 + np.exp(-margins))

    def objective(self, margins: Array, side: str) -> float:
        """The mean score of one side's items, averaged over the tasks."""
        return float(self.scores(margins) @ self._shares(side))

    def best_baseline(self, side: str) -> float:
        """The highest objective of a baseline on one side."""
        rows = self._margins[: len(self._of_baselines)]
        return max(self.objective(row, side) for row in rows)

    def margins(self, recipe: Recipe) -> Array:
        """[items]."""
        recorded = self._of_baselines.get(recipe.to_yaml())
        return self.margins_at(recipe.merge_method, values_of(recipe)) if recorded is None else recorded

    def margins_at(self, method: str, values: Array) -> Array:
        """[items]: the margins at a point, given as ``values_of`` gives it."""
        return self.regressions[method].predict(features(method, values))


def values_of(recipe: Recipe) -> Array:
    """[dimensions]: a recipe's parameters, model by model."""
    settings = recipe.model_dump(exclude_defaults=True)["models"]
    return np.hstack([value for model in settings for value in model["parameters"].values()]).astype(float)


def score_baselines(baselines: Endpoints, objective: Callable[[Recipe], float]) -> list[Baseline]:
    """Scores the baselines one after the other, since the greedy soup depends on scores. Returns them in that order."""
    scores: dict[str, float] = {}
    scored: list[Baseline] = []
    while (baseline := baselines.following(scores)) is not None:
        scores[baseline.name] = objective(baseline.recipe)
        scored.append(baseline)
    return scored


def record(plan: SearchPlan, seconds: float, seed: int = 0) -> None:
    """Records the margins of the baselines, then of points of the methods in turn, for ``seconds``."""
    recorder = _Recorder(plan)
    begin = time.perf_counter()
    for baseline in score_baselines(plan.baselines, recorder.objective):
        recorder.add(baseline.name, baseline.recipe)
    space = plan.problem.space
    sequences = {method.name: qmc.Sobol(len(ranges_of(space, method)), rng=seed) for method in space.methods}
    number = 0
    while time.perf_counter() - begin < seconds:
        # Two of every five are of the first method, which has half as many dimensions as the second.
        method = space.methods[0 if number % 5 < 2 else 1]
        unit = sequences[method.name].random(1)[0]
        unit = unit if number // 5 % 2 else NARROW[0] + (NARROW[1] - NARROW[0]) * unit
        recorder.add(method.name, space.fill(method, _point(space, method, unit)))
        number += 1
        if number % 10 == 0:
            recorder.save()
    recorder.save()


def _point(space: Space, method: Method, unit: Array) -> dict[str, float]:
    """The values at coordinates between 0 and 1."""
    ranges = ranges_of(space, method)
    return {name: low + (high - low) * float(u) for (name, (low, high)), u in zip(ranges.items(), unit, strict=True)}


class _Recorder:
    """Builds candidates and measures their margins. Items are measured with lm-eval's own model class."""

    def __init__(self, plan: SearchPlan) -> None:
        from lm_eval.models.huggingface import HFLM

        self._tasks = plan.problem.tasks
        self._engine: Engine = open_engine(plan.problem, takes_gradients=False)
        self._live = LoadedModel(self._engine.model, self._engine.tokenizer, self._engine.save)
        self._tasks.prepare(self._live)
        evaluate = plan.problem.config.evaluate
        self._lm: Any = HFLM(
            pretrained=self._engine.model, tokenizer=self._engine.tokenizer, batch_size=evaluate.batch_size
        )
        self._include_path = evaluate.include_path
        self._names: list[str] = []
        self._points: list[Array] = []
        self._margins: list[Array] = []

    def objective(self, recipe: Recipe) -> float:
        """The objective on the search items."""
        self._engine.build(recipe)
        return self._tasks.combined("search", self._tasks.score(self._live, "search"))

    def add(self, name: str, recipe: Recipe) -> None:
        """Measures the margins of one candidate."""
        self._engine.build(recipe)
        self._names.append(name)
        self._points.append(values_of(recipe))
        self._margins.append(np.concatenate([self._margins_of(task) for task in self._tasks]))

    def _margins_of(self, task: Task) -> Array:
        """[search items, then test items]."""
        from lm_eval.api.instance import Instance

        assert self._include_path is not None
        documents = (Path(self._include_path) / f"{task.name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(documents[int(item.id)]) for item in (*task.search, *task.test)]
        requests = [
            Instance("loglikelihood", row, (row["context"], choice), number)
            for row in rows
            for number, choice in enumerate(row["choices"])
        ]
        answers = iter(self._lm.loglikelihood(requests, disable_tqdm=True))
        logprobs = [[next(answers)[0] for _ in row["choices"]] for row in rows]
        return np.array([_margin(choices, row["answer"]) for choices, row in zip(logprobs, rows, strict=True)])

    def save(self) -> None:
        """Writes what was measured so far."""
        width = max(map(len, self._points))
        points = np.stack([np.pad(p, (0, width - len(p)), constant_values=np.nan) for p in self._points])
        margins = np.stack(self._margins).astype(np.float16)
        sizes = [[len(task.search), len(task.test)] for task in self._tasks]
        np.savez_compressed(RECORDING, names=np.array(self._names), points=points, margins=margins, sizes=sizes)


def _margin(logprobs: list[float], answer: int) -> float:
    return logprobs[answer] - max(value for number, value in enumerate(logprobs) if number != answer)

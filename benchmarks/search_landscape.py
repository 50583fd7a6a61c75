"""What a search sees, kept: the margins by which merges of the demo get each item right, and a model of them.

``record`` scores a few hundred merges once. ``Landscape`` gives any recipe of the space the margins that a kernel ridge
regression through the recorded ones predicts, each item by itself; the baselines have those that were recorded. An
item is right where its margin is positive.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from machine import FOLDER
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from scipy.spatial.distance import cdist
from scipy.stats import qmc

from mergesearch.evaluators import LoadedModel
from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.merge_ops.methods import Method
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.config import Config
from mergesearch.search.problem.problem import Job
from mergesearch.search.problem.tasks import Task
from mergesearch.search.run import open_engine

Array = NDArray[np.float64]
RECORDING = FOLDER / "search_efficiency_demo.npz"
CONFIG = Path(__file__).with_name("search_efficiency_replayed.yml")
Score = Literal["accuracy", "probability"]
NARROW = (0.1, 0.65)
"""The part of each range in which every other recorded point lies: merges that are any good are here."""
LENGTHS = (0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)


def read_config(**search: Any) -> Config:
    """The benchmark's config, with what ``search`` says put over it."""
    config = Config.read(CONFIG)
    return config.model_copy(update={"search": config.search.model_copy(update=search)})


@dataclass(frozen=True)
class Fit:
    """One method's model, and what leaving each recorded point out in turn shows of it.

    explained: the share of the margins' variance; agreement: of outcomes, right or wrong; error: root mean square, of
    the objective.
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

    def margins(self, point: Array) -> Array:
        """[items]: of one point, see ``features``."""
        return np.asarray(self.mean + _kernel(point[None], self.points, self.length)[0] @ self.coefficients)


def features(method: str, values: Array) -> Array:
    """[..., features] of [..., numbers]: what a merge depends on.

    TIES divides by the sum of the weights of those that agree: only each layer's ratio of the two weights counts.
    """
    if method == "task_arithmetic":
        return values
    first, first_density, second, second_density = np.split(values, 4, axis=-1)
    ratio = first / np.maximum(first + second, 1e-9)
    return np.concatenate([ratio, first_density, second_density], axis=-1)


def _kernel(a: Array, b: Array, length: float) -> Array:
    """A linear part, which carries far, and a smooth one."""
    smooth = np.exp(-cdist(a, b, "sqeuclidean") / (2 * length**2))
    return np.asarray(smooth + (a - 0.5) @ (b - 0.5).T)


def fit(method: str, values: Array, margins: Array, shares: Array) -> Fit:
    """The best of a few length scales and ridges by the margins left out; shares: [items], in the objective."""
    points = features(method, values)
    fits = [_fit(method, points, margins, shares, (length, ridge)) for length in LENGTHS for ridge in RIDGES]
    return max(fits, key=lambda one: one.explained)


def _fit(method: str, points: Array, margins: Array, shares: Array, smoothness: tuple[float, float]) -> Fit:
    """Left-out residuals in closed form: (G⁻¹ y)ᵢ / (G⁻¹)ᵢᵢ, G = K + ridge I (Rasmussen & Williams 2006, 5.12)."""
    length, ridge = smoothness
    inverse = np.linalg.inv(_kernel(points, points, length) + ridge * np.eye(len(points)))
    mean = margins.mean(0)
    coefficients = inverse @ (margins - mean)
    left_out = margins - coefficients / np.diag(inverse)[:, None]
    explained = 1 - ((left_out - margins) ** 2).sum() / ((margins - mean) ** 2).sum()
    right, predicted = margins > 0, left_out > 0
    error = np.sqrt(np.mean(((right.astype(float) - predicted) @ shares) ** 2))
    agreement = float((right == predicted).mean())
    return Fit(method, points, coefficients, mean, length, ridge, float(explained), agreement, float(error))


class Landscape:
    """The recorded margins, and those of every other recipe of the space."""

    def __init__(self, metric: Score = "accuracy") -> None:
        self.metric = metric
        data = np.load(RECORDING)
        self._names: list[str] = data["names"].tolist()
        self._points, self._margins = data["points"], data["margins"].astype(float)
        self.sizes: list[list[int]] = data["sizes"].tolist()
        self._baselines: dict[str, Array] = {}

    @cached_property
    def places(self) -> list[dict[str, Array]]:
        """Each task's items on each side, as places among all."""
        ends = np.cumsum([0, *np.ravel(self.sizes)])
        spans = [np.arange(begin, end) for begin, end in pairwise(ends)]
        return [{"search": spans[2 * n], "test": spans[2 * n + 1]} for n in range(len(self.sizes))]

    @cached_property
    def fits(self) -> dict[str, Fit]:
        """By method."""
        first = 1 + max(n for n, name in enumerate(self._names) if name == "greedy soup")
        found = {}
        for method in dict.fromkeys(self._names[first:]):
            mine = [n for n in range(first, len(self._names)) if self._names[n] == method]
            values = self._points[mine]
            values = values[:, ~np.isnan(values).any(0)]
            found[method] = fit(method, values, self._margins[mine], self._shares("search"))
        return found

    def _shares(self, side: str) -> Array:
        shares = np.zeros(self._margins.shape[1])
        for places in self.places:
            shares[places[side]] = 1 / len(places[side]) / len(self.places)
        return shares

    def scores(self, margins: Array) -> Array:
        """[items]: right or wrong, or the probability of the right choice against the best other one."""
        return np.asarray(margins > 0, dtype=float) if self.metric == "accuracy" else 1 / (1 + np.exp(-margins))

    def value(self, margins: Array, side: str) -> float:
        """The score of one side's items, the mean over the tasks."""
        return float(self.scores(margins) @ self._shares(side))

    def know(self, baselines: Callable[[Callable[[Recipe], float]], list[tuple[str, Recipe]]]) -> None:
        """Ties the recorded baselines to their recipes."""
        recorded = iter(self._margins)
        met: dict[str, Array] = {}

        def value(recipe: Recipe) -> float:
            met[recipe.to_yaml()] = margins = next(recorded)
            return self.value(margins, "search")

        baselines(value)
        self._baselines = met

    def baseline_values(self, side: str) -> dict[str, float]:
        """What the baselines score on one side."""
        rows = zip(self._names[: len(self._baselines)], self._margins, strict=False)
        return {name: self.value(row, side) for name, row in rows}

    def margins(self, recipe: Recipe) -> Array:
        """[items]."""
        known = self._baselines.get(recipe.to_yaml())
        if known is not None:
            return known
        return self.margins_at(recipe.merge_method, numbers(recipe))

    def margins_at(self, method: str, values: Array) -> Array:
        """[items]: of a method's numbers, models by models."""
        return self.fits[method].margins(features(method, values))


def numbers(recipe: Recipe) -> Array:
    """[dimensions]: a recipe's numbers, in the order in which it has them."""
    settings = recipe.model_dump(exclude_defaults=True)["models"]
    return np.hstack([value for model in settings for value in model["parameters"].values()]).astype(float)


def record(job: Job, seconds: float, seed: int = 0) -> None:
    """Scores the baselines, then points of each method in turn, until the time is over; keeps what it has."""
    recorder = _Recorder(job, open_engine(job))
    begin = time.perf_counter()
    for name, recipe in baselines(job, recorder.value):
        recorder.add(name, recipe)
    engines = {m.name: qmc.Sobol(len(ranges(job, m)), rng=seed) for m in job.space.methods}
    number = 0
    while time.perf_counter() - begin < seconds:
        # Of every five two of the first method, which has half as many dimensions as the second.
        method = job.space.methods[0 if number % 5 < 2 else 1]
        unit = engines[method.name].random(1)[0]
        unit = unit if number // 5 % 2 else NARROW[0] + (NARROW[1] - NARROW[0]) * unit
        recorder.add(method.name, job.space.fill(method, point(job, method, unit)))
        number += 1
        if number % 10 == 0:
            recorder.save()
    recorder.save()


def ranges(job: Job, method: Method) -> dict[str, FloatDistribution]:
    """The method's dimensions."""
    holes = job.space.holes_of(method)
    return {hole.name: cast(FloatDistribution, hole.distribution) for hole in holes}


def point(job: Job, method: Method, unit: Array) -> dict[str, Any]:
    """The values at coordinates from 0 to 1."""
    found = ranges(job, method).items()
    return {name: r.low + (r.high - r.low) * float(u) for (name, r), u in zip(found, unit, strict=True)}


def baselines(job: Job, value: Callable[[Recipe], float]) -> list[tuple[str, Recipe]]:
    """The run's baselines, by name."""
    scores: dict[str, float] = {}
    found: list[tuple[str, Recipe]] = []
    while (following := job.baselines.following(scores)) is not None:
        scores[following.name] = value(following.recipe)
        found.append((following.name, following.recipe))
    return found


class _Recorder:
    def __init__(self, job: Job, engine: Engine) -> None:
        self._job = job
        self._engine = engine
        self._subject = LoadedModel(engine.model, engine.tokenizer, engine.save)
        job.prepare(self._subject)
        self._names: list[str] = []
        self._points: list[Array] = []
        self._margins: list[Array] = []

    def value(self, recipe: Recipe) -> float:
        """The objective on the search items."""
        self._engine.build(recipe)
        return self._job.objective("search", self._job.score(self._subject, "search", self._job.tasks))

    def add(self, name: str, recipe: Recipe) -> None:
        self._engine.build(recipe)
        self._names.append(name)
        self._points.append(numbers(recipe))
        self._margins.append(np.concatenate([self._margins_of(task) for task in self._job.tasks]))

    def _margins_of(self, task: Task) -> Array:
        """[search items, then test items]: log-probability of the answer over that of the best other choice."""
        evaluator = cast(Any, task.evaluator)
        items = [*task.search, *task.test]
        evaluator.score(self._subject, items)
        return np.array([_margin(evaluator, item) for item in items])

    def save(self) -> None:
        width = max(map(len, self._points))
        points = np.stack([np.pad(p, (0, width - len(p)), constant_values=np.nan) for p in self._points])
        margins = np.stack(self._margins).astype(np.float16)
        sizes = [[len(task.search), len(task.test)] for task in self._job.tasks]
        np.savez_compressed(RECORDING, names=np.array(self._names), points=points, margins=margins, sizes=sizes)


def _margin(evaluator: Any, item: Any) -> float:
    member, number = evaluator._place[item]
    logprobs = [one.filtered_resps[member.filter][0] for one in evaluator._instances(item)]
    answer = int(member.docs[number]["answer"])
    return float(logprobs[answer] - max(value for n, value in enumerate(logprobs) if n != answer))

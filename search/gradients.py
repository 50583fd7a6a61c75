"""The gradient-guided start: a descent on the search items, along the whole space at once.

One backward pass through the live model gives the derivative of a calibration loss by every coefficient of every tensor
(``Engine.slopes``). The space's own map from holes to coefficients, whose Jacobian is taken by differences, carries it
to the holes: curve knots, filters, layers or ranges alike. A few steps of Adam, each on a part of the search items,
find good values in hundreds of dimensions; points of the way become trials.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.study import Study

from mergesearch.errors import UserError, in_words, listed
from mergesearch.evaluators import Differentiable, Item, LoadedModel, LossKind, has_targets
from mergesearch.merge_ops.engine import Engine, Say, silent
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.merge_ops.recipe import Recipe
from mergesearch.search import trials as t
from mergesearch.search.gradient_checks import no_method
from mergesearch.search.job import Job
from mergesearch.search.samplers import METHOD, from_unit, to_unit
from mergesearch.search.space import Space
from mergesearch.search.store import RunFolder
from mergesearch.search.tasks import Task
from mergesearch.seeds import derive

Vector = NDArray[np.float64]
Point = Mapping[str, Scalar]
FILE = "gradient.json"
PROBES = 3
WIDTH = 1e-3
"""Of a difference, as a part of the range: the map is smooth, and its numbers are float64."""
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Adam's (arXiv:1412.6980)."""


class Chart:
    """The ranges of a space around one point of a method: coordinates from 0 to 1, and the coefficients there."""

    def __init__(self, space: Space, engine: Engine, method: Method, point: Point) -> None:
        self._space, self._engine, self._method, self._point = space, engine, method, dict(point)
        holes = [hole for hole in space.holes_of(method) if isinstance(hole.distribution, FloatDistribution)]
        self._ranges = {hole.name: hole.distribution for hole in holes if not hole.distribution.single()}

    @property
    def origin(self) -> Vector:
        """[dimensions], the coordinates of the point."""
        return np.array([to_unit(found, self._point[name]) for name, found in self._ranges.items()])

    def point(self, units: Vector) -> dict[str, Scalar]:
        """The point of the space at these coordinates."""
        moved = {name: from_unit(found, unit) for (name, found), unit in zip(self._ranges.items(), units, strict=True)}
        return {**self._point, **moved}

    def recipe(self, units: Vector) -> Recipe:
        return self._space.fill(self._method, self.point(units))

    def coefficients(self, units: Vector) -> Vector:
        """[tensors · (1 + models)], in the order of the tensors' names."""
        found = self._engine.coefficients(self.recipe(units))
        assert found is not None
        return np.array([number for numbers in found.values() for number in numbers])

    def jacobian(self, units: Vector) -> Vector:
        """[coefficients, dimensions] at these coordinates."""
        return self._constant if self._constant is not None else self._differences(units)

    @cached_property
    def _constant(self) -> Vector | None:
        """The Jacobian where it is the same everywhere; None where the map is not affine, as the first probe shows."""
        middle = np.full(len(self._ranges), 0.5)
        found, here = self._differences(middle), self.coefficients(middle)
        rng = np.random.default_rng(derive("probe"))
        for probe in rng.random((PROBES, len(middle))):
            if not np.allclose(here + found @ (probe - middle), self.coefficients(probe), rtol=1e-9, atol=1e-9):
                return None
        return found

    def _differences(self, units: Vector) -> Vector:
        return np.stack([self._difference(units, place) for place in range(len(units))], axis=1)

    def _difference(self, units: Vector, place: int) -> Vector:
        low, high = units.copy(), units.copy()
        low[place], high[place] = max(units[place] - WIDTH, 0.0), min(units[place] + WIDTH, 1.0)
        column: Vector = (self.coefficients(high) - self.coefficients(low)) / (high[place] - low[place])
        return column


class Calibration:
    """The loss of the live model on parts of the search items, task by task as the objective weighs them.

    ``part``: of the items, at each step. ``loss``: None takes ``targets`` where the items have any, else ``entropy``.
    """

    def __init__(self, job: Job, subject: LoadedModel, part: float, loss: LossKind | None) -> None:
        self._seed, self._part, self._subject = job.config.search.seed, part, subject
        able = [task for task in job.tasks_of("search") if has_targets(task.evaluator)]
        gold = [task for task in able if self._targets(task).has_gold]
        self.kind: LossKind = loss or ("targets" if gold else "entropy")
        self.tasks: Sequence[Task] = gold if self.kind == "targets" else able
        if not self.tasks:
            raise UserError(
                "search.gradient.loss: found targets, but no task says of every item what is right; entropy needs no "
                "such thing"
            )

    def _targets(self, task: Task, items: Sequence[Item] | None = None) -> Any:
        assert isinstance(task.evaluator, Differentiable)
        return task.evaluator.targets(self._subject, task.search if items is None else items)

    def backward(self, step: int) -> float:
        """The loss on the items of one step; its gradients are left on the model's parameters."""
        total, weights = 0.0, sum(task.weight for task in self.tasks)
        for task in self.tasks:
            for loss in self._targets(task, self.items(task, step)).losses(self.kind):
                part = loss * (task.weight / weights)
                part.backward()
                total += part.item()
        return total

    def items(self, task: Task, step: int) -> list[Item]:
        """A step's items: the task's in an order of its own for every pass over them, a part at a time."""
        count = max(round(self._part * len(task.search)), 1)
        steps = max(len(task.search) // count, 1)
        turn, place = divmod(step, steps)
        order = np.random.default_rng(derive(self._seed, "gradient", task.name, turn)).permutation(len(task.search))
        return [task.search[number] for number in order[place * count : (place + 1) * count]]


@dataclass(frozen=True)
class Descent:
    """What a descent came to: the loss before each step, and points of the way by name.

    ``exact``: nothing was overlooked; else the slopes are those of a linear surrogate.
    """

    method: str
    exact: bool
    loss: str
    losses: list[float]
    points: dict[str, dict[str, Scalar]]


def descend(
    chart: Chart, engine: Engine, calibration: Calibration, steps: int, rate: float
) -> Iterator[tuple[Vector, float]]:
    """Adam within the unit cube: after each step the coordinates, and the loss before it."""
    units = chart.origin
    first, second = np.zeros_like(units), np.zeros_like(units)
    for step in range(steps):
        loss, found = engine.slopes(chart.recipe(units), lambda step=step: calibration.backward(step))  # type: ignore[misc]
        slopes = np.array([number for numbers in found.values() for number in numbers])
        gradient = chart.jacobian(units).T @ slopes
        if not np.isfinite(gradient).all():
            raise FloatingPointError(f"step {step} of the gradient start: the derivatives are not numbers")
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
        moment, spread = first / (1 - BETAS[0] ** (step + 1)), second / (1 - BETAS[1] ** (step + 1))
        units = np.clip(units - rate * moment / (np.sqrt(spread) + EPSILON), 0, 1)
        yield units, loss


class GradientStart:
    """The descent of a run, which begins at the best point that was scored of a method that gradients can follow."""

    def __init__(self, job: Job, engine: Engine, subject: LoadedModel, say: Say = silent) -> None:
        self._job, self._engine, self._say = job, engine, say
        settings = job.config.search.gradient
        self._calibration = Calibration(job, subject, settings.items, settings.loss)
        space = job.space
        recipes = {method.name: space.fill(method, space.start(method, {})) for method in space.methods}
        able = [method for method in space.methods if engine.coefficients(recipes[method.name]) is not None]
        if not able:
            raise no_method(recipes)
        exact = [method for method in able if engine.is_linear(recipes[method.name])]
        self.exact = bool(exact)
        self.methods: list[Method] = exact or able

    def points(self, study: Study, folder: RunFolder) -> dict[str, dict[str, Scalar]]:
        """Points of the way by name, as the folder has them; found and written there first where it has none.

        A descent that fails leaves no points; its reason is said, and in the folder.
        """
        known = folder.read_json(FILE)
        if known is None:
            scored = [(trial.params, t.score_of(trial)) for trial in t.completed(study) if trial.params]
            known = self._found(scored)
            folder.write_json(FILE, known)
        points: dict[str, dict[str, Scalar]] = known["points"]
        return points

    def _found(self, scored: Sequence[tuple[Point, float]]) -> dict[str, Any]:
        self._say(f"gradient start: {self._job.config.search.gradient.steps} steps downhill")
        try:
            return asdict(self.run(scored))
        except Exception as error:  # the search goes on from what was scored
            reason = in_words(error)
            self._say(f"the gradient start failed, and the search goes on without it: {reason}")
            return {"reason": reason, "points": {}}

    @property
    def described(self) -> str:
        """What is followed and what is overlooked, for the user."""
        followed = [task.name for task in self._calibration.tasks]
        others = [task.name for task in self._job.tasks_of("search") if task.name not in followed]
        notes = [f"gradient start: follows the loss ({self._calibration.kind}) of {listed(followed)}"]
        if not self.exact:
            notes.append(f"it overlooks what {listed(method.name for method in self.methods)} trims, drops or elects")
        if others:
            notes.append(f"it does not see {listed(others)}, without such a loss")
        return "; ".join(notes)

    def run(self, scored: Sequence[tuple[Point, float]]) -> Descent:
        """``scored``: points of the space and their scores, higher is better, of which the best is the beginning."""
        settings = self._job.config.search.gradient
        method, point = self._beginning(scored)
        chart = Chart(self._job.space, self._engine, method, point)
        way = list(descend(chart, self._engine, self._calibration, settings.steps, settings.learning_rate))
        marks = [round((number + 1) * settings.steps / settings.points) for number in range(settings.points)]
        points = {f"step {mark}": chart.point(way[mark - 1][0]) for mark in marks}
        return Descent(method.name, self.exact, self._calibration.kind, [loss for _, loss in way], points)

    def _beginning(self, scored: Sequence[tuple[Point, float]]) -> tuple[Method, Point]:
        space = self._job.space
        for point, _ in sorted(scored, key=lambda entry: -entry[1]):
            for method in self.methods:
                if point.get(METHOD, method.name) == method.name and space.start(method, {}).keys() <= point.keys():
                    return method, point
        return self.methods[0], space.start(self.methods[0], {})

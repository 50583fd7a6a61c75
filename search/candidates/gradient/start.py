"""The gradient-guided start: a descent on the search items, along the whole space at once.

One backward pass through the live model gives the derivative of a calibration loss by every coefficient of every tensor
(``Engine.slopes``). The space's own map from holes to coefficients, whose Jacobian is taken by differences, carries it
to the holes: curve knots, filters, layers or ranges alike. A few steps of Adam, each on a part of the search items,
find good values in hundreds of dimensions.

The descent goes in legs. Each begins at the best point scored so far, with steps half as long as the last leg's, and
ends in a point that becomes a trial, raced like any other: where that is no better than the leg's beginning, no further
leg follows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from mergesearch.errors import UserError, in_words, listed
from mergesearch.evaluators import Differentiable, Item, LoadedModel, LossKind, has_targets
from mergesearch.merge_ops.engine.engine import Engine, Say, silent
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.baselines import UNIFORM, usual_settings
from mergesearch.search.candidates.gradient.feasibility import no_method
from mergesearch.search.problem.problem import Job
from mergesearch.search.problem.tasks import Task
from mergesearch.search.samplers import METHOD, from_unit, to_unit
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.seeds import derive

Vector = NDArray[np.float64]
Point = Mapping[str, Scalar]
FILE = "gradient.json"
PROBES = 3
WIDTH = 1e-3
"""Of a difference, as a part of the range: the map is smooth, and its numbers are float64."""
BETAS, EPSILON = (0.5, 0.999), 1e-8
"""Adam's (arXiv:1412.6980), with a short memory of the slopes: a leg has few steps."""
SHARING = ("linear", "task_arithmetic")
"""Methods that make a soup of weights that sum to one."""


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

    def count(self, step: int) -> int:
        """How many items one step looks at."""
        return sum(len(self.items(task, step)) for task in self.tasks)

    def items(self, task: Task, step: int) -> list[Item]:
        """A step's items: the task's in an order of its own for every pass over them, a part at a time."""
        count = max(round(self._part * len(task.search)), 1)
        steps = max(len(task.search) // count, 1)
        turn, place = divmod(step, steps)
        order = np.random.default_rng(derive(self._seed, "gradient", task.name, turn)).permutation(len(task.search))
        return [task.search[number] for number in order[place * count : (place + 1) * count]]


@dataclass(frozen=True)
class Descent:
    """What a descent came to: the loss before each step, the items that it looked at, and the legs' ends by name.

    ``exact``: nothing was overlooked; else the slopes are those of a linear surrogate. ``began``: the score of the
    point that the last leg began at. ``reason``: why it broke off.
    """

    method: str
    exact: bool
    loss: str
    losses: list[float]
    items: int
    points: dict[str, dict[str, Scalar]]
    began: float = -inf
    reason: str | None = None


def descend(
    chart: Chart, engine: Engine, backward: Callable[[int], float], steps: range, rate: float
) -> tuple[Vector, list[float]]:
    """A leg of Adam within the unit cube, whose steps shrink to nothing: where it ends, and the loss before each step.

    So the noise of small parts averages out (``rate`` is that of the first step), and no later leg has to wait for it.
    """
    units, losses = chart.origin, []
    first, second = np.zeros_like(units), np.zeros_like(units)
    for count, step in enumerate(steps, 1):
        loss, found = engine.slopes(chart.recipe(units), partial(backward, step))
        slopes = np.array([number for numbers in found.values() for number in numbers])
        gradient = chart.jacobian(units).T @ slopes
        if not np.isfinite(gradient).all():
            raise FloatingPointError(f"step {step} of the gradient start: the derivatives are not numbers")
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
        moment, spread = first / (1 - BETAS[0] ** count), second / (1 - BETAS[1] ** count)
        left = 1 - (count - 1) / len(steps)
        units = np.clip(units - rate * left * moment / (np.sqrt(spread) + EPSILON), 0, 1)
        losses.append(loss)
    return units, losses


class GradientStart:
    """The descent of a run, along the methods that gradients can follow. Raises UserError where there is none."""

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
        """The legs' ends by name, as the folder has them; a leg that is due is gone first, and its end written there.

        A leg that fails ends the descent; its reason is said, and in the folder.
        """
        known = folder.read_json(FILE)
        so_far = Descent(**known) if known else Descent("", self.exact, self._calibration.kind, [], 0, {})
        if known is None or self._is_due(so_far, study):
            so_far = self._further(so_far, study)
            folder.write_json(FILE, asdict(so_far))
        return so_far.points

    def _is_due(self, so_far: Descent, study: Study) -> bool:
        """Whether there are legs left, and the last one led upwards; of a trial that was stopped, by its estimate."""
        if so_far.reason or len(so_far.points) == self._job.config.search.gradient.points:
            return False
        ends = [trial for trial in _scored(study) if t.kind_of(trial) == t.GRADIENT]
        last = [trial for trial in ends if trial.user_attrs[t.NAME] == [*so_far.points][-1]]
        return any(t.score_of(trial) > so_far.began for trial in last)

    def _further(self, so_far: Descent, study: Study) -> Descent:
        settings = self._job.config.search.gradient
        number = len(so_far.points)
        begin, end = (round(legs * settings.steps / settings.points) for legs in (number, number + 1))
        self._say(f"gradient start: steps {begin + 1} to {end} downhill")
        try:
            return self._gone(so_far, study, range(begin, end), settings.learning_rate / 2**number)
        except Exception as error:  # the search goes on from what was scored
            reason = in_words(error)
            self._say(f"the gradient start failed, and the search goes on without it: {reason}")
            return replace(so_far, reason=reason)

    def _gone(self, so_far: Descent, study: Study, steps: range, rate: float) -> Descent:
        began, method, point = self._beginning(study)
        chart = Chart(self._job.space, self._engine, method, point)
        units, losses = descend(chart, self._engine, self._calibration.backward, steps, rate)
        return replace(
            so_far,
            method=method.name,
            losses=so_far.losses + losses,
            items=so_far.items + sum(map(self._calibration.count, steps)),
            points={**so_far.points, f"step {steps.stop}": chart.point(units)},
            began=began,
        )

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

    def _beginning(self, study: Study) -> tuple[float, Method, Point]:
        """The best point that is known, of a method that gradients can follow, and its score."""
        found = [*self._in_space(study), *self._standing_for_soups(study)]
        return max(found, key=lambda entry: entry[0], default=(-inf, *self._nearest(self.methods[0], {})))

    def _in_space(self, study: Study) -> Iterator[tuple[float, Method, Point]]:
        space = self._job.space
        for trial in _scored(study):
            for method in self.methods:
                point = trial.params
                if point.get(METHOD, method.name) == method.name and space.start(method, {}).keys() <= point.keys():
                    yield t.score_of(trial), method, point

    def _standing_for_soups(self, study: Study) -> Iterator[tuple[float, Method, Point]]:
        """The uniform soup, as the nearest point of a method that gives it where its weights are shares.

        Of many models the usual settings are far too much, and the soup is where to begin.
        """
        usual = usual_settings(len(self._job.space.models))["linear"]
        for trial in t.completed(study):
            for method in self.methods:
                if trial.user_attrs.get(t.NAME) == UNIFORM and method.name in SHARING:
                    yield t.score_of(trial), *self._nearest(method, usual)

    def _nearest(self, method: Method, usual: Mapping[str, Scalar]) -> tuple[Method, Point]:
        return method, self._job.space.start(method, usual)


def items_looked_at(folder: RunFolder) -> int:
    """How many items the steps of a run's descent were taken on, all together."""
    return int((folder.read_json(FILE) or {}).get("items", 0))


def _scored(study: Study) -> list[FrozenTrial]:
    return [*t.completed(study), *t.stopped(study)]

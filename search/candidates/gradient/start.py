"""The gradient start: a descent on the search items, in all dimensions of the space at once.

One backward pass through the live model gives the derivative of the calibration loss by every coefficient of every
tensor (``Engine.coefficient_gradients``). The chain rule carries it to the dimensions of the space: curve knots,
filters, layers or ranges alike; the Jacobian of the coefficients is taken by differences (see ``chart``). A few steps
of Adam, each on a batch of the search items, find good values in hundreds of dimensions.

The descent goes in legs. Each begins at the best point scored so far, with steps half as long as those of the leg
before, and ends in a point that becomes a trial, raced like any other. Where that trial is no better than the leg's
beginning, no further leg follows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial

from mergesearch.errors import in_words, listed
from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.say import Say, silent
from mergesearch.search.candidates.baselines import UNIFORM
from mergesearch.search.candidates.gradient.calibration_loss import CalibrationLoss
from mergesearch.search.candidates.gradient.chart import Chart
from mergesearch.search.candidates.gradient.feasibility import no_method
from mergesearch.search.candidates.source import Candidate, Done, Wait
from mergesearch.search.candidates.usual_settings import usual_settings
from mergesearch.search.config.search import Gradient
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.samplers import METHOD
from mergesearch.search.scoring.live_model import LiveModel
from mergesearch.search.space.space import Space
from mergesearch.search.statistics import Array
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder

FILE = "gradient.json"
REMEDY = "bring it back from a copy; without one, delete it, and the descent begins anew from the trials so far"
BETAS, EPSILON = (0.5, 0.999), 1e-8
"""Adam's (arXiv:1412.6980), with a short memory of the gradient: a leg has few steps."""
SHARING = ("linear", "task_arithmetic")
"""Methods for which weights that sum to one give the uniform soup."""


@dataclass(frozen=True)
class Descent:
    """The state of a run's descent, as its folder records it.

    ``losses`` has the loss before each step, ``items`` the number of items that gradients were taken on, ``points`` the
    end of each leg by name. ``exact``: the gradient is exact; else it is that of a linear surrogate. ``began``: the
    score of the point that the last leg began at. ``reason``: why the descent failed.
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
) -> tuple[Array, list[float]]:
    """One leg: Adam within the unit cube, with a step size that falls linearly from ``rate`` to zero.

    ``backward`` computes the loss of one step and its gradients. Returns the coordinates at the end and the loss before
    each step. The falling step size averages out the noise of small batches. Raises FloatingPointError where a
    derivative is not a number.
    """
    units, losses = chart.origin, []
    first, second = np.zeros_like(units), np.zeros_like(units)
    for count, step in enumerate(steps, 1):
        loss, by_tensor = engine.coefficient_gradients(chart.recipe(units), partial(backward, step))
        slopes = np.array([slope for row in by_tensor.values() for slope in row])
        gradient = chart.jacobian(units).T @ slopes
        if not np.isfinite(gradient).all():
            raise FloatingPointError(f"step {step} of the gradient start: the derivatives are not numbers")
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
        mean, variance = first / (1 - BETAS[0] ** count), second / (1 - BETAS[1] ** count)
        remaining = 1 - (count - 1) / len(steps)
        units = np.clip(units - rate * remaining * mean / (np.sqrt(variance) + EPSILON), 0, 1)
        losses.append(loss)
    return units, losses


class GradientSource:
    """The ends of a descent's legs as candidates, along the methods that gradients can follow.

    ``loss`` is what the descent minimises. Raises UserError where gradients can follow no method of the space.
    """

    may_overtake = False

    def __init__(  # noqa: PLR0913, PLR0917 - what a descent needs
        self,
        space: Space,
        settings: Gradient,
        loss: CalibrationLoss,
        live: LiveModel,
        folder: RunFolder,
        say: Say = silent,
    ) -> None:
        self._space, self._settings, self._loss = space, settings, loss
        self._live, self._folder, self._say = live, folder, say
        recipes = {method.name: space.fill(method, space.start(method, {})) for method in space.methods}
        able = [method for method in space.methods if live.engine.coefficients(recipes[method.name]) is not None]
        if not able:
            raise no_method(recipes)
        exact = [method for method in able if live.engine.is_linear(recipes[method.name])]
        self.exact = bool(exact)
        self.methods: list[Method] = exact or able

    def next(self, study: Study) -> Candidate | Wait | Done:
        """See ``Source.next``. Goes the next leg where one is due, which takes as long as scoring some candidates."""
        points, asked = self.points(study), t.names_of_kind(study, t.GRADIENT)
        name = next((name for name in points if name not in asked), None)
        if name is None:
            return Done("the descent leads no further")
        return Candidate(t.GRADIENT, name, point=points[name])

    def points(self, study: Study) -> dict[str, dict[str, Scalar]]:
        """The end of each leg by name, as the folder records it; a leg that is due goes first and is recorded.

        A leg that fails ends the descent. Its reason is told to the user and recorded.
        """
        recorded = read_descent(self._folder)
        descent = recorded or Descent("", self.exact, self._loss.kind, [], 0, {})
        if recorded is None or self._is_due(descent, study):
            descent = self._next_leg(descent, study)
            self._folder.write_json(FILE, asdict(descent))
        return descent.points

    def _is_due(self, descent: Descent, study: Study) -> bool:
        """Whether there are legs left and the last one improved; a stopped trial counts by its estimate."""
        if descent.reason or len(descent.points) == self._settings.points:
            return False
        ends = [trial for trial in _scored(study) if t.kind_of(trial) == t.GRADIENT]
        last = [trial for trial in ends if trial.user_attrs[t.NAME] == [*descent.points][-1]]
        return any(t.score_of(trial) > descent.began for trial in last)

    def _next_leg(self, descent: Descent, study: Study) -> Descent:
        number = len(descent.points)
        begin, end = (round(legs * self._settings.steps / self._settings.points) for legs in (number, number + 1))
        self._say(f"gradient start: steps {begin + 1} to {end} of the descent")
        try:
            return self._descend(descent, study, range(begin, end), self._settings.learning_rate / 2**number)
        except Exception as error:  # the search goes on from what was scored
            reason = in_words(error)
            self._say(f"the gradient start failed, and the search goes on without it: {reason}")
            return replace(descent, reason=reason)

    def _descend(self, descent: Descent, study: Study, steps: range, rate: float) -> Descent:
        began, method, point = self._beginning(study)
        chart = Chart(self._space, self._live.engine, method, point)
        units, losses = descend(chart, self._live.engine, self._loss.backward, steps, rate)
        return replace(
            descent,
            method=method.name,
            losses=descent.losses + losses,
            items=descent.items + sum(map(self._loss.count, steps)),
            points={**descent.points, f"step {steps.stop}": chart.point(units)},
            began=began,
        )

    def described(self, tasks: TaskSet) -> str:
        """What the descent follows and what it does not see, for the user."""
        followed = [task.name for task in self._loss.tasks]
        others = [task.name for task in tasks.counted("search") if task.name not in followed]
        notes = [f"gradient start: follows the loss ({self._loss.kind}) of {listed(followed)}"]
        if not self.exact:
            names = listed(method.name for method in self.methods)
            notes.append(f"it ignores that {names} trims, drops or elects elements")
        if others:
            notes.append(f"it does not see {listed(others)}, which has no such loss")
        return "; ".join(notes)

    def _beginning(self, study: Study) -> tuple[float, Method, Mapping[str, Scalar]]:
        """Where the next leg begins: the best scored point of a method that gradients can follow, and its score."""
        scored = [*self._points_of_trials(study), *self._points_of_uniform_soup(study)]
        middle = self._space.start(self.methods[0], {})
        return max(scored, key=lambda entry: entry[0], default=(-inf, self.methods[0], middle))

    def _points_of_trials(self, study: Study) -> Iterator[tuple[float, Method, Mapping[str, Scalar]]]:
        for trial in _scored(study):
            for method in self.methods:
                point = trial.params
                is_of_method = point.get(METHOD, method.name) == method.name
                if is_of_method and self._space.start(method, {}).keys() <= point.keys():
                    yield t.score_of(trial), method, point

    def _points_of_uniform_soup(self, study: Study) -> Iterator[tuple[float, Method, Mapping[str, Scalar]]]:
        """The point nearest to the uniform soup, of the methods whose weights are shares of a sum.

        With many models the usual settings are far too large, and the soup is the better beginning.
        """
        usual = usual_settings(len(self._space.models))["linear"]
        for trial in t.completed(study):
            for method in self.methods:
                if trial.user_attrs.get(t.NAME) == UNIFORM and method.name in SHARING:
                    yield t.score_of(trial), method, self._space.start(method, usual)


def items_looked_at(folder: RunFolder) -> int:
    """On how many items a run's descent has taken gradients, over all steps."""
    descent = read_descent(folder)
    return descent.items if descent else 0


def read_descent(folder: RunFolder) -> Descent | None:
    """The descent that a run's folder records. Raises DamagedFileError where its file is damaged."""
    return folder.read_json(FILE, Descent, REMEDY)


def _scored(study: Study) -> list[FrozenTrial]:
    return [*t.completed(study), *t.stopped(study)]

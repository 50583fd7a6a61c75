"""The gradient start: a descent on the search items, in all dimensions of the space at once.

One backward pass through the live model gives the derivative of the calibration loss by every coefficient of every
tensor (``Engine.coefficient_gradients``). The chain rule carries it to the dimensions of the space: curve knots,
filters, layers or ranges alike; the Jacobian of the coefficients is taken by differences (see ``chart``). A few steps
of Adam, each on a batch of the search items, find good values in hundreds of dimensions.

The descent goes in legs. Each begins at the best point scored so far, with steps half as long and grades narrower than
those of the leg before, and ends in a point that becomes a trial, raced like any other. It is judged on search items
that no leg follows: where it gains no more than chance there, no further leg begins (see ``validation``).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.errors import in_words, listed
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.say import Say, silent
from mergesearch.search.candidates.gradient.calibration_loss import CalibrationLoss
from mergesearch.search.candidates.gradient.chart import Chart
from mergesearch.search.candidates.gradient.descent import descend
from mergesearch.search.candidates.gradient.feasibility import no_method
from mergesearch.search.candidates.gradient.validation import Validation
from mergesearch.search.candidates.source import Candidate, Done, Wait
from mergesearch.search.config.search import Gradient
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.samplers import METHOD
from mergesearch.search.scoring.live_model import LiveModel
from mergesearch.search.scoring.processor_time import processor_seconds
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.steps import step

FILE = "gradient.json"
DESCENT = "gradient start"
REMEDY = "bring it back from a copy; without one, delete it, and the descent begins anew from the trials so far"
STEP_COST = 4
"""The time of a step of a descent, in scorings of as many items; 4.0 were measured on a CPU."""
BANDWIDTH, NARROWER = 0.15, 0.7
"""Of the grades in the first leg, and the factor from leg to leg: the optimum of wide grades is not that of the metric.
"""


@dataclass(frozen=True)
class Descent:
    """The state of a run's descent, as its folder records it.

    ``losses`` has the loss before each step, ``items`` the number of items that gradients were taken on, ``seconds``
    and ``processor`` the time that the legs took, by the clock and by the processor, ``points`` the end of each leg by
    name. ``exact``: the gradient is exact; else it is that of a linear surrogate. ``began``: the number of the trial
    that the last leg began at. ``reason``: why the descent failed.
    """

    method: str
    exact: bool
    loss: dict[str, str]
    losses: list[float] = field(default_factory=list)
    items: int = 0
    seconds: float = 0.0
    processor: float = 0.0
    points: dict[str, dict[str, Scalar]] = field(default_factory=dict)
    began: int | None = None
    reason: str | None = None


class GradientSource:
    """The ends of a descent's legs as candidates, along the methods that gradients can follow.

    ``loss`` is what the descent minimises. Legs are judged by ``validation`` and begin at the ``best`` of the trials.
    Raises UserError where gradients can follow no method of the space.
    """

    may_overtake = False

    def __init__(  # noqa: PLR0913, PLR0917 - what a descent needs
        self,
        space: Space,
        settings: Gradient,
        loss: CalibrationLoss,
        validation: Validation,
        live: LiveModel,
        folder: RunFolder,
        best: Callable[[Sequence[FrozenTrial]], FrozenTrial | None],
        say: Say = silent,
    ) -> None:
        self._space, self._settings, self._loss, self._validation = space, settings, loss, validation
        self._live, self._folder, self._best, self._say = live, folder, best, say
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
        descent = recorded or Descent("", self.exact, dict(self._loss.kinds))
        if recorded is None or self._is_due(descent, study):
            descent = self._next_leg(descent, study)
            self._folder.write_json(FILE, asdict(descent))
        return descent.points

    def _is_due(self, descent: Descent, study: Study) -> bool:
        """Whether there are legs left and the last one paid."""
        number = len(descent.points)
        if descent.reason or number == self._settings.points:
            return False
        ends = [trial for trial in t.of_kind(study, t.GRADIENT) if trial.user_attrs[t.NAME] == [*descent.points][-1]]
        beginning = None if descent.began is None else study.get_trials(deepcopy=False)[descent.began]
        return any(self._validation.pays(end, beginning, bandwidth_of(number - 1)) for end in ends if _has_values(end))

    def _next_leg(self, descent: Descent, study: Study) -> Descent:
        number = len(descent.points)
        begin, end = (round(legs * self._settings.steps / self._settings.points) for legs in (number, number + 1))
        self._say(f"gradient start: steps {begin + 1} to {end} of the descent")
        try:
            with step(DESCENT, end - begin, "steps"):
                return self._descend(descent, study, range(begin, end), number)
        except Exception as error:  # the search goes on from what was scored
            reason = in_words(error)
            self._say(f"the gradient start failed, and the search goes on without it: {reason}")
            return replace(descent, reason=reason)

    def _descend(self, descent: Descent, study: Study, steps: range, number: int) -> Descent:
        begun, processor = time.perf_counter(), processor_seconds()
        beginning, method, point = self._beginning(study)
        chart, engine = Chart(self._space, self._live.engine, method, point), self._live.engine
        engine.build(chart.recipe(chart.origin))
        self._loss.measure_scales(bandwidth_of(number), steps.start)
        units, losses = descend(chart, engine, self._loss.backward, steps, self._settings.learning_rate / 2**number)
        return replace(
            descent,
            method=method.name,
            losses=descent.losses + losses,
            items=descent.items + sum(map(self._loss.count, steps)),
            seconds=descent.seconds + time.perf_counter() - begun,
            processor=descent.processor + processor_seconds() - processor,
            points={**descent.points, f"step {steps.stop}": chart.point(units)},
            began=beginning,
        )

    def described(self, tasks: TaskSet) -> str:
        """What the descent follows and what it does not see, for the user."""
        others = [task.name for task in tasks.counted("search") if task.name not in self._loss.kinds]
        notes = [f"gradient start: follows {self._loss.described}"]
        if not self.exact:
            names = listed(method.name for method in self.methods)
            notes.append(f"it ignores that {names} trims, drops or elects elements")
        if others:
            notes.append(f"it does not see {listed(others)}, which has no such loss")
        return "; ".join(notes)

    def _beginning(self, study: Study) -> tuple[int | None, Method, Mapping[str, Scalar]]:
        """Where the next leg begins: the best point of a method that gradients can follow, and the number of its trial.

        The middle of the space, which has none, where no such point was scored in full.
        """
        best = self._best([trial for trial in t.completed(study) if self._method_of(trial)])
        method = self._method_of(best) if best else None
        if best is None or method is None:
            return None, self.methods[0], self._space.start(self.methods[0], {})
        return best.number, method, best.params

    def _method_of(self, trial: FrozenTrial) -> Method | None:
        """The method of the trial's point, if gradients can follow it; None for a recipe that is no point."""
        of_trial = [each for each in self.methods if trial.params.get(METHOD, each.name) == each.name]
        return next((each for each in of_trial if self._space.start(each, {}).keys() <= trial.params.keys()), None)


def bandwidth_of(leg: int) -> float:
    return BANDWIDTH * NARROWER**leg


def _has_values(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def items_looked_at(folder: RunFolder) -> int:
    """On how many items a run's descent has taken gradients, over all steps."""
    descent = read_descent(folder)
    return descent.items if descent else 0


def seconds_descended(folder: RunFolder) -> float:
    """How many seconds the legs of a run's descent took."""
    descent = read_descent(folder)
    return descent.seconds if descent else 0.0


def items_worth(study: Study, folder: RunFolder) -> int:
    """The cost of a run's descent: how many items are scored in its processor time, by the run's own measure.

    0 where no item was scored.
    """
    scored = [trial for trial in t.finished(study) if t.items_of(trial) and t.SECONDS in trial.user_attrs]
    seconds, descent = sum(trial.user_attrs[t.SECONDS]["processor"] for trial in scored), read_descent(folder)
    return round(descent.processor * sum(map(t.items_of, scored)) / seconds) if descent and seconds else 0


def read_descent(folder: RunFolder) -> Descent | None:
    """The descent that a run's folder records. Raises DamagedFileError where its file is damaged."""
    return folder.read_json(FILE, Descent, REMEDY)

"""Studies as samplers see them: views with other trials, the order of trials, and what is written on a trial.

All use of Optuna's private API in this package is in this module, because there is no public way:

* Samplers read trials by ``Study._get_trials``. A view overrides it to show a sampler other trials.
* A sampler gets a ``FrozenTrial``, whose own ``set_user_attr`` changes a copy. ``study._storage`` writes on the trial.
* An enqueued point is a system attribute of the trial, ``fixed_params``.
* A trial object can be made for any trial of a storage, and asks the study's sampler then.
"""

import copy
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from mergesearch.search.samplers.fixed import FixedSampler
from mergesearch.search.study import trials as t
from mergesearch.search.study.told import Told


class _StudyView(Study):
    """The same study; subclasses show other trials of it. Views of views are possible."""

    def __init__(self, study: Study) -> None:
        self.__dict__.update(study.__dict__)
        self._viewed = study


def viewed(study: Study) -> Study:
    """The study behind a view, or behind views of views."""
    while isinstance(study, _StudyView):
        study = study._viewed
    return study


Made = TypeVar("Made")


@dataclass(frozen=True)
class Drawn(Generic[Made]):
    """A point that was drawn for a trial, and what was made of it."""

    drawn: FrozenTrial
    made: Made

    @property
    def point(self) -> Mapping[str, Any]:
        """The values by parameter name."""
        return self.drawn.params

    def note(self, trial: Trial) -> None:
        """Gives the trial the values, and the sampler's notes."""
        trial.study.sampler = FixedSampler(self.point)
        for name, found in self.drawn.distributions.items():
            trial._suggest(name, found)
        for key, value in self.drawn.system_attrs.items():
            trial.storage.set_trial_system_attr(trial._trial_id, key, value)


class StudyWithEstimates(_StudyView):
    """A study for asking, in which trials that were stopped early count as complete, with their estimates as values.

    Without it Optuna's Gaussian process, CMA-ES and NSGA-II, which read complete trials only, would ask again for what
    was just stopped, and TPE would rank stopped trials below all others. The study itself keeps the two apart.

    ``told`` gives trials as samplers see them, which may have other values, and standard errors; see
    ``Signal.told``.
    """

    def __init__(self, study: Study, told: Told | None = None) -> None:
        super().__init__(study)
        self.told = told or _with_estimates

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        if states is not None and TrialState.COMPLETE not in states and TrialState.PRUNED not in states:
            return self._viewed._get_trials(deepcopy, states, use_cache)
        trials = self.told(self._viewed._get_trials(deepcopy, None, use_cache))
        return [trial for trial in trials if states is None or trial.state in states]

    def draw(self, sampler: BaseSampler, number: int, make: Callable[[Trial], Made]) -> Drawn[Made]:
        """A point for the trial of this number: ``make`` asks for its values, as of a trial that has begun.

        Nothing is written on the trial.
        """
        drawing = copy.copy(self)
        drawing._storage = draft = _Draft(self)
        drawing._study_id = draft.create_new_study(self.directions)
        drawing.sampler = sampler
        trial_id = draft.create_new_trial(drawing._study_id)
        draft.get_trial(trial_id).number = number
        made = make(Trial(drawing, trial_id))
        return Drawn(draft.get_trial(trial_id), made)


def _with_estimates(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [_with_estimate(trial) for trial in trials]


def _with_estimate(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.PRUNED or trial.value is None:
        return trial
    complete = copy.copy(trial)
    complete.state = TrialState.COMPLETE
    return complete


def as_told(study: Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials of the study behind a view, as the view shows them."""
    while isinstance(study, _StudyView):
        if isinstance(study, StudyWithEstimates):
            return study.told(trials)
        study = study._viewed
    return list(trials)


class Snapshot(StudyWithEstimates):
    """A study for asking as it is now, so that nobody needs the run's lock while a point is drawn from it."""

    def __init__(self, study: Study, told: Told | None = None) -> None:
        super().__init__(study, told)
        self._now = self.told(viewed(study)._get_trials(deepcopy=False))

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,  # noqa: ARG002
    ) -> list[FrozenTrial]:
        found = [trial for trial in self._now if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


class _Draft(InMemoryStorage):
    """The storage of a trial for which a point is drawn. The study's own notes stay those of the study."""

    def __init__(self, study: Study) -> None:
        super().__init__()
        self._study = viewed(study)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:  # noqa: ARG002
        return self._study._storage.get_study_system_attrs(self._study._study_id)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:  # noqa: ARG002
        self._study._storage.set_study_system_attr(self._study._study_id, key, value)


def ask_nothing(study: Study) -> Trial:
    """Begins a trial, one that was enqueued where there is any, and asks no sampler for it."""
    study.sampler = RandomSampler(seed=0)
    return study.ask()


def running_trial(study: Study, trial: FrozenTrial) -> Trial:
    """A trial that is running, so that its values can be asked for and notes be written."""
    study.sampler = RandomSampler(seed=0)
    return Trial(study, trial._trial_id)


class StudyInSpace(_StudyView):
    """A study without the finished trials that have no parameters: recipes from outside of the search space.

    Most of Optuna's samplers search the parameters that all trials share, and would find none.
    """

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = self._viewed._get_trials(deepcopy, states, use_cache)
        return [trial for trial in trials if trial.params or not trial.state.is_finished()]


class StudyOfFew(_StudyView):
    """A study with at most so many complete trials: the better ones and the latest ones, half of each."""

    def __init__(self, study: Study, most: int) -> None:
        super().__init__(study)
        self._most = most

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = self._viewed._get_trials(deepcopy, states, use_cache)
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if len(complete) <= self._most:
            return trials
        better = {trial.number for trial in best_first(self, complete)[: self._most // 2]}
        rest = [trial.number for trial in complete if trial.number not in better]
        kept = better.union(rest[len(better) - self._most :])
        return [trial for trial in trials if trial.state != TrialState.COMPLETE or trial.number in kept]


def best_first(study: Study, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials, which have values, from the best on.

    Those that violate constraints less come first, then those with better scores, then the older ones (Deb, Computer
    Methods in Applied Mechanics and Engineering 186, 2000).
    """
    sign = 1 if study.directions == [StudyDirection.MINIMIZE] else -1
    return sorted(trials, key=lambda trial: (t.violation(trial), sign * _score_of(trial), trial.number))


def _score_of(trial: FrozenTrial) -> float:
    """The sum of several objectives where the trial has no sum by the user's weights."""
    return t.score_of(trial) if t.SCORE in trial.user_attrs or len(trial.values or ()) < 2 else sum(trial.values)


def enqueued_point(trial: FrozenTrial) -> Mapping[str, Any] | None:
    """The point that the trial was enqueued with, which leaves nothing to sample; None where it was not enqueued."""
    point: Mapping[str, Any] | None = trial.system_attrs.get("fixed_params")
    return point


def set_user_attr(study: Study, trial: FrozenTrial, key: str, value: Any) -> None:
    """Writes a user attribute on a running trial."""
    study._storage.set_trial_user_attr(trial._trial_id, key, value)

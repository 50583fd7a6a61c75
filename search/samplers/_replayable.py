"""What our own samplers share: places in a sequence that trials take, and the view of the trials in the space."""

from collections.abc import Container, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.search.samplers._space import Point
from mergesearch.search.study import trials as t
from mergesearch.seeds import derive


class PlacedSampler(BaseSampler):
    """A sampler whose points are a sequence: each trial takes the first place that no other one has.

    The place is written on the trial, so that a sampler made anew finds the sequence where it stands. A trial whose
    process ended gives its place back, or hands it on to the one that repeats it. ``label`` tells several sequences
    of one study apart.
    """

    def __init__(self, seed: int, label: str) -> None:
        self.seed = seed
        self.label = label

    def point(self, study: Study, trial: FrozenTrial) -> Point:
        """The trial's whole point, for which it takes a place (see ``take``)."""
        raise NotImplementedError

    def space(self, study: Study) -> Mapping[str, BaseDistribution]:
        """The dimensions of ``point``, and maybe more."""
        raise NotImplementedError

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {} if is_given(trial) else dict(self.space(study))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.point(study, trial) if search_space else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random: for dimensions that the space does not show."""
        seed = derive(self.seed, self.label, trial.number, param_name)
        sampler = optuna.samplers.RandomSampler(seed=seed)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def taken(self, study: Study) -> dict[tuple[int, ...], FrozenTrial]:
        """The trials of this sequence by their places."""
        found = study.get_trials(deepcopy=False)
        mine = [trial for trial in found if trial.user_attrs.get(t.SLOT, {}).get("of") == self.label]
        return {tuple(trial.user_attrs[t.SLOT]["place"]): trial for trial in mine if not t.is_interrupted(trial)}

    def take(self, study: Study, trial: FrozenTrial, *place: int, **facts: Any) -> None:
        """Writes the place, and what a later replay of the sequence must know, on the trial."""
        slot = {"of": self.label, "place": list(place), **facts}
        study._storage.set_trial_user_attr(trial._trial_id, t.SLOT, slot)

    def reseed_rng(self) -> None:
        """Nothing: seeds come from the run's."""


def is_given(trial: FrozenTrial) -> bool:
    """Whether the trial's point was enqueued, so that there is nothing to sample."""
    return "fixed_params" in trial.system_attrs


def first_free(places: Container[tuple[int, ...]], *prefix: int) -> int:
    """The lowest number that makes a place, after ``prefix``, that is not taken."""
    number = 0
    while (*prefix, number) in places:
        number += 1
    return number


class SpaceStudy(Study):
    """A study without the finished trials that have no parameters: recipes from outside the search space.

    Most samplers look for the parameters that all trials share, and would find none.
    """

    def __init__(self, study: Study) -> None:
        self.__dict__.update(study.__dict__)
        self._whole = study

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        # Of the study given, which may be a view itself: stopped trials are shown with their estimates.
        trials = self._whole._get_trials(deepcopy, states, use_cache)
        return [trial for trial in trials if trial.params or not trial.state.is_finished()]


class InSpace(BaseSampler):
    """The wrapped sampler, which sees the trials in the search space alone."""

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(SpaceStudy(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(SpaceStudy(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(SpaceStudy(study), trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(SpaceStudy(study), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self._sampler.after_trial(SpaceStudy(study), trial, state, values)

    def reseed_rng(self) -> None:
        """Nothing: seeds come from the run's."""

"""Optuna's own samplers, with settings that suit the search for merges. Each is made anew for every trial."""

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.search.samplers._study_views import StudyInSpace, StudyOfFew

MOST_OF_GP = 300
"""The most trials that the Gaussian process learns from: its time grows with their cube."""


class _FewTrialsGPSampler(GPSampler):
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(StudyOfFew(study, MOST_OF_GP), trial, search_space)


def gp(seed: int) -> BaseSampler:
    """A Gaussian process of at most ``MOST_OF_GP`` trials, the better ones and the latest ones."""
    return _FewTrialsGPSampler(seed=seed, warn_independent_sampling=False)


def tpe(seed: int) -> BaseSampler:
    """Parzen estimators of all dimensions together, with a group for each set of dimensions that trials share."""
    return TPESampler(seed=seed, multivariate=True, group=True)


def nsgaii(seed: int) -> BaseSampler:
    """The genetic algorithm NSGA-II."""
    return NSGAIISampler(seed=seed)


def nsgaiii(seed: int) -> BaseSampler:
    """The genetic algorithm NSGA-III."""
    return NSGAIIISampler(seed=seed)


def random(seed: int) -> BaseSampler:
    """Uniform points."""
    return RandomSampler(seed=seed)


class InSpaceSampler(BaseSampler):
    """Wraps a sampler, which sees only the trials in the search space (see ``StudyInSpace``)."""

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(StudyInSpace(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(StudyInSpace(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(StudyInSpace(study), trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(StudyInSpace(study), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self._sampler.after_trial(StudyInSpace(study), trial, state, values)

    def reseed_rng(self) -> None:
        """Does nothing: every trial has a sampler with a seed of its own."""

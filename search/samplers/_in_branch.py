"""Samplers that are made anew for every trial, and choose all dimensions of the best trial's branch at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.search.samplers._study_views import best_first, enqueued_point
from mergesearch.search.samplers.branches import Branch, Point, branch_of
from mergesearch.seeds import derive


def branch_of_best(study: Study, branches: Sequence[Branch]) -> Branch:
    """The branch of the best trial that is in one; the first where there is none."""
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found = (branch_of(trial, branches) for trial in best_first(study, completed))
    return next(filter(None, found), branches[0])


class BranchSampler(BaseSampler):
    """A sampler of points in the branch of the best trial.

    Args:
        branches: the search space.
        seed: another one for every trial.
    """

    def __init__(self, branches: Sequence[Branch], seed: int) -> None:
        self._branches = branches
        self._seed = seed

    def free_point(self, study: Study, branch: Branch, rng: np.random.Generator) -> Point | None:
        """A value for each free dimension of the branch; None for a random point."""
        raise NotImplementedError

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {**self._branch(study).distributions} if enqueued_point(trial) is None else {}

    def sample_relative(self, study: Study, _trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Point:
        if not search_space:
            return {}
        branch = self._branch(study)
        found = self.free_point(study, branch, np.random.default_rng(self._seed))
        return {} if found is None else branch.complete(found)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        sampler = RandomSampler(seed=derive(self._seed, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Does nothing: every trial has a sampler with a seed of its own."""

    def _branch(self, study: Study) -> Branch:
        return branch_of_best(study, self._branches)

"""What samplers are shown of the trials that were stopped early: an estimate counts as a value.

Optuna's Gaussian process, CMA-ES and NSGA-II look at complete trials alone, and would ask again for what was just
stopped; TPE sorts stopped ones below all others by how far they came. The study itself keeps them apart.
"""

import copy
from collections.abc import Container

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class StudyWithEstimates(Study):
    """A study in which stopped trials are complete ones with their estimates as values; for asking."""

    def __init__(self, study: Study) -> None:
        self.__dict__.update(study.__dict__)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = map(_estimated, super()._get_trials(deepcopy, None, use_cache))
        return [trial for trial in trials if states is None or trial.state in states]


def _estimated(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.PRUNED or trial.value is None:
        return trial
    shown = copy.copy(trial)
    shown.state = TrialState.COMPLETE
    return shown

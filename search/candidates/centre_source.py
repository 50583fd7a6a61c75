"""The centre of the sampler's distribution as a candidate.

The best of noisy scores is a lucky one: the centre, which follows from all scores, is mostly better. It is scored from
time to time, and as the last trial of a run.
"""

from functools import partial

from optuna.study import Study

from mergesearch.search.candidates.source import Candidate, Done, Wait
from mergesearch.search.samplers import HasCentre, Snapshot, StudyWithEstimates
from mergesearch.search.samplers.branches import Point
from mergesearch.search.samplers.schedule import Strategy
from mergesearch.search.study import trials as t
from mergesearch.search.study.told import Told

EVERY = 20
"""How many points of the sampler come before each centre."""


class CentreSource:
    """Centres of the strategy's sampler, of a run of so many ``trials``; none where the sampler has none.

    The sampler sees the trials as they are ``told``.
    """

    may_overtake = False

    def __init__(self, strategy: Strategy, trials: int, told: Told | None = None) -> None:
        self._strategy, self._trials, self._told = strategy, trials, told

    def next(self, study: Study) -> Candidate | Wait | Done:
        """See ``Source.next``."""
        if not self._is_due(study):
            return Done("no centre is due")
        turn = self._strategy.turn(study)
        if not isinstance(turn.sampler(), HasCentre):
            return Done("no centre is due")
        if turn.is_slow:
            return Candidate(t.CENTRE, find=partial(self._later, Snapshot(study, self._told)))
        centre = self._strategy.centre(StudyWithEstimates(study, self._told))
        return Done("no centre is due") if centre is None else Candidate(t.CENTRE, point=centre)

    def _later(self, study: Study, attempt: int) -> Point | None:
        return None if attempt else self._strategy.centre(study)

    def _is_due(self, study: Study) -> bool:
        """Whether the sampler has had its turn since the last centre, or this is the last trial."""
        last = max((trial.number for trial in t.begun_of_kind(study, t.CENTRE)), default=-1)
        since = sum(trial.number > last for trial in t.begun_of_kind(study, t.SAMPLED))
        return since > 0 and (since % EVERY == 0 or len(t.begun(study)) >= self._trials - 1)

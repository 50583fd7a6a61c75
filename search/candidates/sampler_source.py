"""The sampler as a source of candidates: it comes last and has candidates for as long as the run lasts."""

from optuna.study import Study

from mergesearch.search.candidates.source import Candidate, Done, Wait
from mergesearch.search.samplers.schedule import Strategy, Turn
from mergesearch.search.study import trials as t


class SamplerSource:
    """Points of the space that the samplers of a schedule choose."""

    may_overtake = False

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy

    def next(self, study: Study) -> Candidate | Wait | Done:
        """See ``Source.next``."""
        if self._strategy.is_exhausted(study):
            return Done("every point of the grid was asked for")
        return Candidate(t.SAMPLED)

    def turn(self, study: Study) -> Turn:
        """Which sampler chooses the next point."""
        return self._strategy.turn(study)

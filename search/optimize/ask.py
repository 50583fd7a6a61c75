"""Begins trials: the first source that has a candidate says what is scored next.

Who scores what is decided under the run's lock, which takes milliseconds. Where a point takes long to draw, as that of
a Gaussian process, the trial begins without one, and its worker draws it outside of the lock.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from optuna.study import Study
from optuna.trial import Trial, TrialState

from mergesearch.search.candidates.sampler_source import SamplerSource
from mergesearch.search.candidates.source import Candidate, Done, Source, Wait
from mergesearch.search.samplers import Drawn, Snapshot, StudyWithEstimates, ask_nothing
from mergesearch.search.samplers.fixed import FixedSampler
from mergesearch.search.samplers.schedule import Turn
from mergesearch.search.study import trials as t
from mergesearch.search.study.told import Told

TRIES = 20
"""How often a point is drawn again that another worker is at."""
Made = TypeVar("Made")


@dataclass(frozen=True)
class Draw:
    """How the point of a trial is drawn from what is known. ``is_slow``: it may take long, and needs no lock."""

    trial: Trial
    candidate: Candidate
    study: StudyWithEstimates
    turn: Turn
    is_slow: bool

    def points(self, make: Callable[[Trial], Made]) -> Iterator[tuple[str, Drawn[Made]]]:
        """Points with the kinds of their candidates: each other one is for the case that somebody is at those before.

        ``make`` asks a trial for its values.
        """
        find = self.candidate.find
        for attempt in range(TRIES):
            point = find(attempt) if find else None
            kind = t.SAMPLED if point is None else self.candidate.kind
            sampler = self.turn.sampler(attempt) if point is None else FixedSampler(point)
            yield kind, self.study.draw(sampler, self.trial.number, make)


@dataclass(frozen=True)
class Asked:
    """A trial that has begun, and what is scored in it; ``draw``, where its point is still to be drawn."""

    trial: Trial
    candidate: Candidate
    draw: Draw | None = None


class Asker:
    """Begins the trials of a study. ``sources`` are in the order in which they have their turn.

    ``sampler`` chooses the values of points; None where no source asks for any. ``told`` gives trials as samplers see
    them; see ``Signal.told``.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        sampler: SamplerSource | None,
        told: Told | None = None,
    ) -> None:
        self._sources = sources
        self._sampler = sampler
        self._told = told

    def exhausted(self, study: Study) -> str | None:
        """Why the last source has nothing more to offer; None while it has."""
        offer = self._sources[-1].next(study)
        return offer.reason if isinstance(offer, Done) else None

    def ask(self, study: Study) -> Asked | None:
        """Begins the next trial; None where every candidate that is left depends on trials of other workers."""
        if self._is_enqueued(study):
            trial = ask_nothing(study)
            return Asked(trial, Candidate(str(trial.user_attrs.get(t.KIND, t.SAMPLED))))
        candidate = self._next(study)
        return None if candidate is None else self.begin(study, candidate)

    def ask_ahead(self, study: Study) -> Asked | None:
        """Begins the next trial where its point takes long to draw; None where it does not."""
        candidate = None if self._is_enqueued(study) else self._next(study)
        is_drawn = candidate and candidate.recipe is None and candidate.point is None
        is_slow = candidate and is_drawn and self._is_slow(candidate, self._turn(study))
        return self.begin(study, candidate) if candidate and is_slow else None

    def _is_enqueued(self, study: Study) -> bool:
        return bool(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    @staticmethod
    def _is_slow(candidate: Candidate, turn: Turn) -> bool:
        return candidate.find is not None or turn.is_slow

    def _next(self, study: Study) -> Candidate | None:
        is_waiting = False
        for source in self._sources:
            if is_waiting and not source.may_overtake:
                continue
            offer = source.next(study)
            if isinstance(offer, Candidate):
                return offer
            is_waiting = is_waiting or isinstance(offer, Wait)
        return None

    def begin(self, study: Study, candidate: Candidate) -> Asked:
        """Begins the trial of a candidate."""
        if candidate.point is not None:
            study.enqueue_trial(dict(candidate.point), user_attrs={t.KIND: candidate.kind, t.NAME: candidate.name})
            return Asked(ask_nothing(study), candidate)
        if candidate.recipe is not None:
            return Asked(_noted(ask_nothing(study), candidate), candidate)
        turn = self._turn(study)
        if candidate.find is None and turn.kept is not None:
            study.sampler = turn.kept
            return Asked(StudyWithEstimates(study, self._told).ask(), candidate)
        is_slow = self._is_slow(candidate, turn)
        known = Snapshot(study, self._told) if is_slow else StudyWithEstimates(study, self._told)
        trial = ask_nothing(study)
        if candidate.find is not None:
            _noted(trial, candidate)
        return Asked(trial, candidate, Draw(trial, candidate, known, turn, is_slow))

    def _turn(self, study: Study) -> Turn:
        assert self._sampler is not None
        return self._sampler.turn(study)


def _noted(trial: Trial, candidate: Candidate) -> Trial:
    trial.set_user_attr(t.KIND, candidate.kind)
    trial.set_user_attr(t.NAME, candidate.name)
    return trial

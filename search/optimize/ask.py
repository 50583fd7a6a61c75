"""Begins trials: the first source that has a candidate says what is scored next."""

from collections.abc import Sequence

import optuna
from optuna.study import Study
from optuna.trial import Trial, TrialState

from mergesearch.search.candidates.sampler_source import SamplerSource
from mergesearch.search.candidates.source import Candidate, Done, Source, Wait
from mergesearch.search.samplers import StudyWithEstimates
from mergesearch.search.study import trials as t
from mergesearch.search.study.told import Told


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

    def ask(self, study: Study) -> tuple[Trial, Candidate] | None:
        """Begins the next trial; None where every candidate that is left depends on trials of other workers."""
        if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            trial = self._ask_sampler(study)
            return trial, Candidate(str(trial.user_attrs.get(t.KIND, t.SAMPLED)))
        candidate = self._next(study)
        return None if candidate is None else (self._begin(study, candidate), candidate)

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

    def _begin(self, study: Study, candidate: Candidate) -> Trial:
        if candidate.recipe is None:
            if candidate.point is not None:
                attributes = {t.KIND: candidate.kind, t.NAME: candidate.name}
                study.enqueue_trial(dict(candidate.point), user_attrs=attributes)
            return self._ask_sampler(study)
        study.sampler = optuna.samplers.RandomSampler(seed=0)
        trial = study.ask()
        trial.set_user_attr(t.KIND, candidate.kind)
        trial.set_user_attr(t.NAME, candidate.name)
        return trial

    def _ask_sampler(self, study: Study) -> Trial:
        assert self._sampler is not None
        study.sampler = self._sampler.sampler(study)
        return StudyWithEstimates(study, self._told).ask()

"""The recovered winner: a candidate that follows the search, and is judged beside the same merge without recovery."""

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.search.candidates.source import Candidate, Done, Wait
from mergesearch.search.problem.recovery_texts import RecoveryTexts
from mergesearch.search.signal.signal import Signal
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.finalists import finalists


class RecoverySource:
    """Offers the winner of a search that has ended, to be recovered on ``texts``."""

    may_overtake = False

    def __init__(self, texts: RecoveryTexts, store: RunStore, signal: Signal) -> None:
        self._texts, self._store, self._signal = texts, store, signal

    def next(self, study: Study) -> Candidate | Wait | Done:
        """The recovered winner, once; also where it failed. See ``Source``."""
        if t.running(study):
            return Wait()
        winner, _ = finalists(self._store, self._signal)
        name, recipe = t.recovered_name(winner), t.recipe_of(winner)
        if recipe.only_model:
            return Done(f"{t.label_of(winner)} is no merge")
        if any(trial.user_attrs[t.NAME] == name for trial in t.of_kind(study, t.RECOVERED)):
            return Done(f"{t.label_of(winner)} is recovered")
        return Candidate(t.RECOVERED, name, lambda: self._texts.after(recipe))


def failure_of(study: Study, winner: FrozenTrial) -> str | None:
    """Why the winner could not be recovered; None where it could."""
    found = [trial for trial in t.of_kind(study, t.RECOVERED) if trial.user_attrs[t.NAME] == t.recovered_name(winner)]
    return next((str(trial.user_attrs.get(t.REASON)) for trial in found if trial.state == TrialState.FAIL), None)

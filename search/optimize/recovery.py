"""Recovery: trials whose process was killed are ended, and what they were to score is enqueued again."""

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.search.study import trials as t
from mergesearch.search.study.leases import Leases


def recover(study: Study, leases: Leases) -> None:
    """Ends the running trials that no worker is at, and enqueues the point of each again, once.

    To be called under the run's lock.
    """
    lost = [trial for trial in t.running(study) if leases.is_lost(trial)]
    if not lost:
        return
    retried = {trial.user_attrs.get(t.RETRY_OF) for trial in study.get_trials(deepcopy=False)}
    for trial in lost:
        point = t.point_to_retry(trial)
        if point and trial.number not in retried:
            kept = {key: trial.user_attrs[key] for key in (t.KIND, t.NAME, t.SLOT) if key in trial.user_attrs}
            study.enqueue_trial(point, user_attrs={**kept, t.RETRY_OF: trial.number})
        _end(study, trial)


def _end(study: Study, trial: FrozenTrial) -> None:
    # A frozen trial has no setter: the storage's is the only way.
    study._storage.set_trial_user_attr(trial._trial_id, t.REASON, t.INTERRUPTED)
    study.tell(trial.number, state=TrialState.FAIL)

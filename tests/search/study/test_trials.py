"""The history of a study, which looks at changes alone, against a look at all of its trials."""

import random
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from mergesearch.search.study import trials as t
from mergesearch.search.study.journal import open_journal

KINDS = (t.BASELINE, t.SAMPLED, t.STEP, t.SOUP)


def check_history(study: optuna.Study) -> None:
    every = study.get_trials()
    finished = [trial for trial in every if trial.state.is_finished() and not t.is_interrupted(trial)]
    completed = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    contenders = [trial for trial in completed if t.kind_of(trial) != t.STEP]
    begun = [trial for trial in every if trial.state != TrialState.WAITING and not t.is_interrupted(trial)]
    history = t.history_of(study)
    assert t.finished(study) == finished
    assert t.completed(study) == completed
    assert t.contenders(study) == contenders
    assert t.stopped(study) == [trial for trial in finished if trial.state == TrialState.PRUNED]
    assert t.begun(study) == begun
    assert t.running(study) == [trial for trial in every if trial.state == TrialState.RUNNING]
    assert t.incumbent(study) == (min(contenders, key=t.rank) if contenders else None)
    for kind in KINDS:
        assert t.of_kind(study, kind) == [trial for trial in finished if t.kind_of(trial) == kind]
        assert t.names_of_kind(study, kind) == {
            trial.user_attrs.get(t.NAME) for trial in every if t.kind_of(trial) == kind
        }
    for phenotype in "ab":
        own = [trial for trial in finished if trial.user_attrs.get(t.PHENOTYPE) == phenotype]
        assert history.phenotypes.get(phenotype, []) == own


@pytest.mark.parametrize("storage", ["journal", "database"])
@pytest.mark.parametrize("seed", range(3))
def test_a_history_is_what_all_trials_say(tmp_path: Path, storage: str, seed: int) -> None:
    """Two workers begin and end trials in any order; the histories of both are up to date."""
    dice = random.Random(seed)
    kept = open_journal(tmp_path / "log") if storage == "journal" else f"sqlite:///{tmp_path / 'study.db'}"
    one = optuna.create_study(study_name="run", storage=kept, direction="maximize")
    other = open_journal(tmp_path / "log") if storage == "journal" else kept
    two = optuna.load_study(study_name="run", storage=other)
    running: list[optuna.Trial] = []
    for _ in range(25):
        study = dice.choice((one, two))
        if not running or dice.random() < 0.5:
            if dice.random() < 0.2:
                study.enqueue_trial({"x": 0.5})
            trial = study.ask()
            trial.set_user_attr(t.KIND, dice.choice(KINDS))
            trial.set_user_attr(t.NAME, f"name {trial.number % 3}")
            running.append(trial)
        else:
            trial = running.pop(dice.randrange(len(running)))
            trial.set_user_attr(t.PHENOTYPE, dice.choice("ab"))
            state = dice.choice((TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
            if state == TrialState.FAIL:
                trial.set_user_attr(t.REASON, dice.choice(("NaN", t.INTERRUPTED)))
            study.tell(trial.number, dice.choice((0.1, 0.2, 0.3)) if state == TrialState.COMPLETE else None, state)
        check_history(dice.choice((one, two)))
    check_history(one)
    check_history(two)

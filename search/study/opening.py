"""Opening a run: a new one, or the one that was begun with the same config."""

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import TrialState

from mergesearch.errors import UserError
from mergesearch.files import has_text, write_text
from mergesearch.parsing import dump_yaml
from mergesearch.search.study import trials as t
from mergesearch.search.study.config_changes import another_config, forbidden_changes
from mergesearch.search.study.database import without_password
from mergesearch.search.study.direction import Direction
from mergesearch.search.study.run_folder import CONFIG, JOURNAL, RunFolder


def open_run(
    folder: RunFolder,
    resolved: Mapping[str, Any],
    storage: str | None,
    objectives: Mapping[str, Direction] | None = None,
) -> Study:
    """The run's study, new or as it was left; records the ``resolved`` config.

    ``storage`` and ``objectives`` are those of ``RunFolder.open_study``. To be called under the run's lock, by a
    worker. Raises UserError where the run was begun with another config, or its study is not where the config says.
    Where nothing was ever scored, it begins anew.
    """
    study = folder.open_study(storage, objectives)
    before = study.user_attrs.get(t.CONFIG) or folder.recorded_config()
    if before and any(forbidden_changes(before, resolved)):
        _check_unused(folder, study, before, resolved)
        _delete(study)
        folder.forget()
        study, before = folder.open_study(storage, objectives), None
    study = _unless_hopeless(folder, study) or folder.open_study(storage, objectives)
    _check_scores(folder, study, (before or {}).get("search", {}).get("storage"))
    if not has_text(folder.path / CONFIG, dump_yaml(resolved)):
        write_text(folder.path / CONFIG, dump_yaml(resolved))
    if study.user_attrs.get(t.CONFIG) != _as_json(resolved):
        study.set_user_attr(t.CONFIG, _as_json(resolved))
    return study


def _check_unused(folder: RunFolder, study: Study, old: Any, new: Mapping[str, Any]) -> None:
    """Raises UserError where a candidate was scored with the ``old`` config, or another worker is at the run."""
    scored = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    is_saved = _has_scores(folder)
    if scored or is_saved or set(folder.workers.living()) - {folder.worker}:
        raise another_config(folder.path, *next(forbidden_changes(old, new)))


def _unless_hopeless(folder: RunFolder, study: Study) -> Study | None:
    """The study; None where all its candidates failed and no other worker is at it: then it was removed."""
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    if not t.finished(study) or len(failed) < len(study.get_trials(deepcopy=False)):
        return study
    if set(folder.workers.living()) - {folder.worker}:
        return study
    _delete(study)
    return None


def _check_scores(folder: RunFolder, study: Study, earlier_storage: str | None) -> None:
    """Raises UserError where this folder lacks scores of the study's trials, or the study lacks their trials."""
    completed, is_saved = t.completed(study), _has_scores(folder)
    if completed and not is_saved:
        raise UserError(
            f"{folder.path}: the study has trial {completed[0].number}, but no per-item scores are here; workers on "
            "several hosts must share the results folder (--results), or have the run's files in an artifact store "
            "(--artifacts), and runs that share a database need different names (--name)"
        )
    if is_saved and not study.get_trials(deepcopy=False):
        begun = "without a storage"
        if earlier_storage:
            begun = f"with storage: {without_password(earlier_storage)}"
        lost = f", and its {JOURNAL} is lost or empty: bring it back from a copy" if not earlier_storage else ""
        raise UserError(
            f"{folder.path}: has scores of trials that are not in this storage: the run was begun {begun}{lost}; use "
            "that storage, or give the new run another name with --name"
        )


def _has_scores(folder: RunFolder) -> bool:
    """Whether a trial has scores in the folder."""
    return any(fnmatch(name, t.scores_name(None)) for name in folder.scores_names())


def _delete(study: Study) -> None:
    # A study has no other name for its storage, which knows the study in this process already.
    optuna.delete_study(study_name=study.study_name, storage=study._storage)


def _as_json(config: Mapping[str, Any]) -> Any:
    """A config as a study gives it back."""
    return json.loads(json.dumps(config))

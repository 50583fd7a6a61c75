"""What optuna-dashboard shows of a run beside its trials: notes on the study and its finalists, and the files.

Notes are stored as optuna-dashboard's ``save_note`` stores them, so that a run needs no optuna-dashboard. Files are
Optuna's artifacts, in the run's folder ``artifacts``.
"""

from collections.abc import Sequence
from pathlib import Path

from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.study import Study

from mergesearch.search.report.table_text import as_markdown
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.formatting import interval
from mergesearch.search.verdict.result import CandidateRow, Verdict
from mergesearch.search.verdict.wording import marked_name, shown_baselines
from mergesearch.text import as_code, as_heading

ARTIFACTS = "artifacts"
FILES = ("report.html", "recommended.yml", "best.yml")
PIECE = 2045
"""The characters of a note that one attribute has: databases limit them."""
ABOUT_TRIALS = (
    "The objective is on the search items. Racing stopped the pruned trials: their values are estimates from a part of "
    "the items. Baselines and soups that are no points of the space have no parameters."
)


def fill_dashboard(store: RunStore, verdict: Verdict) -> None:
    """Writes the notes, and the files as artifacts, in place of those of an earlier verdict."""
    study = store.study
    trials = study.get_trials(deepcopy=False)
    _save_note(study, _note(store.folder.path, verdict))
    for row in {row.trial: row for row in verdict.rows}.values():
        _save_note(study, _trial_note(verdict, row), trials[row.trial]._trial_id)
    for name in FILES:
        _save_artifact(study, store.folder.path, name)


def has_report(store: RunStore) -> bool:
    """Whether the run's report is an artifact of its study, as it is."""
    folder = store.folder.path
    found = _artifact(store.study, folder, FILES[0])
    return found is not None and found.is_file() and found.read_bytes() == (folder / FILES[0]).read_bytes()


def _note(folder: Path, verdict: Verdict) -> str:
    rows = [
        {
            "candidate": marked_name(verdict, row),
            "search": interval(row.search),
            "test": interval(row.test),
            **{task: values["test"] for task, values in row.tasks.items() if "test" in values},
        }
        for row in [*shown_baselines(verdict), verdict.winner]
    ]
    keys = dict.fromkeys(key for row in rows for key in row)
    table = as_markdown([{key: row.get(key, "") for key in keys} for row in rows])
    lines = [
        f"## {as_heading(folder.name)}",
        as_heading(verdict.sentence),
        table,
        ABOUT_TRIALS,
        f"In its folder, {as_code(folder)}: " + ", ".join(f"`{name}`" for name in FILES) + ".",
    ]
    return "\n\n".join(lines)


def _trial_note(verdict: Verdict, row: CandidateRow) -> str:
    role = "**Winner.** " if row.trial == verdict.winner.trial else ""
    recommended = "Recommended. " if row.trial == verdict.recommended_row.trial else ""
    values = f"search items {interval(row.search)}, test items {interval(row.test)}"
    return f"{role}{recommended}{as_heading(row.name)} ({as_heading(row.method)}): {values}."


def _save_note(study: Study, body: str, trial_id: int | None = None) -> None:
    """Stores a note in Markdown on the study, or on a trial, unless it is there."""
    storage, study_id = study._storage, study._study_id
    place = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
    before = {key: value for key, value in storage.get_study_system_attrs(study_id).items() if key.startswith(place)}
    pieces = [body[at : at + PIECE] for at in range(0, len(body), PIECE)]
    last = sum(key.startswith(f"{place}note_str:") for key in before)
    wanted = {f"{place}note_str:{n}": piece for n, piece in enumerate([*pieces, *[""] * (last - len(pieces))])}
    if all(before.get(key) == piece for key, piece in wanted.items()):
        return
    storage.set_study_system_attr(study_id, f"{place}note_ver", before.get(f"{place}note_ver", 0) + 1)
    for key, piece in wanted.items():
        storage.set_study_system_attr(study_id, key, piece)


def _save_artifact(study: Study, folder: Path, name: str) -> None:
    """Stores a file of the folder as an artifact of the study, in place of an earlier one of this name."""
    (folder / ARTIFACTS).mkdir(exist_ok=True)
    files, stored = FileSystemArtifactStore(folder / ARTIFACTS), _artifact(study, folder, name)
    if stored is None:
        upload_artifact(artifact_store=files, file_path=str(folder / name), study_or_trial=study)
    elif not stored.is_file() or stored.read_bytes() != (folder / name).read_bytes():
        with (folder / name).open("rb") as content:
            files.write(stored.name, content)


def _artifact(study: Study, folder: Path, name: str) -> Path | None:
    """Where the study's artifact of this name is; None where it has none."""
    found: Sequence[str] = [meta.artifact_id for meta in get_all_artifact_meta(study) if meta.filename == name]
    return folder / ARTIFACTS / found[0] if found else None

"""optuna-dashboard, as a process that is asked over HTTP, on the study of a run."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import optuna
from optuna.artifacts import get_all_artifact_meta
from optuna.study import Study
from optuna.trial import TrialState

from mergesearch.search.report.dashboard import ARTIFACTS, FILES, fill_dashboard
from mergesearch.search.study.run_folder import JOURNAL
from mergesearch.search.study.run_store import RunStore

from ..helpers import Data, go, study_of
from .pages import made_store, made_verdict

PATIENCE = 120
"""Seconds until the server counts as hung."""


@contextmanager
def dashboard(*arguments: object) -> Iterator[str]:
    """The address of a server; it ends with the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from optuna_dashboard._cli import main; main()"
    command = [sys.executable, "-c", code, "--host", "127.0.0.1", "--port", str(port), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address, last = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
        while not answers(address):
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < last, "the server does not answer"
            time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()


def answers(address: str) -> bool:
    try:
        got(f"{address}/api/studies")
    except (URLError, ConnectionError):
        return False
    return True


def got(url: str) -> Any:
    with urlopen(url, timeout=PATIENCE) as response:
        return json.load(response)


def test_a_run_has_names_notes_and_its_report(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 10
    config["output"]["model"] = False
    verdict = go(config, tmp_path)
    folder = tmp_path / "small"
    with dashboard(folder / JOURNAL, "--artifact-dir", folder / ARTIFACTS) as address:
        (summary,) = got(f"{address}/api/studies")["study_summaries"]
        assert summary["study_name"] == "small"
        number = summary["study_id"]
        study = got(f"{address}/api/studies/{number}")
        assert study["objective_names"] == ["objective"]
        assert verdict.winner.name in study["note"]["body"].replace("\\", "")
        assert "| candidate |" in study["note"]["body"]
        assert study["note"]["version"] == 1
        assert "**Winner.**" in study["trials"][verdict.winner.trial]["note"]["body"]
        stored = {each["filename"]: each["artifact_id"] for each in study["artifacts"]}
        assert set(stored) == set(FILES)
        with urlopen(f"{address}/artifacts/{number}/{stored['report.html']}", timeout=PATIENCE) as response:
            assert response.headers["Content-Type"] == "text/html"
            assert response.read() == (folder / "report.html").read_bytes()
    go(config, tmp_path)  # nothing is left to do
    assert {meta.artifact_id for meta in get_all_artifact_meta(study_of(folder))} == set(stored.values())


def test_a_lost_artifact_is_stored_again(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 10
    config["output"]["model"] = False
    go(config, tmp_path)
    folder = tmp_path / "small"
    before = {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(study_of(folder))}
    (folder / ARTIFACTS / before["report.html"]).unlink()
    go(config, tmp_path)
    assert {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(study_of(folder))} == before
    assert (folder / ARTIFACTS / before["report.html"]).read_bytes() == (folder / "report.html").read_bytes()


def test_notes_of_any_length_are_read_as_they_were_written(tmp_path: Path) -> None:
    from optuna_dashboard import get_note

    store = made_store(tmp_path, baselines=40)
    verdict = made_verdict(store)
    for name in FILES:
        (store.folder.path / name).write_text(name)
    fill_dashboard(store, verdict)
    note = get_note(store.study)
    assert len(note) > 2 * 2045
    assert note.count("\n| ") == 43
    assert "<img" not in note
    other = RunStore(store.folder, store.study, {})
    fill_dashboard(other, made_verdict(made_store(tmp_path / "other")))
    shorter = get_note(store.study)
    assert len(shorter) < len(note)
    assert shorter.endswith(".")


def test_pruned_trials_do_not_change_the_importances(tmp_path: Path) -> None:
    made = made_store(tmp_path).study
    trials = made.get_trials(deepcopy=False)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    expected = shown_importances(tmp_path / "complete.log", complete)
    assert max(expected, key=lambda name: expected[name]) == "code.weight.mlp[3]"
    assert shown_importances(tmp_path / "all.log", trials) == expected


def shown_importances(journal: Path, trials: list[Any]) -> dict[str, float]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    study: Study = optuna.create_study(study_name="run", storage=storage, direction="maximize")
    study.add_trials(trials)
    with dashboard(journal) as address:
        number = got(f"{address}/api/studies")["study_summaries"][0]["study_id"]
        (found,) = got(f"{address}/api/studies/{number}/param_importances")["param_importances"]
    return {each["name"]: each["importance"] for each in found}

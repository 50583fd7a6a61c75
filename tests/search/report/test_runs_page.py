"""Runs are read from their folders, without a model, a study or a task."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from mergesearch.search.cli import main
from mergesearch.search.report.runs_page import RunState
from mergesearch.search.study.progress import FILE, NOW, Doing
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.verdict.result import Verdict

from ..helpers import Data, go, killed


def said(*arguments: object) -> str:
    found = CliRunner(env={"COLUMNS": "80"}).invoke(main, [str(argument) for argument in arguments])
    assert found.exit_code == 0, found.output
    return " ".join(found.output.split())


@pytest.fixture
def results(config: Data, tmp_path: Path) -> Path:
    config["search"]["trials"] = 13
    config["output"]["model"] = False
    return tmp_path / "runs"


def test_a_finished_run(config: Data, results: Path) -> None:
    verdict = go(config, results)
    run = RunState(results / "small")
    assert (run.state, run.trials, run.left) == ("finished", "13", "")
    assert run.verdict == verdict
    for argument in ("small", results / "small"):
        page = said("show", argument, "--results", results)
        assert verdict.sentence in page
        assert f"{verdict.recommended_row.test.value:.3f}" in page
    listed = said("list", "--results", results)
    assert "small" in listed
    assert verdict.recommended in listed
    assert said("status", "--results", results) == "every run has finished"
    report = results / "small" / "report.html"
    before = report.read_bytes()
    report.unlink()
    assert str(report) in said("show", "small", "--report", "--results", results).replace(" ", "")
    assert report.read_bytes() == before
    (results / "small" / "verdict.json").write_text("{")
    assert RunState(results / "small").state == "stopped"


def test_a_run_that_goes_on_and_one_that_was_killed(
    config: Data, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(monkeypatch, "tell", 11, config, results)
    run = RunState(results / "small")
    assert (run.state, run.trials, run.workers, run.left) == ("stopped", "10/13", [], "")
    assert "best so far" in said("status", "--results", results)
    assert "its config, run again, goes on with it" in said("show", "small", "--results", results)
    folder = RunFolder(results / "small")
    with folder.joined():
        run = RunState(folder.path)
        assert (run.state, len(run.workers), run.left) == ("running", 1, "")
        assert float(run.rate.replace(",", "")) > 0
        doing = Doing(folder.worker, "trial 12: scoring", 312.7, 1280, "items", 11, 3 * 3600.0, False, time.time())
        folder.write_json(f"{NOW}/{folder.worker}", asdict(doing))
        for page in (said("status", "--results", results), said("show", "small", "--results", results)):
            assert "11/13" in page
            assert "trial 12: scoring, 312/1,280 items" in page
            assert f"{run.rate} trials an hour" in page or f" {run.rate} " in page
            assert re.search(r"about (3:00:00|2:59:5\d) left", page)
        assert "running" in said("list", "--results", results)
    go(config, results)
    assert RunState(results / "small").state == "finished"
    file = results / "small" / FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "trials": 14, "of": 20}))
    assert (RunState(results / "small").state, RunState(results / "small").trials) == ("stopped", "14/20")


def test_what_is_not_there(tmp_path: Path) -> None:
    assert "no runs" in said("list", "--results", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yml").touch()
    found = CliRunner().invoke(main, ["show", "mien", "--results", str(tmp_path)])
    assert found.exit_code == 2
    assert "there is no run 'mien'; did you mean 'mine'?" in found.output
    assert "stopped, no trials" in said("show", "mine", "--results", tmp_path)


def test_no_model_library_is_imported(config: Data, results: Path) -> None:
    assert isinstance(go(config, results), Verdict)
    code = (
        "import sys; from mergesearch.search.cli import main\n"
        f"for args in (['list'], ['status'], ['show', 'small']): main([*args, '--results', {str(results)!r}], "
        "standalone_mode=False)\n"
        "print([name for name in ('torch', 'optuna', 'scipy', 'lm_eval', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"}
    )
    assert done.stdout.splitlines()[-1] == "[]"

"""The log of a run: what happened, with times; and how much is printed."""

import logging
import re
from pathlib import Path

import pytest

from mergesearch.search.report.run_log import LOG
from mergesearch.search.study import trials as t

from ..helpers import Data, Killed, go, killed, study_of
from ..test_cli import invoke

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ (INFO|WARNING|ERROR) .+")


def test_a_line_for_each_trial_and_for_what_is_told(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config["search"]["trials"] = 10
    killed(monkeypatch, "tell", 4, config, tmp_path)
    go(config, tmp_path)
    lines = (tmp_path / "small" / LOG).read_text().splitlines()
    assert all(LINE.fullmatch(line) for line in lines)
    assert f" ended by {Killed.__name__}: in " in next(line for line in lines if " ERROR " in line)
    for number, trial in enumerate(t.finished(study_of(tmp_path / "small")), 1):
        (found,) = (line for line in lines if f" {number}/10 baseline {t.label_of(trial)}: " in line)
        assert f"{trial.value:.4f}" in found
    assert any("verdict: scoring the winner" in line for line in lines)
    left = logging.getLogger("mergesearch.small").handlers  # pytest has some of its own
    assert not [handler for handler in left if isinstance(handler, logging.FileHandler)]


def test_how_much_is_printed(config_file: Path, tmp_path: Path) -> None:
    quiet, verbose = (
        invoke("run", config_file, "search.trials=10", "--results", tmp_path / name, f"-{name}") for name in "qv"
    )
    assert quiet.exit_code == verbose.exit_code == 0
    sentence, path = quiet.output.splitlines()
    assert sentence.startswith("Use ")
    assert Path(path.strip()).name == "recommended.yml"
    assert all(f"{number}/10 baseline " in verbose.output for number in range(1, 11))
    assert sentence in " ".join(verbose.output.split())

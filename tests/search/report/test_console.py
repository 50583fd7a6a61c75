"""What a run looks like while it goes: in a terminal, in a log, and where the encoding lacks our signs."""

import os
import re
import subprocess
import sys
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest

from mergesearch.parsing import dump_yaml
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.optimize.callbacks import Watcher
from mergesearch.search.report import progress_bar as module
from mergesearch.search.report.console import shown_progress
from mergesearch.search.report.screen import _Screen
from mergesearch.search.report.steps_line import _line, shown_steps
from mergesearch.search.run import run
from mergesearch.search.study.progress import Doing
from mergesearch.steps import metered, reached, step, units

from ..helpers import Data

CONTROL = re.compile(r"\x1b|\r|[\x00-\x08\x0b-\x1f]")
NOW = Doing("host.1.a", "trial 12: scoring", 312.7, 1280, "items", trials=11, left=750.0, at=4e9)
OTHER = Doing("a-host-with-a-long-name.example.org.4711.0123456789abcdef", "gradient start", 3.0, 16, "steps", 11)


def frames(width: int, watched: list[Doing]) -> str:
    """All that a terminal of some columns is sent while a worker is told this."""
    out = StringIO()
    screen = _Screen(file=out, width=width, height=30, force_terminal=True, color_system=None)
    with shown_progress(screen) as watcher:
        watcher.doing(watched[0], watched[1:])
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())


@pytest.mark.parametrize("width", [80, 120])
def test_every_worker_and_number_is_shown(width: int) -> None:
    text = frames(width, [NOW, OTHER])
    assert max(map(len, re.split(r"[\r\n]+", text))) <= width
    unfolded = re.sub(r"\s+", "", text)
    for part in (NOW.in_words, OTHER.in_words, OTHER.worker):
        assert re.sub(r"\s+", "", part) in unfolded
    assert re.search(r"about \d+ days, [\d:]+ left|about [\d:]+ left", text)


def test_a_log_has_plain_lines(config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config["search"]["trials"] = 14
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(module, "LINE_SHARE", 0.0)
    out = StringIO()
    with shown_progress(_Screen(file=out, width=80)) as watcher:
        run(open_plan(Config.model_validate(config), "config"), tmp_path, watcher)
        watcher.doing(NOW, [OTHER])
    text = out.getvalue()
    assert not CONTROL.search(text)
    assert "trials 14/14 best" in text
    assert f"; {NOW.in_words}; {OTHER.worker}: {OTHER.in_words}" in text


def test_a_log_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line at the end of ten seconds, then after a tenth of the run's time, and every five minutes at least."""
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    out, printed = StringIO(), []
    with shown_progress(_Screen(file=out, width=80)) as watcher:
        for second in range(7200):
            now[0] = float(second)
            before = out.getvalue()
            watcher.doing(NOW, [])
            if out.getvalue() != before:
                printed.append(second)
    gaps = [b - a for a, b in pairwise(printed)]
    assert printed[0] == 11
    assert gaps == sorted(gaps)
    assert gaps[-1] == 301
    assert len(printed) < 60


RUN = """
import sys
from mergesearch.search.cli import main
main(sys.argv[1:], standalone_mode=False)
"""
SHOWN = """
import sys
import mergesearch
mergesearch.run(sys.argv[2], sys.argv[4], progress=True)
"""


@pytest.mark.parametrize(("code", "encoding"), [(RUN, "ascii"), (SHOWN, "latin-1")])
def test_any_encoding_is_survived(code: str, encoding: str, config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 13
    config["output"]["model"] = False
    config["evaluate"]["tasks"][0]["task"] = "größe-моя"
    file = tmp_path / "run.yml"
    file.write_text(dump_yaml(config))
    arguments = ["run", str(file), "--results", str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, check=False, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode(encoding)
    assert "trials 13/13" in done.stdout.decode(encoding)


def test_a_terminal_of_ascii(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 13
    raw = tmp_path / "terminal"
    with raw.open("w", encoding="ascii") as file:
        screen = _Screen(file=file, width=80, force_terminal=True)
        with shown_progress(screen) as watcher:
            assert isinstance(watcher, Watcher)
            run(open_plan(Config.model_validate(config), "config"), tmp_path, watcher)
    assert b"13/13" in raw.read_bytes()


def test_a_command_says_what_it_does() -> None:
    with metered() as meter:
        assert str(_line(meter)) == ""
        with step("reading models"):
            assert str(_line(meter)) == "reading models"
        with step("scoring", 12, "items"), units(4):
            assert str(_line(meter)) == "scoring, 0/12 items"
            meter.steps[-1].begun -= 60
            reached(0.5)
            assert str(_line(meter)) == "scoring, 2/12 items  about 0:05:00 left"
    out = StringIO()
    with shown_steps(_Screen(file=out, width=80, force_terminal=True)):
        pass
    assert "\x1b" in out.getvalue()
    out = StringIO()
    with shown_steps(_Screen(file=out, width=80)), step("scoring", 12, "items"):
        pass
    assert out.getvalue() == ""

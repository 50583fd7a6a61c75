"""Damaged files of a run's folder: refused by UserError, or repaired, or read as they were; never other results."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

import mergesearch
from mergesearch.search.candidates.gradient.start import read_descent
from mergesearch.search.problem.identity import Identity
from mergesearch.search.scoring.token_budget import read_tokens
from mergesearch.search.study.attempts import Attempts
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.verdict.result import read_verdict

from ..search.damage import DAMAGES, damaged_at_random
from ..search.helpers import Data, course, go
from .command import outcome
from .fuzzing import Draw, at_once, fuzz

SAMPLE, MANY, RESUMED = 10, 500, 60
RESULTS = ("verdict.json", "best.yml", "recommended.yml", "report.html", "config.yml")
UNNUMBERED = ("study.log", "test_looks.json")
"""Where these are damaged, a verdict has other numbers of trials, or of looks."""
Reader = Callable[[Path], Any]


@pytest.fixture
def searched(config: Data) -> Data:
    """A config whose search needs little time."""
    del config["search"]["storage"], config["search"]["timeout"], config["search"]["start"], config["search"]["target"]
    config["search"] |= {"trials": 7, "sampler": "random", "soups": []}
    config["evaluate"] |= {"ensemble": False, "constraints": []}
    return config


@pytest.fixture
def whole(searched: Data, tmp_path_factory: pytest.TempPathFactory, cache: dict[str, Path]) -> Path:
    """The results folder of a run that has ended, to be copied only."""
    if "whole" not in cache:
        results = cache["whole"] = tmp_path_factory.mktemp("whole")
        go(searched, results)
    return cache["whole"]


@pytest.fixture(scope="module")
def cache() -> dict[str, Path]:
    return {}


def table(folder: Path) -> Any:
    """The run as its folder's reader sees it."""
    return mergesearch.Run.read(folder).trials.to_json()  # in which missing values are equal


def scores(folder: Path) -> Any:
    reader = RunFolder(folder)
    return {name: {key: v.tolist() for key, v in reader.load_scores(name).items()} for name in reader.scores_names()}


def attempt(folder: Path) -> None:
    reader = RunFolder(folder)
    with Attempts(folder / "attempts", reader.workers, "here").noted("abc"):
        pass


READERS: dict[str, tuple[str, Reader, bool]] = {
    "trials": ("study.log", table, True),
    "verdict": ("verdict.json", lambda folder: read_verdict(RunFolder(folder)), True),
    "scores": ("scores/trial-000000.parquet", scores, True),
    "config": ("config.yml", mergesearch.Run.read, False),
    "recipe": ("best.yml", lambda folder: mergesearch.Run.read(folder).best, False),
    "identity": ("identity.json", lambda folder: RunFolder(folder).read_json("identity.json", Identity, ""), False),
    "batches": ("batches.json", lambda folder: read_tokens(RunFolder(folder)), False),
    "gradient": ("gradient.json", lambda folder: read_descent(RunFolder(folder)), False),
    "looks": ("test_looks.json", lambda folder: RunFolder(folder).note_look({"winner": 3}), False),
    "attempts": ("attempts/abc.0123", attempt, False),
}
"""The file that is damaged, what reads it, and whether it gives what was written or nothing."""


def damaged(draw: Draw, content: bytes) -> bytes:
    if draw.draw(st.integers(0, 19)) == 0:
        return DAMAGES[draw.draw(st.sampled_from(list(DAMAGES)))](content)
    return damaged_at_random(content, draw.draw(st.integers(0, 1 << 32)))


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of the run's folder, with the small files that other runs have, too."""
    folder = Path(shutil.copytree(whole / "small", tmp_path / "small"))
    descent = {"method": "ties", "exact": True, "loss": {"text": "targets"}}
    descent |= {"losses": [1.5], "items": 3, "points": {"a": {"b": 0.5}}}
    (folder / "gradient.json").write_text(json.dumps(descent))
    (folder / "attempts").mkdir(exist_ok=True)
    head = {"worker": "gone-1", "began": 1.5, "killed": 3}
    (folder / "attempts" / "abc.0123").write_text(f"{json.dumps(head)}\nFatal Python error: Aborted\n")
    return folder


def check_reader(kind: str, copy: Path, examples: int) -> None:
    name, read, is_exact = READERS[kind]
    content = (copy / name).read_bytes()
    found: list[Any] = []
    outcome(lambda: found.append(read(copy)), 60)
    (expected,) = found

    def check_one(draw: Draw) -> None:
        (copy / name).write_bytes(damaged(draw, content))
        found.clear()
        if at_once(lambda: found.append(read(copy))) == "done" and is_exact:
            assert found == [expected]

    fuzz(check_one, examples)


@pytest.mark.parametrize("kind", READERS)
def test_some_files(kind: str, copy: Path) -> None:
    check_reader(kind, copy, SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_many_files(kind: str, copy: Path) -> None:
    check_reader(kind, copy, MANY)


FILES = ("study.log", "verdict.json", "config.yml", "best.yml", "batches.json", "report.html", "test_looks.json")
FILES += ("scores/trial-000000.parquet", "scores/trial-000002.parquet", "identity.json")


def left(results: Path) -> dict[str, bytes]:
    return {name: (results / "small" / name).read_bytes() for name in RESULTS}


def check_resumed(searched: Data, whole: Path, results: Path, examples: int) -> None:
    """A run that goes on with damaged files stops with a message, or ends with the same candidates and results.

    Of a journal whose end is lost, trials are scored again, under other numbers where one of them was half written.
    """
    expected, candidates = left(whole), course(whole / "small")

    def check_one(draw: Draw) -> None:
        shutil.rmtree(results, ignore_errors=True)
        shutil.copytree(whole, results)
        for name in draw.draw(st.lists(st.sampled_from(FILES), min_size=1, max_size=3, unique=True)):
            file = results / "small" / name
            file.write_bytes(damaged(draw, file.read_bytes()))
        if draw.draw(st.booleans()):
            (results / "small" / "verdict.json").unlink()
        changed = {name for name in UNNUMBERED if (results / "small" / name).read_bytes() != content_of[name]}
        if outcome(lambda: go(searched, results), 60) == "done":
            found = left(results)
            assert changed or found == expected
            assert found["best.yml"] == expected["best.yml"]
            assert found["recommended.yml"] == expected["recommended.yml"]
            assert course(results / "small") == candidates

    content_of = {name: (whole / "small" / name).read_bytes() for name in UNNUMBERED}
    fuzz(check_one, examples)


def test_some_runs_that_go_on(searched: Data, whole: Path, tmp_path: Path) -> None:
    check_resumed(searched, whole, tmp_path / "resumed", 4)


@pytest.mark.slow
def test_many_runs_that_go_on(searched: Data, whole: Path, tmp_path: Path) -> None:
    check_resumed(searched, whole, tmp_path / "resumed", RESUMED)

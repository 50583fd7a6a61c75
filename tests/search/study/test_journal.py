"""Journals that were damaged: each is refused with the number of a line, or read as it was written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial

from mergesearch.errors import DamagedFileError
from mergesearch.search.study.journal import open_journal

from ..damage import damaged_at_random

Lines = list[bytes]


def filled(file: Path, trials: int = 6, seed: int = 0) -> optuna.Study:
    """A study of a few trials in the journal."""
    study = optuna.create_study(
        study_name="run", storage=open_journal(file), load_if_exists=True, sampler=optuna.samplers.RandomSampler(seed)
    )
    for number in range(trials):
        trial = study.ask()
        trial.set_user_attr("recipe", f"number {number}")
        study.tell(trial, trial.suggest_float("x", 0, 1))
    return study


def read(file: Path) -> list[FrozenTrial]:
    return optuna.load_study(study_name="run", storage=open_journal(file)).get_trials()


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[FrozenTrial], Lines]:
    """A journal, its trials, and the lines of another journal."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = tmp_path_factory.mktemp("journal")
    trials = filled(folder / "study.log").get_trials()
    filled(folder / "other.log", seed=1)
    other = (folder / "other.log").read_bytes().splitlines(keepends=True)
    return (folder / "study.log").read_bytes(), trials, other


def swapped(lines: Lines) -> Lines:
    return [*lines[:5], lines[6], lines[5], *lines[7:]]


def without_sum(line: bytes) -> bytes:
    return line[: line.rindex(b',"sum"')] + b"}\n"


DAMAGED: dict[str, Callable[[Lines, Lines], Lines]] = {
    "a doubled line": lambda lines, _: [*lines[:9], lines[8], *lines[9:]],
    "a doubled last line": lambda lines, _: [*lines, lines[-1]],
    "a doubled file": lambda lines, _: lines * 2,
    "a doubled half": lambda lines, _: [*lines, *lines[10:]],
    "reordered": lambda lines, _: swapped(lines),
    "reversed": lambda lines, _: lines[::-1],
    "a line taken out": lambda lines, _: lines[:7] + lines[8:],
    "the beginning taken out": lambda lines, _: lines[3:],
    "a line cut": lambda lines, _: [*lines[:7], lines[7][:20] + b"\n", *lines[8:]],
    "the last line cut, with a newline": lambda lines, _: [*lines[:-1], lines[-1][:20] + b"\n"],
    "garbage in the middle": lambda lines, _: [*lines[:7], b"\xff\xfe\x00garbage\n", *lines[7:]],
    "garbage at the end": lambda lines, _: [*lines, b"garbage\n"],
    "NUL bytes in the middle": lambda lines, _: [*lines[:7], b"\0" * 512, *lines[7:]],
    "NUL bytes over a line": lambda lines, _: [*lines[:7], b"\0" * (len(lines[7]) - 1) + b"\n", *lines[8:]],
    "wrong types": lambda lines, _: [*lines[:7], b'{"op_code":"x","worker_id":3}\n', *lines[8:]],
    "no entry": lambda lines, _: [*lines[:7], b"[1, 2]\n", *lines[7:]],
    "an unknown operation": lambda lines, _: [*lines, b'{"op_code":99,"worker_id":"x"}\n'],
    "an unknown trial": lambda lines, _: [*lines, b'{"op_code":8,"worker_id":"x","trial_id":99,"user_attr":{"a":1}}\n'],
    "a changed value": lambda lines, _: [line.replace(b"number 2", b"number 9") for line in lines],
    "a line of another study": lambda lines, other: [*lines[:9], other[9], *lines[9:]],
    "a last line of another study": lambda lines, other: [*lines, other[-1]],
    "two journals in one": lambda lines, other: [*lines, *other],
    "a line without its sum": lambda lines, _: [*lines[:7], without_sum(lines[7]), *lines[8:]],
    "an empty line": lambda lines, _: [*lines[:7], b"\n", *lines[7:]],
    "a byte order mark": lambda lines, _: [b"\xef\xbb\xbf", *lines],
    "deep": lambda lines, _: [*lines, b"[" * 100_000 + b"\n"],
}
"""What makes a journal unreadable."""
HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "half a line at the end": lambda content: content + b'{"op_code":8,"wor',
    "NUL bytes at the end": lambda content: content + b"\0" * 4096,
    "lines end as on Windows": lambda content: content.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_journal_is_refused_with_the_line(journal: Any, tmp_path: Path, kind: str) -> None:
    content, _, other = journal
    file = tmp_path / "study.log"
    damaged = b"".join(DAMAGED[kind](content.splitlines(keepends=True), other))
    file.write_bytes(damaged)
    with pytest.raises(DamagedFileError, match=r"study\.log: is damaged: line \d+ .*head -n \d+ ") as error:
        read(file)
    assert "\n" not in str(error.value)
    assert file.read_bytes() == damaged


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_a_journal_survives(journal: Any, tmp_path: Path, kind: str) -> None:
    content, trials, _ = journal
    file = tmp_path / "study.log"
    file.write_bytes(HARMLESS[kind](content))
    assert read(file) == trials
    more = filled(file, 2).get_trials()
    assert more[: len(trials)] == trials
    assert read(file) == more
    assert len(more) == len(trials) + 2


def test_the_remedy_keeps_the_lines_before(journal: Any, tmp_path: Path) -> None:
    content, trials, _ = journal
    file, lines = tmp_path / "study.log", content.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: lines.index(lines[-5])]) + b"garbage\n" + lines[-1])
    with pytest.raises(DamagedFileError) as error:
        read(file)
    count = int(str(error.value).split("head -n ")[1].split()[0])
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:count]))
    assert read(file)[:4] == trials[:4]


def test_a_journal_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "study.log"
    trials = filled(file).get_trials()
    file.write_bytes(b"".join(map(without_sum, file.read_bytes().splitlines(keepends=True))))
    assert read(file) == trials
    more = filled(file, 2).get_trials()
    assert read(file) == more
    assert more[: len(trials)] == trials
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines, b'{"op_code":4,"worker_id":"x","study_id":0,"datetime_start":null}\n']))
    with pytest.raises(DamagedFileError, match=f"line {len(lines) + 1} is not what was written"):
        read(file)


def test_an_entry_that_makes_no_sense_is_refused_in_journals_of_earlier_versions(tmp_path: Path) -> None:
    file = tmp_path / "study.log"
    filled(file, 2)
    lines = list(map(without_sum, file.read_bytes().splitlines(keepends=True)))
    for entry in (b"{}", b'{"op_code":99}', b'{"op_code":4,"study_id":[]}', b'{"op_code":0,"study_name":3}', b"3"):
        file.write_bytes(b"".join([*lines[:3], entry + b"\n", *lines[3:]]))
        with pytest.raises(DamagedFileError, match=r"line [45] "):
            read(file)


def test_processes_append_in_turn(tmp_path: Path) -> None:
    file = tmp_path / "study.log"
    one, two = filled(file, 1), filled(file, 0)
    for study in (two, one, two, two, one):
        study.tell(study.ask(), 0.5)
    assert read(file) == one.get_trials() == two.get_trials()
    assert [trial.number for trial in read(file)] == list(range(6))


def check_damaged_at_random(journal: Any, file: Path, seed: int) -> None:
    """The first trials as they were, or an error; never other trials."""
    content, trials, _ = journal
    file.write_bytes(damaged_at_random(content, seed))
    try:
        found = read(file)
    except (DamagedFileError, KeyError):  # KeyError: nothing is left of the study
        return
    for one, two in zip(found[:-1], trials, strict=False):
        assert one == two


@given(seed=st.integers(0, 2**32))
def test_journals_that_are_damaged_at_random(journal: Any, tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    check_damaged_at_random(journal, tmp_path_factory.getbasetemp() / "random.log", seed)


@pytest.mark.slow
def test_ten_thousand_journals_that_are_damaged_at_random(journal: Any, tmp_path: Path) -> None:
    for seed in range(10_000):
        check_damaged_at_random(journal, tmp_path / "random.log", seed)


def test_the_end_of_a_trial_is_on_the_disk_with_everything_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, flushed = tmp_path / "study.log", [0]
    monkeypatch.setattr("os.fsync", lambda _: flushed.append(file.stat().st_size))
    study = filled(file, trials=0)
    assert flushed[-1] == file.stat().st_size
    for state in ("complete", "fail", "added"):
        trial, before = study.ask(), len(flushed)
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("recipe", "text")
        assert len(flushed) == before
        if state == "added":
            study.add_trial(optuna.trial.create_trial(value=1.0))
        else:
            study.tell(trial, *([1.0] if state == "complete" else [None, optuna.trial.TrialState.FAIL]))
        assert len(flushed) > before
        assert flushed[-1] == file.stat().st_size
    study.set_user_attr("verdict", "text")
    assert flushed[-1] == file.stat().st_size

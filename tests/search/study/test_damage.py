"""Runs whose files were damaged, as by a loss of power: repaired or refused, and never with other results."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mergesearch
from mergesearch.errors import DamagedFileError, UserError
from mergesearch.evaluators import Item
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import read_yaml
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.optimize.callbacks import Watcher
from mergesearch.search.run import run
from mergesearch.search.study.attempts import Attempts
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.verdict.result import read_verdict

from ..damage import DAMAGES
from ..helpers import Data, at_call, course, go

LEFT = ("verdict.json", "best.yml", "recommended.yml", "config.yml", "model/model.safetensors")
TRIALS = 11


def repeated(config: Data, results: Path) -> list[str]:
    """Runs the config again; what it said."""
    said: list[str] = []
    run(open_plan(Config.model_validate(config), "config"), results, Watcher(stage=said.append))
    return said


def left(results: Path) -> list[bytes]:
    return [(results / "small" / name).read_bytes() for name in LEFT]


@pytest.fixture(params=[9, 100])
def items(request: pytest.FixtureRequest) -> dict[str, list[Item]]:
    return {"one": [Item(str(number), "one", "x") for number in range(request.param)]}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_scores_are_never_read(items: dict[str, list[Item]], tmp_path: Path, damage: str) -> None:
    folder = RunFolder(tmp_path)
    folder.save_scores("trial", {"one": torch.rand(len(items["one"]))}, items)
    file = tmp_path / "scores" / "trial.parquet"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(DamagedFileError, match=r"trial\.parquet: is damaged.*scores this candidate again"):
        folder.load_scores("trial")
    file.unlink()
    with pytest.raises(DamagedFileError, match=r"trial\.parquet: is missing"):
        folder.load_scores("trial")


def test_a_changed_bit_is_found_or_changes_nothing(items: dict[str, list[Item]], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_scores("trial", {"one": torch.linspace(0, 1, len(items["one"]))}, items)
    file, scores = tmp_path / "scores" / "trial.parquet", folder.load_scores("trial")
    whole, found = file.read_bytes(), 0
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        file.write_bytes(changed)
        try:
            assert torch.equal(folder.load_scores("trial")["one"], scores["one"])
        except DamagedFileError:
            found += 1
    assert found > len(whole) / 2


def test_damaged_scores_are_scored_again(config: Data, tmp_path: Path) -> None:
    """Those of every trial at once, in all ways, and some of the verdict's."""
    config["search"]["trials"] = TRIALS
    go(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    damages = [*DAMAGES.values(), None]
    files = sorted((tmp_path / "torn" / "small" / "scores").iterdir())
    kept = files.pop(0)
    for number, file in enumerate(files):
        if damage := damages[number % len(damages)]:
            file.write_bytes(damage(file.read_bytes()))
        elif file.stem.startswith("trial-"):
            file.unlink()
    kept.write_bytes(files[2].read_bytes())  # whole, and another candidate's
    for name in ("verdict.json", "report.html"):
        (tmp_path / "torn" / "small" / name).unlink()
    said = repeated(config, tmp_path / "torn")
    again = [line for line in said if line.endswith("is scored again")]
    assert len(again) == TRIALS
    assert "trial-" in again[1]
    assert left(tmp_path / "torn") == left(tmp_path / "whole")
    assert course(tmp_path / "torn" / "small") == course(tmp_path / "whole" / "small")
    one, two = (RunFolder(tmp_path / name / "small") for name in ("whole", "torn"))
    for name in one.scores_names():
        assert {key: values.tolist() for key, values in one.load_scores(name).items()} == {
            key: values.tolist() for key, values in two.load_scores(name).items()
        }


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_results_are_written_anew(config: Data, tmp_path: Path, damage: str) -> None:
    config["search"]["trials"] = 9
    go(config, tmp_path)
    before = left(tmp_path)
    looks = (tmp_path / "small" / "test_looks.json").read_bytes()
    for name in (*LEFT, "report.html"):
        file = tmp_path / "small" / name
        file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(UserError, match=r"verdict\.json: is damaged: .*run the config again"):
        read_verdict(RunFolder(tmp_path / "small"))
    said = repeated(config, tmp_path)
    assert any("verdict.json: is damaged" in line for line in said)
    assert left(tmp_path) == before
    assert (tmp_path / "small" / "report.html").read_text(encoding="utf-8").endswith("</html>\n")
    assert (tmp_path / "small" / "test_looks.json").read_bytes() == looks
    assert "verdict: scoring the winner and the baselines on the test items" not in repeated(config, tmp_path)


def test_a_report_that_changed_in_its_middle_is_written_anew(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 9
    go(config, tmp_path)
    report = tmp_path / "small" / "report.html"
    page = report.read_bytes()
    report.write_bytes(page.replace(b">Candidates</h2>", b">Cindidates</h2>"))
    go(config, tmp_path)
    assert report.read_bytes() == page


CONTENTS = [
    "",
    "{",
    "null",
    "[]",
    "3",
    '"x"',
    "{}",
    '{"tokens": "many"}',
    '{"tokens": -1}',
    '{"tokens": 1.5}',
    "\0\0\0",
]


def test_test_scores_of_another_candidate_are_scored_again(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 9
    go(config, tmp_path)
    before = left(tmp_path)
    one, two, *_ = sorted((tmp_path / "small" / "scores").glob("test-*"))
    whole = two.read_bytes()
    shutil.copyfile(one, two)
    (tmp_path / "small" / "verdict.json").unlink()
    assert any(f"{two.name}: is damaged" in line for line in repeated(config, tmp_path))
    assert left(tmp_path) == before
    assert two.read_bytes() == whole


@pytest.mark.parametrize("content", [*CONTENTS, '[{"trials": 9}, 3]', '{"trials": 9}'])
@pytest.mark.parametrize("name", ["batches.json", "test_looks.json", "gradient.json", "verdict.json"])
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, content: str) -> None:
    from mergesearch.search.candidates.gradient.start import read_descent
    from mergesearch.search.scoring.token_budget import read_tokens

    readers: dict[str, Callable[[RunFolder], Any]] = {
        "batches.json": read_tokens,
        "test_looks.json": lambda folder: folder.note_look({"trials": 9}),
        "gradient.json": read_descent,
        "verdict.json": read_verdict,
    }
    (tmp_path / name).write_text(content)
    if name == "test_looks.json" and content == "[]":
        assert readers[name](RunFolder(tmp_path)) == 0
        return
    with pytest.raises(
        DamagedFileError, match=rf"{name}: is damaged: .*; (bring it back|it counts|run the config)"
    ) as error:
        readers[name](RunFolder(tmp_path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600 + len(str(tmp_path))


def test_a_config_of_the_folder_that_is_damaged_is_written_anew(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 9
    go(config, tmp_path)
    file = tmp_path / "small" / "config.yml"
    whole = file.read_text()
    for damaged in ("", whole[: len(whole) // 2], "a: [", "3", "\0"):
        file.write_text(damaged)
        go(config, tmp_path)
        assert file.read_text() == whole
    file.write_text("")
    config["search"]["seed"] = 1
    with pytest.raises(UserError, match=r"was begun with another config: search\.seed was 0, now 1"):
        go(config, tmp_path)


def test_what_a_verdict_says_survives_json(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 9
    verdict = go(config, tmp_path)
    assert read_verdict(RunFolder(tmp_path / "small")) == verdict
    assert json.loads((tmp_path / "small" / "verdict.json").read_text())["trials"] == 9


def may_not_write(_: Any, mode: int) -> bool:
    return not mode & os.W_OK


def test_a_finished_run_can_be_read_where_nothing_can_be_written(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config["search"]["trials"] = 9
    verdict = go(config, tmp_path)
    trials = mergesearch.Run.read(tmp_path / "small").trials
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", may_not_write)
        patch.setattr(Path, "touch", None)
        patch.setattr("mergesearch.search.study.journal.ChainedJournal.append_logs", None)
        patch.setattr("mergesearch.search.study.run_folder.held_lock", None)
        patch.setattr("mergesearch.files.atomic_path", None)
        assert go(config, tmp_path) == verdict
        found = mergesearch.Run.read(tmp_path / "small")
        assert found.verdict == verdict
        assert found.trials.equals(trials)
        assert found.best.recipe == Recipe.read(read_yaml(tmp_path / "small" / "best.yml"))
        config["search"]["trials"] = 10
        with pytest.raises(UserError, match="cannot be gone on with: this user may only read it"):
            go(config, tmp_path)
        (tmp_path / "small" / "verdict.json").unlink()
        config["search"]["trials"] = 9
        with pytest.raises(UserError, match="has no verdict yet, and cannot be gone on with"):
            go(config, tmp_path)


@pytest.mark.parametrize(
    ("failing", "number"),
    [("fsync", errno.EIO), ("fsync", errno.ENOSPC), ("replace", errno.EACCES), ("replace", errno.EROFS)],
)
def test_a_disk_that_fails_stops_the_run_which_goes_on_later(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, number: int
) -> None:
    config["search"]["trials"] = 9
    error, owner = OSError(number, os.strerror(number)), {"fsync": os, "replace": Path}[failing]
    for call in (5, 12):

        def fail() -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(owner, failing, at_call(call, fail, getattr(owner, failing)))
            with pytest.raises(UserError, match=rf"small: .*{os.strerror(number)}.*small/.*; every finished trial"):
                go(config, tmp_path / "torn")
    go(config, tmp_path / "torn")
    go(config, tmp_path / "whole")
    assert left(tmp_path / "torn")[1:] == left(tmp_path / "whole")[1:]
    assert course(tmp_path / "torn" / "small") == course(tmp_path / "whole" / "small")


def test_trials_that_a_journal_lost_are_told(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 9
    go(config, tmp_path)
    journal = tmp_path / "small" / "study.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: len(lines) // 2]))
    with pytest.raises(UserError, match=r"finished trials, its verdict is that of 9: some are lost"):
        _ = mergesearch.Run.read(tmp_path / "small").trials


def test_a_verdict_with_another_number_is_refused(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 9
    go(config, tmp_path)
    file = tmp_path / "small" / "verdict.json"
    whole = file.read_text()
    file.write_text(whole.replace('"test_looks": 1', '"test_looks": 0'))
    assert file.read_text() != whole
    with pytest.raises(UserError, match=r"verdict\.json: is damaged: it is not what was written; run the config again"):
        read_verdict(RunFolder(tmp_path / "small"))
    go(config, tmp_path)
    assert file.read_text() == whole


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_in_a_folder_of_a_run(config: Data, tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe, too, which would be read for ever."""
    config["search"]["trials"] = 9
    go(config, tmp_path)
    for name in ("verdict.json", "identity.json", "test_looks.json", "study.log", "scores/trial-000001.parquet"):
        file = tmp_path / "small" / name
        content = file.read_bytes()
        file.unlink()
        make(file)
        if name == "test_looks.json":
            (tmp_path / "small" / "verdict.json").unlink()
        with pytest.raises(UserError, match=rf"{file.name}: is a (folder|pipe), expected a file"):
            go(config, tmp_path)
        file.rmdir() if file.is_dir() else file.unlink()
        file.write_bytes(content)


@pytest.mark.parametrize("began", ["1" + "0" * 400, "[" * 100_000, "null", "[]", '"x"'])
def test_attempts_that_are_damaged_do_not_count(tmp_path: Path, began: str) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "attempts").mkdir()
    for number in range(3):
        (tmp_path / "attempts" / f"abc.{number}").write_text(f'{{"worker": 3, "began": {began}, "killed": 1}}')
    with Attempts(tmp_path / "attempts", folder.workers, "here").noted("abc") as log:
        assert Path(log.name).exists()

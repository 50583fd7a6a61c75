"""``compare`` of runs and of models, its formats, and the finalists' file of a run."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import mergesearch
from mergesearch import UserError
from mergesearch.parsing import dump_yaml
from mergesearch.search.across.finalists import FINALISTS, Finalists
from mergesearch.search.across.pairing import compared
from mergesearch.search.across.scored_task import Asked, Measured, ScoredTask, only_whole
from mergesearch.search.cli import main
from mergesearch.search.config import Config
from mergesearch.search.evaluate import evaluate_model
from mergesearch.search.verdict.result import Verdict

from ...tolerances import close
from ..helpers import Data, go
from .conftest import Logs


@pytest.fixture
def verdict(config: Data, tmp_path: Path) -> Verdict:
    """That of a run in the folder small, with the objective normalised by nothing."""
    config["search"] |= {"trials": 12, "sampler": "random", "start": "none"}
    config["output"]["model"] = False
    return go(config, tmp_path)


def test_finalists_have_the_values_of_the_verdict(verdict: Verdict, tmp_path: Path) -> None:
    found = Finalists.read(tmp_path / "small")
    assert {each.trial for each in found.about.candidates} == {row.trial for row in verdict.rows}
    for row in verdict.rows:
        assert found.values(row.trial) == {"text": close(row.tasks["text"]["test"], 12, magnitude=8.0)}
        values = np.array([stratum.value for stratum in found.strata(row.trial)])
        assert float(found.objective.combine(values)) == close(row.test.value, 12, magnitude=8.0)
    roles = {each.name: each.role for each in found.about.candidates}
    assert {roles[name] for name in ("base", "one", "two")} == {"parent"}
    baselines = {row.name for row in verdict.baselines}
    assert {name for name, role in roles.items() if role == "winner"} == {verdict.winner.name} - baselines
    assert all(each.parameters > 1000 and each.scored for each in found.about.candidates)


def test_two_runs(verdict: Verdict, config: Data, tmp_path: Path) -> None:
    config["output"]["name"] = "other"
    config["search"]["seed"] = 1
    other = go(config, tmp_path)
    found = mergesearch.compare(tmp_path / "small", tmp_path / "other", candidate="winner")
    (task,) = found.tasks
    assert (found.a, found.b) == (f"small: {verdict.winner.name}", f"other: {other.winner.name}")
    difference = verdict.winner.tasks["text"]["test"] - other.winner.tasks["text"]["test"]
    assert task.difference.value == close(difference, 24, magnitude=8.0)
    assert (task.items, task.higher_is_better, found.notes) == (6, False, [])
    same = mergesearch.compare(tmp_path / "small", tmp_path / "small")
    assert (same.tasks[0].difference.value, same.tasks[0].p, same.tasks[0].wins) == (0.0, 1.0, [])
    assert same.a == f"small: {verdict.recommended}"


@pytest.mark.usefixtures("verdict")
def test_runs_with_another_split_share_a_part_of_their_test_items(config: Data, tmp_path: Path) -> None:
    config["output"]["name"] = "other"
    config["evaluate"]["split"]["seed"] = 1
    go(config, tmp_path)
    one, two = (Finalists.read(tmp_path / name) for name in ("small", "other"))
    shared = set(one.columns["item"]) & set(two.columns["item"])
    assert 0 < len(shared) < 6
    assert one.content != two.content
    found = mergesearch.compare(tmp_path / "small", tmp_path / "other")
    assert found.tasks[0].items == len(shared)
    alone = 6 - len(shared)
    assert found.notes == [f"left out: {alone} items of task 'text' that only {side} was scored on" for side in "AB"]


def test_a_metric_that_is_no_mean_needs_the_same_items() -> None:
    def measured(ids: str) -> Measured:
        items = [Asked(name, name, name, name) for name in ids]
        task = ScoredTask("t", "f1", True, items, only_whole(np.arange(len(ids), dtype=np.float64)))
        return Measured(ids, {("t", "f1"): task})

    assert compared(measured("abc"), measured("abc")).tasks[0].items == 3
    with pytest.raises(UserError, match=r"left out: task 't': its metric is no mean over items, and the two do not"):
        compared(measured("abc"), measured("bcd"))


@pytest.mark.usefixtures("verdict")
def test_a_damaged_or_missing_file_is_said_and_written_again(config: Data, tmp_path: Path) -> None:
    file = tmp_path / "small" / FINALISTS
    content = file.read_bytes()
    file.write_bytes(content[:-20])
    with pytest.raises(UserError, match=r"finalists.parquet: is damaged .*run the config again"):
        Finalists.read(tmp_path / "small")
    file.unlink()
    with pytest.raises(UserError, match=r"has no finalists.parquet; run its config to its end"):
        mergesearch.compare(tmp_path / "small", tmp_path / "small")
    go(config, tmp_path)
    assert file.read_bytes() == content


def test_two_models(config: Data, models: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(dump_yaml({"merge_method": "passthrough", "models": [{"model": str(models / "two")}]}))
    (task,) = mergesearch.compare(models / "one", recipe, Config.model_validate(config)).tasks
    parsed = Config.model_validate(config)
    for name, value in (("one", task.a), ("two", task.b)):
        expected = evaluate_model(str(models / name), parsed, "config").scores["text"].value.value
        assert value == close(expected, 24, magnitude=8.0)
    assert task.items == 12
    assert all(flip.question for flip in (*task.wins, *task.losses))


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


def test_formats(logs: Logs) -> None:
    expected = mergesearch.compare(logs.one, logs.two)
    shown = json.loads(invoke(logs.one, logs.two, "--format", "json", "--flips", 2).stdout)
    rows = list(csv.DictReader(invoke(logs.one, logs.two, "--format", "csv").stdout.splitlines()))
    table, markdown = (invoke(logs.one, logs.two, "--format", form, "--flips", 1).stdout for form in ("table", "md"))
    assert shown["sentence"] == expected.sentence
    for task, one, row in zip(expected.tasks, shown["tasks"], rows, strict=True):
        assert (one["task"], row["task"]) == (task.task, task.task)
        assert one["p"] == float(row["p"]) == task.p
        assert one["difference"]["value"] == float(row["difference"]) == task.difference.value
        assert one["wins"]["count"] == int(row["a_wins"]) == len(task.wins)
        assert len(one["wins"]["items"]) == min(2, len(task.wins))
        for text in (table, markdown):
            assert f"{task.difference.value:+.3f}" in text
            assert f"{task.task}: {len(task.wins)} items on which A does better" in text
    assert expected.sentence in table
    assert "question: " in table


def test_the_table_fits_eighty_columns(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergesearch.search.report.screen.WIDTH", 80)
    lines = invoke(logs.one, logs.two).stdout.splitlines()
    assert max(len(line) for line in lines) <= 80
    p = mergesearch.compare(logs.one, logs.two).tasks[0].p
    assert any(line.startswith("few") and f"{p:.4f}" in line for line in lines)


@pytest.mark.usefixtures("verdict")
def test_other_kinds_are_an_error(logs: Logs, tmp_path: Path) -> None:
    done = invoke(tmp_path / "small", logs.one)
    assert done.exit_code == 2
    assert "is a run, and" in done.stderr
    (tmp_path / "empty").mkdir()
    assert "expected a run, which has a config.yml" in invoke(tmp_path / "empty", logs.one).stderr

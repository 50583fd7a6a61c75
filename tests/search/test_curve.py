"""``curve``: a path of merges, scored at several points of a recipe's hole."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import mergesearch
from mergesearch import UserError
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.parsing import dump_yaml
from mergesearch.search.across.curve import Curve, TaskCurve
from mergesearch.search.cli import main
from mergesearch.search.report.curve_page import print_curve
from mergesearch.search.report.page.document import is_whole
from mergesearch.search.report.screen import printed
from mergesearch.search.statistics import Estimate, Outcome, Stratum, difference_of, sign_flip_test
from mergesearch.search.study.run_folder import RunFolder

from .helpers import Data, Killed, at_call, kill, rescored
from .report.pages import made_curve


@pytest.fixture
def path(config: Data, models: Path, texts: Path) -> Data:
    """A config of the path from base to one, whose tasks are halves of the texts."""
    config["recipe"] = {
        "merge_method": "wise_ft",
        "base_model": str(models / "base"),
        "models": [{"model": str(models / "one")}],
        "parameters": {"alpha": {"search": [0.0, 1.0]}},
    }
    tasks = {"few": "0?.txt", "more": "1?.txt"}
    config["evaluate"] = {
        "tasks": [{"evaluator": "bits_per_byte", "task": t, "files": [str(texts / p)]} for t, p in tasks.items()],
        "split": {"search": 0.5, "test": 0.5},
    }
    return config


def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the items that are scored from now on."""
    ids: list[str] = []
    score = BitsPerByte.score

    def noted(self: BitsPerByte, model: Any, items: Any) -> Any:
        ids.extend(item.id for item in items)
        return score(self, model, items)

    monkeypatch.setattr(BitsPerByte, "score", noted)
    return ids


def test_values_are_those_of_the_merged_models(path: Data, texts: Path, tmp_path: Path) -> None:
    everything = [{"evaluator": "bits_per_byte", "task": "few", "files": [str(texts / "0?.txt")]}]
    others = [{"evaluator": "bits_per_byte", "task": "rest", "files": [str(texts / "1?.txt")]}]
    path["evaluate"] = {"tasks": everything, "test_tasks": others}
    found = mergesearch.curve(path, points=3, results=tmp_path)
    assert (found.dimension, found.points, [each.task for each in found.tasks]) == ("alpha", [0.0, 0.5, 1.0], ["few"])
    for number, estimate in enumerate(found.tasks[0].values, 1):
        recipe = tmp_path / "small" / "recipes" / f"{number:02}.yml"
        alone = mergesearch.evaluate(recipe, path, tmp_path / "runs").scores["few"]
        assert estimate.value == rescored(alone.value.value)
        assert (estimate.low, estimate.high) == (rescored(alone.value.low), rescored(alone.value.high))


def test_only_search_items_are_scored_and_every_point_once(
    path: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = scored(monkeypatch)
    mergesearch.curve(path, points=3, results=tmp_path)
    assert (len(ids), len(set(ids))) == (3 * 6, 6), "twelve texts, half of them search items"
    found = mergesearch.curve(path, points=5, results=tmp_path)
    assert len(ids) == 5 * 6
    assert found.points == [0.0, 0.25, 0.5, 0.75, 1.0]
    again = mergesearch.curve(path, at=[1.0, 0.25, 0.25], results=tmp_path)
    assert len(ids) == 5 * 6
    assert again.points == [0.25, 1.0]
    assert again.tasks[0].values == [found.tasks[0].values[place] for place in (1, 4)]
    assert not (tmp_path / "small" / "test_looks.json").exists()


def test_what_was_killed_goes_on(path: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_scores", at_call(3, kill, RunFolder.save_scores))
        with pytest.raises(Killed):
            mergesearch.curve(path, points=4, results=tmp_path)
    ids = scored(monkeypatch)
    found = mergesearch.curve(path, points=4, results=tmp_path)
    assert len(ids) == 2 * 6
    whole = mergesearch.curve(path, points=4, results=tmp_path / "other")
    assert found.to_json() == whole.to_json()
    pages = [(folder / "small" / "curve.html").read_bytes() for folder in (tmp_path, tmp_path / "other")]
    assert pages[0] == pages[1]
    assert is_whole(pages[0])


def test_other_items_are_scored_anew(path: Data, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = mergesearch.curve(path, points=2, results=tmp_path)
    for file in texts.glob("*.txt"):
        file.write_text(f"{file.read_text()}and more of it.\n")
    ids = scored(monkeypatch)
    after = mergesearch.curve(path, points=2, results=tmp_path)
    assert len(ids) == 2 * 6
    assert before.tasks[0].values != after.tasks[0].values


def test_checkpoints_are_read_once(path: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    tensor = Checkpoint.tensor
    monkeypatch.setattr(Checkpoint, "tensor", lambda self, name: reads.append(name) or tensor(self, name))
    counts = []
    for points in (2, 6):
        reads.clear()
        mergesearch.curve(path, points=points, results=tmp_path / str(points))
        counts.append(len(reads))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    ("hole", "points", "expected"),
    [
        ({"search": [0.01, 1.0], "log": True}, 3, [0.01, 0.1, 1.0]),
        ({"search": [0.2, 0.8], "step": 0.3}, 11, [0.2, 0.5, 0.8]),
        ({"search": [0.0, 0.25, 1.0]}, 2, [0.0, 0.25, 1.0]),
    ],
    ids=["log", "step", "choices"],
)
def test_points(hole: Data, points: int, expected: list[float], path: Data, tmp_path: Path) -> None:
    path["recipe"]["parameters"]["alpha"] = hole
    assert mergesearch.curve(path, points=points, results=tmp_path).points == pytest.approx(expected, rel=1e-9)


def test_a_path_of_methods(path: Data, tmp_path: Path) -> None:
    path["recipe"] |= {"merge_method": {"search": ["task_arithmetic", "wise_ft"]}, "parameters": {"alpha": 0.5}}
    path["recipe"]["models"][0]["parameters"] = {"weight": 0.5}
    found = mergesearch.curve(path, results=tmp_path)
    assert found.points == ["task_arithmetic", "wise_ft"]
    assert found.tasks[0].values[0].value == rescored(found.tasks[0].values[1].value)
    assert "task_arithmetic" in (tmp_path / "small" / "curve.html").read_text()


@pytest.mark.parametrize(
    ("parameters", "at", "message"),
    [
        ({"alpha": 0.5}, (), "a curve goes along one dimension, found none"),
        ({"alpha": {"search": [0, 1], "curve": 2}}, (), r"found 2: alpha\[0\], alpha\[1\]"),
        ({"alpha": {"search": [0.0, 1.0]}}, (0.5, 1.5), "alpha: found 1.5, expected values of 0 to 1"),
    ],
)
def test_errors(parameters: Data, at: tuple[float, ...], message: str, path: Data, tmp_path: Path) -> None:
    path["recipe"]["parameters"] = parameters
    with pytest.raises(UserError, match=message):
        mergesearch.curve(path, at=at, results=tmp_path)


def test_a_curve_has_two_ends(path: Data, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="points: found 1, expected 2 or more"):
        mergesearch.curve(path, points=1, results=tmp_path)


def test_a_point_that_is_no_number_is_named(path: Data, tmp_path: Path) -> None:
    path["recipe"] |= {"merge_method": "task_arithmetic", "parameters": {"weight": {"search": [0.0, 1e300]}}}
    with pytest.raises(UserError, match=r"weight = 1e\+300: .* of the merged model has"):
        mergesearch.curve(path, points=2, results=tmp_path)


def test_the_folder_of_a_run_is_left_alone(path: Data, finished: Path) -> None:
    with pytest.raises(UserError, match="small: is the folder of a run"):
        mergesearch.curve(path, results=finished.parent)


def test_command(path: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yml").write_text(dump_yaml(path))
    result = CliRunner().invoke(main, ["curve", "my.yml", "--at", "0,0.5,1", "--name", "other"])
    assert result.exit_code == 0, result.output
    assert "few: bits_per_byte of 5 items, less is better" in result.output
    assert "vs. 0" in result.output
    assert "test items are not looked at" in result.output
    assert result.output.endswith("results/curves/other/curve.html\n")
    result = CliRunner().invoke(main, ["curve", "my.yml", "--points", "3", "--name", "other", "--json"])
    found = json.loads(result.stdout)
    assert found == json.loads(Path("results/curves/other/curve.json").read_text())
    assert found["points"] == [0.0, 0.5, 1.0]
    assert CliRunner().invoke(main, ["curve", "my.yml", "--at", "a,b"]).exit_code == 2


def test_a_narrow_terminal_shows_each_number_on_one_line() -> None:
    found = made_curve()
    text, _ = printed(lambda screen: print_curve(screen, found), 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("0.700 [0.680, 0.720] +0.200 [+0.170, +0.230] +0.200 [+0.170, +0.230]" in line for line in lines) == 1


def outcomes(values: list[list[float]], end: int) -> list[Outcome]:
    strata = [Stratum.of([str(n) for n in range(len(each))], [1.0] * len(each), each) for each in values]
    contrasts = [difference_of([each], [strata[end]], lambda numbers: numbers[0]) for each in strata]
    return sign_flip_test(contrasts, 0)


@pytest.mark.parametrize("sign", [1, -1], ids=["higher", "lower"])
def test_what_is_proven_to_be_beyond_both_ends(sign: int) -> None:
    """Four points, the two in the middle higher than both ends by more than the items' noise."""
    noise = [0.1 * math.sin(7.0 * n) for n in range(40)]
    values = [
        [sign * (level + (1 + 0.1 * place) * noise[n]) for n in range(40)]
        for place, level in enumerate((0.2, 0.7, 0.6, 0.3))
    ]
    means = [Estimate(sum(each) / 40, -1.0, 1.0) for each in values]
    curve = TaskCurve("hump", "acc", sign > 0, 40, means, outcomes(values, 0), outcomes(values, -1))
    assert (curve.best, curve.beyond_both_ends) == (1, [1, 2])
    found = Curve("c", "alpha", False, [0.0, 0.3, 0.6, 1.0], [curve], [""] * 4)
    assert f"hump is {'highest' if sign > 0 else 'lowest'} at alpha = 0.3" in str(found)
    assert "Proven to be better than both ends: 0.3 to 0.6." in str(found)
    assert list(found.table["alpha"]) == found.points
    assert "<table>" in found._repr_html_()

"""``leaderboard``: tables of runs that measured the same, ranks by paired tests, and what the formats show."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from mergesearch.errors import UserError
from mergesearch.search.across.finalists import About, Finalist, Finalists, FinalTask
from mergesearch.search.across.leaderboard import Leaderboard, leaderboard
from mergesearch.search.cli import main

from ...tolerances import close

TASK = FinalTask("t", "acc", True, 1.0, [0.25], False, True, {"code": "1"})
RIGHT = {"base": 30, "one": 32, "two": 55, "best": 58}
"""How many of the first of 60 questions each model answers."""
ITEMS = 60

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes what a run leaves for leaderboards."""

    def write(name: str, models: Sequence[str], asked: str = "question", task: FinalTask = TASK) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yml").touch()
        roles = {"base": "parent", "one": "parent", "two": "parent"}
        candidates = [
            Finalist(each, n, roles.get(each, "winner"), "linear", f"weights of {each}", 1_500_000, f"2026-01-0{n + 1}")
            for n, each in enumerate(models)
        ]
        columns: dict[str, list[Any]] = {
            "task": ["t"] * ITEMS,
            "part": [""] * ITEMS,
            "item": [str(n) for n in range(ITEMS)],
            "cluster": [str(n) for n in range(ITEMS)],
            "weight": [1.0] * ITEMS,
            "document": [str(n) for n in range(ITEMS)],
            "prompt": [f"{asked} {n}" for n in range(ITEMS)],
        }
        columns |= {str(n): [float(k < RIGHT[each]) for k in range(ITEMS)] for n, each in enumerate(models)}
        Finalists(folder, About([task], "mean", candidates, 0, len(models) - 1), columns).write()
        return folder

    return write


def sign_test(one: str, two: str) -> float:
    return float(stats.binomtest(max(0, RIGHT[one] - RIGHT[two]), abs(RIGHT[one] - RIGHT[two]) or 1).pvalue)


def test_the_same_model_is_one_row_and_ranks_are_shared(make: Make, tmp_path: Path) -> None:
    make("first", ["base", "one", "best"])
    make("second", ["base", "two"])
    (table,) = leaderboard([tmp_path / "runs"]).tables
    assert [row.name for row in table.rows] == ["first: best", "two", "one", "base"]
    assert [row.rank for row in table.rows] == [1, 1, 3, 3]
    assert sign_test("best", "two") > 0.05 > sign_test("two", "one")
    base = table.rows[-1]
    assert (base.runs, base.roles, base.scored) == (["first", "second"], ["parent"], "2026-01-01")
    for row in table.rows:
        name = row.names[0]
        assert row.value.value == close(RIGHT[name] / ITEMS, ITEMS)
        assert row.tasks == {"t": close(RIGHT[name] / ITEMS, ITEMS)}
        assert row.normalized == {"t": close((RIGHT[name] / ITEMS - 0.25) / 0.75, ITEMS)}
        assert row.value.low <= row.value.value <= row.value.high


@pytest.mark.parametrize(
    "other",
    [
        {"asked": "another question"},
        {"task": replace(TASK, version={"code": "2"})},
        {"task": replace(TASK, weight=0.5)},
        {"task": replace(TASK, is_normalized=True)},
    ],
)
def test_what_was_measured_otherwise_is_another_table(make: Make, tmp_path: Path, other: Mapping[str, Any]) -> None:
    make("first", ["base", "one", "best"])
    make("second", ["base", "two"], **other)
    tables = leaderboard([tmp_path / "runs"]).tables
    assert [table.runs for table in tables] == [["first"], ["second"]]
    assert [[row.names[0] for row in table.rows] for table in tables] == [["best", "one", "base"], ["two", "base"]]


def test_runs_without_a_verdict_are_named(make: Make, tmp_path: Path) -> None:
    make("first", ["base", "one"])
    unfinished = tmp_path / "runs" / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yml").touch()
    found = leaderboard([tmp_path / "runs", tmp_path / "runs" / "first"])
    assert [table.runs for table in found.tables] == [["first"]]
    assert found.notes == [f"left out: {unfinished}: has no finalists.parquet; run its config to its end, or again"]
    with pytest.raises(UserError, match=r"no finished run is there; left out: .*unfinished"):
        leaderboard([unfinished])
    with pytest.raises(UserError, match=r"there is no such folder"):
        leaderboard([tmp_path / "nowhere"])


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(main, ["leaderboard", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


class Page(HTMLParser):
    """The texts of table cells, the tags, and what the page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loaded += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "data")]
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


NASTY = "<img src=x onerror=alert(1)> | `x` *y* =1+1\n\x1b[31m"


def test_formats(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RIGHT, NASTY, 40)
    make("first", ["base", "one", NASTY])
    make("second", ["base", "two"])
    found = leaderboard([tmp_path / "runs"])
    rows = [row for table in found.tables for row in table.rows]
    page = Page(invoke(tmp_path / "runs", "--format", "html"))
    assert page.loaded == []
    assert "img" not in page.tags
    assert any("<img src=x onerror=alert(1)>" in cell for cell in page.cells)
    as_csv = list(csv.DictReader(invoke(tmp_path / "runs", "--format", "csv").splitlines()))
    assert [(int(row["rank"]), float(row["objective"])) for row in as_csv] == [(r.rank, r.value.value) for r in rows]
    (table,) = json.loads(invoke(tmp_path / "runs", "--format", "json"))["tables"]
    assert [row["normalized"] for row in table["rows"]] == [row.normalized for row in rows]
    markdown = invoke(tmp_path / "runs", "--format", "md")
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {lines[0].count("|")}
    assert "<img" not in markdown


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_screen(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    make("first", ["base", "one", "best"])
    lines = invoke(tmp_path / "runs").splitlines()
    assert max(map(len, lines)) <= width
    assert any("first: best" in line and f"{RIGHT['best'] / ITEMS:.3f}" in line for line in lines)


def test_nothing_is_mixed_up_between_rows(make: Make, tmp_path: Path) -> None:
    """Every rank by hand, from the sign test."""
    make("first", list(RIGHT))
    found: Leaderboard = leaderboard([tmp_path / "runs"])
    names = [row.names[0] for row in found.tables[0].rows]
    for row in found.tables[0].rows:
        better = [name for name in names if RIGHT[name] > RIGHT[row.names[0]]]
        assert row.rank == 1 + int(np.sum([sign_test(name, row.names[0]) < 0.05 for name in better]))

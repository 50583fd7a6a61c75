"""The report without a browser: what it says, its size, its bytes, and what it does not let through."""

import gzip
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from optuna.trial import create_trial
from plotly.offline import get_plotlyjs_version

from mergesearch.errors import UserError
from mergesearch.search.across.finalists import Finalists
from mergesearch.search.report import page
from mergesearch.search.report.html import is_whole_report, rewrite_report
from mergesearch.search.report.page.document import BUNDLE
from mergesearch.search.report.page.figures import BLUE
from mergesearch.search.report.sections._dimensions import places_of, share_of
from mergesearch.search.report.sections.influence import importances, sampled_trials
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t

from ..helpers import Data, go
from .pages import DECISIVE, DIMENSIONS, RECIPE, made_report, made_store

LIMIT = 1_500_000
"""Bytes of a report."""


class Outline(HTMLParser):
    """The headings of a page, the identifiers, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.names: list[str] = []
        self.loaded: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.headings += [int(tag[1])] if re.fullmatch(r"h\d", tag) else []
        self.names += [value or "" for name, value in attrs if name == "id"]
        self.loaded += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    return (made_report(tmp_path_factory.mktemp("report")) / "report.html").read_text(encoding="utf-8")


def test_headings_do_not_skip_a_level_and_names_are_unique(report: str) -> None:
    outline = Outline(report)
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in zip(outline.headings, outline.headings[1:], strict=False))
    assert len(set(outline.names)) == len(outline.names)
    assert outline.loaded == []


def test_text_of_others_is_shown_as_text(report: str) -> None:
    assert "img" not in Outline(report).tags
    assert "<img" not in report
    assert "&lt;/script&gt;&lt;img src=x" in report
    assert "secret" not in report


def test_which_layers_come_from_whom(report: str) -> None:
    part = report[report.index("<h2 id=which-layers") :]
    assert part.count("<table class=heat>") == 4  # by layer, and of each module
    assert re.search(r'<td class=minus style=--share:0\.\d\d title="\d\.\d%">-0\.\d\d<', part)
    assert "<td class=plus style=--share:0.00" in part  # what is not changed has no colour


def test_flips_have_questions_and_who_answered_what(report: str) -> None:
    part = report[report.index("<h2 id=items-that-turn") : report.index("<h2 id=the-search>")]
    tags = re.findall(r'<details class=item data-tags="([^"]+)"', part)
    assert len(tags) > 50
    assert all(re.fullmatch(r"t[01]( [wl]\d+)+", each) for each in tags)
    for row in re.findall(r"<option value=([wl]\d+)>[^<]*\(([\d,]+)\)", part):
        counted = sum(row[0] in each.split() for each in tags)
        assert 0 < counted <= int(row[1].replace(",", ""))
    assert "\u2713 yes" in part
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in part
    assert "reading them is no further use of them by the search" in part


def test_a_run_of_thousands_of_trials_has_a_report_below_the_limit(tmp_path: Path) -> None:
    folder = made_report(tmp_path, trials=3000)
    assert (folder / "report.html").stat().st_size < LIMIT


def test_the_same_run_gives_the_same_bytes_also_from_its_folder(config: Data, tmp_path: Path) -> None:
    go(config, tmp_path)
    folder = tmp_path / "small"
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert not is_whole_report(folder)
    rewrite_report(folder)
    assert (folder / "report.html").read_bytes() == before
    assert is_whole_report(folder)
    (folder / "report.html").write_bytes(before.replace(b"Candidates", b"Cendidates"))
    assert not is_whole_report(folder)
    (folder / "verdict.json").unlink()
    with pytest.raises(UserError, match="has no verdict yet"):
        rewrite_report(folder)


def test_figures_have_only_what_the_bundle_draws(report: str) -> None:
    figures = re.findall(r'<script type="application/json">(.*?)</script>', report)
    assert len(figures) > 10
    assert {trace["type"] for figure in figures for trace in json.loads(figure)["data"]} == {"scatter", "bar"}


def test_the_bundle_is_of_the_version_that_the_figures_are_made_for() -> None:
    head = gzip.decompress((files(page) / BUNDLE).read_bytes())[:300].decode()
    version = re.search(r"plotly\.js \(basic - minified\) v(\d+)\.", head)
    assert version
    assert version[1] == get_plotlyjs_version().split(".")[0]
    assert (files(page) / "plotly-basic.LICENSE").read_text().startswith("MIT License")


def test_importances_find_the_dimension_that_decides(tmp_path: Path) -> None:
    store = made_store(tmp_path, trials=120)
    trials = sampled_trials(store)
    found = importances(trials)
    assert next(iter(found.shares)) == DECISIVE
    assert [name for name, share in found.shares.items() if share > found.chance] == [DECISIVE]
    assert sum(found.shares.values()) == pytest.approx(1, rel=1e-9)  # tolerance: a sum of 45 shares
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert t.BASELINE not in {t.kind_of(trial) for trial in trials}


def test_stopped_trials_have_no_influence_on_importances(tmp_path: Path) -> None:
    store = made_store(tmp_path)
    before = importances(sampled_trials(store))
    for trial in t.stopped(store.study)[:5]:
        store.study.add_trial(
            create_trial(
                state=trial.state,
                value=9.0,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs=trial.user_attrs,
            )
        )
    assert importances(sampled_trials(store)) == before


def test_every_dimension_of_a_space_has_its_place() -> None:
    space = Space(RECIPE, 20, "recipe")
    names = [dimension.name for dimension in space.dimensions]
    assert set(names) == set(DIMENSIONS)
    places = places_of(names, RECIPE)
    assert vars(places[DECISIVE]) == {
        "hole": "code.weight.mlp",
        "unit": "layer",
        "depth": 3,
        "module": "mlp",
        "model": "code",
    }
    assert vars(places["chat.weight.rest[1]"]) == {
        "hole": "chat.weight.rest",
        "unit": "knot",
        "depth": 1,
        "module": "rest",
        "model": "chat",
    }
    assert places["merge_method"].hole == "merge_method"


def test_share_of_a_range() -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    assert share_of(FloatDistribution(0.0, 2.0), 0.5) == 0.25
    assert share_of(FloatDistribution(0.25, 4.0, log=True), 1.0) == 0.5
    assert share_of(IntDistribution(3, 3), 3) == 0.5
    assert share_of(CategoricalDistribution(["a", "b", "c"]), "b") == 0.5


def test_candidates_have_intervals_of_each_task_that_is_known_item_by_item(tmp_path: Path) -> None:
    folder = made_report(tmp_path)
    run = Finalists.read(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    estimates = run.estimates(run.about.winner, 7)
    assert set(estimates) == {"a", "texts"}
    for estimate in estimates.values():
        assert f">{estimate.value:.3f} <small>[{estimate.low:.3f}, {estimate.high:.3f}]</small>" in page
    assert "texts bits_per_byte, on the test items." in page


def test_the_group_of_the_dimension_that_decides_is_above_chance(tmp_path: Path) -> None:
    page = (made_report(tmp_path, trials=120) / "report.html").read_text(encoding="utf-8")
    figures = dict(re.findall(r'<div class=plot id=(\S+) .*?<script type="application/json">(.*?)</script>', page))
    (bars,) = json.loads(figures["importances-layer"])["data"]
    assert [at for at, colour in zip(bars["x"], bars["marker"]["color"], strict=True) if colour == BLUE] == [3]
    (bars,) = json.loads(figures["importances-model"])["data"]
    assert len(bars["marker"]["color"]) == 3

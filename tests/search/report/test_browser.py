"""The HTML pages in Chromium: what is drawn, and how they look on screens of every kind and on paper."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mergesearch.search.across.finalists import About, Finalist, Finalists, FinalTask
from mergesearch.search.across.leaderboard import leaderboard
from mergesearch.search.report.curve_html import curve_html
from mergesearch.search.report.leaderboard_html import leaderboard_html

from .pages import made_curve, made_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
PAGES = ("report", "leaderboard", "curve")
SCHEMES = ("light", "dark")
WIDTHS = (390, 768, 1280)
WAIT = 60_000
"""Milliseconds until a page counts as hung."""


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright

    # Root, as CI's container has it, has no sandbox.
    options = ["--disable-dev-shm-usage"]
    options += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of the pages, by name."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "leaderboard.html").write_text(leaderboard_html(leaderboard([_finalists(folder / "runs")])), "utf-8")
    (folder / "curve.html").write_text(curve_html(made_curve()), "utf-8")
    files = {name: folder / f"{name}.html" for name in ("leaderboard", "curve")}
    return {"report": made_report(folder) / "report.html", **files}


def _finalists(folder: Path) -> Path:
    """A finished run of four models, of which each is right on five items more than the one before."""
    folder.mkdir()
    (folder / "config.yml").touch()
    names, items = ["base", "models/a-rather-long-name-of-a-model", "two", "winner"], range(60)
    candidates = [
        Finalist(
            name, at, "winner" if name == "winner" else "parent", "linear", name, 10**at, f"2026-01-0{at + 1}T10:00"
        )
        for at, name in enumerate(names)
    ]
    columns: dict[str, list[Any]] = {
        key: [str(item) for item in items] for key in ("item", "cluster", "document", "prompt")
    }
    columns |= {"task": ["t"] * 60, "part": [""] * 60, "weight": [1.0] * 60, "question": [""] * 60}
    columns |= {str(at): [float(item < 40 + 5 * at) for item in items] for at in range(len(names))}
    task = FinalTask("t", "acc", True, 1.0, [0.25], False, True, {"code": "1"})
    Finalists(folder, About([task], "mean", candidates, 0, 3), columns).write()
    return folder


class Opened:
    """A page in the browser. None says anything on the console, or asks for anything but itself."""

    def __init__(
        self, browser: "Browser", file: Path, width: int = 1280, scheme: str = "light", **options: Any
    ) -> None:
        self.page: Page = browser.new_page(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,  # type: ignore[arg-type]
            **options,
        )
        self.file = file
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri(), timeout=WAIT)
        if options.get("java_script_enabled", True) and self.page.locator(".plot").count():
            self.page.wait_for_selector("html[data-drawn]", timeout=WAIT)

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()
        assert self.said == []
        assert self.requests == [self.file.as_uri()]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_violations(browser: "Browser", pages: dict[str, Path], name: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with Opened(browser, pages[name], scheme=scheme) as opened:
        opened.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        found = Axe().run(opened.page)
        assert found.violations_count == 0, found.generate_report()


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_pages_do_not_scroll_sideways(browser: "Browser", pages: dict[str, Path], name: str, width: int) -> None:
    with Opened(browser, pages[name], width) as opened:
        for _ in range(2):
            assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
            opened.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")


@pytest.mark.slow
def test_the_table_of_candidates_fits_a_screen_of_1280_pixels(browser: "Browser", pages: dict[str, Path]) -> None:
    with Opened(browser, pages["report"]) as opened:
        table = opened.page.locator("section[aria-labelledby=candidates] .wide")
        assert table.evaluate("element => element.scrollWidth <= element.clientWidth")


def test_every_figure_is_drawn_as_wide_as_the_page_also_where_it_is_unfolded(
    browser: "Browser", pages: dict[str, Path]
) -> None:
    with Opened(browser, pages["report"], 390) as opened:
        page = opened.page
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        page.wait_for_function(
            "[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('svg.main-svg')"
            " && plot.querySelector('svg.main-svg').getBoundingClientRect().width <= plot.clientWidth + 1"
            " && plot.clientWidth > 200)",
            timeout=WAIT,
        )
        assert page.locator(".plot").count() > 10
        assert page.locator(".plot .scatterlayer .points path, .plot .barlayer .point path").count() > 100


@pytest.mark.slow
def test_text_of_figures_follows_the_colour_scheme(browser: "Browser", pages: dict[str, Path]) -> None:
    colours = []
    for scheme in SCHEMES:
        with Opened(browser, pages["report"], scheme=scheme) as opened:
            label = opened.page.locator(".plot .xtick text").first
            colours.append(label.evaluate("element => getComputedStyle(element).fill"))
            body = opened.page.evaluate("getComputedStyle(document.body).color")
            assert colours[-1] == body
    assert colours[0] != colours[1]


@pytest.mark.slow
def test_print_shows_what_is_folded_on_light_paper(browser: "Browser", pages: dict[str, Path]) -> None:
    with Opened(browser, pages["report"], scheme="dark") as opened:
        page = opened.page
        paper = page.pdf()
        assert paper.startswith(b"%PDF")
        assert len(paper) > 50_000
        assert page.locator("details[open]").count() == 0
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.evaluate("document.querySelector('main').style.width = '650px'")  # as paper does, without a resize
        wide = "[...document.querySelectorAll('.main-svg')].filter(each => each.getBoundingClientRect().width > 651)"
        page.wait_for_function(f"{wide}.length === 0")  # a figure may be drawn at this moment
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        page.set_viewport_size({"width": 700, "height": 900})
        clipped = "[...document.querySelectorAll('.wide, pre')].filter(each => each.scrollWidth > each.clientWidth + 1)"
        assert page.evaluate(f"{clipped}.length") == 0


@pytest.mark.slow
def test_the_report_reads_without_javascript(browser: "Browser", pages: dict[str, Path]) -> None:
    with Opened(browser, pages["report"], java_script_enabled=False) as opened:
        text = opened.page.locator("main").inner_text()
        assert "it is proven better than every baseline" in text
        assert "The figures need JavaScript." in text
        assert "merge_method: linear" in text


@pytest.mark.slow
def test_recipes_are_copied(browser: "Browser", pages: dict[str, Path]) -> None:
    with Opened(browser, pages["report"]) as opened:
        button = opened.page.get_by_role("button", name="Copy recommended recipe")
        button.click()
        opened.page.context.grant_permissions(["clipboard-read"])
        assert "merge_method: linear" in opened.page.evaluate("navigator.clipboard.readText()")
        opened.page.wait_for_function(
            "document.querySelector('.copying button').textContent === 'Copied'", timeout=WAIT
        )


def test_flips_are_filtered_by_candidate_task_and_words(browser: "Browser", pages: dict[str, Path]) -> None:
    with Opened(browser, pages["report"]) as opened:
        page = opened.page

        def shown() -> list[str]:
            return page.locator("#flips .item:visible").evaluate_all("all => all.map(each => each.dataset.tags)")

        everything = shown()
        menu, task = page.locator("select").nth(0), page.locator("select").nth(1)
        words = page.get_by_role("searchbox")
        menu.select_option(index=2)
        tag = menu.input_value()
        assert tag.startswith("l")
        assert shown() == [tags for tags in everything if tag in tags.split()] != []
        task.select_option("texts")
        assert shown() == [tags for tags in everything if tag in tags.split() and "t1" in tags.split()] != []
        menu.select_option("all")
        before = len(shown())
        words.fill("NUMBER 7 text")
        assert 0 < len(shown()) < before
        texts = page.locator("#flips .item:visible").evaluate_all("all => all.map(each => each.textContent)")
        assert all("number" in text and "7" in text for text in texts)
        task.select_option("all")
        words.fill("")
        assert shown() == everything


@pytest.mark.slow
def test_flips_can_be_read_without_javascript(browser: "Browser", pages: dict[str, Path]) -> None:
    with Opened(browser, pages["report"], java_script_enabled=False) as opened:
        item = opened.page.locator("#flips .item").nth(5)
        item.locator("summary").click()
        assert "\u2713 yes" in item.inner_text()
        assert not opened.page.locator(".filters").is_visible()


@pytest.mark.slow
def test_the_leaderboard_sorts_and_filters(browser: "Browser", pages: dict[str, Path]) -> None:
    with Opened(browser, pages["leaderboard"]) as opened:
        page = opened.page

        def shown() -> list[str]:
            return page.locator("tbody tr:visible th").evaluate_all(
                "all => all.map(each => each.innerText.split('\\n')[0])"
            )

        by_rank = shown()
        page.get_by_role("button", name="parameters").click()
        assert shown() == ["base", "models/a-rather-long-name-of-a-model", "two", "runs: winner"]
        assert page.locator("th[aria-sort=ascending]").inner_text() == "parameters"
        page.get_by_role("button", name="parameters").click()
        assert shown() == ["runs: winner", "two", "models/a-rather-long-name-of-a-model", "base"]
        assert by_rank[0] == "runs: winner"
        page.get_by_role("searchbox").fill("parent LONG")
        assert shown() == ["models/a-rather-long-name-of-a-model"]
        page.get_by_role("searchbox").fill("")
        assert len(shown()) == 4

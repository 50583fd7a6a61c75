"""Takes the pictures of the documentation in Chromium.

    .venv/bin/python scripts/screenshots.py results/runs/four-languages results/runs/long results/curves/wise_ft

The first run is the demo's, the second one a longer search of the same space, as by
``mergesearch run configs/demo.yml search.trials=90 --name long``. Both are on the leaderboard. The curve is that of
``mergesearch curve examples/wise_ft.yml``.
"""

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from playwright.sync_api import sync_playwright

from mergesearch.search.across.leaderboard import leaderboard
from mergesearch.search.curve import PAGE
from mergesearch.search.report.html import FILE, rewrite_report
from mergesearch.search.report.leaderboard_html import leaderboard_html

IMAGES = Path(__file__).parents[1] / "docs" / "images"
LARGEST = 300_000
"""Bytes of a picture."""
STARTING = 6
"""Seconds in which optuna-dashboard starts, and in which its page is drawn."""


class Shot(NamedTuple):
    """A picture: of a page, on a screen of that size, from a section on; ``unfolds`` what this selector names."""

    name: str
    page: str
    width: int
    height: int
    scheme: str = "light"
    section: str = ""
    unfolds: str = ""


SHOTS = (
    Shot("report", "demo", 1280, 1560),
    Shot("report-dark", "long", 1280, 1500, "dark", "which-dimensions-matter"),
    Shot("report-search", "long", 1280, 1000, "light", "the-search"),
    Shot("report-layers", "demo", 1280, 1120, "light", "which-layers-come-from-which-model", ".heat-maps"),
    Shot("report-flips", "demo", 1280, 1120, "dark", "items-that-turn", "#flips .item:nth-child(-n+3)"),
    Shot("report-phone", "demo", 390, 1000),
    Shot("leaderboard", "leaderboard", 1280, 900),
    Shot("curve", "curve", 1280, 1240),
)


def main(demo: Path, long: Path, curve: Path) -> None:
    """Writes the pictures anew."""
    with TemporaryDirectory() as name, sync_playwright() as playwright:
        pages = {"demo": demo / FILE, "long": long / FILE, "leaderboard": Path(name) / "leaderboard.html"}
        pages["curve"] = curve / PAGE
        for run in (demo, long):
            rewrite_report(run)
        pages["leaderboard"].write_text(leaderboard_html(leaderboard([demo, long])), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for shot in SHOTS:
            _take(browser, pages[shot.page], shot)
        _take_dashboard(browser, demo)


def _take(browser: Any, page: Path, shot: Shot) -> None:
    size = {"width": shot.width, "height": shot.height}
    tab = browser.new_page(viewport=size, color_scheme=shot.scheme, device_scale_factor=1)
    tab.goto(page.resolve().as_uri())
    if tab.locator(".plot").count():
        tab.wait_for_selector("html[data-drawn]")
    if shot.unfolds:
        tab.locator(shot.unfolds).evaluate_all("all => all.forEach(each => { each.closest('details').open = true; })")
    if shot.section:
        tab.locator(f"#{shot.section}").evaluate("heading => scrollTo(0, heading.offsetTop - 16)")
    _write(tab, shot.name)


def _take_dashboard(browser: Any, run: Path) -> None:
    """The run's study in optuna-dashboard."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = Path(sys.executable).parent / "optuna-dashboard"
    server = subprocess.Popen([program, run / "study.log", "--artifact-dir", run / "artifacts", "--port", port])
    try:
        time.sleep(STARTING)
        tab = browser.new_page(viewport={"width": 1400, "height": 1000})
        tab.goto(f"http://127.0.0.1:{port}/dashboard/studies/0", wait_until="networkidle")
        time.sleep(STARTING)  # its figures move
        _write(tab, "dashboard")
    finally:
        server.kill()


def _write(tab: Any, name: str) -> None:
    file = IMAGES / f"{name}.png"
    tab.screenshot(path=file)
    tab.close()
    if file.stat().st_size > LARGEST:
        raise SystemExit(f"{file} has {file.stat().st_size:,} bytes, at most {LARGEST:,} are to be")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

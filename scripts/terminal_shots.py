"""Takes pictures of a terminal in which the demo runs, with 80 and with 120 columns, for the documentation.

    .venv/bin/pip install pyte && .venv/bin/python scripts/terminal_shots.py results/demo/demo.yml

Starts the run in a pseudo-terminal, waits until half of its trials are done, and draws the screen in Chromium.
"""

import fcntl
import html
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path
from tempfile import TemporaryDirectory

import pyte
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
ROWS = 34
DONE = re.compile(r"\b(\d+)/(\d+)\b")
STYLE = (
    "body { margin: 0; background: #11151a } "
    "pre { margin: 0; padding: 14px; font: 15px/1.3 'DejaVu Sans Mono', monospace; color: #d5dbe1; width: max-content }"
)
COLOURS = {"default": "#d5dbe1", "black": "#8b949e", "red": "#ff7b72", "green": "#7ee787", "brown": "#e3b341"}
COLOURS |= {"blue": "#79c0ff", "magenta": "#d2a8ff", "cyan": "#76e3ea", "white": "#ffffff"}


def screen_of(config: Path, columns: int, results: Path) -> pyte.Screen:
    """The screen when half of the trials are done."""
    screen = pyte.Screen(columns, ROWS)
    stream = pyte.ByteStream(screen)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    command = [sys.executable, "-m", "mergesearch", "run", str(config), "--results", str(results)]
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    try:
        while process.poll() is None and not _is_half_done(screen):
            if select.select([master], [], [], 1.0)[0]:
                stream.feed(os.read(master, 65536))
    finally:
        process.terminate()
        process.wait()
    return screen


def _is_half_done(screen: pyte.Screen) -> bool:
    lines = [line for line in screen.display if "trials" in line and "best" in line]
    found = DONE.search(lines[-1]) if lines else None
    is_scoring = any("scoring" in line for line in screen.display)
    return found is not None and is_scoring and 2 * int(found[1]) >= int(found[2])


def page_of(screen: pyte.Screen) -> str:
    """The screen as HTML."""
    lines = [_line(screen, row) for row in range(screen.lines) if screen.display[row].strip()]
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><pre>{chr(10).join(lines)}</pre>"


def _line(screen: pyte.Screen, row: int) -> str:
    spans = []
    for column in range(len(screen.display[row].rstrip())):
        character = screen.buffer[row][column]
        colour = COLOURS.get(character.fg, f"#{character.fg}" if len(character.fg) == 6 else COLOURS["default"])
        spans.append(f'<span style="color:{colour}">{html.escape(character.data)}</span>')
    return "".join(spans)


def main(config: Path) -> None:
    """Takes both pictures."""
    with TemporaryDirectory() as temporary, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for columns in (80, 120):
            page = Path(temporary) / f"{columns}.html"
            page.write_text(page_of(screen_of(config, columns, Path(temporary) / str(columns))), encoding="utf-8")
            tab = browser.new_page(viewport={"width": 200, "height": 100})
            tab.goto(page.as_uri())
            tab.locator("pre").screenshot(path=IMAGES / f"terminal-{columns}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

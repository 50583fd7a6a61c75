"""The ``mergesearch demo`` command: its folder, its config, and its progress bars."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from mergesearch.demo import make

FOLDER = Path("results/demo")


@contextmanager
def demo_config() -> Iterator[Path]:
    """The path of the demo's config, which is installed with the package."""
    with as_file(files("mergesearch.configs") / "demo.yml") as path:
        yield path


def make_with_progress(screen: Console) -> None:
    """Makes the demo in ``results/demo`` of the current folder, unless it exists, with progress bars."""
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def on_step(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total)
            progress.update(bars[name], completed=done)

        make(FOLDER, say=lambda line: screen.print(line, style="dim"), progress=on_step)

"""``mergesearch demo``: makes what is missing, with progress, and finds the config that runs it."""

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
    """The demo's config file, as installed with the package."""
    with as_file(files("mergesearch.configs") / "demo.yml") as path:
        yield path


def make_with_progress(screen: Console) -> None:
    """Makes the demo's checkpoints and tasks under ``results/demo`` of the current folder, unless they are there."""
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def step(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=total)
            progress.update(bars[stage], completed=done)

        make(FOLDER, say=lambda line: screen.print(f"[dim]{line}[/dim]"), progress=step)

"""The ``mergesearch demo`` command: its folder, its config, and its progress bars."""

from importlib.resources import files
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from mergesearch.demo import make
from mergesearch.files import write_text

FOLDER = Path("results/demo")
IN_CONFIGS = "../results/demo"
"""The folder, relative to that of the config in a checkout."""


def write_config(folder: Path = FOLDER) -> Path:
    """Writes the demo's config, which is installed with the package, beside the checkpoints of the demo."""
    text, file = (files("mergesearch.configs") / "demo.yml").read_text(encoding="utf-8"), folder / "demo.yml"
    if not file.exists():
        write_text(file, text.replace(IN_CONFIGS, "."))
    return file


def make_with_progress(screen: Console) -> None:
    """Makes the demo in ``results/demo`` of the current folder, unless it exists, with progress bars."""
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def on_step(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total)
            progress.update(bars[name], completed=done)

        make(FOLDER, say=lambda line: screen.print(line, style="dim"), progress=on_step)

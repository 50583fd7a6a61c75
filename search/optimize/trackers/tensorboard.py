"""TensorBoard: files of events in the folder ``tensorboard`` of the run, which ``tensorboard --logdir`` shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergesearch.parsing import dump_yaml
from mergesearch.search.optimize.trackers import TrackedRun, Values, numbers, texts

FOLDER = "tensorboard"


def begin(run: TrackedRun, id_: str | None) -> "TensorboardTracker":
    """See ``trackers.begin``. A run is known by its folder."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.folder / FOLDER))
    if id_ is None:
        writer.add_text("config", _preformatted(dump_yaml(dict(run.config))))
    return TensorboardTracker(writer)


class TensorboardTracker:
    """See ``Tracker``. It has no place for files: the folder of the run has them."""

    id = FOLDER

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def trial(self, step: int, values: Values) -> None:
        for name, value in numbers(values).items():
            self._writer.add_scalar(name, value, step)
        self._writer.add_text("trial", ", ".join(f"{name}: {text}" for name, text in texts(values).items()), step)
        self._writer.flush()

    def concluded(self, values: Values, files: Sequence[Path]) -> None:
        for name, value in numbers(values).items():
            self._writer.add_scalar(name, value)
        for name, text in texts(values).items():
            self._writer.add_text(name, text)
        for file in files:
            if file.suffix in (".yml", ".json"):
                self._writer.add_text(file.name, _preformatted(file.read_text(encoding="utf-8")))

    def close(self, failed: bool) -> None:  # noqa: ARG002
        self._writer.close()


def _preformatted(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"    {line}\n" for line in text.splitlines())

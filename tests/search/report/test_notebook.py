"""What a run shows in a notebook while it goes; ``tests/end_to_end/test_notebook.py`` has it in a kernel."""

from pathlib import Path
from typing import Any

import pytest

from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.report import notebook as module
from mergesearch.search.report.notebook import PLOTLY, in_notebook, notebook_progress
from mergesearch.search.run import run
from mergesearch.search.study.progress import Doing

from ..helpers import Data


class Output:
    """A cell's output, with all that it showed."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.shown = [content]

    def update(self, content: dict[str, Any], raw: bool) -> None:
        assert raw
        self.shown.append(content)


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[Output]:
    found: list[Output] = []

    def displayed(content: dict[str, Any]) -> Output:
        found.append(Output(content))
        return found[-1]

    monkeypatch.setattr(module, "_displayed", displayed)
    return found


def test_a_run(config: Data, tmp_path: Path, outputs: list[Output], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLOT_SECONDS", 0.0)
    monkeypatch.setattr(module, "DRAWING_SECONDS", 1e9)
    config["search"]["trials"] = 14
    with notebook_progress() as watcher:
        run(open_plan(Config.model_validate(config), "config"), tmp_path, watcher)
        watcher.doing(Doing("here", "<b>trial</b>", 3.0, 6, "items", left=90.0, at=4e9), [Doing("there", "waiting")])
    text, plot = outputs
    last = text.shown[-2]["text/html"]
    assert "<b>" not in last
    assert "&lt;b&gt;trial&lt;/b&gt;, 3/6 items<br>there: waiting" in last
    assert "trials 14/14; best " in text.shown[-1]["text/html"]
    assert "left" not in text.shown[-1]["text/plain"]
    counts = [
        sum(len(trace["x"]) for trace in each[PLOTLY]["data"] if trace["mode"] == "markers") for each in plot.shown
    ]
    assert counts == [*range(1, 15), 14]


def test_drawing_takes_little_time(
    config: Data, tmp_path: Path, outputs: list[Output], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLOT_SECONDS", 0.0)
    monkeypatch.setattr(module, "DRAWING_SECONDS", 1e-9)
    config["search"]["trials"] = 14
    with notebook_progress() as watcher:
        run(open_plan(Config.model_validate(config), "config"), tmp_path, watcher)
    assert len(outputs[1].shown) == 2, "the first plot, which takes more than it may, and the last one"


def test_this_is_no_notebook() -> None:
    assert not in_notebook()

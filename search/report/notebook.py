"""What a run looks like in a notebook while it goes: how far it is, and a plot of its trials, both kept up to date."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from optuna.trial import FrozenTrial

from mergesearch.search.optimize.callbacks import RunView, Watcher
from mergesearch.search.report.progress_text import ProgressText, failure_in_words
from mergesearch.search.report.sections.course import objective_by_trial
from mergesearch.search.study.progress import Doing
from mergesearch.text import LINE, as_html

PLOTLY = "application/vnd.plotly.v1+json"
"""The type by which notebooks know plotly's figures."""
PLOT_SECONDS = 2.0
"""The least time between two plots."""
DRAWING_SECONDS, DRAWING_SHARE = 0.5, 0.001
"""What all plots may take together: so long in any case, then this share of the run's time."""
HEIGHT = 360


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. Imports nothing."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


@contextmanager
def notebook_progress() -> Iterator[Watcher]:
    """A watcher that shows a run in the output of a notebook's cell. Needs IPython, which a notebook has."""
    shown = _Shown()
    yield Watcher(stage=shown.stage, begun=shown.begun, trial=shown.trial, doing=shown.doing)
    shown.end()


class _Shown:
    """An output with how far the run is, and one with the plot, once there is something to draw."""

    def __init__(self) -> None:
        self._text = ProgressText()
        self._lines: list[str] = []
        self._view: RunView | None = None
        self._plot: Any = None
        self._begun, self._last_plot, self._drawing = monotonic(), 0.0, 0.0
        self._output = _displayed({"text/html": "", "text/plain": ""})

    def stage(self, text: str) -> None:
        self._lines.append(text)
        self._update()

    def begun(self, view: RunView) -> None:
        self._view = view
        self._lines += self._text.begun(view)
        self._draw()

    def trial(self, view: RunView, trial: FrozenTrial) -> None:
        self._lines += self._text.trial(view, trial)
        if failure := failure_in_words(trial):
            self._lines.append(" ".join(failure))
        if self._may_draw:
            self._draw()

    def doing(self, now: Doing, others: Sequence[Doing]) -> None:
        """From another thread."""
        self._text.doing(now, others)
        self._update()

    def end(self) -> None:
        self._text.lines, self._text.left = (), ""
        self._draw()
        self._update()

    @property
    def _may_draw(self) -> bool:
        now = monotonic()
        allowed = max(DRAWING_SECONDS, DRAWING_SHARE * (now - self._begun))
        return now - self._last_plot >= PLOT_SECONDS and self._drawing < allowed

    def _update(self) -> None:
        text = self._text
        plain = "; ".join(filter(None, (text.trials, text.best, text.left, *text.lines)))
        self._output.update({"text/html": _page(text, self._lines), "text/plain": plain}, raw=True)

    def _draw(self) -> None:
        if self._view is None or not self._text.done:
            return
        begun = monotonic()
        drawn = objective_by_trial(self._view.study).update_layout(template="plotly_white", height=HEIGHT)
        content = {PLOTLY: json.loads(drawn.to_json(engine="json")), "text/plain": "the objective of each trial"}
        if self._plot is None:
            self._plot = _displayed(content)
        else:
            self._plot.update(content, raw=True)
        self._last_plot = monotonic()
        self._drawing += self._last_plot - begun


def _displayed(content: dict[str, Any]) -> Any:
    """A handle of what is shown, by its types, which can be changed later."""
    from IPython.display import display

    return display(content, raw=True, display_id=True)


def _page(text: ProgressText, lines: Sequence[str]) -> str:
    bar = f"<progress value={text.done} max={text.of} style='width: 14em'></progress> " if text.of else ""
    facts = "; ".join(as_html(part) for part in (text.trials, text.best, text.left) if part)
    now = "".join(f"<br>{as_html(line)}" for line in text.lines)
    if not lines:
        return f"<div>{bar}{facts}{now}</div>"
    told = "<br>".join(map(as_html, lines))
    summary = f"messages, the last one: {as_html(lines[-1], LINE)}"
    return f"<div>{bar}{facts}{now}<details><summary>{summary}</summary>{told}</details></div>"

"""Figures of a page: made by plotly, drawn by the basic bundle of plotly.js that the page brings along.

Colours of text, axes and grids are those of the page's style, light or dark. Colours of marks are fit for both.
"""

import re
from collections.abc import Sequence
from typing import Any

from mergesearch.search.statistics import Estimate
from mergesearch.text import as_html, as_line

CLASS = "plot"
"""The class of the elements that the page's script draws figures into."""
WIDTH = 22
"""The characters of a line of a label."""
LABEL = 3 * WIDTH
"""The most characters of a label."""
BLUE, GREY, PURPLE, TEAL, RED, OCHRE, GREEN = (
    "#2f7fd1",
    "#7d838c",
    "#9a6bd8",
    "#2596ad",
    "#d0524d",
    "#b0862e",
    "#2a9d66",
)
LINE = 17
"""Pixels of a line of a label."""


def label(text: object) -> str:
    """Text as a label of a figure, in lines that a telephone has room for."""
    lines = [""]
    for part in _parts(as_line(text, LABEL)):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > WIDTH:
            lines.append("")
        lines[-1] += part
    return "<br>".join(as_html(line.strip()) for line in lines)


def _parts(text: str) -> list[str]:
    """Where a label may be broken: after a space, and in a long word after a sign such as a dot or a slash."""
    words = re.split(r"(?<=\s)", text)
    parts = [part for word in words for part in (re.split(r"(?<=[./_-])", word) if len(word) > WIDTH else [word])]
    return [part[at : at + WIDTH] for part in parts for at in range(0, len(part), WIDTH)]


def rounded(value: float) -> float:
    """A number with as many digits as a figure shows."""
    return float(f"{value:.5g}")


def figure(drawn: Any, name: str, caption: str, height: int) -> str:
    """A plotly figure on the page, with its caption.

    Args:
        drawn: the figure; of traces that the basic bundle has: scatter and bar.
        name: the element's name, unique on the page, so that the same figure gives the same bytes.
        caption: says what is shown, also to those who do not see it; plain text.
        height: in pixels.
    """
    drawn.update_layout(template=_template())
    content = drawn.to_json(engine="json")
    return (
        f'<figure><div class={CLASS} id={name} role=img aria-labelledby={name}-caption style="height:{height}px">'
        f'<script type="application/json">{content}</script></div>'
        f"<figcaption id={name}-caption>{as_html(caption)}</figcaption></figure>"
    )


def _template() -> Any:
    from plotly import graph_objects as go

    clear, axis = "rgba(0,0,0,0)", {"automargin": True, "title": {"standoff": 8, "font": {"size": 13}}}
    layout = {
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "font": {"size": 13, "family": "system-ui, sans-serif"},
        "hoverlabel": {"bgcolor": "#24292f", "font": {"color": "#ffffff"}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "margin": {"t": 30, "r": 16, "b": 48, "l": 16},
        "xaxis": axis,
        "yaxis": axis,
    }
    return go.layout.Template(layout=layout)


def categories(names: Sequence[str]) -> dict[str, Any]:
    """A vertical axis with a name at each whole number, the first one on top."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [label(name) for name in names],
        "range": [len(names) - 0.5, -0.5],
        "zeroline": False,
    }


def rows_height(names: Sequence[str]) -> int:
    """Pixels that a figure with such a vertical axis needs."""
    lines = max((1 + label(name).count("<br>") for name in names), default=1)
    return 100 + max(30, LINE * lines + 4) * len(names)


def error_bar(*estimates: Estimate) -> dict[str, Any]:
    """Error bars along the horizontal axis; none where an interval is infinite."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [0.0 if e.is_unbounded else rounded(e.high - e.value) for e in estimates],
        "arrayminus": [0.0 if e.is_unbounded else rounded(e.value - e.low) for e in estimates],
        "thickness": 2,
    }

"""The figures of a page, taken from it again: what is shown elsewhere is what the page shows."""

import html
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from mergesearch.errors import UserError
from mergesearch.search.report.page.figures import CLASS, LINE

DRAWN = re.compile(
    rf'<figure><div class={CLASS} id=(?P<name>\S+)[^>]*style="height:(?P<height>\d+)px">'
    r'<script type="application/json">(?P<content>.*?)</script></div>'
    r"<figcaption[^>]*>(?P<caption>.*?)</figcaption>",
    re.DOTALL,
)
"""How ``figures.figure`` writes a figure."""
CAPTION = {"font": {"size": 13}, "x": 0, "y": 1, "xanchor": "left", "yanchor": "top", "pad": {"l": 16, "t": 20}}
"""The style of a caption as a title: from the top left on."""
TITLE = 100
"""The characters of a line of a title."""


def figures_of(page: Path) -> dict[str, Any]:
    """The plotly figures on a page, by the names of their elements, with their captions as titles.

    Raises UserError where there is no such page.
    """
    if not page.is_file():
        raise UserError(f"{page}: is lost; run the config again, which writes the report anew")
    found = DRAWN.finditer(page.read_text(encoding="utf-8"))
    return {drawn["name"]: _figure(drawn) for drawn in found}


def _figure(drawn: re.Match[str]) -> Any:
    from plotly import graph_objects as go

    lines = textwrap.wrap(html.unescape(drawn["caption"]), TITLE)
    figure = go.Figure(json.loads(drawn["content"]))
    title = {"text": "<br>".join(map(html.escape, lines)), **CAPTION}
    height = int(drawn["height"]) + 30 + LINE * len(lines)
    return figure.update_layout(title=title, height=height, margin={"t": 60 + LINE * len(lines)})

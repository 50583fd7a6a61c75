"""A whole page of HTML that needs nothing beside it: with its style, its script, and plotly where it has figures."""

import base64
import hashlib
from functools import cache
from importlib.resources import files

from mergesearch.search.report.page.figures import CLASS
from mergesearch.text import as_html

BUNDLE = "plotly-basic.min.js.gz"
"""plotly.js with scatter and bar charts alone, packed by gzip; the browser unpacks it."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
"""What the browser lets the page do: it can reach no network, whatever the page says."""
NO_SCRIPT = "<noscript><p class=note>The figures need JavaScript. The tables have their numbers.</p></noscript>"


def document(title: str, body: str) -> str:
    """The page: light or dark as the reader's system is, fit for a telephone and for print.

    ``body`` is HTML, from its ``h1`` on; ``title`` is plain text. The second line of the page has a digest of what
    follows; see ``is_whole``.
    """
    packed = f'<script type="application/gzip" id=plotly>{_bundle()}</script>' if f"class={CLASS}" in body else ""
    return _sealed(
        f'<meta name=viewport content="width=device-width, initial-scale=1">'
        f'<meta http-equiv=Content-Security-Policy content="{POLICY}">'
        f"<title>{as_html(title)}</title><style>{_asset('style.css')}</style></head>"
        f"<body><main>{body}{NO_SCRIPT if packed else ''}</main>{packed}"
        f"<script>{_asset('page.js')}</script></body></html>\n"
    )


def is_whole(page: bytes) -> bool:
    """Whether a page is what ``document`` gave: its digest is that of its content."""
    rest = page[len(_sealed("").encode()) :].decode(errors="replace")
    return page == _sealed(rest).encode()


def _sealed(rest: str) -> str:
    digest = hashlib.sha256(rest.encode()).hexdigest()
    return f"<!doctype html><html lang=en><head><meta charset=utf-8><meta name=digest content={digest}>\n{rest}"


@cache
def _asset(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


@cache
def _bundle() -> str:
    return base64.b64encode((files(__package__) / BUNDLE).read_bytes()).decode()

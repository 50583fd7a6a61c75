"""What there was to win after the baselines, and what the test items can prove."""

from mergesearch.search.report.page.elements import bullets, section
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.result import Verdict


def prospects(_: RunStore, verdict: Verdict) -> str:
    """The lines that the search says after its baselines."""
    lines = [line.strip() for line in verdict.prospects.in_words] if verdict.prospects else []
    return section("What there was to win after the baselines, on the search items", bullets(lines))

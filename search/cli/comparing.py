"""Commands across runs and models: compare, leaderboard."""

from pathlib import Path
from typing import Any

import click

from mergesearch.search.cli.common import command, print_text, tell


@command("mergesearch compare logs/one logs/other --flips 3")
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--candidate", type=click.Choice(["recommended", "winner"]), default="recommended", help="Of runs, which."
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Of logs, a metric [each task's first].")
@click.option("--group", metavar="FIELD", help="Of logs, a field of the documents; equal values count once.")
@click.option("--any-prompt", is_flag=True, help="Compare items that the two were asked in other words, too.")
@click.option("--flips", type=click.IntRange(min=0), default=0, help="Show so many items that one wins and one loses.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv", "md"]), default="table", show_default=True)
def compare(a: str, b: str, config: Path | None, flips: int, form: str, **options: Any) -> None:
    """Compare two candidates on the same items: paired differences by task, with intervals and p.

    A and B are finished runs, folders with samples_*.jsonl of `lm_eval --log_samples`, or models (checkpoints, recipes,
    names on the hub) that are scored on the tasks of CONFIG.
    """
    from mergesearch.search.compare import compare as make
    from mergesearch.search.report.comparison_page import comparison_text, print_comparison
    from mergesearch.search.report.screen import console
    from mergesearch.search.report.steps_line import shown_steps

    with shown_steps(console(err=True)):
        found = make(a, b, config, say=tell, **options)
    if form == "table":
        print_comparison(console(), found, flips)
    else:
        print_text(comparison_text(found, form, flips))


@command("mergesearch leaderboard results/runs --format html > leaderboard.html")
@click.argument("results", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json", "html", "md"]), default="table", show_default=True
)
def leaderboard(results: tuple[Path, ...], form: str) -> None:
    """Rank the winners, baselines and parents of all runs.

    RESULTS are runs, or folders with runs [results/runs]. Equal models are one row, and runs that measured other items,
    prompts or versions of tasks are other tables. Rows that a paired test does not separate share a rank.
    """
    from mergesearch.search.across.leaderboard import leaderboard as make
    from mergesearch.search.config import RESULTS
    from mergesearch.search.report.leaderboard_html import leaderboard_html
    from mergesearch.search.report.leaderboard_page import leaderboard_text, print_leaderboard
    from mergesearch.search.report.screen import console

    found = make(results or [RESULTS])
    if form == "table":
        print_leaderboard(console(), found)
    else:
        print_text(leaderboard_html(found) if form == "html" else leaderboard_text(found, form))

"""Commands that look at runs without loading a model: list, show, status."""

from pathlib import Path

import click

from mergesearch.search.cli.common import command, results_option


@command("mergesearch list", "list")
@results_option
def list_runs(results: Path) -> None:
    """List the runs: state, trials, and what is recommended."""
    from mergesearch.search.report.runs_page import print_runs, runs_in
    from mergesearch.search.report.screen import console

    print_runs(console(), runs_in(results), results)


@command("mergesearch show four-languages")
@click.argument("run")
@results_option
def show(run: str, results: Path) -> None:
    """Show a run: its verdict, or how far it is, and its files.

    RUN is the name of a run, or its folder. Nothing is loaded or scored.
    """
    from mergesearch.search.report.runs_page import find_run, print_run
    from mergesearch.search.report.screen import console

    print_run(console(), find_run(run, results))


@command("mergesearch status")
@click.argument("run", required=False)
@results_option
def status(run: str | None, results: Path) -> None:
    """Show how far runs are: those at work or stopped, or RUN.

    RUN is the name of a run, or its folder.
    """
    from mergesearch.search.report.runs_page import find_run, print_status, runs_in
    from mergesearch.search.report.screen import console

    runs = [find_run(run, results)] if run else [each for each in runs_in(results) if each.state != "finished"]
    print_status(console(), runs)

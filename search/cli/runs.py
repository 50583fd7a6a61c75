"""Commands that look at runs, or stop them, without loading a model: list, show, status, stop."""

from pathlib import Path

import click

from mergesearch.search.cli.common import command, echo, results_option
from mergesearch.search.cli.completion import run_names


@command("mergesearch list", "list")
@results_option
def list_runs(results: Path) -> None:
    """List the runs: state, trials, and what is recommended."""
    from mergesearch.search.report.runs_page import print_runs, runs_in
    from mergesearch.search.report.screen import console

    print_runs(console(), runs_in(results), results)


@command("mergesearch show four-languages")
@click.argument("run", shell_complete=run_names)
@click.option("--layers", is_flag=True, help="Show which layers of its models come from which model instead.")
@click.option("--report", is_flag=True, help="Write its report.html anew first, as this version makes it.")
@results_option
def show(run: str, layers: bool, report: bool, results: Path) -> None:
    """Show a run: its verdict, or how far it is, and its files.

    RUN is the name of a run, or its folder. Nothing is loaded or scored.
    """
    from mergesearch.search.report.layers_page import print_layers
    from mergesearch.search.report.runs_page import find_run, print_run
    from mergesearch.search.report.screen import console
    from mergesearch.search.verdict.layers import read_layers

    found = find_run(run, results)
    if report:
        from mergesearch.search.report.html import rewrite_report

        rewrite_report(found.folder)
    if layers:
        print_layers(console(), read_layers(found.folder))
    else:
        print_run(console(), found)


@command("mergesearch status")
@click.argument("run", required=False, shell_complete=run_names)
@results_option
def status(run: str | None, results: Path) -> None:
    """Show how far runs are: those at work or stopped, or RUN.

    RUN is the name of a run, or its folder.
    """
    from mergesearch.search.report.runs_page import find_run, print_status, runs_in
    from mergesearch.search.report.screen import console

    runs = [find_run(run, results)] if run else [each for each in runs_in(results) if each.state != "finished"]
    print_status(console(), runs)


@command("mergesearch stop four-languages")
@click.argument("run", shell_complete=run_names)
@results_option
def stop(run: str, results: Path) -> None:
    """Ask all workers of a run to stop, each after its trial.

    RUN is the name of a run, or its folder. The command that began it goes on with it.
    """
    from mergesearch.search.report.runs_page import find_run
    from mergesearch.search.study.stop import ask_to_stop

    workers = ask_to_stop(find_run(run, results).folder)
    for worker in workers:
        echo(f"{worker}: stops after its trial")
    if not workers:
        echo(f"{run}: nobody works on it")

"""The command demo."""

import click

from mergesearch.search.cli.common import command, quiet_option, verbose_option
from mergesearch.search.cli.running import run_file


@command("mergesearch demo")
@click.option("--trials", type=click.IntRange(min=1), help="Number of trials.")
@verbose_option
@quiet_option
def demo(trials: int | None, verbose: bool, quiet: bool) -> None:
    """Train four small expert models, search for their best merge, and judge it.

    Trains a base and experts of Python, C++, English and YAML in a few minutes (kept under results/demo for later
    runs), then runs results/demo/demo.yml, which may be changed.
    """
    from mergesearch.demo.command import make_with_progress, write_config
    from mergesearch.search.report.screen import console

    make_with_progress(console())
    run_file(write_config(), {"trials": trials, "verbose": verbose, "quiet": quiet}, None)

"""What the shell offers for an argument when Tab is pressed."""

from pathlib import Path

import click


def method_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """The merge methods that begin so."""
    from mergesearch.merge_ops.methods import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


def run_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The runs that begin so, the last one first, in the folder that --results names."""
    from mergesearch.search.report.runs_page import runs_in

    results = Path(context.params.get("results") or "results/runs")
    return [run.folder.name for run in runs_in(results) if run.folder.name.startswith(incomplete)]

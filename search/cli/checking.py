"""Commands that check a config and score models: check, eval, curve."""

import json
from pathlib import Path

import click

from mergesearch.search.cli.common import command, echo, opened_config, print_text, tell, trust_option, values_argument


@command("mergesearch check configs/demo.yml")
@click.argument("config", type=click.Path(path_type=Path))
@values_argument
@click.option("--measure", is_flag=True, help="Build candidates and score more items to estimate the time better.")
@trust_option
def check(config: Path, values: tuple[str, ...], measure: bool, trust: bool) -> None:
    """Check a config without running it.

    Checks keys, paths, tensors, method parameters and tasks of CONFIG, loads the model, and scores a few items with it:
    what is ready here runs. Shows the dimensions, which samplers fit them, and an estimate of time and memory.
    """
    from mergesearch.search.candidates.plan import open_plan
    from mergesearch.search.optimize.trackers import check_installed
    from mergesearch.search.rehearsal import expected_cost
    from mergesearch.search.report.console import print_plan
    from mergesearch.search.report.screen import console
    from mergesearch.search.report.steps_line import shown_steps

    with opened_config(config, {"trust": trust, "values": values}) as opened:
        check_installed(opened.track)
        plan = open_plan(opened, str(config))
        with shown_steps(console(err=True)):
            cost = expected_cost(plan, measure, echo)
        print_plan(console(), plan, cost)
    echo(f"{config}: ready to run")


@command("mergesearch eval merged configs/demo.yml --json", "eval")
@click.argument("model", type=click.Path())
@click.argument("config", type=click.Path(path_type=Path))
@values_argument
@click.option("--json", "as_json", is_flag=True, help='Print {"tasks": {TASK: {METRIC: value}}}.')
@trust_option
def evaluate(model: str, config: Path, values: tuple[str, ...], as_json: bool, trust: bool) -> None:
    """Score a model on the tasks of a config.

    MODEL is a checkpoint, a name on the hub, or the file of a recipe. The items of CONFIG's tasks are scored, search
    and test items alike. Prints the tasks' values with 95 % intervals.
    """
    from mergesearch.search.evaluate import evaluate_model
    from mergesearch.search.report.screen import console
    from mergesearch.search.report.steps_line import shown_steps

    with opened_config(config, {"trust": trust, "values": values}) as opened, shown_steps(console(err=True)):
        found = evaluate_model(model, opened, str(config), tell)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        echo(str(found))


def _numbers(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[float, ...]:
    """The numbers between commas."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"found {text!r}, expected numbers with commas between them") from None


@command("mergesearch curve examples/wise_ft.yml --points 11")
@click.argument("config", type=click.Path(path_type=Path))
@values_argument
@click.option("--points", type=click.IntRange(min=2, max=1000), default=11, show_default=True, help="Number of points.")
@click.option("--at", callback=_numbers, metavar="V1,V2,...", help="The hole's values, instead of even points.")
@click.option("--name", help="Name of the curve [the config's output.name].")
@click.option("--json", "as_json", is_flag=True, help="Print the curve as JSON.")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results/curves"),
    show_default=True,
    help="Folder of curves.",
)
@trust_option
def curve(  # noqa: PLR0913, PLR0917 - the options of a command
    config: Path,
    values: tuple[str, ...],
    points: int,
    at: tuple[float, ...],
    name: str | None,
    as_json: bool,
    results: Path,
    trust: bool,
) -> None:
    """Score a path of merges, such as from a base to its fine-tune, at several points.

    The recipe of CONFIG has one hole, {search: [LOW, HIGH]}, which is the path. Scores the search items alone; points
    that were scored before are read. Prints each task's values and differences to the ends with 95 % intervals, and
    writes them to NAME/curve.json and, with figures, to NAME/curve.html.
    """
    from mergesearch.search.curve import PAGE, score_curve
    from mergesearch.search.report.curve_page import print_curve
    from mergesearch.search.report.screen import console
    from mergesearch.search.report.steps_line import shown_steps

    overrides = {"trust": trust, "values": values, "name": name}
    with opened_config(config, overrides) as opened, shown_steps(console(err=True)):
        found = score_curve(opened, str(config), points, at, results, tell)
    if as_json:
        print_text(json.dumps(found.to_json(), indent=2) + "\n")
        return
    print_curve(console(), found)
    echo(str(results / found.name / PAGE))

"""Commands that check a config and score a model: check, eval."""

import json
from pathlib import Path

import click

from mergesearch.search.cli.common import command, echo, opened_config, tell, trust_option, values_argument


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

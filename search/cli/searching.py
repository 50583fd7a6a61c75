"""Commands that score models: run, soup, check, eval."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergesearch.errors import UserError
from mergesearch.files import ended_by_exception
from mergesearch.search.cli.common import (
    command,
    echo,
    opened_config,
    quiet_option,
    tell,
    trust_option,
    values_argument,
    verbose_option,
)

if TYPE_CHECKING:
    from mergesearch.search.config import Config


@command("mergesearch run configs/demo.yml search.trials=100")
@click.argument("config", type=click.Path(path_type=Path))
@values_argument
@click.option("--name", help="Name of the run, and of its folder.")
@click.option("--trials", type=click.IntRange(min=1), help="Number of trials in all.")
@click.option("--timeout", metavar="TIME", help="Time limit of the search, e.g. 2h30m.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder that holds the runs [results/runs].")
@click.option("--storage", metavar="URL", help="Database URL of the study, e.g. sqlite:///study.db.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of all random choices.")
@trust_option
@verbose_option
@quiet_option
def run(config: Path, results: Path | None, **overrides: Any) -> None:
    """Run a search, or resume it.

    CONFIG has a recipe with holes, the tasks and the budget; values such as search.trials=200 override it. Writes a
    report, recipes and the recommended model to results/runs/NAME. Ctrl-C stops the run; the same command goes on with
    it, or joins it as another worker: start it once for each GPU, or on hosts that share the results folder.
    """
    run_file(config, overrides, results)


@command("mergesearch soup configs/soup.yml")
@click.argument("config", type=click.Path(path_type=Path))
@values_argument
@click.option("--name", help="Name of the run, and of its folder.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder that holds the runs [results/runs].")
@click.option("--storage", metavar="URL", help="Database URL of the study, e.g. sqlite:///study.db.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of all random choices.")
@trust_option
@verbose_option
@quiet_option
def soup(config: Path, results: Path | None, **overrides: Any) -> None:
    """Average checkpoints of training runs, or resume that.

    The section `soup` of CONFIG names the checkpoints and the kinds of soup: uniform, greedy, pruned, learned. Writes
    the same files as `mergesearch run`; the verdict compares the best soup with the best single model.
    """
    run_file(config, overrides, results, section="soup")


def run_file(file: Path, overrides: dict[str, Any], results: Path | None, section: str = "recipe") -> None:
    with opened_config(file, overrides) as config:
        if section == "soup" and config.soup is None:
            raise UserError(f"{file}: soup: is missing; use `mergesearch run` for a config with a recipe")
        _run_config(config, file, results, overrides["verbose"], overrides["quiet"])


def _run_config(config: "Config", file: Path, results: Path | None, verbose: bool, quiet: bool) -> None:
    from mergesearch.search import run as runner
    from mergesearch.search.candidates.plan import open_plan
    from mergesearch.search.config import RESULTS
    from mergesearch.search.optimize.callbacks import QUIET
    from mergesearch.search.report.console import shown_progress
    from mergesearch.search.report.screen import console
    from mergesearch.search.report.verdict_page import print_verdict

    screen, folder = console(), (results or RESULTS) / config.output.name
    if not quiet:
        screen.print(f"checking {file}", style="dim")
    try:
        plan = open_plan(config, str(file))
        with ended_by_exception(), nullcontext(QUIET) if quiet else shown_progress(screen, verbose) as watcher:
            verdict = runner.run(plan, folder.parent, watcher)
    except KeyboardInterrupt:
        click.echo(f"\nStopped. All finished trials are kept in {folder}; the same command resumes the run.", err=True)
        raise click.exceptions.Exit(130) from None
    if quiet:
        lines = [verdict.sentence, str(folder / "recommended.yml")]
    else:
        print_verdict(screen, verdict)
        lines = [
            f"recommended, {verdict.recommended}: {folder / 'recommended.yml'}",
            f"the best of the search, {verdict.winner.name}: {folder / 'best.yml'}",
            f"report: {folder / 'report.html'}",
        ]
    for line in lines:
        screen.print(line, soft_wrap=True)  # a path is copied as a whole


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
    from mergesearch.search.rehearsal import expected_cost
    from mergesearch.search.report.console import print_plan
    from mergesearch.search.report.screen import console

    with opened_config(config, {"trust": trust, "values": values}) as opened:
        plan = open_plan(opened, str(config))
        print_plan(console(), plan, expected_cost(plan, measure, echo))
    echo(f"{config}: ready to run")


@command("mergesearch eval merged configs/demo.yml --json", "eval")
@click.argument("model")
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

    with opened_config(config, {"trust": trust, "values": values}) as opened:
        found = evaluate_model(model, opened, str(config), tell)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        echo(str(found))

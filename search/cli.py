"""The command line. Each command imports what it needs when it runs, so that ``--help`` is fast."""

import gc
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mergesearch.errors import UserError, in_words
from mergesearch.files import ended_by_exception
from mergesearch.foreign import other_code
from mergesearch.text import SCREEN, as_line, print_anything, shown
from mergesearch.trust import trust_code

if TYPE_CHECKING:
    from mergesearch.search.config import Config

CommandFunction = Callable[..., None]
_verbose = click.option("--verbose", "-v", is_flag=True, help="Print a line for each trial.")
_quiet = click.option("--quiet", "-q", is_flag=True, help="Print the verdict's sentence and its recipe alone.")
COLLECTED = 50_000, 20, 20
"""When Python looks for garbage: 70 times later than by itself. It finds none while torch and others are imported; a
small merge takes 1.8 s instead of 1.9."""
_values = click.argument("values", nargs=-1, metavar="[KEY=VALUE]...")
_trust = click.option(
    "--trust", is_flag=True, help="Allow code that tasks (!function) and merge methods (file.py:NAME) bring along."
)


def _example(text: str) -> dict[str, Any]:
    return {"epilog": f"Example: {text}", "context_settings": {"max_content_width": 100}}


def _user_errors(command: CommandFunction) -> CommandFunction:
    """Ends a command with exit code 2 and without a traceback on UserError, and on errors of the file system.

    Each problem is one line, whatever is in it.
    """

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        print_anything()
        try:
            with other_code(f"mergesearch {command.__name__}"):
                command(*args, **kwargs)
        except UserError as error:
            _end(*error.problems)
        except BrokenPipeError:
            raise  # click ends without a word where nobody reads
        except OSError as error:
            _end(in_words(error) if error.filename is None else f"{error.filename}: {error.strerror}")

    return wrapped


def _echo(text: str, err: bool = False) -> None:
    """Prints text that may quote other people."""
    click.echo(shown(text, 5 * SCREEN), err=err)


_tell = partial(_echo, err=True)


def _print(text: str) -> None:
    """Prints text for other programs, whose parts are fit to be printed."""
    click.echo(text, nl=False)


@contextmanager
def _opened(file: Path, overrides: dict[str, Any]) -> "Iterator[Config]":
    """The config. Within the context, its code is told before it runs, and runs where the config trusts it."""
    from mergesearch.search.problem.problem import read_config

    with trust_code(False, _tell):
        config = read_config(file, **overrides)
        with trust_code(config.trust):
            yield config


def _end(*problems: str) -> NoReturn:
    for problem in problems:
        _echo(f"error: {as_line(problem)}", err=True)
    sys.exit(2)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mergesearch")
def main() -> None:
    """Search for the best merge of language models, and prove it on items that the search did not use.

    \b
    Start:   mergesearch demo
    Then:    mergesearch check my.yml && mergesearch run my.yml
    """
    gc.set_threshold(*COLLECTED)


@main.command(**_example("mergesearch demo"))
@click.option("--trials", type=click.IntRange(min=1), help="Number of trials.")
@_verbose
@_quiet
@_user_errors
def demo(trials: int | None, verbose: bool, quiet: bool) -> None:
    """Train four small expert models, search for their best merge, and judge it.

    Trains a base and experts of Python, C++, English and YAML in a few minutes (kept under results/demo for later
    runs), then runs configs/demo.yml.
    """
    from mergesearch.demo.command import demo_config, make_with_progress
    from mergesearch.search.report.screen import console

    make_with_progress(console())
    with demo_config() as config:
        _run(config, {"trials": trials, "verbose": verbose, "quiet": quiet}, None)


@main.command(**_example("mergesearch run configs/demo.yml search.trials=100"))
@click.argument("config", type=click.Path(path_type=Path))
@_values
@click.option("--name", help="Name of the run, and of its folder.")
@click.option("--trials", type=click.IntRange(min=1), help="Number of trials in all.")
@click.option("--timeout", metavar="TIME", help="Time limit of the search, e.g. 2h30m.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder that holds the runs [results/runs].")
@click.option("--storage", metavar="URL", help="Database URL of the study, e.g. sqlite:///study.db.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of all random choices.")
@_trust
@_verbose
@_quiet
@_user_errors
def run(config: Path, results: Path | None, **overrides: Any) -> None:
    """Run a search, or resume it.

    CONFIG has a recipe with holes, the tasks and the budget; values such as search.trials=200 override it. Writes a
    report, recipes and the recommended model to results/runs/NAME. Ctrl-C stops the run; the same command goes on with
    it, or joins it as another worker: start it once for each GPU, or on hosts that share the results folder.
    """
    _run(config, overrides, results)


@main.command(**_example("mergesearch soup configs/soup.yml"))
@click.argument("config", type=click.Path(path_type=Path))
@_values
@click.option("--name", help="Name of the run, and of its folder.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder that holds the runs [results/runs].")
@click.option("--storage", metavar="URL", help="Database URL of the study, e.g. sqlite:///study.db.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of all random choices.")
@_trust
@_verbose
@_quiet
@_user_errors
def soup(config: Path, results: Path | None, **overrides: Any) -> None:
    """Average checkpoints of training runs, or resume that.

    The section `soup` of CONFIG names the checkpoints and the kinds of soup: uniform, greedy, pruned, learned. Writes
    the same files as `mergesearch run`; the verdict compares the best soup with the best single model.
    """
    _run(config, overrides, results, section="soup")


def _run(file: Path, overrides: dict[str, Any], results: Path | None, section: str = "recipe") -> None:
    with _opened(file, overrides) as config:
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


@main.command(**_example("mergesearch remerge results/runs/demo --out next.yml"))
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The config to write, e.g. next.yml.")
@click.option("--top", default=4, show_default=True, type=click.IntRange(min=2), help="Number of merges.")
@_user_errors
def remerge(runs: tuple[Path, ...], out: Path, top: int) -> None:
    """Make the best merges of finished runs the models of a new search.

    RUNS are folders such as results/runs/NAME, with the same tasks and split. Writes the merges into a folder beside
    the config OUT, which has the tasks and the split of the first run, so that its test items stay unseen. The recipes
    that the next run writes are made of the first checkpoints alone.
    """
    from mergesearch.search.remerge import remerge as make

    make(runs, out, top, _echo)
    _echo(f"wrote {out}; next: mergesearch run {out}")


@main.command(**_example("mergesearch merge results/runs/python-cpp/best.yml merged"))
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--allow-nan", is_flag=True, help="Merge tensors with NaN or infinite values too.")
@click.option("--verify", is_flag=True, help="Read the written tensors back from the disk, and compare them.")
@_trust
@_user_errors
def merge(recipe: Path, out: Path, allow_nan: bool, verify: bool, trust: bool) -> None:
    """Merge models by a recipe into a new folder.

    RECIPE is a file in mergekit's YAML format. OUT must be empty or not exist. Paths in the recipe are relative to the
    current folder.
    """
    from mergesearch.merge_ops.engine.documents import merge_file
    from mergesearch.merge_ops.engine.options import MergeOptions

    options = MergeOptions(_echo, lambda line: _tell(f"warning: {line}"), allow_nan, verify)
    with trust_code(trust, _tell):
        merge_file(recipe, out, options)
    _echo(f"wrote {out}")


@main.command("eval", **_example("mergesearch eval merged configs/demo.yml --json"))
@click.argument("model")
@click.argument("config", type=click.Path(path_type=Path))
@_values
@click.option("--json", "as_json", is_flag=True, help='Print {"tasks": {TASK: {METRIC: value}}}.')
@_trust
@_user_errors
def evaluate(model: str, config: Path, values: tuple[str, ...], as_json: bool, trust: bool) -> None:
    """Score a model on the tasks of a config.

    MODEL is the folder of a checkpoint. The items of CONFIG's tasks are scored, search and test items alike.
    """
    from mergesearch.search.evaluate import evaluate_model

    with _opened(config, {"trust": trust, "values": values}) as opened:
        found = evaluate_model(model, opened, str(config), _tell)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for task, metrics in found["tasks"].items():
        for metric, value in metrics.items():
            _echo(f"{task:<24} {metric:<16} {value:.4f}")


@main.command(**_example("mergesearch compare logs/one logs/other --flips 3"))
@click.argument("a")
@click.argument("b")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--candidate", type=click.Choice(["recommended", "winner"]), default="recommended", help="Of runs, which."
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Of logs, a metric [each task's first].")
@click.option("--group", metavar="FIELD", help="Of logs, a field of the documents; equal values count once.")
@click.option("--any-prompt", is_flag=True, help="Compare items that the two were asked in other words, too.")
@click.option("--flips", type=click.IntRange(min=0), default=0, help="Show so many items that one wins and one loses.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv", "md"]), default="table", show_default=True)
@_user_errors
def compare(a: str, b: str, config: Path | None, flips: int, form: str, **options: Any) -> None:
    """Compare two candidates on the same items: paired differences by task, with intervals and p.

    A and B are finished runs, folders with samples_*.jsonl of `lm_eval --log_samples`, or models (checkpoints, recipes,
    names on the hub) that are scored on the tasks of CONFIG.
    """
    from mergesearch.search.compare import compare as make
    from mergesearch.search.report.comparison_page import comparison_text, print_comparison
    from mergesearch.search.report.screen import console

    found = make(a, b, config, say=_tell, **options)
    if form == "table":
        print_comparison(console(), found, flips)
    else:
        _print(comparison_text(found, form, flips))


@main.command(**_example("mergesearch leaderboard results/runs --format html > leaderboard.html"))
@click.argument("results", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json", "html", "md"]), default="table", show_default=True
)
@_user_errors
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
        _print(leaderboard_html(found) if form == "html" else leaderboard_text(found, form))


@main.command(**_example("mergesearch check configs/demo.yml"))
@click.argument("config", type=click.Path(path_type=Path))
@_values
@click.option("--measure", is_flag=True, help="Build candidates and score more items to estimate the time better.")
@_trust
@_user_errors
def check(config: Path, values: tuple[str, ...], measure: bool, trust: bool) -> None:
    """Check a config without running it.

    Checks keys, paths, tensors, method parameters and tasks of CONFIG, loads the model, and scores a few items with it:
    what is ready here runs. Shows the dimensions, which samplers fit them, and an estimate of time and memory.
    """
    from mergesearch.search.candidates.plan import open_plan
    from mergesearch.search.rehearsal import expected_cost
    from mergesearch.search.report.console import print_plan
    from mergesearch.search.report.screen import console

    with _opened(config, {"trust": trust, "values": values}) as opened:
        plan = open_plan(opened, str(config))
        print_plan(console(), plan, expected_cost(plan, measure, _echo))
    _echo(f"{config}: ready to run")


@main.command(**_example("mergesearch methods ties"))
@click.argument("name", required=False)
@_trust
@_user_errors
def methods(name: str | None, trust: bool) -> None:
    """List the merge methods, or describe one.

    With NAME: formula, paper, parameters with defaults and ranges for a search, and an example.
    """
    from mergesearch.merge_ops.methods import METHODS, find_method
    from mergesearch.search.report.methods_page import method_page, methods_table

    with trust_code(trust, _tell):
        click.echo(method_page(find_method(name)) if name else methods_table(METHODS))


_results = click.option(
    "--results",
    default=Path("results/runs"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of runs.",
)


@main.command("list", **_example("mergesearch list"))
@_results
@_user_errors
def list_runs(results: Path) -> None:
    """List the runs: state, trials, and what is recommended."""
    from mergesearch.search.report.runs_page import print_runs, runs_in
    from mergesearch.search.report.screen import console

    print_runs(console(), runs_in(results), results)


@main.command(**_example("mergesearch show four-languages"))
@click.argument("run")
@_results
@_user_errors
def show(run: str, results: Path) -> None:
    """Show a run: its verdict, or how far it is, and its files.

    RUN is the name of a run, or its folder. Nothing is loaded or scored.
    """
    from mergesearch.search.report.runs_page import find_run, print_run
    from mergesearch.search.report.screen import console

    print_run(console(), find_run(run, results))


@main.command(**_example("mergesearch status"))
@click.argument("run", required=False)
@_results
@_user_errors
def status(run: str | None, results: Path) -> None:
    """Show how far runs are: those at work or stopped, or RUN.

    RUN is the name of a run, or its folder.
    """
    from mergesearch.search.report.runs_page import find_run, print_status, runs_in
    from mergesearch.search.report.screen import console

    runs = [find_run(run, results)] if run else [each for each in runs_in(results) if each.state != "finished"]
    print_status(console(), runs)

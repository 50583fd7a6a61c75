"""Commands that search: run, soup."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergesearch.errors import UserError
from mergesearch.files import ended_by_exception
from mergesearch.search.cli.common import (
    command,
    opened_config,
    quiet_option,
    tell,
    trust_option,
    values_argument,
    verbose_option,
)

if TYPE_CHECKING:
    from mergesearch.say import Say
    from mergesearch.search.config import Config
    from mergesearch.search.optimize.crew import Post

WORKERS = click.IntRange(min=1)


def _workers(context: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    """A number of workers, or auto."""
    return value if value in (None, "auto") else int(WORKERS(value, parameter, context))


workers_option = click.option(
    "--workers", metavar="N|auto", callback=_workers, help="How many workers; auto: one for each GPU."
)


@command("mergesearch run configs/demo.yml search.trials=100")
@click.argument("config", type=click.Path(path_type=Path))
@values_argument
@click.option("--name", help="Name of the run, and of its folder.")
@click.option("--trials", type=click.IntRange(min=1), help="Number of trials in all.")
@click.option("--timeout", metavar="TIME", help="Time limit of the search, e.g. 2h30m.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder that holds the runs [results/runs].")
@click.option("--storage", metavar="URL", help="Database URL of the study, e.g. sqlite:///study.db.")
@click.option("--artifacts", metavar="URL", help="Folder or bucket of its files, beside PostgreSQL.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of all random choices.")
@click.option("--track", multiple=True, metavar="TRACKER", help="A tracker to tell of it, e.g. wandb.")
@workers_option
@click.option("--ray", metavar="ADDRESS", help="Workers on Ray: auto, HOST:PORT or local.")
@click.option("--member", metavar="NAME", hidden=True)
@trust_option
@verbose_option
@quiet_option
def run(config: Path, results: Path | None, ray: str | None, **overrides: Any) -> None:
    """Run a search, or resume it.

    CONFIG has a recipe with holes, tasks and budget; KEY=VALUE overrides it. Ctrl-C stops the run; the same command
    goes on with it, or joins it.
    """
    run_file(config, overrides, results, ray=ray)


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


def run_file(
    file: Path, overrides: dict[str, Any], results: Path | None, section: str = "recipe", ray: str | None = None
) -> None:
    from mergesearch.search.config import RESULTS

    with opened_config(file, overrides) as config:
        if section == "soup" and config.soup is None:
            raise UserError(f"{file}: soup: is missing; use `mergesearch run` for a config with a recipe")
        member = overrides.get("member")
        quiet = bool(overrides["quiet"] or member)
        run = Run(config, member or str(file), results or RESULTS, bool(overrides["verbose"]), quiet)
        if member:
            run.as_member()
        elif ray is not None:
            run.on_ray(ray)
        else:
            run.here()


@dataclass(frozen=True)
class Run:
    """A run as a command does it. ``called``: what messages call the config.

    ``without``: of a run whose files are elsewhere, the beginnings of the names of those that do not come here.
    """

    config: "Config"
    called: str
    results: Path
    verbose: bool
    quiet: bool
    without: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.results / self.config.output.name

    def as_member(self) -> None:
        """As one of the workers that a command has started."""
        from mergesearch.search.optimize.crew import follow_crew

        follow_crew()
        with self._resumable():
            self._alone()

    def here(self) -> None:
        """By this process, or by the workers that it starts; and prints the verdict."""
        from mergesearch.search.crew_run import crew_of
        from mergesearch.search.run import follower

        crew = crew_of(self.config)
        with self._resumable(), follower(self.config, self.folder, self.without):
            if len(crew) > 1:
                self._by(crew)
            else:
                self._alone()
        self._print_end()

    @contextmanager
    def _resumable(self) -> Iterator[None]:
        """Ends the command with what an interrupted run leaves."""
        try:
            with ended_by_exception():
                yield
        except KeyboardInterrupt:
            kept = f"All finished trials are kept in {self.folder}; the same command resumes the run."
            click.echo(f"\nStopped. {kept}", err=True)
            raise click.exceptions.Exit(130) from None

    def _alone(self) -> None:
        from mergesearch.search import run as runner
        from mergesearch.search.candidates.plan import open_plan
        from mergesearch.search.optimize.callbacks import QUIET
        from mergesearch.search.report.console import shown_progress
        from mergesearch.search.report.screen import console

        screen = console()
        if not self.quiet:
            screen.print(f"checking {self.called}", style="dim")
        plan = open_plan(self.config, self.called)
        with nullcontext(QUIET) if self.quiet else shown_progress(screen, self.verbose) as watcher:
            runner.work_here(plan, self.folder, watcher)

    def _by(self, crew: "Sequence[Post]") -> None:
        from mergesearch.search.crew_run import run_crew

        places = Counter(post.place for post in crew)
        where = ", ".join(f"{count} on {place}" for place, count in places.items())
        with self._screen(f"{len(crew)} workers: {where}") as (say, look):
            run_crew(self.config, self.called, self.results, crew, say, look)

    def on_ray(self, address: str) -> None:
        """By workers on a Ray cluster; and prints the verdict."""
        from mergesearch.search.on_ray import run_on_ray

        if self.config.search.artifacts:
            raise UserError(
                "search.artifacts: found beside --ray, whose coordinator keeps the run's files; leave one out"
            )
        with self._resumable(), self._screen(f"workers on Ray, {address}") as (say, look):
            run_on_ray(self.config, self.called, self.results, address, say, look)
        self._print_end()

    @contextmanager
    def _screen(self, text: str) -> "Iterator[tuple[Say, Callable[[], None]]]":
        from mergesearch.search.report.crew_screen import shown_crew
        from mergesearch.search.report.screen import console

        if self.quiet:
            yield tell, lambda: None
            return
        screen = console()
        screen.print(text, style="dim")
        with shown_crew(screen, self.folder, self.verbose) as shown:
            yield shown

    def _print_end(self) -> None:
        from mergesearch.search.report.runs_page import RunState
        from mergesearch.search.report.screen import console
        from mergesearch.search.report.verdict_page import print_verdict

        screen, verdict = console(), RunState(self.folder).verdict
        if verdict is None:  # its files were taken away meanwhile
            raise UserError(f"{self.folder}: has no verdict any more")
        if self.quiet:
            lines = [verdict.sentence, str(self.folder / "recommended.yml")]
        else:
            print_verdict(screen, verdict)
            lines = [
                f"recommended, {verdict.recommended}: {self.folder / 'recommended.yml'}",
                f"the best of the search, {verdict.winner.name}: {self.folder / 'best.yml'}",
                f"report: {self.folder / 'report.html'}",
            ]
        for line in lines:
            screen.print(line, soft_wrap=True)  # a path is copied as a whole

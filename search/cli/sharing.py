"""Commands that hand a run's model to others: push, export."""

from pathlib import Path
from typing import Any

import click

from mergesearch.errors import UserError
from mergesearch.search.cli.common import command, echo, results_option, tell, trust_option
from mergesearch.search.cli.completion import run_names
from mergesearch.trust import trust_code


@command("mergesearch push four-languages me/four-languages --dry-run")
@click.argument("name", shell_complete=run_names)
@click.argument("repository")
@click.option(
    "--what",
    type=click.Choice(["recommended", "best"]),
    default="recommended",
    show_default=True,
    help="The recommended model, or the best candidate of the search.",
)
@click.option("--public", is_flag=True, help="Let everybody see the repository [private].")
@click.option("--revision", metavar="BRANCH", help="The branch, which is made where there is none [main].")
@click.option("--dry-run", is_flag=True, help="List the files and print the card; upload nothing.")
@results_option
@trust_option
def push(name: str, repository: str, what: str, dry_run: bool, **options: Any) -> None:
    """Upload a run's model to the Hugging Face Hub.

    NAME is a finished run, or its folder. REPOSITORY is OWNER/NAME, or NAME for one of your own; it is made where there
    is none, and is private. The model has to be what the run wrote. Nothing but its files is uploaded.
    """
    from mergesearch.search.push import prepared
    from mergesearch.search.push import push as upload_to
    from mergesearch.search.report.runs_page import find_run

    run = find_run(name, options.pop("results")).folder
    with trust_code(options.pop("trust"), tell), prepared(run, repository, what, tell) as upload:
        for file, size in upload.sizes.items():
            tell(f"{size:>15,} {file}")
        if dry_run:
            echo(upload.card)
        else:
            echo(upload_to(upload, repository, **options))


@command("mergesearch export four-languages --lm-eval logs")
@click.argument("name")
@click.option("--lm-eval", "logs", metavar="OUT", type=click.Path(path_type=Path), help="Folder for lm-eval's samples.")
@results_option
def export(name: str, logs: Path | None, results: Path) -> None:
    """Write files of a finished run for other programs.

    NAME is a finished run, or its folder. With --lm-eval, what `lm_eval --log_samples` writes, of the winner and the
    baselines on the test items: each is built and scored again.
    """
    from mergesearch.search.export import export_logs
    from mergesearch.search.report.runs_page import find_run

    if logs is None:
        raise UserError("found no --lm-eval, expected what to write")
    for folder in export_logs(find_run(name, results).folder, logs, tell):
        echo(f"wrote {folder}")

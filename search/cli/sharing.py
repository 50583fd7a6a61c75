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
    from mergesearch.search.report.runs_page import find_run
    from mergesearch.search.sharing.push import prepared
    from mergesearch.search.sharing.push import push as upload_to

    run = find_run(name, options.pop("results")).folder
    with trust_code(options.pop("trust"), tell), prepared(run, repository, what, tell) as upload:
        for file, size in upload.sizes.items():
            tell(f"{size:>15,} {file}")
        if dry_run:
            echo(upload.card)
        else:
            echo(upload_to(upload, repository, **options))


@command("mergesearch export four-languages --gguf four.gguf --type q8_0")
@click.argument("name")
@click.option("--gguf", metavar="FILE", type=click.Path(path_type=Path), help="The model, for llama.cpp.")
@click.option("--type", "kind", type=click.Choice(["f32", "f16", "bf16", "q8_0"]), default="f16", show_default=True)
@click.option("--what", type=click.Choice(["recommended", "best"]), default="recommended", show_default=True)
@click.option("--converter", metavar="FILE", type=click.Path(path_type=Path), help="llama.cpp's convert_hf_to_gguf.py.")
@click.option("--lm-eval", "logs", metavar="FOLDER", type=click.Path(path_type=Path), help="Samples, as lm-eval logs.")
@results_option
def export(name: str, gguf: Path | None, logs: Path | None, results: Path, **options: Any) -> None:
    """Write a finished run as files of other programs.

    NAME is a run, or its folder; with --gguf also the folder of a model. --lm-eval has what `lm_eval --log_samples`
    writes of winner and baselines on the test items: each is built and scored again.
    """
    from mergesearch.search.report.runs_page import find_run
    from mergesearch.search.sharing.export import export_gguf, export_logs

    if gguf is None and logs is None:
        raise UserError("found neither --gguf nor --lm-eval, expected one of them")
    if gguf is not None:
        model = Path(name) if (Path(name) / "config.json").is_file() else find_run(name, results).folder
        export_gguf(model, gguf, options["kind"], what=options["what"], converter=options["converter"], say=tell)
        echo(f"wrote {gguf}")
    for folder in export_logs(find_run(name, results).folder, logs, tell) if logs is not None else ():
        echo(f"wrote {folder}")

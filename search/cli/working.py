"""Commands of workers on hosts that have nothing of a run: worker."""

from pathlib import Path
from typing import Any

import click

from mergesearch.search.cli.common import command, quiet_option, tell, trust_option, verbose_option
from mergesearch.search.cli.running import Run, workers_option

MODEL = "model/"
"""The files that do not come to the host of a worker: they are large."""


@command(
    "mergesearch worker four-languages --storage postgresql+psycopg://me@host/studies --artifacts s3://bucket/runs"
)
@click.argument("run")
@click.option("--storage", metavar="URL", required=True, help="Database of the run.")
@click.option("--artifacts", metavar="URL", required=True, help="Folder or bucket of its files.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder that gets the results [results/runs].")
@workers_option
@trust_option
@verbose_option
@quiet_option
def worker(run: str, storage: str, artifacts: str, results: Path | None, **options: Any) -> None:
    """Join a run by its name, on a host that has neither its config nor its folder.

    RUN was begun elsewhere by `mergesearch run CONFIG` with the same --storage and --artifacts. Its models and data
    must be here under the same paths, or be named as on the Hub. Its results come here, too, without the model.
    """
    from mergesearch.parsing import parse
    from mergesearch.search.config import RESULTS, Config
    from mergesearch.search.study.elsewhere import config_of
    from mergesearch.trust import trust_code

    data = config_of(storage, run)
    data["search"] |= {"storage": storage, "artifacts": artifacts}
    data |= {"workers": options["workers"] or 1, "trust": options["trust"]}
    called = f"run {run}"
    with trust_code(options["trust"], tell):
        config = parse(Config, data, called)
        Run(config, called, results or RESULTS, options["verbose"], options["quiet"], (MODEL,)).here()

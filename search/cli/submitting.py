"""Commands for clusters: submit."""

from pathlib import Path

import click

from mergesearch.errors import UserError
from mergesearch.search.cli.common import command, echo, opened_config, print_text, values_argument


@command("mergesearch submit my.yml --slurm --gpus 8 --time 4:00:00 --sbatch=--partition=a100")
@click.argument("config", type=click.Path(path_type=Path))
@values_argument
@click.option("--slurm", is_flag=True, help="Submit an array job to SLURM.")
@click.option("--gpus", type=click.IntRange(min=1), help="Workers, each with one GPU.")
@click.option("--workers", type=click.IntRange(min=1), help="Workers without a GPU.")
@click.option("--time", metavar="TIME", help="Time limit of each worker, as sbatch takes it.")
@click.option("--sbatch", multiple=True, metavar="OPTION", help="An option for sbatch, such as --sbatch=--mem=64G.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder that holds the runs [results/runs].")
@click.option("--dry-run", is_flag=True, help="Print the script, and submit nothing.")
def submit(  # noqa: PLR0913, PLR0917 - one for each option
    config: Path,
    values: tuple[str, ...],
    slurm: bool,
    gpus: int | None,
    workers: int | None,
    time: str | None,
    sbatch: tuple[str, ...],
    results: Path | None,
    dry_run: bool,
) -> None:
    """Submit a run to a cluster.

    With --slurm, each task of an array job is a worker of the run of CONFIG. A task that is preempted, or ends by its
    time limit, is queued again and goes on. All nodes must share the folder of the results.
    """
    from mergesearch.search import submit as cluster
    from mergesearch.search.config import RESULTS

    if not slurm:
        raise UserError("say to which cluster: --slurm; on a Ray cluster, `mergesearch run CONFIG --ray ADDRESS` works")
    if (gpus is None) == (workers is None):
        raise UserError("say how many workers: --gpus N, each with one GPU, or --workers N, without")
    folder = (results or RESULTS).resolve()
    with opened_config(config, {"values": values}) as opened:
        name = opened.output.name
    job = cluster.Job(
        name,
        folder / name,
        cluster.worker_command(config, values, folder),
        gpus or workers or 1,
        1 if gpus else 0,
        time,
        sbatch,
    )
    if dry_run:
        print_text(job.script)
        return
    number = cluster.submit(job)
    echo(f"submitted job {number}: {job.workers} workers of {name}; `mergesearch status {name}` shows how far it is")

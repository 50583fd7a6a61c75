"""A run on a cluster with SLURM: an array job, of which each task is a worker of the run."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mergesearch.errors import UserError
from mergesearch.files import write_text

SCRIPT = "submit.sh"
OUTPUT = "slurm-%A_%a.out"
"""Where a task's output goes: the job's number, the task's number."""
WARNED = 120
"""Seconds before its time limit at which a task is told, and asks to be queued again."""
BODY = """
# The worker runs beside this shell, which hears of the time limit (USR1) and of preemption (TERM). A worker that is
# told to end hands its trial to the others. The run goes on where it was when the job is queued again.
{command} &
worker=$!
end() {{ kill -TERM "$worker" 2> /dev/null; }}
queue_again() {{
  end
  wait "$worker"
  exec scontrol requeue "${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}"
}}
trap queue_again USR1
trap end TERM
while kill -0 "$worker" 2> /dev/null; do
  wait "$worker"
  status=$?
done
exit "$status"
"""


@dataclass(frozen=True)
class Job:
    """An array job.

    Attributes:
        name: That of the run.
        folder: The run's folder, which every node has.
        command: What a worker runs, as words.
        workers: How many tasks the array has.
        gpus: GPUs of each task; 0 for none.
        time: The time limit of a task as SLURM writes it, ``4:00:00``; None for the partition's.
        options: More options of ``sbatch``.
    """

    name: str
    folder: Path
    command: Sequence[str]
    workers: int
    gpus: int = 0
    time: str | None = None
    options: Sequence[str] = ()

    @property
    def script(self) -> str:
        """The script for ``sbatch``."""
        options = [
            f"--job-name={shlex.quote(self.name)}",
            f"--array=0-{self.workers - 1}",
            "--ntasks=1",
            *([f"--gpus-per-task={self.gpus}"] if self.gpus else []),
            *([f"--time={self.time}"] if self.time else []),
            "--requeue",
            "--open-mode=append",
            f"--signal=B:USR1@{WARNED}",
            f"--output={shlex.quote(str(self.folder / OUTPUT))}",
            *self.options,
        ]
        head = "".join(f"#SBATCH {option}\n" for option in options)
        return f"#!/bin/bash\n{head}{BODY.format(command=shlex.join(self.command))}"


def worker_command(config: Path, values: Sequence[str], results: Path) -> list[str]:
    """What each worker runs: the same command, with absolute paths."""
    folder = ["--results", str(results.resolve())]
    return [sys.executable, "-m", "mergesearch", "run", str(config.resolve()), *values, *folder, "--workers", "1"]


def submit(job: Job) -> str:
    """Writes the job's script to the run's folder and submits it; gives the job's number.

    Raises UserError where there is no ``sbatch``, or it refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise UserError("sbatch: there is no such program here; run this on a node that submits to SLURM, or --dry-run")
    script = job.folder / SCRIPT
    write_text(script, job.script)
    done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"sbatch {script}: {(done.stderr or done.stdout).strip() or f'exit code {done.returncode}'}")
    return done.stdout.strip().partition(";")[0]

"""Submitting a run to SLURM: the script, what sbatch is given, and what the script does with signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mergesearch.errors import UserError
from mergesearch.parsing import dump_yaml
from mergesearch.search.cli import main
from mergesearch.search.submit import Job, submit

WORKER = """
import pathlib, signal, sys, time
def end(*_):
    pathlib.Path("ended").write_text("TERM")
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
pathlib.Path("begun").touch()
time.sleep(60)
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that comes first in the path."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


def job(folder: Path, code: str = "", **more: Any) -> Job:
    return Job("a run", folder, [sys.executable, "-c", code], 8, **more)


def test_the_script_asks_for_what_is_wanted(tmp_path: Path) -> None:
    command = ["python", "-m", "mergesearch", "run", "a b.yml"]
    found = Job("a run", tmp_path / "a run", command, 8, 1, "4:00:00", ["--mem=64G"])
    lines = found.script.splitlines()
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert lines[0] == "#!/bin/bash"
    assert {"--array=0-7", "--gpus-per-task=1", "--time=4:00:00", "--requeue", "--mem=64G"} <= {*asked}
    assert "--job-name='a run'" in asked
    assert "python -m mergesearch run 'a b.yml' &" in lines
    assert subprocess.run(["bash", "-n"], input=found.script, text=True, check=False).returncode == 0


def test_without_a_gpu_and_a_limit(tmp_path: Path) -> None:
    assert "--gpus" not in job(tmp_path).script
    assert "--time" not in job(tmp_path).script


def test_the_script_is_submitted(programs: Path, tmp_path: Path) -> None:
    program(programs, "sbatch", f'echo "$@" > {tmp_path}/given; echo "4711;cluster"')
    assert submit(job(tmp_path / "run")) == "4711"
    assert (tmp_path / "given").read_text().split() == ["--parsable", str(tmp_path / "run" / "submit.sh")]
    assert (tmp_path / "run" / "submit.sh").read_text() == job(tmp_path / "run").script


def test_what_sbatch_refuses(programs: Path, tmp_path: Path) -> None:
    program(programs, "sbatch", "echo 'sbatch: error: invalid partition' >&2; exit 1")
    with pytest.raises(UserError, match="invalid partition"):
        submit(job(tmp_path / "run"))


def test_no_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no such program"):
        submit(job(tmp_path / "run"))


def begun(folder: Path, code: str) -> subprocess.Popen[bytes]:
    """The script as a node runs it, once its worker has begun."""
    (folder / "script.sh").write_text(job(folder, code).script)
    environment = {**os.environ, "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "15"}
    process = subprocess.Popen(["bash", "script.sh"], cwd=folder, env=environment)
    until = time.monotonic() + 60
    while not (folder / "begun").exists() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    return process


def test_a_task_at_its_time_limit_is_queued_again(programs: Path, tmp_path: Path) -> None:
    program(programs, "scontrol", f'echo "$@" > {tmp_path}/asked')
    process = begun(tmp_path, WORKER)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 0
    assert (tmp_path / "ended").read_text() == "TERM"
    assert (tmp_path / "asked").read_text().split() == ["requeue", "12_3"]


def test_a_task_that_is_preempted_ends_its_worker(tmp_path: Path) -> None:
    process = begun(tmp_path, WORKER)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert (tmp_path / "ended").read_text() == "TERM"


@pytest.mark.parametrize("status", [0, 2])
def test_a_task_ends_as_its_worker_does(status: int, tmp_path: Path) -> None:
    code = f"import pathlib, sys; pathlib.Path('begun').touch(); sys.exit({status})"
    assert begun(tmp_path, code).wait(60) == status


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["submit", *arguments])


def test_the_command(config: Any, tmp_path: Path) -> None:
    file = tmp_path / "my.yml"
    file.write_text(dump_yaml({**config, "output": {"name": "mine"}}))
    results = ["--results", str(tmp_path / "runs")]
    done = invoke(str(file), "search.trials=3", "--slurm", "--gpus", "4", *results, "--sbatch=--mem=1G", "--dry-run")
    assert done.exit_code == 0, done.output
    assert f"run {file} search.trials=3 --results {tmp_path / 'runs'} --workers 1 &" in done.output
    assert "#SBATCH --array=0-3\n" in done.output
    assert "#SBATCH --mem=1G\n" in done.output
    assert not (tmp_path / "runs").exists()
    assert "which cluster" in invoke(str(file), "--gpus", "4").output
    assert "how many workers" in invoke(str(file), "--slurm").output
    assert "how many workers" in invoke(str(file), "--slurm", "--gpus", "1", "--workers", "1").output

"""Runs whose workers are actors of Ray, by an interpreter that has it: ``MERGESEARCH_RAY``."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mergesearch.parsing import dump_yaml, read_yaml
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import LOOKS, RunFolder

from .helpers import study_of
from .processes import assert_whole, until_scored

PYTHON = os.environ.get("MERGESEARCH_RAY", "")
NEEDS_RAY = pytest.mark.skipif(not PYTHON, reason="needs an interpreter with Ray, whose path is in MERGESEARCH_RAY")
pytestmark = [pytest.mark.slow, NEEDS_RAY]
PLUGIN = """
from pathlib import Path

def judge(model, tokenizer, items):
    Path(__file__).with_suffix(".read").touch()
    return {item: float(item) for item in items}

judge.items = {str(number): f"item number {number}" for number in range(8)}
"""
SECONDS = 300
"""Within which a run ends."""


@pytest.fixture
def begin(config_file: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts the run by two workers on a cluster of its own."""

    # A shell's background jobs ignore Ctrl-C, and what they start would too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def start(*values: str, address: str = "local") -> subprocess.Popen[str]:
        command = [PYTHON, "-m", "mergesearch", "run", str(config_file), *values, "output.name=small"]
        options = ["--ray", address, "--workers", "2", "--results", str(tmp_path / "results")]
        root = str(Path(__file__).parents[2])
        memory = {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "200000000", "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **memory, "HF_HUB_OFFLINE": "1"},
        )

    return start


def output(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out + err
    return out


def worker(folder: Path) -> int:
    """The process of a living worker, once there is one."""
    until = time.monotonic() + SECONDS
    while not (names := RunFolder(folder).workers.living()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return int(names[0].split(".")[-2])


def coordinator() -> int:
    """The process of the coordinator."""
    titles = ((file.parent.name, _title(file)) for file in Path("/proc").glob("[0-9]*/cmdline"))
    (process,) = [name for name, title in titles if title.startswith("ray::Coordinator")]
    return int(process)


def _title(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def assert_whole_run(folder: Path, trials: int = 17) -> None:
    assert_whole(folder, trials)
    assert len(json.loads((folder / LOOKS).read_text())) == 1


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
@pytest.mark.parametrize("killed", ["nobody", "worker", "coordinator"])
def test_a_run_on_a_cluster(killed: str, begin: Callable[..., "subprocess.Popen[str]"], tmp_path: Path) -> None:
    folder = tmp_path / "results" / "small"
    process = begin()
    if killed != "nobody":
        until_scored(folder, 2)
        os.kill(worker(folder) if killed == "worker" else coordinator(), signal.SIGKILL)
    text = output(process)
    assert "recommended" in text
    assert ("it is started again" in text) == (killed == "worker")
    assert_whole_run(folder)
    if killed == "nobody":
        begun = [line.split()[2] for line in (folder / "run.log").read_text().splitlines() if " mergesearch " in line]
        assert len({*begun}) == 2


def test_nodes_get_copies(
    begin: Callable[..., "subprocess.Popen[str]"], config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of models, texts and plugins; once for both workers, which are on the same node."""
    (tmp_path / "judge.py").write_text(PLUGIN)
    data = read_yaml(config_file)
    data["evaluate"]["tasks"].append({"evaluator": "function", "task": "own", "function": "judge.py:judge"})
    config_file.write_text(dump_yaml(data))
    monkeypatch.setenv("MERGESEARCH_COPIES", str(tmp_path / "copies"))
    output(begin("search.trials=13"))
    assert_whole_run(tmp_path / "results" / "small", trials=13)
    assert not (tmp_path / "judge.read").exists()
    assert len([*tmp_path.glob(f"copies/*{tmp_path}/judge.read")]) == 1
    assert len([each for each in (tmp_path / "copies").iterdir() if each.is_dir()]) == 5
    assert str(tmp_path / "copies") not in (tmp_path / "results" / "small" / "best.yml").read_text()


def test_a_node_is_removed(begin: Callable[..., "subprocess.Popen[str]"], tmp_path: Path) -> None:
    folder, pipe = tmp_path / "results" / "small", subprocess.PIPE
    script = str(Path(__file__).with_name("ray_cluster.py"))
    with subprocess.Popen([PYTHON, script], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        process = begin(address=cluster.stdout.readline().strip())
        while len(RunFolder(folder).workers.living()) < 2:
            time.sleep(0.1)
        until_scored(folder, 2)
        cluster.stdin.write("remove\n")
        cluster.stdin.flush()
        text = output(process)
        cluster.stdin.close()
    assert "it is started again" in text
    assert_whole_run(folder)


def test_an_interrupted_run_goes_on(begin: Callable[..., "subprocess.Popen[str]"], tmp_path: Path) -> None:
    folder = tmp_path / "results" / "small"
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = begin("search.trials=100")
        worker(folder)
        process.send_signal(number)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == status, err
        assert ("the same command resumes the run" in err) == (number == signal.SIGINT)
        assert not RunFolder(folder).workers.living()
    output(begin())
    assert_whole_run(folder, max(17, len(t.finished(study_of(folder)))))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_the_head_dies_with_all_that_is_there(begin: Callable[..., "subprocess.Popen[str]"], tmp_path: Path) -> None:
    folder = tmp_path / "results" / "small"
    process = begin()
    until_scored(folder, 3)
    told = [trial.number for trial in t.finished(study_of(folder))]
    for each in family(process.pid):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    process.communicate()
    output(begin())
    assert_whole_run(folder)
    assert {*told} <= {trial.number for trial in t.finished(study_of(folder))}


def family(process: int) -> list[int]:
    """A process, and all that have come from it."""
    parents: dict[int, int] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    found = [process]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def test_bad_input_is_said_once(begin: Callable[..., "subprocess.Popen[str]"]) -> None:
    process = begin("recipe.base_model=/no/such/model")
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert err.count("/no/such/model") == 1

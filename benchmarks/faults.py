"""What faults do to runs whose workers are on a Ray cluster: what is lost, doubled or left, and looks at test items.

    python benchmarks/faults.py [--times N] [FAULT]...

A small run of two workers has a fault several times, at moments that are drawn: among its trials, and at last while it
makes its verdict. The evaluator does nothing but wait a little. Needs an interpreter with Ray. Two nodes of a cluster
are started on this machine. Writes results/benchmarks/faults.json and faults.md, with what earlier calls found of other
faults.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from machine import FOLDER, write_result
from optuna.trial import TrialState
from other_clock import HOUR, other_clock
from rich.console import Console
from safetensors.torch import save_file

from mergesearch.parsing import dump_yaml
from mergesearch.search.study import trials as t
from mergesearch.search.study.exchange import SILENCE
from mergesearch.search.study.run_folder import LOOKS, RunFolder

NAME, ROOT = "faults", Path(__file__).parents[1]
TRIALS, FAULTS_OF_A_RUN = 60, 5
SHORT, MINUTE = 6.0, 60.0
"""Seconds of silence after which a worker is taken for dead: here, and by default."""
LIMIT = 300.0
"""Seconds within which a run ends."""
TITLES = ("fault", "times", "trials lost", "doubled", "left running", "runs", "test items looked at once")
HEAD = f"""# Faults

What comes of runs on a Ray cluster, of two nodes and two workers, when something fails. A run has {TRIALS} trials,
whose evaluator only waits a little, and {FAULTS_OF_A_RUN} faults at moments that are drawn, the last one during its
verdict. *Lost* are trials that were told before a fault and are not there, or not the same, after the run, and those
that it lacks. *Doubled* are points and baselines that were scored twice. The last column counts runs.

* A worker that is cut off is stopped by SIGSTOP for 1.3 times as long as it may be silent: {SHORT:.0f} s here, and the
  usual minute in two runs with one such fault each.
* The head is restarted with everything that is on it, the command too: all is killed at once.
* A clock is an hour ahead in half of the runs, and an hour behind in the others.
* What has no row was not measured.

"""
MEMORY = 100_000_000
PLUGIN = """
import time
import torch

def build(path):
    return torch.nn.Linear(8, 8)

def judge(model, tokenizer, items):
    time.sleep(0.25)
    total = float(model.weight.sum())
    return {item: total * (1 + int(item)) for item in items}

judge.items = {str(number): f"item number {number}" for number in range(12)}
"""


@dataclass(frozen=True)
class Outcome:
    """A run that had a fault several ``times``. ``lost``: trials that were told and are gone, or that are missing."""

    times: int
    lost: int
    doubled: int
    running: int
    looks: int

    @property
    def is_right(self) -> bool:
        return (self.lost, self.doubled, self.running, self.looks) == (0, 0, 0, 1)


@dataclass
class Run:
    """A run, and the process of the command that goes on with it."""

    config: Path
    results: Path
    address: str
    times: int = 0
    told: dict[int, tuple[float | None, dict[str, Any]]] = field(default_factory=dict)
    process: "subprocess.Popen[str] | None" = None

    @property
    def folder(self) -> Path:
        return self.results / self.config.stem

    def begin(self) -> None:
        """Begins it, or goes on with it."""
        options = ["--ray", self.address, "--workers", "2", "--results", str(self.results), "--quiet"]
        command = [sys.executable, "-m", "mergesearch", "run", str(self.config), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def trials(self) -> dict[int, tuple[float | None, dict[str, Any]]]:
        """The value and the parameters of the trials that were told; of those that have a name, none."""
        found = t.finished(self.study())
        return {trial.number: (trial.value, {} if t.kind_of(trial) in t.NAMED else trial.params) for trial in found}

    def study(self) -> Any:
        return RunFolder(self.folder).open_study(None)

    def looks(self) -> int:
        file = self.folder / LOOKS
        return len(json.loads(file.read_text())) if file.exists() else 0

    def until(self, scored: int | None, rng: random.Random) -> None:
        """Waits until so many trials have scores, or until the test items are looked at; and a little."""
        self._wait(self.looks if scored is None else lambda: len(list(self.folder.glob("scores/*"))) >= scored)
        time.sleep(rng.uniform(0, 0.5))
        self.told |= self.trials()

    def until_workers(self, count: int) -> None:
        self._wait(lambda: len(self.workers()) >= count)

    def workers(self) -> list[int]:
        """The processes of the living workers."""
        return [int(name.split(".")[-2]) for name in RunFolder(self.folder).workers.seen()]

    def _wait(self, is_reached: Callable[[], object]) -> None:
        until = time.monotonic() + LIMIT
        while not is_reached() and time.monotonic() < until:
            assert self.process is not None
            if self.process.poll() == 0:
                return  # it was quicker
            if self.process.poll() is not None:
                self.outcome()  # says why
            time.sleep(0.02)

    def outcome(self) -> Outcome:
        """Waits for the end, and looks what there is."""
        assert self.process is not None
        _, err = self.process.communicate(timeout=LIMIT)
        if self.process.returncode:
            raise RuntimeError(f"{self.folder}: {err}")
        found, trials = self.trials(), self.study().get_trials()
        gone = sum(found.get(number) != trial for number, trial in self.told.items())
        named = Counter(trial.user_attrs.get(t.NAME) for trial in t.finished(self.study()))
        points = Counter(str(params) for _, params in found.values() if params)
        again = Counter(trial.user_attrs.get(t.RETRY_OF) for trial in trials)
        doubled = sum(
            count - 1 for counts in (named, points, again) for key, count in counts.items() if key is not None
        )
        running = sum(trial.state in (TrialState.RUNNING, TrialState.WAITING) for trial in trials)
        missing = max(0, TRIALS - len(found))
        too_many = max(0, len(found) - TRIALS)
        return Outcome(self.times, gone + missing, doubled + too_many, running, self.looks())


@dataclass
class Bed:
    """A folder for runs, and a cluster of two nodes, one of which has the folder."""

    folder: Path
    silence: float
    cluster: Any = None
    other: Any = None
    other_environment: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> None:
        from ray.cluster_utils import Cluster

        variables = {SILENCE: str(self.silence), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        os.environ.update(variables)
        head = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.add_other()

    def add_other(self) -> None:
        environment = dict(self.other_environment)
        self.other = self.cluster.add_node(num_cpus=1, object_store_memory=MEMORY, env_vars=environment or None)

    def stop(self) -> None:
        with suppress(Exception):
            self.cluster.shutdown()

    def run(self, number: int) -> Run:
        """A new run, which has begun."""
        name = f"run{number}"
        config = self.folder / f"{name}.yml"
        config.write_text(dump_yaml(small_config(self.folder, number)))
        run = Run(config, self.folder / "results", self.cluster.address)
        run.begin()
        return run


def small_config(folder: Path, seed: int) -> dict[str, Any]:
    models = [str(folder / name) for name in ("base", "one", "two")]
    for number, model in enumerate(models):
        if not Path(model).exists():
            Path(model).mkdir(parents=True)
            (folder / "plugin.py").write_text(PLUGIN)
            weights = {"weight": torch.eye(8) + number * torch.ones(8, 8) / 8, "bias": torch.zeros(8)}
            save_file(weights, Path(model) / "model.safetensors")
    weight = {"weight": {"search": [0.0, 1.0]}}
    return {
        "recipe": {
            "merge_method": "task_arithmetic",
            "base_model": models[0],
            "models": [{"model": model, "parameters": weight} for model in models[1:]],
        },
        "builder": f"{folder}/plugin.py:build",
        "device": "cpu",
        "evaluate": {
            "tasks": [{"evaluator": "function", "task": "own", "function": f"{folder}/plugin.py:judge"}],
            "split": {"search": 0.5, "test": 0.5, "seed": 0},
        },
        "search": {"trials": TRIALS, "sampler": "random", "seed": seed, "racing": False},
        "output": {"name": f"run{seed}", "model": False},
    }


Act = Callable[[Bed, Run, random.Random], bool]
"""Lets a fault happen to a run; whether it could."""
Fault = Callable[[int], Iterator[Outcome]]
"""Lets a fault happen so many times; gives what each run came to."""


@contextmanager
def _bed(silence: float, **more: Any) -> Iterator[Bed]:
    with tempfile.TemporaryDirectory(prefix="mergesearch-faults-") as folder:
        bed = Bed(Path(folder), silence, **more)
        bed.start()
        try:
            yield bed
        finally:
            bed.stop()


def _each(bed: Bed, times: int, act: Act, each: int = FAULTS_OF_A_RUN) -> Iterator[Outcome]:
    """Runs with ``each`` of the faults, until there were so many."""
    number = done = 0
    while done < times:
        rng, run = random.Random(number), bed.run(number)
        for fault in range(each):
            run.until_workers(1)
            least = fault * TRIALS // each
            run.until(None if fault == each - 1 > 0 else rng.randint(least + 1, least + TRIALS // each - 1), rng)
            run.times += act(bed, run, rng)
        yield run.outcome()
        shutil.rmtree(run.folder)
        number, done = number + 1, done + run.times


def _kill_worker(_: Bed, run: Run, rng: random.Random) -> bool:
    workers = run.workers()
    if workers:
        os.kill(rng.choice(workers), signal.SIGKILL)
    return bool(workers)


def _remove_node(bed: Bed, run: Run, _: random.Random) -> bool:
    is_used = bool(run.workers())
    left = _children(bed.other)
    bed.cluster.remove_node(bed.other, allow_graceful=False)
    _kill(left)
    bed.add_other()
    return is_used


def _kill_coordinator(bed: Bed, *_: object) -> bool:
    processes = [process for process, title in _children(bed.cluster.head_node).items() if "Coordinator" in title]
    _kill(processes)
    return bool(processes)


def _restart_head(bed: Bed, run: Run, _: random.Random) -> bool:
    """All of the head's processes end at once, the command with them, and then it and the cluster start again."""
    assert run.process is not None
    own, others = _children(bed.cluster.head_node), _children(bed.other)
    run.process.kill()
    bed.cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
    _kill(own)
    run.process.communicate()
    bed.stop()
    _kill(others)
    bed.start()
    run.address = bed.cluster.address
    run.begin()
    return True


def _cut_network(bed: Bed, run: Run, rng: random.Random) -> bool:
    """A worker's process stands still for longer than it may be silent."""
    if not (workers := run.workers()):
        return False
    process = rng.choice(workers)
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGSTOP)
        try:
            time.sleep(1.3 * bed.silence)
        finally:
            os.kill(process, signal.SIGCONT)
    return True


def _children(node: Any) -> dict[int, str]:
    """The processes of a node that its main one has started, with their titles."""
    (main,) = node.all_processes["raylet"]
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == main.process.pid:
                found[int(folder.name)] = (folder / "cmdline").read_text(errors="replace")
    return found


def _kill(processes: Iterable[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _on_a_cluster(act: Act, silence: float = SHORT, each: int = FAULTS_OF_A_RUN) -> Fault:
    def outcomes(times: int) -> Iterator[Outcome]:
        with _bed(silence) as bed:
            yield from _each(bed, times, act, each)

    return outcomes


def _with_another_clock(times: int) -> Iterator[Outcome]:
    """The clock of the other node is an hour ahead, or behind, all the time; and workers are killed."""
    for shift, count in ((HOUR, times - times // 2), (-HOUR, times // 2)):
        with tempfile.TemporaryDirectory() as folder:
            clock = other_clock(Path(folder), shift, str(ROOT))
            with _bed(SHORT, other_environment=clock) as bed:
                yield from _each(bed, count, _kill_worker)


FAULTS: dict[str, Fault] = {
    "a worker is killed": _on_a_cluster(_kill_worker),
    "a node is removed": _on_a_cluster(_remove_node),
    "the coordinator is killed": _on_a_cluster(_kill_coordinator),
    "the head is restarted": _on_a_cluster(_restart_head),
    "a worker is cut off": _on_a_cluster(_cut_network),
    "a worker is cut off for more than a minute": _on_a_cluster(_cut_network, MINUTE, each=1),
    "a worker is killed, and a clock is off by an hour": _with_another_clock,
}
"""What happens, by name."""


def followed(fault: str, runs: Iterable[Outcome], screen: Console) -> dict[str, int]:
    """What comes of runs with a fault, in all; a line for each of them while they go."""
    outcomes = []
    for outcome in runs:
        outcomes.append(outcome)
        screen.print(f"{fault}, {len(outcomes)}: {'right' if outcome.is_right else outcome}", style="dim")
    return {
        **{key: sum(asdict(each)[key] for each in outcomes) for key in ("times", "lost", "doubled", "running")},
        "runs": len(outcomes),
        "looked_once": sum(each.looks == 1 for each in outcomes),
    }


def _as_markdown(rows: Mapping[str, Mapping[str, int]]) -> str:
    lines = [f"| {name} | {' | '.join(str(value) for value in row.values())} |\n" for name, row in rows.items()]
    return f"{HEAD}| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}\n{''.join(lines)}"


def kept(name: str) -> dict[str, Any]:
    """What earlier calls found, by fault."""
    file = FOLDER / f"{name}.json"
    return dict(json.loads(file.read_text())["faults"]) if file.exists() else {}


@click.command()
@click.argument("faults", nargs=-1, type=click.Choice([*FAULTS]))
@click.option("--times", default=20, show_default=True, help="How often each fault happens.")
def main(faults: Sequence[str], times: int) -> None:
    """Lets faults happen to small runs."""
    screen, found = Console(), kept(NAME)
    for fault in faults or FAULTS:
        found[fault] = followed(fault, FAULTS[fault](times), screen)
        _write({name: found[name] for name in FAULTS if name in found})


def _write(rows: Mapping[str, Mapping[str, int]]) -> None:
    write_result(NAME, {"ray": version("ray"), "trials": TRIALS, "workers": 2, "faults": rows})
    (FOLDER / f"{NAME}.md").write_text(_as_markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What faults do to runs whose hosts share a database and an artifact store: what is lost, doubled or left running.

    python benchmarks/faults_database.py [--times N] [FAULT]...

As ``faults.py`` does on Ray, for a small run of two commands, which have no folder in common: a PostgreSQL server of
its own, and artifacts in a folder. A command that is killed is started again. Puts the table into
results/benchmarks/faults_database.json, beside what other calls found.
"""

import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from faults import FAULTS_OF_A_RUN, LIMIT, ROOT, SHORT, TRIALS, Outcome, Run, followed, kept, small_config
from machine import write_result
from other_clock import HOUR, other_clock
from rich.console import Console
from rich.table import Table

from mergesearch.parsing import dump_yaml
from mergesearch.search.study.exchange import SILENCE
from mergesearch.search.study.run_folder import RunFolder

NAME = "faults_database"


@dataclass
class Hosts(Run):
    """A run of two commands, each with a folder of results of its own; ``results`` is that of the first.

    ``address`` is that of the database. ``clock``: variables of the second host's environment.
    """

    clock: dict[str, str] = field(default_factory=dict)
    others: "list[subprocess.Popen[str]]" = field(default_factory=list)

    def begin(self) -> None:
        """Begins it, or goes on with it."""
        self.process = self._command("host1", {})
        self.others = [self._command("host2", self.clock)]

    def again(self, number: int) -> None:
        """Starts the command of a host again, whose process has ended."""
        if number:
            self.others = [self._command("host2", self.clock)]
        else:
            self.process = self._command("host1", {})

    def commands(self) -> "list[subprocess.Popen[str]]":
        """The processes of the two hosts."""
        assert self.process is not None
        return [self.process, *self.others]

    def _command(self, host: str, variables: dict[str, str]) -> "subprocess.Popen[str]":
        options = ["--results", str(self.results.parent / host), "--quiet"]
        command = [sys.executable, "-m", "mergesearch", "run", str(self.config), *options]
        environment = {**os.environ, **variables}
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)

    def study(self) -> Any:
        return RunFolder(self.folder).open_study(self.address)

    def outcome(self) -> Outcome:
        """Waits for the end of both commands, and looks what there is."""
        for other in self.others:
            _, err = other.communicate(timeout=LIMIT)
            if other.returncode:
                raise RuntimeError(f"{self.folder}: {err}")
        return super().outcome()


@dataclass(frozen=True)
class Bed:
    """A folder for runs, and a database server."""

    folder: Path
    server: Any
    clock: dict[str, str]

    def run(self, number: int) -> Hosts:
        """A new run, which has begun."""
        config = self.folder / f"run{number}.yml"
        content = small_config(self.folder, number)
        content["search"] |= {"storage": self.server.url, "artifacts": str(self.folder / "artifacts")}
        config.write_text(dump_yaml(content))
        run = Hosts(config, self.folder / "host1", self.server.url, clock=self.clock)
        run.begin()
        return run


@contextmanager
def _bed(clock: dict[str, str]) -> Iterator[Bed]:
    os.environ.update({SILENCE: str(SHORT), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    sys.path.insert(0, str(ROOT))
    server_of = importlib.import_module("tests.search.postgresql").Server
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, tempfile.TemporaryDirectory(prefix="pg-") as data:
        server = server_of(Path(data))
        server.start()
        try:
            yield Bed(Path(folder), server, clock)
        finally:
            server.stop()


Act = Callable[[Bed, Hosts, random.Random], bool]
"""Lets a fault happen to a run; whether it could."""


def _kill_worker(_: Bed, run: Hosts, rng: random.Random) -> bool:
    number = rng.randrange(2)
    command = run.commands()[number]
    if command.poll() is not None:
        return False
    command.kill()
    command.communicate()
    run.again(number)
    return True


def _restart_database(bed: Bed, *_: object) -> bool:
    bed.server.restart()
    return True


def _cut_network(_: Bed, run: Hosts, rng: random.Random) -> bool:
    """A worker's process stands still for longer than it may be silent."""
    command = rng.choice(run.commands())
    if command.poll() is not None:
        return False
    command.send_signal(signal.SIGSTOP)
    try:
        time.sleep(1.3 * SHORT)
    finally:
        command.send_signal(signal.SIGCONT)
    return True


def _each(bed: Bed, times: int, act: Act, each: int, first: int = 0) -> Iterator[Outcome]:
    """Runs with ``each`` of the faults, until there were so many."""
    number, done = first, 0
    while done < times:
        rng, run = random.Random(number), bed.run(number)
        for fault in range(each):
            least = fault * TRIALS // each
            run.until(None if fault == each - 1 > 0 else rng.randint(least + 1, least + TRIALS // each - 1), rng)
            run.times += act(bed, run, rng)
        yield run.outcome()
        for host in ("host1", "host2"):
            shutil.rmtree(bed.folder / host / run.folder.name)
        number, done = number + 1, done + run.times


def _outcomes(act: Act, times: int, each: int = FAULTS_OF_A_RUN) -> Iterator[Outcome]:
    with _bed({}) as bed:
        yield from _each(bed, times, act, each)


def _with_another_clock(times: int) -> Iterator[Outcome]:
    """The clock of the second host is an hour ahead, or behind, all the time; and workers are killed."""
    for shift, count in ((HOUR, times - times // 2), (-HOUR, times // 2)):
        with tempfile.TemporaryDirectory() as folder, _bed(other_clock(Path(folder), shift, str(ROOT))) as bed:
            yield from _each(bed, count, _kill_worker, FAULTS_OF_A_RUN)


FAULTS: dict[str, Callable[[int], Iterator[Outcome]]] = {
    "a worker is killed": lambda times: _outcomes(_kill_worker, times),
    "the database is restarted": lambda times: _outcomes(_restart_database, times),
    "a worker is cut off": lambda times: _outcomes(_cut_network, times),
    "a worker is killed, and a clock is off by an hour": _with_another_clock,
}
"""What happens, by name."""


@click.command()
@click.argument("faults", nargs=-1, type=click.Choice([*FAULTS]))
@click.option("--times", default=20, show_default=True, help="How often each fault happens.")
def main(faults: Sequence[str], times: int) -> None:
    """Lets faults happen to small runs."""
    screen = Console()
    for fault in faults or FAULTS:
        found = {**kept(NAME), fault: followed(fault, FAULTS[fault](times), screen)}
        ordered = {name: found[name] for name in FAULTS if name in found}
        write_result(NAME, {"trials": TRIALS, "hosts": 2, "silence": SHORT, "faults": ordered})
    table = Table("fault", "times", "lost", "doubled", "left running", "runs", "looked once")
    for name, row in kept(NAME).items():
        table.add_row(name, *(str(value) for value in row.values()))
    screen.print(table)


if __name__ == "__main__":
    main()

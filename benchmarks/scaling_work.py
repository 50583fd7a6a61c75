"""Simulated workers: threads that ask, tell, lock and note as a run's workers do, and sleep in place of scoring.

    python benchmarks/scaling_work.py FOLDER FIRST THREADS MEDIAN SAMPLER [--storage URL] [--ray ADDRESS]

Each says in the folder that it is ready, and begins when a file there says until when to work.

What is a run's: the loop, the sources, the sampler, the lock, the journal or database, the leases and their renewals,
and the files of scores. What is not: models, building, scoring, racing, and what a worker tells of itself every second.
A candidate gets scores that follow from its recipe.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast
from zlib import crc32

import click
import numpy as np
import torch
from trial_overhead import make_config

from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.baselines import BaselineSource
from mergesearch.search.candidates.centre_source import CentreSource
from mergesearch.search.candidates.coordinates import Coordinates
from mergesearch.search.candidates.plan import SearchPlan, open_plan
from mergesearch.search.candidates.sampler_source import SamplerSource
from mergesearch.search.config import Config
from mergesearch.search.on_ray import RayExchange
from mergesearch.search.optimize.ask import Asker
from mergesearch.search.optimize.loop import Loop
from mergesearch.search.samplers.schedule import Strategy
from mergesearch.search.scoring.racing.race import whole_result
from mergesearch.search.scoring.scorer import SECONDS, Scored, Scorer
from mergesearch.search.signal.signal import Signal
from mergesearch.search.study import trials as t
from mergesearch.search.study.exchange import Exchange
from mergesearch.search.study.replica import Replica
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.run_store import RunStore

SPREAD = 0.8
"""Of the logarithm of a trial's time: one trial in twenty takes four times the median, one in 150 seven times."""
NAME = "scaling"
KNOWN = 20
"""The sampler's trials that a run has before it is measured."""


def times(median: float, seed: int, count: int = 4096) -> list[float]:
    """Seconds of trials."""
    return [float(each) for each in median * np.exp(SPREAD * np.random.default_rng(seed).standard_normal(count))]


class Sleeper:
    """Stands for the scorer. ``busy`` has the beginning and the end of each candidate's scoring."""

    def __init__(self, plan: SearchPlan, seconds: Callable[[], float]) -> None:
        self._tasks, self._seconds = plan.problem.tasks, seconds
        self.busy: list[tuple[float, float]] = []

    def score_constraint_baselines(self) -> None:
        """Has none."""

    def plan_race(self) -> None:
        """Races nothing."""

    def score(self, recipe: Recipe, in_full: bool) -> Scored:  # noqa: ARG002
        """Sleeps, and draws scores."""
        began = time.time()
        time.sleep(self._seconds())
        text = recipe.to_yaml()
        drawn = torch.Generator().manual_seed(crc32(text.encode()))
        tasks = self._tasks.searched
        scores = {task.name: torch.rand(len(task.search), generator=drawn, dtype=torch.float64) for task in tasks}
        result = whole_result(self._tasks, scores, {})
        self.busy.append((began, time.time()))
        return Scored(f"{crc32(text.encode()):064x}", result, result.count, dict.fromkeys(SECONDS, 0.0))


class Nowhere:
    """Stands for the coordinates of baselines: none lies in the space."""

    def note(self, trial: object, recipe: object) -> None:
        """Notes nothing."""


def plan_of(folder: Path, sampler: str) -> SearchPlan:
    """The plan of the simulated run; its tiny checkpoints are made in the folder where they are missing."""
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(make_config(folder, 10**6, sampler)))
    config = json.loads((folder / "config.json").read_text())
    config["search"] |= {"sampler": sampler, "levels": "none"}
    return open_plan(Config.model_validate(config), "config")


def loop_of(plan: SearchPlan, folder: RunFolder, storage: str | None, sleeper: Sleeper) -> tuple[Loop, RunStore]:
    """The loop of one worker."""
    problem, search = plan.problem, plan.problem.config.search
    store = RunStore(folder, folder.open_study(storage), problem.tasks.items("search"))
    signal = Signal(problem.tasks, store, "metric")
    baselines, strategy = BaselineSource(plan.baselines, signal.told), Strategy(problem.space, search)
    sampler = SamplerSource(strategy)
    asker = Asker([baselines, CentreSource(strategy, search.trials, signal.told), sampler], sampler, signal.told)
    scorer, coordinates = cast(Scorer, sleeper), cast(Coordinates, Nowhere())
    return Loop(problem.space, problem.tasks, store, scorer, asker, baselines, coordinates, search), store


def begin(plan: SearchPlan, path: Path, storage: str | None) -> None:
    """Begins the run: the baselines, and the first trials of the sampler, in no time."""
    folder = RunFolder(path)
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.joined():
        loop, store = loop_of(plan, folder, storage, Sleeper(plan, lambda: 0.0))
        while len(t.of_kind(store.study, t.SAMPLED)) < KNOWN:
            loop.run_trial()


def work(
    plan: SearchPlan, folder: RunFolder, storage: str | None, draws: Iterator[float], until: Callable[[], float]
) -> list[tuple[float, float]]:
    """One worker, until the time that it is told when it is ready."""
    sleeper = Sleeper(plan, lambda: next(draws))
    with folder.joined():
        loop, _ = loop_of(plan, folder, storage, sleeper)
        end = until()
        while time.time() < end:
            loop.run_trial()
    return sleeper.busy


def exchange_at(address: str) -> Exchange:
    """The run's coordinator, an actor of the cluster at an address."""
    import ray

    ray.init(address, namespace=NAME, log_to_driver=False, logging_level="ERROR")
    return cast(Exchange, RayExchange(ray.get_actor(NAME)))


@click.command()
@click.argument("folder", type=Path)
@click.argument("first", type=int)
@click.argument("threads", type=int)
@click.argument("median", type=float)
@click.argument("sampler")
@click.option("--storage")
@click.option("--ray", "address")
def main(  # noqa: PLR0913, PLR0917
    folder: Path,
    first: int,
    threads: int,
    median: float,
    sampler: str,
    storage: str | None,
    address: str | None,
) -> None:
    """Some of a run's workers, as threads of a process."""
    torch.set_num_threads(1)
    exchange = exchange_at(address) if address else None
    plan = plan_of(folder, sampler)
    found, begun = dict[int, list[tuple[float, float]]](), list[float]()

    def until(number: int) -> float:
        (folder / f"ready{number}").touch()
        while not (folder / "until").exists():
            time.sleep(0.05)
        begun.append(time.process_time())
        return float((folder / "until").read_text())

    def one(number: int) -> None:
        own = Replica(folder / f"worker{number}" / NAME, exchange) if exchange else RunFolder(folder / NAME)
        found[number] = work(plan, own, storage, iter(times(median, number)), lambda: until(number))

    all_threads = [threading.Thread(target=one, args=(number,)) for number in range(first, first + threads)]
    for thread in all_threads:
        thread.start()
    for thread in all_threads:
        thread.join()
    content = {"busy": list(found.values()), "processor": time.process_time() - begun[0]}
    (folder / f"busy{first}").write_text(json.dumps(content))


if __name__ == "__main__":
    main()

"""How busy 1 to 64 workers are kept, and what searching side by side costs.

    python benchmarks/scaling.py [--workers N]... [--kind local|postgresql|ray]... [--storage URL]
    python benchmarks/scaling.py --quality [--seeds N]

Efficiency: the share of their time that workers score, from the moment when all of them do. Trials take a time that is
drawn from a log-normal distribution; workers are threads of a few processes that sleep so long (see scaling_work).
Beside it: the same draws with a barrier after each generation, as where a pool is mapped over the generations of a
CMA-ES, at no cost but the waiting, with generations as large as there are workers, and at least the usual 15.

Quality: searches on simulated merges of four experts (see sampler_bed), by a simulated clock: the true gain after as
many trials, and the trials that it took to the gains of one worker.

Writes results/benchmarks/scaling.json, and the tables of scaling.md to scaling_tables.md.
"""

import heapq
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import click
import numpy as np
import optuna
from machine import FOLDER, write_result
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import Trial
from sampler_bed import EXPERTS, ITEMS, Bed
from scaling_work import NAME, begin, plan_of, times

from mergesearch.files import write_text
from mergesearch.search.samplers import Branch, HasCentre, SamplerRequest, make_sampler
from mergesearch.search.statistics import Array
from mergesearch.search.study import trials as t
from mergesearch.search.study.coordinator import Coordinator

WORKERS = (1, 2, 4, 8, 16, 32, 64)
MEDIAN, EACH = 5.0, 0.4
"""Seconds of a trial, the median: at least so many, and for each worker so many, because the processors of this machine
do the work of all workers."""
MEDIANS = 5.0
"""For how many such times the workers of a run are watched."""
PROCESSES = 4
GENERATION = 15
"""The usual population of CMA-ES in 44 dimensions."""
LAYERS = 11
SWEEP = (0.0, 1 / 6, 1 / 3, 1 / 2, 2 / 3)
LOOKS = (100, 200, 300)
SIDE_BY_SIDE = (1, 8, 64)
SHARE = 0.9
"""The target: this share of the gain that one worker has at the last look."""


def median_of(workers: int) -> float:
    """The median time of a trial."""
    return max(MEDIAN, EACH * workers)


@contextmanager
def coordinated(folder: Path) -> Iterator[str]:
    """A cluster of this machine alone, with a coordinator of the run's folder; gives the cluster's address."""
    import ray

    cluster = ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, namespace=NAME)
    try:
        actor = ray.remote(num_cpus=0)(Coordinator).options(name=NAME).remote(folder / NAME, NAME)
        ray.get(actor.name_of.remote(""))
        yield cluster.address_info["gcs_address"]
    finally:
        ray.shutdown()


def watch(workers: int, sampler: str, kind: str, storage: str | None) -> dict[str, float]:
    """The efficiency of a run's workers, and the seconds from one trial's end to the next one's beginning."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin(plan_of(folder, sampler), folder / NAME, storage)
        options = ["--storage", storage] if storage else []
        with coordinated(folder) if kind == "ray" else nullcontext("") as address:
            options += ["--ray", address] if address else []
            busy, until, processor = _busy(folder, workers, sampler, MEDIANS * median_of(workers), options)
    start = max(each[0][0] for each in busy)
    gaps = [two[0] - one[1] for each in busy for one, two in pairwise(each) if one[1] > start]
    shares = [sum(max(min(end, until) - max(begun, start), 0) for begun, end in each) for each in busy]
    trials = sum(len(each) for each in busy)
    found = {"efficiency": sum(shares) / (workers * (until - start)), "watched": until - start}
    return found | {"gap": mean(gaps), "longest_gap": max(gaps), "trials": trials, "processor": processor / trials}


def _busy(
    folder: Path, workers: int, sampler: str, seconds: float, options: Sequence[str]
) -> tuple[list[list[tuple[float, float]]], float, float]:
    """The beginning and the end of each trial's scoring, by worker; when they were told to end; processor seconds."""
    program = Path(__file__).with_name("scaling_work.py")
    groups = {int(each[0]): len(each) for each in np.array_split(range(workers), PROCESSES) if len(each)}
    processes = [
        subprocess.Popen(
            [sys.executable, program, folder, str(first), str(count), str(median_of(workers)), sampler, *options]
        )
        for first, count in groups.items()
    ]
    while len([*folder.glob("ready*")]) < workers:
        if any(process.poll() is not None for process in processes):
            raise RuntimeError("a process of workers failed")
        time.sleep(0.1)
    until = time.time() + seconds
    write_text(folder / "until", str(until))
    for process in processes:
        process.wait()
    found = [json.loads((folder / f"busy{first}").read_text()) for first in groups]
    return [busy for each in found for busy in each["busy"]], until, sum(each["processor"] for each in found)


def barrier(workers: int, generations: int = 200) -> float:
    """The efficiency of a pool of workers that is mapped over generations, of the same draws."""
    draws = iter([each for number in range(workers) for each in times(MEDIAN, number)])
    size, wall, busy = max(workers, GENERATION), 0.0, 0.0
    for _ in range(min(generations, workers * 4096 // size)):
        free = [0.0] * workers
        for _ in range(size):
            seconds = next(draws)
            busy += seconds
            heapq.heapreplace(free, free[0] + seconds)
        wall += max(free)
    return busy / (workers * wall)


class Search:
    """A search of so many workers on simulated merges."""

    def __init__(self, sampler: str, workers: int, seed: int) -> None:
        self._bed, self._sampler, self._workers, self._seed = Bed(seed, LAYERS), sampler, workers, seed
        self._ranges: dict[str, BaseDistribution] = {
            f"x[{number}]": FloatDistribution(0, 1) for number in range(self._bed.dimensions)
        }
        self._study, self._scores = optuna.create_study(direction="maximize"), list[Array]()
        for unit in SWEEP:
            params = dict.fromkeys(self._ranges, unit)
            scores = self._scored(params)
            self._study.add_trial(
                optuna.trial.create_trial(
                    params=params,
                    distributions=self._ranges,
                    value=float(scores.mean()),
                    user_attrs=self._told(scores, t.BASELINE),
                )
            )
        self._best_single = self._truth(self._study.best_trial.params)

    def gains(self) -> list[float]:
        """The true gain over the best single weight after each trial that ended, of what the search would choose."""
        draws, found = iter(times(MEDIAN, self._seed)), list[float]()
        running = [(next(draws), number, self._ask()) for number in range(self._workers)]
        heapq.heapify(running)
        for number in range(self._workers, self._workers + LOOKS[-1]):
            now, _, trial = heapq.heappop(running)
            scores = self._scored(trial.params)
            for key, value in self._told(scores, t.SAMPLED).items():
                trial.set_user_attr(key, value)
            self._study.tell(trial, float(scores.mean()))
            if len(found) % 10 == 9 or len(found) + 1 in LOOKS:
                found.append(self._chosen() - self._best_single)
            else:
                found.append(found[-1] if found else 0.0)
            heapq.heappush(running, (now + next(draws), number, self._ask()))
        return found

    def _ask(self) -> Trial:
        self._study.sampler = self._made()
        return self._study.ask(self._ranges)

    def _made(self) -> Any:
        request = SamplerRequest([Branch(self._ranges, {}, {})], self._seed, len(self._study.trials), sigma=None)
        return make_sampler(self._sampler, request)

    def _scored(self, params: Mapping[str, float]) -> Array:
        self._scores.append(self._bed.scores(self._units(params), True))
        return self._scores[-1]

    def _told(self, scores: Array, kind: str) -> dict[str, object]:
        compared = self._scores[: 1 << len(self._scores).bit_length() >> 1]
        error = (scores - np.mean(compared, axis=0)).std() / np.sqrt(ITEMS)
        return {t.KIND: kind, t.STANDARD_ERROR: float(error)}

    def _chosen(self) -> float:
        sampler = self._made()
        centre = sampler.centre(self._study) if isinstance(sampler, HasCentre) else None
        return self._truth(centre or self._study.best_trial.params)

    def _units(self, params: Mapping[str, float]) -> Array:
        return np.array([params[name] for name in self._ranges])

    def _truth(self, params: Mapping[str, float]) -> float:
        return self._bed.accuracy(self._units(params), self._bed.truth)


def quality(sampler: str, seeds: int) -> dict[str, Any]:
    """Gains at the looks and trials to the target, by workers, for each seed."""
    found: dict[int, list[list[float]]] = {workers: [] for workers in SIDE_BY_SIDE}
    for seed in range(seeds):
        for workers in SIDE_BY_SIDE:
            found[workers].append(Search(sampler, workers, seed).gains())
    target = SHARE * mean(gains[-1] for gains in found[1])
    return {
        "sampler": sampler,
        "dimensions": EXPERTS * LAYERS,
        "seeds": seeds,
        "gains": {str(w): [[gains[look - 1] for look in LOOKS] for gains in each] for w, each in found.items()},
        "target": target,
        "trials": {
            str(w): [next((n + 1 for n, gain in enumerate(gains) if gain >= target), None) for gains in each]
            for w, each in found.items()
        },
    }


def text(result: Mapping[str, Any]) -> str:
    """Markdown."""
    kinds = list(dict.fromkeys(each["kind"] for each in result["efficiency"]))
    by_place = {(each["kind"], each["workers"]): each for each in result["efficiency"]}
    counts = sorted({each["workers"] for each in result["efficiency"]})
    head = [f"{kind}: efficiency | gap | processor" for kind in kinds]
    lines = ["| workers | median trial | " + " | ".join([*head, "barrier"]) + " |", "|" + "---|" * (3 + 3 * len(kinds))]
    for workers in counts:
        cells = []
        for kind in kinds:
            each = by_place.get((kind, workers))
            cells += (
                [f"{each['efficiency']:.3f}", f"{each['gap']:.2f} s", f"{each['processor']:.2f} s"]
                if each
                else [""] * 3
            )
        lines.append(
            "| " + " | ".join([f"{workers}", f"{median_of(workers):g} s", *cells, f"{barrier(workers):.3f}"]) + " |"
        )
    lines += [
        "",
        "| sampler | workers | " + " | ".join(f"gain after {look}" for look in LOOKS) + " | trials to the target |",
    ]
    lines += ["|" + "---|" * (3 + len(LOOKS))] if result["quality"] else []
    for each in result["quality"]:
        for workers, gains in each["gains"].items():
            cells = [
                f"{100 * mean(one):+.2f} ± {100 * stdev(one) / len(one) ** 0.5:.2f}" for one in zip(*gains, strict=True)
            ]
            trials = [LOOKS[-1] + 1 if one is None else one for one in each["trials"][workers]]
            lines.append(f"| {each['sampler']} | {workers} | {' | '.join(cells)} | {median(trials):.0f} |")
    return "\n".join(lines) + "\n"


def saved() -> dict[str, Any]:
    """The results of earlier calls."""
    path = FOLDER / "scaling.json"
    return json.loads(path.read_text()) if path.exists() else {"efficiency": [], "quality": []}


def save(part: str, one: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Writes a result in place of an earlier one of the same ``keys``."""
    result = {key: saved()[key] for key in ("efficiency", "quality")}
    result[part] = [each for each in result[part] if any(each[key] != one[key] for key in keys)] + [dict(one)]
    write_result("scaling", result)
    write_text(FOLDER / "scaling_tables.md", text(result))


@click.command(help=__doc__)
@click.option("--workers", multiple=True, default=WORKERS)
@click.option("--kind", "kinds", multiple=True, default=["local"], type=click.Choice(["local", "postgresql", "ray"]))
@click.option("--sampler", default="local")
@click.option("--storage", help="the address of the database of the kind postgresql")
@click.option("--quality", "is_quality", is_flag=True)
@click.option("--seeds", default=4)
def main(  # noqa: PLR0913, PLR0917
    workers: Sequence[int],
    kinds: Sequence[str],
    sampler: str,
    storage: str | None,
    is_quality: bool,
    seeds: int,
) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if is_quality:
        save("quality", quality(sampler, seeds), ["sampler"])
        return
    for kind in kinds:
        for count in workers:
            found = watch(count, sampler, kind, storage if kind == "postgresql" else None)
            print(kind, count, found, f"barrier {barrier(count):.3f}", flush=True)
            save("efficiency", {"kind": kind, "workers": count, **found}, ["kind", "workers"])


if __name__ == "__main__":
    main()

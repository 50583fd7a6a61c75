"""Samplers on simulated merges of four experts: the true gain of the point that each would choose, by evaluations.

    nice -n 5 python benchmarks/sampler_bench.py [--seeds N] [--arms NAME ...]

A merge has a weight for each expert and layer. Its score is the share of 560 items of four tasks with a positive
margin, and an item's margin has three parts: how hard the item is; how good the merge is at the item's task, a concave
function in which few layers matter, others for each task, and in which every expert harms the tasks of the others; and
a random direction of the item's own, so that near merges agree on most items, as real ones do. Every arm first scores
five single weights for all experts and layers. The arm ``cmaes`` begins at the best of them with sigma 0.12 and a
population of 12: what a person with the package would do. Truth is the share among 6,000 other items. A sampler that
has a centre chooses it; the others choose the point with the best score. Writes results/benchmarks/sampler_bench.json
and sampler_bench.md.
"""

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import click
import numpy as np
import optuna
from machine import FOLDER, write_result
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler
from scipy.optimize import minimize

from mergesearch.files import write_text
from mergesearch.search.samplers import Branch, HasCentre, SamplerRequest, is_sequence, make_sampler
from mergesearch.search.statistics import Array
from mergesearch.search.study import trials as t

EXPERTS, ITEMS, TRUTH = 4, 560, 6000
SWEEP = (0.0, 1 / 6, 1 / 3, 1 / 2, 2 / 3)
LOOKS = (12, 24, 48, 78, 120)
BANDWIDTH = 0.35
SLOW = {"gp": (2, 48, 44), "tpe": (4, 120, 152)}
"""The most seeds, evaluations and dimensions of the arms that take long to ask."""
ARMS: dict[str, dict[str, Any]] = {
    "cmaes": {"sigma": 0.12, "population": 12},
    "catcma": {"sigma": 0.12, "population": 12},
    "tpe": {},
    "gp": {},
    "random": {},
    "local": {},
}


@dataclass(frozen=True)
class Items:
    """task: [items]; ease: [items]; own: [items, dimensions], the item's own direction."""

    task: Array
    ease: Array
    own: Array


class Bed:
    """Simulated merges: coordinates from 0 to 1, of which 1 is a weight of 0.6."""

    def __init__(self, seed: int, layers: int) -> None:
        rng = np.random.default_rng([seed, layers])
        self.dimensions = EXPERTS * layers
        strength = np.exp(0.6 * rng.standard_normal(EXPERTS))
        relevance = rng.gamma(0.25, 1, size=(EXPERTS, EXPERTS, layers))
        relevance /= relevance.sum(2, keepdims=True)
        own = np.eye(EXPERTS)[:, :, None] * (strength / strength.mean())[:, None, None]
        others = 1 - np.eye(EXPERTS)[:, :, None]
        self._slope = ((2.0 * own - 0.5 * others) * relevance).reshape(EXPERTS, -1)
        self._bend = ((1.1 * own + 0.2 * others) * relevance).reshape(EXPERTS, -1)
        self._mixed = rng.standard_normal((EXPERTS, 6, self.dimensions)) * np.sqrt(0.08 / self.dimensions)
        self._middle = np.full(self.dimensions, 1 / 3)
        self.search, self.truth = self._items(rng, ITEMS), self._items(rng, TRUTH)

    def _items(self, rng: np.random.Generator, count: int) -> Items:
        own = 2.6 / np.sqrt(self.dimensions) * rng.standard_normal((count, self.dimensions))
        return Items(np.arange(count) % EXPERTS, rng.logistic(1.5, 1.0, size=count), own)

    def margins(self, units: Array, items: Items) -> Array:
        """[items]."""
        off = units - self._middle
        mixed = ((self._mixed @ off) ** 2).sum(1)
        skill = self._slope @ units - self._bend @ units**2 - mixed
        return np.asarray(items.ease + skill[items.task] + items.own @ off)

    def accuracy(self, units: Array, items: Items) -> float:
        """The share of the items that are right."""
        return float((self.margins(units, items) > 0).mean())

    def graded(self, units: Array) -> float:
        """The mean grade of the search items, with the merge's own spread of margins."""
        margins = self.margins(units, self.search)
        return float((1 / (1 + np.exp(-margins / (BANDWIDTH * margins.std())))).mean())

    def best(self) -> Array:
        """What an oracle finds that climbs the smoothed truth."""

        def loss(units: Array) -> float:
            return -float((1 / (1 + np.exp(-2 * self.margins(units, self.truth)))).mean())

        box = [(0.0, 1.0)] * self.dimensions
        return np.asarray(minimize(loss, self._middle, method="L-BFGS-B", bounds=box, options={"maxiter": 15}).x)


class Arm:
    """One sampler on one bed."""

    def __init__(self, name: str, bed: Bed, seed: int, graded: bool) -> None:
        self._name, self._bed, self._seed, self._graded = name, bed, seed, graded
        self._ranges = {f"x[{number}]": FloatDistribution(0, 1) for number in range(bed.dimensions)}
        self._study = optuna.create_study(direction="maximize")
        for unit in SWEEP:
            point = dict.fromkeys(self._ranges, unit)
            value, kind = self._score(point), {t.KIND: t.BASELINE}
            trial = optuna.trial.create_trial(params=point, distributions=self._ranges, value=value, user_attrs=kind)
            self._study.add_trial(trial)
        self._kept = self._make() if is_sequence(name) else None

    def gains(self, looks: Sequence[int]) -> tuple[list[float], float]:
        """The true gain over the best single weight at each look, and the seconds that an ask takes."""
        start, found, seconds = self._truth(), list[float](), 0.0
        for number in range(1, max(looks) + 1):
            self._study.sampler, begun = self._kept or self._make(), time.perf_counter()
            trial = self._study.ask(self._ranges)
            seconds += time.perf_counter() - begun
            self._study.tell(trial, self._score(trial.params))
            if number in looks:
                found.append(self._truth() - start)
        return found, seconds / max(looks)

    def _make(self) -> BaseSampler:
        branch = Branch(self._ranges, {}, {})
        return make_sampler(
            self._name, SamplerRequest([branch], self._seed, len(self._study.trials), **ARMS[self._name])
        )

    def _score(self, point: Mapping[str, float]) -> float:
        units = np.array([*point.values()])
        return self._bed.graded(units) if self._graded else self._bed.accuracy(units, self._bed.search)

    def _truth(self) -> float:
        """That of the point that the arm would choose now."""
        sampler = self._kept or self._make()
        asked = any(t.kind_of(trial) == t.SAMPLED for trial in self._study.trials)
        centre = sampler.centre(self._study) if asked and isinstance(sampler, HasCentre) else None
        point = centre or self._study.best_trial.params
        units = np.array([point[name] for name in self._ranges])
        return self._bed.accuracy(units, self._bed.truth)


def measure(name: str, layers: int, seeds: int, graded: bool) -> dict[str, Any]:
    """One arm on the beds of all seeds."""
    most_seeds, most, _ = SLOW.get(name, (seeds, LOOKS[-1], 0))
    looks = [look for look in LOOKS if look <= most]
    found = [Arm(name, Bed(seed, layers), seed, graded).gains(looks) for seed in range(min(seeds, most_seeds))]
    gains = [gains for gains, _ in found]
    return {
        "arm": name,
        "dimensions": EXPERTS * layers,
        "score": "graded" if graded else "accuracy",
        "seeds": len(gains),
        "gains": gains,
        "seconds": mean(seconds for _, seconds in found),
    }


def headroom(layers: int, seeds: int) -> float:
    """The oracle's mean gain over the best of the single weights, by the truth."""
    beds = [Bed(seed, layers) for seed in range(min(seeds, 3))]
    singles = [max(bed.accuracy(np.full(bed.dimensions, unit), bed.truth) for unit in SWEEP) for bed in beds]
    return mean(bed.accuracy(bed.best(), bed.truth) - single for bed, single in zip(beds, singles, strict=True))


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each arm."""
    lines = [f"| dimensions | score | arm | seeds | {' | '.join(map(str, LOOKS))} | ms an ask |", "|" + "---|" * 10]
    for each in results:
        gains = list(zip(*each["gains"], strict=True))
        cells = [f"{100 * mean(one):+.2f} ± {100 * stdev(one) / len(one) ** 0.5:.2f}" for one in gains]
        cells += [""] * (len(LOOKS) - len(cells))
        head = f"| {each['dimensions']} | {each['score']} | {each['arm']} | {each['seeds']} |"
        lines.append(f"{head} {' | '.join(cells)} | {1000 * each['seconds']:.0f} |")
    return "\n".join(lines)


def saved() -> dict[str, Any]:
    """The rooms and results of earlier calls."""
    path = FOLDER / "sampler_bench.json"
    return json.loads(path.read_text()) if path.exists() else {"headroom": {}, "arms": []}


def save(room: Mapping[str, float], results: Sequence[Mapping[str, Any]]) -> None:
    """Writes the results, with those of earlier calls that were not measured again."""
    before, measured = saved(), {_place(each) for each in results}
    arms = sorted([each for each in before["arms"] if _place(each) not in measured] + [*results], key=_place)
    rooms = before["headroom"] | dict(room)
    write_result("sampler_bench", {"headroom": rooms, "looks": LOOKS, "arms": arms})
    gains = ", ".join(f"{100 * gain:.1f} in {count}" for count, gain in sorted(rooms.items(), key=lambda e: int(e[0])))
    head = (
        "# Samplers on simulated merges\n\n`python benchmarks/sampler_bench.py`; the true gain over the best single "
        "weight, in points of accuracy, of the point that the sampler would choose after so many evaluations: mean ± "
        f"standard error over the seeds. An oracle gains, on three beds, by dimensions: {gains}.\n\n"
    )
    write_text(FOLDER / "sampler_bench.md", head + table(arms) + "\n")


def _place(result: Mapping[str, Any]) -> tuple[int, str, int]:
    return result["dimensions"], result["score"], [*ARMS].index(result["arm"])


@click.command(help=__doc__)
@click.option("--seeds", default=12)
@click.option("--arms", multiple=True, default=[*ARMS], type=click.Choice([*ARMS]))
@click.option("--dimensions", multiple=True, default=[12, 44, 152])
@click.option("--scores", multiple=True, default=["accuracy", "graded"])
@click.option("--write/--no-write", default=True)
def main(seeds: int, arms: Sequence[str], dimensions: Sequence[int], scores: Sequence[str], write: bool) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    results, room = [], {}
    for count in dimensions:
        room[str(count)] = headroom(count // EXPERTS, seeds)
        for score in scores:
            for arm in (arm for arm in arms if count <= SLOW.get(arm, (0, 0, count))[2]):
                results.append(measure(arm, count // EXPERTS, seeds, score == "graded"))
                print(table(results[-1:]).splitlines()[-1], flush=True)
                if write:
                    save(room, results)


if __name__ == "__main__":
    main()

"""Samplers on simulated merges of four experts: the true gain of the point that each would choose, by evaluations.

    nice -n 5 python benchmarks/sampler_bench.py [--seeds N] [--arms NAME ...]

Every arm first scores five single weights for all experts and layers. With graded scores the samplers are told standard
errors, as in a run. The arms ``cmaes`` and ``catcma`` begin at the best point with sigma 0.12 and a population of 12:
what a person with the package would do. Arms ``after a descent`` have their usual settings, and begin with the ends of
up to four rounds of a descent, scored.

Truth is the share among 6,000 other items. A sampler that has a centre chooses it; the others choose the point with the
best score. Writes results/benchmarks/sampler_bench.json and sampler_bench.md.
"""

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import click
import numpy as np
import optuna
from machine import FOLDER, write_result
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from sampler_bed import EXPERTS, ITEMS, Bed, descent

from mergesearch.files import write_text
from mergesearch.search.samplers import Branch, HasCentre, SamplerRequest, is_sequence, make_sampler
from mergesearch.search.statistics import Array
from mergesearch.search.study import trials as t

SWEEP = (0.0, 1 / 6, 1 / 3, 1 / 2, 2 / 3)
LOOKS = (0, 12, 24, 48, 78, 120)
PERSON = {"sigma": 0.12, "population": 12}
AFTER = " after a descent"
ARMS: dict[str, dict[str, Any]] = {
    "local": {},
    "cmaes": PERSON,
    "catcma": PERSON,
    "niches": {},
    "tpe": {},
    "gp": {},
    "nsgaii": {},
    "qmc": {},
    "random": {},
    f"local{AFTER}": {},
    f"cmaes{AFTER}": {},
}


class Arm:
    """One sampler on one bed."""

    def __init__(self, name: str, bed: Bed, seed: int, graded: bool) -> None:
        self._name, self._bed, self._seed, self._graded = name, bed, seed, graded
        self._sampler_name = name.removesuffix(AFTER)
        self._ranges: dict[str, BaseDistribution] = {
            f"x[{number}]": FloatDistribution(0, 1) for number in range(bed.dimensions)
        }
        self._study = optuna.create_study(direction="maximize")
        self._scores = [bed.scores(np.full(bed.dimensions, unit), graded) for unit in SWEEP]
        for unit, scores in zip(SWEEP, self._scores, strict=True):
            self._add(np.full(bed.dimensions, unit), scores, t.BASELINE)
        self._best_single = self._truth()
        if name.endswith(AFTER):
            begin = self._units(self._study.best_trial.params)
            for end in descent(bed, begin, seed):
                self._add(end, self._scored(end), t.GRADIENT)
        self._kept = self._make() if is_sequence(self._sampler_name) else None

    def gains(self, looks: Sequence[int]) -> tuple[list[float], float]:
        """The true gain over the best single weight at each look, and the seconds that an ask takes."""
        found, seconds = [self._truth() - self._best_single], 0.0
        for number in range(1, max(looks) + 1):
            self._study.sampler, begun = self._kept or self._make(), time.perf_counter()
            trial = self._study.ask(self._ranges)
            seconds += time.perf_counter() - begun
            scores = self._scored(self._units(trial.params))
            for key, value in self._told(scores, t.SAMPLED).items():
                trial.set_user_attr(key, value)
            self._study.tell(trial, float(scores.mean()))
            if number in looks:
                found.append(self._truth() - self._best_single)
        return found, seconds / max(looks)

    def _add(self, units: Array, scores: Array, kind: str) -> None:
        params = dict(zip(self._ranges, units.tolist(), strict=True))
        value, attributes = float(scores.mean()), self._told(scores, kind)
        self._study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=self._ranges, value=value, user_attrs=dict(attributes)
            )
        )

    def _scored(self, units: Array) -> Array:
        self._scores.append(self._bed.scores(units, self._graded))
        return self._scores[-1]

    def _told(self, scores: Array, kind: str) -> dict[str, object]:
        """What a trial tells beside its value; the error as ``Signal.error_of`` has it."""
        compared = self._scores[: 1 << len(self._scores).bit_length() >> 1]
        error = (scores - np.mean(compared, axis=0)).std() / np.sqrt(ITEMS)
        return {t.KIND: kind} | ({t.STANDARD_ERROR: float(error)} if self._graded else {})

    def _make(self) -> BaseSampler:
        branch, finished = Branch(self._ranges, {}, {}), len(self._study.trials)
        request = SamplerRequest([branch], self._seed, finished, item_scores=self._item_scores, **ARMS[self._name])
        return make_sampler(self._sampler_name, request)

    def _item_scores(self, trial: FrozenTrial) -> Array | None:
        return self._scores[trial.number] if trial.number < len(self._scores) else None

    def _units(self, point: Mapping[str, float]) -> Array:
        return np.array([point[name] for name in self._ranges])

    def _truth(self) -> float:
        """That of the point that the arm would choose now."""
        asked = any(t.kind_of(trial) == t.SAMPLED for trial in self._study.trials)
        sampler = (self._kept or self._make()) if asked else None
        centre = sampler.centre(self._study) if isinstance(sampler, HasCentre) else None
        return self._bed.accuracy(self._units(centre or self._study.best_trial.params), self._bed.truth)


def measure(name: str, layers: int, seeds: int, graded: bool, most: int) -> dict[str, Any]:
    """One arm on the beds of all seeds, with at most so many evaluations."""
    looks = [look for look in LOOKS if look <= most]
    found = [Arm(name, Bed(seed, layers), seed, graded).gains(looks) for seed in range(seeds)]
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
    lines = [
        f"| dimensions | score | arm | seeds | {' | '.join(map(str, LOOKS))} | ms an ask |",
        "|" + "---|" * (5 + len(LOOKS)),
    ]
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
@click.option("--most", default=LOOKS[-1], help="evaluations; tpe and gp take seconds for each in many dimensions")
def main(seeds: int, arms: Sequence[str], dimensions: Sequence[int], scores: Sequence[str], most: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    results, room = [], saved()["headroom"]
    for count in map(str, dimensions):
        room[count] = room.get(count) or headroom(int(count) // EXPERTS, seeds)
        for score in scores:
            for arm in (arm for arm in arms if score == "graded" or not arm.endswith(AFTER)):
                results.append(measure(arm, int(count) // EXPERTS, seeds, score == "graded", most))
                print(table(results[-1:]).splitlines()[-1], flush=True)
                save(room, results)


if __name__ == "__main__":
    main()

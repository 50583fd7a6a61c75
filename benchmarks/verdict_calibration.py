"""How often verdicts claim what is not so, and how often they find what is: simulated verdicts of known truth.

``python benchmarks/verdict_calibration.py [--verdicts 2000]`` writes results/benchmarks/verdict_calibration.{json,md}.

Every simulated verdict has a winner and three baselines, 0/1 scores of items in clusters, and two tasks, or three of
unequal weight with clusters of unequal sizes. They go through the test that runs use. Beside it is the best possible
one, which knows the standard deviations (from all simulated verdicts). With ``--clusters`` or ``--tasks``, other rows
are kept.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from time import perf_counter
from typing import Any

import click
import numpy as np
from machine import FOLDER, write_result
from numpy.typing import NDArray

from mergesearch.search.statistics import Array, Stratum, against_all, difference_of, sign_flip_test, sign_flips
from mergesearch.seeds import derive

NAME = "verdict_calibration"
BASELINES = 3
CLUSTERS = (10, 25, 100, 1000)
Skills = Callable[[np.random.Generator, float], Array]


@dataclass(frozen=True)
class Layout:
    """The tasks of a verdict. ``parts``: each task's share of the clusters; ``spread`` of their log sizes."""

    name: str
    parts: Sequence[float]
    weights: Sequence[float]
    spread: float

    def counts(self, clusters: int) -> list[int]:
        """The number of each task's clusters."""
        ends = np.round(np.cumsum(self.parts) * clusters).astype(int)
        return [int(count) for count in np.diff([0, *ends])]


LAYOUTS = (
    Layout("equal", (0.5, 0.5), (0.5, 0.5), 0.0),
    Layout("unequal", (0.5, 0.3, 0.2), (0.2, 0.3, 0.5), 1.0),
)


@dataclass(frozen=True)
class Scenario:
    """What the candidates are: their skills, winner first, by a random generator and a size; how alike they answer."""

    name: str
    skills: Skills
    noise: float = 0.5
    is_null: bool = True


def _same(_: np.random.Generator, __: float) -> Array:
    return np.zeros(1 + BASELINES)


def _one_as_good(_: np.random.Generator, __: float) -> Array:
    return np.array([0.0, 0.0, *[-0.5] * (BASELINES - 1)])


def _picked(rng: np.random.Generator, search: float) -> Array:
    """The best of forty candidates by scores on other items, none of which is better than the baselines in truth."""
    truth = -np.abs(rng.normal(0.0, 0.1, 40))
    winner = truth[np.argmax(truth + rng.normal(0.0, search, 40))]
    return np.array([winner, *np.zeros(BASELINES)])


def _gain(clusters: int) -> Skills:
    return lambda _, __: np.array([3.0 / np.sqrt(clusters), 0.0, *[-0.1] * (BASELINES - 1)])


def scenarios(clusters: int) -> list[Scenario]:
    """Four in which the winner is no better than the best baseline, and one in which it is."""
    return [
        Scenario("all as good as the winner", _same),
        Scenario("one as good, two worse", _one_as_good),
        Scenario("winner picked of forty", _picked),
        Scenario("nearly the same answers", _same, noise=0.05),
        Scenario("planted gain", _gain(clusters), is_null=False),
    ]


@dataclass(frozen=True)
class Sample:
    """One verdict's scores: by task, [candidates, clusters] sums and [clusters] sizes."""

    sums: Sequence[Array]
    sizes: Sequence[Array]
    weights: Array
    names: Sequence[NDArray[np.str_]]

    @property
    def values(self) -> Array:
        """[candidates]: the objective."""
        means = [sums.sum(1) / sizes.sum() for sums, sizes in zip(self.sums, self.sizes, strict=True)]
        return np.asarray(self.weights @ np.stack(means))

    def strata(self, candidate: int) -> list[Stratum]:
        """One candidate's scores as the test takes them."""
        parts = zip(self.names, self.sums, self.sizes, strict=True)
        return [Stratum(names, sums[candidate], sizes) for names, sums, sizes in parts]


def sample(rng: np.random.Generator, layout: Layout, clusters: int, scenario: Scenario) -> Sample:
    """Scores of one verdict; a score is 1 where skill exceeds difficulty, which items and clusters have in common."""
    skills = scenario.skills(rng, 2.0 / np.sqrt(clusters))
    counts = layout.counts(clusters)
    parts = [_task(rng, count, layout.spread, skills, scenario.noise) for count in counts]
    names = [np.array([f"{task}-{n:04d}" for n in range(count)]) for task, count in enumerate(counts)]
    sums, sizes = zip(*parts, strict=True)
    return Sample(sums, sizes, np.array(layout.weights), names)


def _task(rng: np.random.Generator, count: int, spread: float, skills: Array, noise: float) -> tuple[Array, Array]:
    sizes = np.maximum(1, np.round(4 * np.exp(rng.normal(0.0, spread, count)))).astype(int)
    of, candidates = np.repeat(np.arange(count), sizes), len(skills)
    common = rng.normal(0.0, 1.0, count)[of] + rng.normal(0.0, 1.0, len(of))
    own = noise * (rng.normal(0.0, 0.5, (candidates, count))[:, of] + rng.normal(0.0, 1.0, (candidates, len(of))))
    scores = (common + own < skills[:, None]).astype(np.float64)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return np.add.reduceat(scores, starts, axis=1), sizes.astype(np.float64)


@dataclass
class Counts:
    """How often the winner was said to be better than every baseline, or worse than the best; and how long it took."""

    better: int = 0
    worse: int = 0
    seconds: float = 0.0


def simulate(layout: Layout, clusters: int, scenario: Scenario, verdicts: int) -> dict[str, Any]:
    """The shares of verdicts that claim a gain, in one scenario."""
    rng = np.random.default_rng(derive(0, layout.name, clusters, scenario.name))
    counts, gains = Counts(), np.zeros((verdicts, BASELINES))
    for number in range(verdicts):
        drawn = sample(rng, layout, clusters, scenario)
        gains[number] = drawn.values[0] - drawn.values[1:]
        _judge(drawn, number, counts)
    errors = gains.std(0, ddof=1)
    oracle = (gains / errors > 1.96).all(1)
    return {
        "layout": layout.name,
        "clusters": clusters,
        "scenario": scenario.name,
        "is_null": scenario.is_null,
        "verdicts": verdicts,
        "flips": sign_flips.FLIPS,
        "claimed": counts.better / verdicts,
        "worse": counts.worse / verdicts,
        "oracle": float(oracle.mean()),
        "seconds": round(counts.seconds, 1),
    }


def _judge(drawn: Sample, seed: int, counts: Counts) -> None:
    def combine(values: Array) -> Array:
        return np.tensordot(drawn.weights, values, 1)

    begin, winner = perf_counter(), drawn.strata(0)
    contrasts = [difference_of(winner, drawn.strata(1 + n), combine) for n in range(BASELINES)]
    claim, p = against_all(sign_flip_test(contrasts, seed))
    counts.seconds += perf_counter() - begin
    if (p < 0.05) != (claim.low > 0 or claim.high < 0):
        raise AssertionError(f"p and interval contradict each other: {claim}, {p}")
    counts.better += claim.low > 0
    counts.worse += claim.high < 0


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    heads = ["clusters", "tasks", "winner and baselines", "claimed", "said to be worse", "best possible"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        shares = (f"{row[key]:.1%}" for key in ("claimed", "worse", "oracle"))
        lines.append(f"| {row['clusters']:,} | {row['layout']} | {row['scenario']} | {' | '.join(shares)} |")
    return "\n".join(lines)


def page(rows: Sequence[dict[str, Any]], verdicts: int) -> str:
    """results/benchmarks/verdict_calibration.md."""
    nulls = [row for row in rows if row["is_null"]]
    planted = [row for row in rows if not row["is_null"]]
    most = max(row["claimed"] for row in nulls)
    ratio = float(np.mean([row["claimed"] / row["oracle"] for row in planted]))
    fewest, largest = (extreme(row["flips"] for row in rows) for extreme in (min, max))
    flips = f"The test had {fewest:,} to {largest:,} flips; a run has {sign_flips.FLIPS:,}."
    return f"""# Calibration of the verdict

`python benchmarks/verdict_calibration.py`: {verdicts:,} simulated verdicts in each row. A winner and three baselines
have 0/1 scores of items in clusters of four (equal), or of log-normal sizes around four, with a standard deviation of 1
(unequal). Tasks: two of the same weight (equal), or three with 50, 30 and 20 % of the clusters and weights 0.2, 0.3 and
0.5 (unequal). {flips}

* claimed: the verdict says that the winner beats every baseline. Without a gain, it does so in at most {most:.1%} of
  the verdicts (promised: 5 %).
* said to be worse: the verdict says that the winner is worse than the best baseline.
* best possible: a z-test against every baseline with the true standard deviations. With a planted gain, the verdict
  finds {ratio:.0%} of what it finds.

## No gain

{table(nulls)}

## Planted gain

{table(planted)}
"""


@click.command()
@click.option("--verdicts", default=2000, help="simulated verdicts in each row")
@click.option("--clusters", multiple=True, type=int, default=CLUSTERS, help="numbers of clusters")
@click.option("--tasks", multiple=True, default=[layout.name for layout in LAYOUTS], help="equal, unequal")
@click.option("--flips", default=sign_flips.FLIPS, help="flips of the test; fewer are as valid, and take less time")
def main(verdicts: int, clusters: Sequence[int], tasks: Sequence[str], flips: int) -> None:
    """Simulates verdicts of known truth."""
    sign_flips.FLIPS = flips
    chosen = [layout for layout in LAYOUTS if layout.name in tasks]
    rows = []
    for count, layout in product(clusters, chosen):
        for scenario in scenarios(count):
            rows.append(simulate(layout, count, scenario, verdicts))
            click.echo(rows[-1])
    file = FOLDER / f"{NAME}.json"
    before = json.loads(file.read_text())["rows"] if file.exists() else []
    rows += [row for row in before if row["clusters"] not in clusters or row["layout"] not in tasks]
    rows.sort(key=lambda row: (row["clusters"], row["layout"]))
    write_result(NAME, {"rows": rows})
    (FOLDER / f"{NAME}.md").write_text(page(rows, verdicts))


if __name__ == "__main__":
    main()

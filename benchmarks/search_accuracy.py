"""Items and processor time until a search on accuracies has won something: ours, and other projects', on live models.

    python benchmarks/search_accuracy.py [--seeds N] [--arms NAMES] [--beds NAMES] [--fresh]

Every candidate is built and scored (see search_problem.py, search_beds.py). A seed draws the search items, the test
items and the items of the truth, and is that of the search. The gain is by how much the merge that an arm would hand
over is better than the best baseline, both on the items of the truth, which no search and no verdict sees. The target
is the median gain of mergekit-evolve after 100 full evaluations, its default. An interrupted call continues where it
stopped. Writes results/benchmarks/search_accuracy.json and search_accuracy.md after each search.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import optuna
import torch
from machine import FOLDER, write_result
from search_arms import ARMS, EVOLVE, OURS, Outcome
from search_beds import BEDS
from search_common import cost_to, gain_after, quartiles, spread
from search_problem import SearchProblem

NAME = "search_accuracy"
TARGET = 100
"""The full evaluations of mergekit-evolve whose gain is the target."""
SPENT = (5, 10, 20, 50, 100)
"""Full evaluations after which all arms are compared."""
Row = Mapping[str, Any]
"""One search as the JSON file has it. ``course``: [full evaluations, seconds, gain] at each change of the merge."""


@dataclass(frozen=True)
class Measured:
    """The searches of one bed."""

    bed: str
    rows: Sequence[Row]

    @property
    def arms(self) -> list[str]:
        return [arm for arm in ARMS if self.of(arm)]

    def of(self, arm: str) -> list[Row]:
        """The searches of an arm, one for each seed."""
        return [row for row in self.rows if row["arm"] == arm]

    @property
    def target(self) -> float:
        """The gain to be reached."""
        return float(np.median(self.gains(EVOLVE, TARGET))) if self.of(EVOLVE) else np.nan

    def gains(self, arm: str, spent: float) -> list[float]:
        """The gain after so many full evaluations, for each seed."""
        return [gain_after(row["course"], spent) for row in self.of(arm)]

    def cost(self, arm: str, of: int) -> list[float]:
        """Full evaluations (0) or seconds (1) until the target was reached; infinity where it never was."""
        return [cost_to(row["course"], self.target, of) for row in self.of(arm)]


def measured(bed: str, arm: str, seed: int, earlier: Sequence[Row]) -> Row:
    """One search, and the truth about everything that it would have handed over.

    ``earlier``: the searches so far; those of the same bed and seed have the same baselines.
    """
    known = [row["best baseline"] for row in earlier if (row["bed"], row["seed"]) == (bed, seed)]
    with TemporaryDirectory() as folder:
        problem = SearchProblem(BEDS[bed](), seed, Path(folder))
        outcome = ARMS[arm](problem, seed, TARGET * problem.search_items)
        best = known[0] if known else max(map(problem.truth, problem.baselines()))
        gains = {key: problem.truth(recipe) - best for key, recipe in outcome.trace.recipes.items()}
    course = [
        [round(spent.items / problem.search_items, 3), round(spent.seconds, 2), round(gains[key], 6)]
        for spent, key in outcome.trace.points
    ]
    spent = {key: round(value, 2) for key, value in asdict(outcome.spent).items()}
    row = {"bed": bed, "arm": arm, "seed": seed, "items": problem.search_items, "best baseline": best}
    return {**row, "spent": spent, "course": course, **_verdict(outcome)}


def _verdict(outcome: Outcome) -> dict[str, object]:
    """Whether our verdict claimed a gain, and the difference that it saw; empty for other searches."""
    verdict = outcome.verdict
    return {} if verdict is None else {"claims": verdict.beyond_chance, "difference": asdict(verdict.difference)}


def as_markdown(rows: Sequence[Row]) -> str:
    """One table for each bed, and one of the verdicts."""
    beds = [Measured(bed, [row for row in rows if row["bed"] == bed]) for bed in BEDS]
    lines = [
        "# Searches on accuracies",
        "",
        *(__doc__ or "").split("\n\n", 2)[2].strip().splitlines(),
        "",
        "A full evaluation is a number of scored items: all search items once. Baselines, descents (by their measured",
        "time) and everything else that an arm scores are counted; seconds are those of the processor, with everything",
        "that a search does. Quartiles are over seeds; a search that never reaches the target counts as infinite.",
        *(line for bed in beds if bed.rows for line in _table(bed)),
        *_verdicts(rows),
    ]
    return "\n".join(lines) + "\n"


def _table(bed: Measured) -> list[str]:
    items = sorted({row["items"] for row in bed.rows})
    spent = " | ".join(f"gain after {count}" for count in SPENT)
    return [
        "",
        f"## {bed.bed}",
        "",
        f"{' to '.join(map(str, dict.fromkeys((items[0], items[-1]))))} search items. Target: {bed.target:+.4f}.",
        "",
        f"| | seeds | full evaluations to the target | reached | seconds | times ours | {spent} |",
        "|---" * (6 + len(SPENT)) + "|",
        *(_row(bed, arm) for arm in bed.arms),
    ]


def _row(bed: Measured, arm: str) -> str:
    costs, seconds = bed.cost(arm, 0), bed.cost(arm, 1)
    ours = quartiles(bed.cost(OURS, 0))[1] if bed.of(OURS) else np.nan
    ratio = quartiles(costs)[1] / ours
    times = f"{ratio:.1f}" if np.isfinite(ratio) and arm != OURS else "-"
    gains = " | ".join(_mean_with_error(bed.gains(arm, count)) for count in SPENT)
    reached = f"{np.isfinite(costs).mean():.0%}"
    return f"| {arm} | {len(costs)} | {spread(costs)} | {reached} | {spread(seconds)} | {times} | {gains} |"


def _mean_with_error(values: Sequence[float]) -> str:
    if not np.isfinite(values).all():
        return "-"
    if len(values) == 1:
        return f"{values[0]:+.4f}"
    return f"{np.mean(values):+.4f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.4f}"


def _verdicts(rows: Sequence[Row]) -> list[str]:
    """How often a verdict claimed a gain, and how often the truth denies it."""
    judged = [row for row in rows if "claims" in row]
    claimed = [row for row in judged if row["claims"]]
    denied = [row for row in claimed if row["course"][-1][2] <= 0]
    return [
        "",
        "## Verdicts",
        "",
        f"Our {len(judged)} runs claimed {len(claimed)} gains. The truth denies {len(denied)} of them.",
    ]


def recorded() -> list[dict[str, Any]]:
    """The searches of earlier calls."""
    file = FOLDER / f"{NAME}.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text())["searches"] if file.exists() else []
    return rows


def write(rows: Sequence[Row]) -> None:
    """Writes all searches and their tables."""
    write_result(NAME, {"searches": rows})
    (FOLDER / f"{NAME}.md").write_text(as_markdown(rows))


@click.command()
@click.option("--seeds", default=10, show_default=True, help="How many seeds for each arm.")
@click.option("--first-seed", default=100, show_default=True, help="The first seed; lower ones were for development.")
@click.option("--arms", default=",".join(ARMS), show_default=True, help="The arms, separated by commas.")
@click.option("--beds", default=",".join(BEDS), show_default=True, help="The beds, separated by commas.")
@click.option("--fresh", is_flag=True, help="Discard the recorded searches of these arms.")
def main(seeds: int, first_seed: int, arms: str, beds: str, fresh: bool) -> None:
    """Runs the searches that are not recorded yet."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = [row for row in recorded() if not (fresh and row["arm"] in arms.split(","))]
    done = {(row["bed"], row["arm"], row["seed"]) for row in rows}
    for seed in range(first_seed, first_seed + seeds):
        for bed in beds.split(","):
            for arm in arms.split(","):
                if (bed, arm, seed) not in done:
                    rows.append(dict(measured(bed, arm, seed, rows)))
                    write(rows)
    write(rows)
    click.echo(as_markdown(rows))


if __name__ == "__main__":
    main()

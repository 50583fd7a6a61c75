"""Items scored until a search has found a merge of a given test score: ours against the ways of others.

    python benchmarks/search_efficiency.py [--seeds N] [--arms NAMES] [--anew]

Candidates of the demo's checkpoints are built and scored (see ``search_live``); with the arms in place of one another,
everything else is the same. Goes on where it was stopped, and writes results/benchmarks/search_efficiency.json and
search_efficiency.md after each course.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
import optuna
import torch
from machine import FOLDER, write_result
from search_common import BUDGET, OUR_TRIALS, quartiles
from search_live import ARMS, EVOLVE, SPACES, Live, run_arm

from mergesearch.search.report.check_page import STEP_COST

NAME = "search_efficiency"
OURS = "ours"
TARGETS = (100, 200)
"""What mergekit-evolve comes to in the median with so many evaluations (its default is the first) is to be reached."""
SPENT = (5, 10, 20, 50, 100, 200)
"""Full evaluations after whose items all arms are compared."""
Course = Sequence[tuple[float, float, float]]
"""(full evaluations spent, score, test gain) at each better candidate."""


@dataclass(frozen=True)
class Table:
    """The courses of one space, by arm and seed."""

    space: str
    courses: Mapping[str, Mapping[int, Course]]
    items: Sequence[int]

    @property
    def targets(self) -> list[float]:
        """Test gains."""
        return [float(np.median(self.gains(EVOLVE, spent))) for spent in TARGETS]

    def gains(self, arm: str, spent: float) -> list[float]:
        """The test gain of each seed's best candidate when so much was spent."""
        return [gain_after(course, spent) for course in self.courses[arm].values()]

    def arrivals(self, arm: str, target: float) -> list[float]:
        """What each seed had spent when its best candidate reached the target on the test items; infinity: never."""
        return [arrival(course, target) for course in self.courses[arm].values()]

    def to_json(self) -> dict[str, Any]:
        arrivals = {
            arm: {
                str(spent): finite(self.arrivals(arm, target))
                for spent, target in zip(TARGETS, self.targets, strict=True)
            }
            for arm in self.courses
        }
        return {"space": self.space, "targets": self.targets, "arrivals": arrivals}


def finite(numbers: Sequence[float]) -> list[float | None]:
    """JSON knows no infinity."""
    return [number if np.isfinite(number) else None for number in numbers]


def gain_after(course: Course, spent: float) -> float:
    return next((gain for items, _, gain in reversed(course) if items <= spent), -np.inf)


def arrival(course: Course, target: float) -> float:
    return next((items for items, _, gain in course if gain >= target), np.inf)


def tables(lines: Sequence[Mapping[str, Any]]) -> list[Table]:
    """What was recorded, by space; those without the courses that set the targets are left out."""
    found = []
    for space in SPACES:
        mine = [line for line in lines if line["space"] == space]
        arms = {arm: {line["seed"]: line["course"] for line in mine if line["arm"] == arm} for arm in ARMS}
        counts = sorted({line["items"] for line in mine})
        if arms[EVOLVE]:
            found.append(Table(space, {arm: courses for arm, courses in arms.items() if courses}, counts))
    return found


def report(found: Sequence[Table]) -> str:
    """The tables in Markdown."""
    lines = [
        "# Items scored until a merge of a given score is found",
        "",
        "The demo's checkpoints, merged by task arithmetic. The score is minus the bits per byte of Python and C++",
        "code (the mean of both) that no model was trained on: a piece of each held-out file, a third of the files",
        "for the search, the others for the test. A seed is that of the split and of the search. All arms have the",
        f"same space; the others spend up to {BUDGET} evaluations, ours {OUR_TRIALS} trials, with nothing set. What is",
        "counted is items that are scored, in full evaluations (all search items once), baselines and points of a",
        f"descent too; an item that a step of a descent looks at counts {STEP_COST} times (forward and back takes 2.6",
        "times as long as scoring).",
        "",
        "The targets are test gains (bits per byte below the uniform soup, on the same test items) that",
        f"mergekit-evolve's way has in the median after {TARGETS[0]} evaluations, its default, and after {TARGETS[1]}.",
        "An arm has arrived when the best candidate that it has scored in full has that gain. Quartiles are over",
        "seeds; a seed that never arrives counts as infinite. The settings of our descent were chosen on seeds 0 to 4,",
        "which are not reported.",
        *(line for table in found for line in _table(table)),
        "",
        "Seven of the evaluations that ours spends are the baselines that every run begins with; without them a",
        "merge of that gain costs two to five. Merges of this kind have much headroom for a descent: the loss is the",
        "score. How searches go on accuracies, with few dimensions and without gradients is another matter: see",
        "[replayed scores](search_efficiency_replayed.md).",
    ]
    return "\n".join(lines) + "\n"


def _table(table: Table) -> list[str]:
    first, second = table.targets
    sizes = f"{table.items[0]} to {table.items[-1]}" if len(table.items) > 1 else f"{table.items[0]}"
    spent = " | ".join(f"gain after {count}" for count in SPENT)
    return [
        "",
        f"## {table.space.capitalize()} and model",
        "",
        f"{sizes} search items. Targets: {first:.4f} (after {TARGETS[0]}) and {second:.4f} (after {TARGETS[1]}).",
        "",
        f"| | seeds | to the first | arrived | times ours | to the second | arrived | times ours | {spent} |",
        "|---" * (8 + len(SPENT)) + "|",
        *(_line(table, arm) for arm in table.courses),
    ]


def _line(table: Table, arm: str) -> str:
    reached = " | ".join(_reached(table, arm, target) for target in table.targets)
    gains = " | ".join(f"{np.median(table.gains(arm, spent)):.4f}" for spent in SPENT)
    return f"| {arm} | {len(table.courses[arm])} | {reached} | {gains} |"


def _reached(table: Table, arm: str, target: float) -> str:
    found = table.arrivals(arm, target)
    low, middle, high = (f"{value:.1f}" if np.isfinite(value) else "never" for value in quartiles(found))
    ratio = quartiles(found)[1] / quartiles(table.arrivals(OURS, target))[1] if OURS in table.courses else np.nan
    times = f"{ratio:.1f}" if np.isfinite(ratio) and arm != OURS else "-"
    return f"{middle} ({low} to {high}) | {np.isfinite(found).mean():.0%} | {times}"


def recorded() -> list[dict[str, Any]]:
    """The courses of an earlier call."""
    file = FOLDER / f"{NAME}.json"
    lines: list[dict[str, Any]] = json.loads(file.read_text())["courses"] if file.exists() else []
    return lines


def write(lines: Sequence[Mapping[str, Any]]) -> None:
    found = tables(lines)
    write_result(NAME, {"budget": BUDGET, "spaces": [table.to_json() for table in found], "courses": lines})
    (FOLDER / f"{NAME}.md").write_text(report(found))


@click.command()
@click.option("--seeds", default=10, show_default=True, help="How many seeds of each arm.")
@click.option("--first-seed", default=100, show_default=True, help="The first of them; others were for trying out.")
@click.option("--arms", default=",".join(ARMS), show_default=True, help="Which ones, by commas.")
@click.option("--spaces", default=len(SPACES), show_default=True, help="How many spaces, from the first on.")
@click.option("--anew", is_flag=True, help="Forget the courses of these arms that an earlier call has recorded.")
def main(seeds: int, first_seed: int, arms: str, spaces: int, anew: bool) -> None:
    """Runs what is not recorded yet, seed by seed."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = arms.split(",")
    lines = [line for line in recorded() if not (anew and line["arm"] in names)]
    known = {(line["space"], line["arm"], line["seed"]) for line in lines}
    for space in [*SPACES][:spaces]:
        chosen = [(arm, seed) for seed in range(first_seed, first_seed + seeds) for arm in names]
        wanted = [(arm, seed) for arm, seed in chosen if (space, arm, seed) not in known]
        live = Live(space) if wanted else None
        for arm, seed in wanted:
            assert live is not None
            course = run_arm(live, arm, seed)
            lines.append({"space": space, "arm": arm, "seed": seed, "items": live.items(seed), "course": course})
            write(lines)
    write(lines)
    click.echo(report(tables(lines)))


if __name__ == "__main__":
    main()

"""Items scored until a search finds a merge of a given test score, on live models: ours and other projects'.

    python benchmarks/search_efficiency.py [--seeds N] [--arms NAMES] [--fresh]

Every candidate is a merge of the demo's checkpoints that is built and scored (see search_live.py). The arms differ in
the search method only. An interrupted call continues where it stopped. Writes results/benchmarks/search_efficiency.json
and search_efficiency.md after each search.
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
from search_common import BUDGET, OUR_TRIALS, Trace, cost_to, gain_after, quartiles, spread
from search_live import ARMS, EVOLVE, SPACES, LiveSpace, run_arm

NAME = "search_efficiency"
OURS = "ours"
TARGETS = (100, 200)
"""The targets are the median gains of mergekit-evolve after these full evaluations; the first is its default budget."""
SPENT = (5, 10, 20, 50, 100, 200)
"""Full evaluations after which all arms are compared."""


@dataclass(frozen=True)
class SpaceResult:
    """The traces of the searches of one space, by arm and seed. ``items``: the numbers of search items."""

    space: str
    traces: Mapping[str, Mapping[int, Trace]]
    items: Sequence[int]

    @property
    def targets(self) -> list[float]:
        """The gains to be reached."""
        return [float(np.median(self.gains(EVOLVE, spent))) for spent in TARGETS]

    def gains(self, arm: str, spent: float) -> list[float]:
        """The gain of the best candidate after ``spent`` full evaluations, for each seed."""
        return [gain_after(trace, spent) for trace in self.traces[arm].values()]

    def evaluations_to(self, arm: str, target: float) -> list[float]:
        """The full evaluations until the target was reached, for each seed; infinity where it never was."""
        return [cost_to(trace, target) for trace in self.traces[arm].values()]

    def to_json(self) -> dict[str, Any]:
        """The targets, and the full evaluations until each arm reached them; null where it never did."""
        arrivals = {
            arm: {
                str(spent): [n if np.isfinite(n) else None for n in self.evaluations_to(arm, target)]
                for spent, target in zip(TARGETS, self.targets, strict=True)
            }
            for arm in self.traces
        }
        return {"space": self.space, "targets": self.targets, "arrivals": arrivals}


def results_of(searches: Sequence[Mapping[str, Any]]) -> list[SpaceResult]:
    """The recorded searches by space. Spaces without a search of mergekit-evolve, which sets the targets, are left out.

    ``searches`` have the keys space, arm, seed, items, course (the trace), as they are in the JSON file.
    """
    results = []
    for space in SPACES:
        of_space = [search for search in searches if search["space"] == space]
        traces = {
            arm: {search["seed"]: search["course"] for search in of_space if search["arm"] == arm} for arm in ARMS
        }
        items = sorted({search["items"] for search in of_space})
        if traces[EVOLVE]:
            results.append(SpaceResult(space, {arm: seeds for arm, seeds in traces.items() if seeds}, items))
    return results


def as_markdown(results: Sequence[SpaceResult]) -> str:
    """One table for each space."""
    lines = [
        "# Items scored until a search finds a merge of a given score",
        "",
        "Merges of the demo's checkpoints by task arithmetic. The score is minus the bits per byte of Python and C++",
        "code (the mean of both) that no model was trained on. There is one piece of code of each held-out file; a",
        "third of the files are search items, the others test items. A seed is that of the split and of the search.",
        f"All arms have the same space. The searches of other projects may spend {BUDGET} full evaluations, ours",
        f"{OUR_TRIALS} trials, with default settings. A full evaluation is a number of scored items: all search items",
        "once. Baselines and the candidates of a gradient start are counted, and its steps as the items that are",
        "scored in the time that they take.",
        "",
        "The targets are the median gains (bits per byte below the uniform soup, on the test items) of mergekit-evolve",
        f"after {TARGETS[0]} full evaluations, its default, and after {TARGETS[1]}. A search has reached a target when",
        "the best candidate that it scored in full has that gain. Quartiles are over seeds; a search that never",
        "reaches the target counts as infinite. The settings of our gradient start were chosen on seeds 0 to 4, which",
        "are not reported.",
        *(line for result in results for line in _table(result)),
        "",
        "Seven of our full evaluations are the baselines that every run scores first; a merge of that gain costs two",
        "to five more. Merges of this kind leave much room for a gradient start, since the loss is the score.",
        "Searches on accuracies, with few dimensions and without gradients, are another matter.",
    ]
    return "\n".join(lines) + "\n"


def _table(result: SpaceResult) -> list[str]:
    first, second = result.targets
    sizes = f"{result.items[0]} to {result.items[-1]}" if len(result.items) > 1 else f"{result.items[0]}"
    spent = " | ".join(f"gain after {count}" for count in SPENT)
    target = "full evaluations to the {} target | reached | times ours"
    return [
        "",
        f"## {result.space.capitalize()} and model",
        "",
        f"{sizes} search items. Targets: {first:.4f} (after {TARGETS[0]}) and {second:.4f} (after {TARGETS[1]}).",
        "",
        f"| | seeds | {target.format('first')} | {target.format('second')} | {spent} |",
        "|---" * (8 + len(SPENT)) + "|",
        *(_row(result, arm) for arm in result.traces),
    ]


def _row(result: SpaceResult, arm: str) -> str:
    targets = " | ".join(_target_cells(result, arm, target) for target in result.targets)
    gains = " | ".join(f"{np.median(result.gains(arm, spent)):.4f}" for spent in SPENT)
    return f"| {arm} | {len(result.traces[arm])} | {targets} | {gains} |"


def _target_cells(result: SpaceResult, arm: str, target: float) -> str:
    evaluations = result.evaluations_to(arm, target)
    ours = quartiles(result.evaluations_to(OURS, target))[1] if OURS in result.traces else np.nan
    ratio = quartiles(evaluations)[1] / ours
    times = f"{ratio:.1f}" if np.isfinite(ratio) and arm != OURS else "-"
    return f"{spread(evaluations)} | {np.isfinite(evaluations).mean():.0%} | {times}"


def recorded() -> list[dict[str, Any]]:
    """The searches of earlier calls."""
    file = FOLDER / f"{NAME}.json"
    searches: list[dict[str, Any]] = json.loads(file.read_text())["courses"] if file.exists() else []
    return searches


def write(searches: Sequence[Mapping[str, Any]]) -> None:
    """Writes all searches and their tables."""
    results = results_of(searches)
    write_result(NAME, {"budget": BUDGET, "spaces": [result.to_json() for result in results], "courses": searches})
    (FOLDER / f"{NAME}.md").write_text(as_markdown(results))


@click.command()
@click.option("--seeds", default=10, show_default=True, help="How many seeds for each arm.")
@click.option("--first-seed", default=100, show_default=True, help="The first seed; lower ones were for development.")
@click.option("--arms", default=",".join(ARMS), show_default=True, help="The arms, separated by commas.")
@click.option("--spaces", default=len(SPACES), show_default=True, help="How many of the spaces.")
@click.option("--fresh", is_flag=True, help="Discard the recorded searches of these arms.")
def main(seeds: int, first_seed: int, arms: str, spaces: int, fresh: bool) -> None:
    """Runs the searches that are not recorded yet."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = arms.split(",")
    searches = [search for search in recorded() if not (fresh and search["arm"] in names)]
    done = {(search["space"], search["arm"], search["seed"]) for search in searches}
    for space in [*SPACES][:spaces]:
        chosen = [(arm, seed) for seed in range(first_seed, first_seed + seeds) for arm in names]
        missing = [(arm, seed) for arm, seed in chosen if (space, arm, seed) not in done]
        live = LiveSpace(space) if missing else None
        for arm, seed in missing:
            assert live is not None
            trace = run_arm(live, arm, seed)
            searches.append({"space": space, "arm": arm, "seed": seed, "items": live.items(seed), "course": trace})
            write(searches)
    write(searches)
    click.echo(as_markdown(results_of(searches)))


if __name__ == "__main__":
    main()

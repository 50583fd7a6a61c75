"""Runs of the demo's search with different seeds, on given checkpoints: what they win, and what they spend.

    python benchmarks/demo_runs.py [CONFIG] [--seeds N] [--first-seed N] [--steps N] [--fresh]

A seed is that of the split and of the search; every seed is reported. The oracle (see demo_bed.py) is that of each
split. An interrupted call continues where it stopped. Writes results/benchmarks/demo_runs.json and demo_runs.md after
each run.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch
from demo_bed import Bed, Found, Oracle, levels, mean, rounded, with_split
from machine import FOLDER, write_result

import mergesearch
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import read_yaml
from mergesearch.search.config import Config

NAME = "demo_runs"
CONFIG = Path("configs/demo.yml")
STARTS = (0.2, 0.25, 0.3)
"""Single weights that the oracle may begin at."""
EVERY = 10
"""Steps of the oracle between two merges that are scored."""


def searched(config: Config, folder: Path) -> dict[str, Any]:
    """What one run says, and what it cost."""
    begun, processor = time.perf_counter(), time.process_time()
    verdict = mergesearch.run(config, folder).verdict
    return {
        "minutes": round((time.perf_counter() - begun) / 60, 2),
        "processor minutes": round((time.process_time() - processor) / 60, 2),
        "winner": {
            "name": verdict.winner.name,
            "search": verdict.winner.search.value,
            "test": verdict.winner.test.value,
        },
        "baselines": {row.name: round(row.test.value, 4) for row in verdict.baselines},
        "proven": verdict.beyond_chance,
        "difference": [verdict.difference.value, verdict.difference.low, verdict.difference.high],
        "p": verdict.p,
        "sentence": verdict.sentence,
        "trials": verdict.trials,
        "items": verdict.items_spent,
        "items of the descent": verdict.items_worth,
        "ended": verdict.ended,
    }


def run_seed(config: Config, seed: int, steps: int) -> dict[str, Any]:
    """One seed's search and oracle."""
    seeded = with_split(config, seed)
    with TemporaryDirectory() as folder:
        result = searched(seeded, Path(folder))
        best = Path(folder) / seeded.output.name / "best.yml"
        recipe = Recipe.read(read_yaml(best), "best.yml")
    bed = Bed(seeded)
    spent = result["items"] + result["items of the descent"]
    sizes = {side: sum(len(items) for items in bed.tasks.items(side).values()) for side in ("search", "test")}
    return {
        "seed": seed,
        **result,
        "full evaluations": round(spent / sizes["search"], 2),
        **(_compared(bed, recipe, steps) if steps else {}),
        "search items": sizes["search"],
        "test items": sizes["test"],
    }


def _compared(bed: Bed, recipe: Recipe, steps: int) -> dict[str, Any]:
    """The winner beside the oracle."""
    winner, oracle = bed.score("winner", recipe), oracle_of(bed, steps)
    behind = bed.difference(winner, oracle)
    return {
        "winner by task": rounded(bed.by_task(winner, "test")),
        "oracle": round(bed.value(oracle, "test"), 4),
        "less oracle": [round(behind.value, 4), round(behind.standard_error, 4)],
    }


def oracle_of(bed: Bed, steps: int) -> Found:
    """The oracle's merge in the config's own space, begun at the best single weight."""
    single = max(bed.single_weights(STARTS), key=lambda found: bed.value(found, "search"))
    oracle = Oracle(bed, [*levels(bed.config).values()][-1])
    return oracle.best(oracle.descend(float(single.name.split()[-1]), steps, EVERY))


def as_markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    """The table of all runs, and their means."""
    rows = [_line(run) for run in runs]
    gains = [run["winner"]["test"] - max(run["baselines"].values()) for run in runs]
    behind = [run["less oracle"][0] for run in runs if "oracle" in run]
    proven = sum(run["proven"] for run in runs)
    lines = [
        "# Runs of the demo's search",
        "",
        "Means of the languages' accuracies on the test items. A seed is that of the split into search and test items",
        "and of the search. The best baseline is the best one on the test items, picked afterwards. A full evaluation",
        "is all search items once, baselines included. The oracle descends long, and is told where the test items are",
        "best.",
        "",
        "| seed | winner | best baseline | gain | verdict | oracle | winner − oracle | full evaluations | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"{proven} of {len(runs)} runs prove their winner better than every baseline. On average the winner is "
        f"{mean(gains):+.4f} above the best baseline{_beside(behind)} after "
        f"{mean([run['full evaluations'] for run in runs]):.1f} full evaluations "
        f"(median {np.median([run['full evaluations'] for run in runs]):.1f}).",
    ]
    return "\n".join(lines) + "\n"


def _beside(behind: Sequence[float]) -> str:
    """How far the winners are from the oracle, where it was asked for."""
    return f", {mean(behind):+.4f} from the oracle's ({len(behind)} runs)," if behind else ""


def _line(run: Mapping[str, Any]) -> str:
    rival = max(run["baselines"], key=lambda name: run["baselines"][name])
    value, low, high = run["difference"]
    verdict = (
        f"{'proven' if run['proven'] else 'not proven'}: {value:+.3f} [{low:+.3f}, {high:+.3f}], p = {run['p']:.4f}"
    )
    oracle = f"{run['oracle']:.4f} | {run['less oracle'][0]:+.4f}" if "oracle" in run else "- | -"
    return (
        f"| {run['seed']} | {run['winner']['test']:.4f} | {run['baselines'][rival]:.4f} ({rival}) | "
        f"{run['winner']['test'] - run['baselines'][rival]:+.4f} | {verdict} | {oracle} | "
        f"{run['full evaluations']:.1f} | {run['minutes']:.1f} |"
    )


def recorded() -> list[dict[str, Any]]:
    """The runs of earlier calls."""
    file = FOLDER / f"{NAME}.json"
    runs: list[dict[str, Any]] = json.loads(file.read_text())["runs"] if file.exists() else []
    return runs


@click.command()
@click.argument("config", type=click.Path(path_type=Path), default=CONFIG)
@click.option("--seeds", default=10, show_default=True, help="How many runs.")
@click.option("--first-seed", default=0, show_default=True)
@click.option("--steps", default=40, show_default=True, help="Steps of the oracle; 0 leaves it out.")
@click.option("--fresh", is_flag=True, help="Discard the recorded runs.")
def main(config: Path, seeds: int, first_seed: int, steps: int, fresh: bool) -> None:
    """Makes the runs that are not recorded yet."""
    torch.set_num_threads(1)
    runs = [] if fresh else recorded()
    for seed in range(first_seed, first_seed + seeds):
        if seed not in {run["seed"] for run in runs}:
            runs.append(run_seed(Config.read(config), seed, steps))
            write_result(NAME, {"config": config.name, "runs": runs})
            (FOLDER / f"{NAME}.md").write_text(as_markdown(runs))
    click.echo(as_markdown(runs))


if __name__ == "__main__":
    main()

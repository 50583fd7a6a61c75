"""What there is to win on the demo's checkpoints: the merge that an oracle finds, against every baseline.

    python benchmarks/demo_headroom.py [CONFIG] [--steps N] [--seed N]

The oracle descends on the graded accuracy of the search items, by the gradients of the merge's coefficients, and is
told where it is best on the test items (see demo_bed.py): one weight for all models, one for each, and one
for each model, layer and part. The single weight is also tried at ten values. All accuracies are those of the test
items. Writes results/benchmarks/demo_headroom.json and demo_headroom.md.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from demo_bed import Bed, Found, Oracle, levels, rounded, with_split
from machine import FOLDER, write_result

from mergesearch.search.config import Config

NAME = "demo_headroom"
CONFIG = Path("configs/demo.yml")
EVERY = 10
"""Steps of the oracle between two merges that are scored."""


def row(bed: Bed, found: Found, rival: Found | None = None) -> dict[str, Any]:
    """A merge's accuracies on the test items, and what it is better than a rival by."""
    result: dict[str, Any] = {
        "name": found.name,
        "search": round(bed.value(found, "search"), 4),
        "test": round(bed.value(found, "test"), 4),
        "tasks": rounded(bed.by_task(found, "test")),
    }
    if rival is not None:
        difference = bed.difference(found, rival)
        result["rival"] = rival.name
        result["gain"] = round(difference.value, 4)
        result["standard error"] = round(difference.standard_error, 4)
    return result


def measure(bed: Bed, steps: int) -> dict[str, Any]:
    """The rows of the baselines, of the single weights, and of the oracle at each level."""
    begun = time.perf_counter()
    baselines = bed.baselines()
    evaluation = (time.perf_counter() - begun) / len(baselines)
    singles = bed.single_weights()
    single = max(singles, key=lambda found: bed.value(found, "search"))
    rival = max([*baselines, single], key=lambda found: bed.value(found, "test"))
    oracles = []
    for level, weights in levels(bed.config).items():
        oracle = Oracle(bed, weights)
        found = oracle.best(oracle.descend(float(single.name.split()[-1]), steps, EVERY))
        found = bed.score(found.name, found.recipe)
        oracles.append({"level": level, "dimensions": oracle.dimensions, **row(bed, found, rival)})
        click.echo(f"{level}: {oracles[-1]}")
    return {
        "items": {side: {name: len(items) for name, items in bed.tasks.items(side).items()} for side in _SIDES},
        "files": {task.name: len({item.fingerprint for item in task.test}) for task in bed.tasks},
        "seconds of a full evaluation": round(evaluation, 1),
        "baselines": [row(bed, found) for found in baselines],
        "single weights": [row(bed, found) for found in singles],
        "best single weight": single.name,
        "best baseline on the test items": rival.name,
        "oracle": oracles,
    }


_SIDES = ("search", "test")


def as_markdown(result: Mapping[str, Any], notes: str) -> str:
    """The tables, and what was tried."""
    test, files = result["items"]["test"], result["files"]
    sizes = ", ".join(f"{name} {count:,} in {files[name]} files" for name, count in test.items())
    tasks = list(test)
    lines = [
        "# What there is to win on the demo",
        "",
        f"Accuracies on the test items: {sizes}. Scoring one merge on all items takes",
        f"{result['seconds of a full evaluation']} s on one core. The gains are those over the best baseline, "
        f"{result['best baseline on the test items']}, picked on",
        "the test items. A search can prove about two standard errors.",
        "",
        f"| merge | dimensions | mean | gain | standard error | {' | '.join(tasks)} |",
        "|---" * (5 + len(tasks)) + "|",
        *(_line(row, f"oracle, {row['level']}", row["dimensions"]) for row in result["oracle"]),
        *(_line(row, row["name"], "") for row in result["baselines"]),
        *(_line(row, row["name"], "") for row in result["single weights"]),
    ]
    return "\n".join(lines) + "\n" + notes


def _line(row: Mapping[str, Any], name: str, dimensions: object) -> str:
    gain = f"{row['gain']:+.4f} | {row['standard error']:.4f}" if "gain" in row else " | "
    tasks = " | ".join(f"{value:.3f}" for value in row["tasks"].values())
    return f"| {name} | {dimensions} | {row['test']:.4f} | {gain} | {tasks} |"


@click.command()
@click.argument("config", type=click.Path(path_type=Path), default=CONFIG)
@click.option("--steps", default=60, show_default=True, help="Steps of the oracle.")
@click.option("--seed", default=0, show_default=True, help="Of the split.")
def main(config: Path, steps: int, seed: int) -> None:
    """Measures, and writes the result."""
    torch.set_num_threads(1)
    bed = Bed(with_split(Config.read(config), seed))
    result = measure(bed, steps)
    write_result(NAME, result)
    notes = Path(__file__).with_name("demo_headroom_notes.md")
    text = as_markdown(result, "\n" + notes.read_text() if notes.exists() else "")
    (FOLDER / f"{NAME}.md").write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()

"""Soups of eight fine-tunes against the best single fine-tune, over five seeds, on the test items.

    nice -n 5 python benchmarks/soups.py [--seeds N]

Requires the demo's base, which ``mergesearch demo`` creates. Trains the missing fine-tunes under results/demo/soups
(ten seconds each on a free core) and resumes interrupted runs. Every seed has its own fine-tunes and its own split. The
task is bits per byte of held-out Python files. Writes results/benchmarks/soups.json and soups.md.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
from machine import FOLDER, write_result
from rich.console import Console
from soup_ingredients import COUNT, make

import mergesearch
from mergesearch.demo import FULL, tasks
from mergesearch.demo.corpus import read
from mergesearch.files import write_text
from mergesearch.search.candidates.soup_source import title

DEMO = Path("results/demo")
TEXTS = 48
KINDS = ("uniform", "greedy", "greedy_gain", "greedy_safe", "pruned", "learned", "learned_layers")
LEARNING = {"steps": 30, "learning_rate": 0.1, "items": 0.1}


def soup_config(seed: int, models: Sequence[Path]) -> mergesearch.Config:
    """The config of one seed's soups."""
    text = {"task": "text", "evaluator": "bits_per_byte", "files": [str(DEMO / "soups" / "text" / "*.txt")]}
    data = {
        "soup": {
            "models": [str(model) for model in models],
            "base": str(DEMO / "base"),
            "kinds": list(KINDS),
            "learning": LEARNING,
        },
        "evaluate": {
            "tasks": [text],
            "split": {"search": 0.5, "test": 0.5, "seed": seed},
        },
        "search": {"seed": seed},
        "output": {"name": f"seed-{seed}", "model": False},
    }
    return mergesearch.Config.model_validate(data)


def make_texts() -> None:
    """Writes pieces of the demo's held-out Python files, more than the demo itself has."""
    folder = DEMO / "soups" / "text"
    if not folder.exists():
        size = replace(FULL, texts=TEXTS)
        tasks.write_texts(folder, read("python", size), size)


def run_soups(seed: int, models: Sequence[Path]) -> dict[str, Any]:
    """Runs one seed's soups. Returns bits per byte on the test items by row, and the cost of the run."""
    run = mergesearch.run(soup_config(seed, models), DEMO / "soups" / "runs")
    seconds = run.trials[["seconds.build", "seconds.score"]].sum()
    verdict = run.verdict
    baselines = {row.name: row for row in verdict.baselines}
    rows = {"base": baselines["base"], "best single": baselines[verdict.best_baseline]}
    rows |= {row.name: row for row in verdict.soups}
    singles = [row.tasks["text"]["test"] for row in verdict.baselines[1:]]
    return {
        "test": {name: row.tasks["text"]["test"] for name, row in rows.items()}
        | {"mean of the singles": mean(singles)},
        "verdict": verdict.sentence,
        "trials": verdict.trials,
        "build_share": float(seconds["seconds.build"] / seconds.sum()),
    }


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """For each row the mean and standard deviation over the seeds, of its bits per byte and of its gain.

    The gain is the bits per byte of the best single model minus the row's; ``better`` counts the seeds where it is
    positive.
    """
    return {
        name: _statistics(runs, name) for name in ("base", "mean of the singles", "best single", *map(title, KINDS))
    }


def _statistics(runs: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    values = [run["test"][name] for run in runs]
    gains = [run["test"]["best single"] - value for value, run in zip(values, runs, strict=True)]
    better = sum(gain > 0 for gain in gains)
    return {"mean": mean(values), "sd": _sd(values), "gain": mean(gains), "gain_sd": _sd(gains), "better": better}


def _sd(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def as_markdown(rows: Mapping[str, Mapping[str, float]], seeds: int) -> str:
    """The table in Markdown."""
    lines = [
        f"# Soups of {COUNT} fine-tunes, {seeds} seeds",
        "",
        f"`python benchmarks/soups.py --seeds {seeds}`; bits per byte (lower is better) on the test items: mean ± "
        "standard deviation over the seeds. *Gain* is over the best single model, which is the best one on the search "
        "items of the same seed. Versions and machine are in soups.json.",
        "",
        "| | bits per byte | gain | better in |",
        "|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_row(name, row, seeds) for name, row in rows.items())]) + "\n"


def _row(name: str, row: Mapping[str, float], seeds: int) -> str:
    value, gain = f"{row['mean']:.4f} ± {row['sd']:.4f}", f"{row['gain']:+.4f} ± {row['gain_sd']:.4f}"
    comparison = ["", ""] if name == "best single" else [gain, f"{row['better']} of {seeds}"]
    return f"| {' | '.join([name, value, *comparison])} |"


@click.command()
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
def main(seeds: int) -> None:
    """Trains the missing fine-tunes, makes all soups, prints the tables."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    screen = Console(highlight=False)
    if not (DEMO / "base").exists():
        raise click.UsageError(f"{DEMO / 'base'}: does not exist; run `mergesearch demo` first")
    models = make(DEMO, seeds, screen.print)
    make_texts()
    runs = []
    for seed in range(seeds):
        runs.append({"seed": seed, **run_soups(seed, models[seed])})
        screen.print(f"seed {seed}: {runs[-1]['verdict']}")
    rows = summary(runs)
    write_result("soups", {"summary": rows, "runs": runs})
    write_text(FOLDER / "soups.md", as_markdown(rows, seeds))
    screen.print(as_markdown(rows, seeds))


if __name__ == "__main__":
    main()

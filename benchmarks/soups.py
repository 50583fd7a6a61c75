"""Soups of eight fine-tunes against the best one of them, over five seeds, on items that nothing was chosen by.

    nice -n 5 python benchmarks/soups.py [--seeds N]

Needs the demo's base (``mergesearch demo`` makes it); trains what is missing of the fine-tunes under results/demo/soups
(ten seconds each on a free core), and goes on with runs that were stopped. Every seed has its own fine-tunes and split.
The task is bits per byte of held-out Python files. Writes results/benchmarks/soups.json and soups.md.
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
from mergesearch.search.verdict.result import Row, Verdict

DEMO = Path("results/demo")
TEXTS = 48
KINDS = ("uniform", "greedy", "greedy_gain", "greedy_safe", "pruned", "learned", "learned_layers")
LEARNING = {"steps": 30, "learning_rate": 0.1, "items": 0.1}


def config(seed: int, models: Sequence[Path]) -> mergesearch.Config:
    """One seed's soups."""
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
    """Pieces of the demo's held-out Python files, more of them than the demo has."""
    folder = DEMO / "soups" / "text"
    if not folder.exists():
        size = replace(FULL, texts=TEXTS)
        tasks.write_texts(folder, read("python", size), size)


def judged(seed: int, models: Sequence[Path]) -> dict[str, Any]:
    """One run's bits per byte on the test items, and what it took."""
    done = mergesearch.run(config(seed, models), DEMO / "soups" / "runs")
    seconds = done.trials[["seconds.build", "seconds.score"]].sum()
    singles = [row.tasks["text"]["test"] for row in done.verdict.baselines[1:]]
    rows = {name: row.tasks["text"]["test"] for name, row in _rows(done.verdict).items()}
    return {
        "test": {**rows, "mean of the singles": mean(singles)},
        "verdict": done.verdict.sentence,
        "trials": done.verdict.trials,
        "build_share": float(seconds["seconds.build"] / seconds.sum()),
    }


def _rows(verdict: Verdict) -> dict[str, Row]:
    named = {row.name: row for row in verdict.baselines}
    soups = {row.name: row for row in verdict.soups}
    return {"base": named["base"], "best single": named[verdict.best_baseline], **soups}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """For each row the mean and standard deviation over the seeds, and those of its gain on the best single model."""
    return {name: _spread(runs, name) for name in ("base", "mean of the singles", "best single", *map(title, KINDS))}


def _spread(runs: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    values = [one["test"][name] for one in runs]
    gains = [one["test"]["best single"] - value for value, one in zip(values, runs, strict=True)]
    better = sum(gain > 0 for gain in gains)
    return {"mean": mean(values), "sd": _sd(values), "gain": mean(gains), "gain_sd": _sd(gains), "better": better}


def _sd(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def as_markdown(found: Mapping[str, Mapping[str, float]], seeds: int) -> str:
    """The table as the README may quote it."""
    lines = [
        f"# Soups of {COUNT} fine-tunes, {seeds} seeds",
        "",
        f"`python benchmarks/soups.py --seeds {seeds}`; bits per byte (lower is better) of the test items, which "
        "nothing was chosen by: mean ± standard deviation over the seeds. *Gain* is on the best single model, the best "
        "on the search items of the same seed. Versions and machine are in soups.json.",
        "",
        "| | bits per byte | gain | better in |",
        "|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_line(name, row, seeds) for name, row in found.items())]) + "\n"


def _line(name: str, row: Mapping[str, float], seeds: int) -> str:
    value, gain = f"{row['mean']:.4f} ± {row['sd']:.4f}", f"{row['gain']:+.4f} ± {row['gain_sd']:.4f}"
    own = ["", ""] if name == "best single" else [gain, f"{row['better']} of {seeds}"]
    return f"| {' | '.join([name, value, *own])} |"


@click.command()
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
def main(seeds: int) -> None:
    """Trains what is missing, makes every soup, prints the tables."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    screen = Console(highlight=False)
    if not (DEMO / "base").exists():
        raise click.UsageError(f"{DEMO / 'base'}: is missing; `mergesearch demo` makes it")
    models = make(DEMO, seeds, screen.print)
    make_texts()
    runs = []
    for seed in range(seeds):
        runs.append({"seed": seed, **judged(seed, models[seed])})
        screen.print(f"seed {seed}: {runs[-1]['verdict']}")
    found = summary(runs)
    write_result("soups", {"summary": found, "runs": runs})
    write_text(FOLDER / "soups.md", as_markdown(found, seeds))
    screen.print(as_markdown(found, seeds))


if __name__ == "__main__":
    main()

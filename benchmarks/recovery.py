"""Recovery of a merge of the demo's experts: how near it comes to their ensemble, in how many steps and tokens.

    python benchmarks/recovery.py [CONFIG] [--seeds N]

Recovers the uniform soup of the four experts: by LoRA of rank 8, in all weights, and by surgery of several ranks. Each
expert teaches on texts of its own language: the files that it was trained on, of which the tasks have no item. Passages
that share content with an item of either split are left out; the result says how many. All accuracies are those of the
test items. Reads the demo's checkpoints and tasks, which `mergesearch demo` makes. Writes
results/benchmarks/recovery.json and recovery.md after each row, and goes on from the rows that are there.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import click
import torch
from demo_bed import Bed, rounded
from machine import FOLDER, write_result

from mergesearch.demo import corpus
from mergesearch.demo.size import LANGUAGES, Size
from mergesearch.evaluators.tasks.ensemble import average
from mergesearch.merge_ops.after_merge.recovery.recover import recover
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.recipe.recovery import Recovery
from mergesearch.search.config import Config
from mergesearch.search.problem.recovery_texts import open_recovery
from mergesearch.search.problem.tasks import Scores
from mergesearch.search.statistics import difference_of

NAME = "recovery"
CONFIG = Path("results/demo/demo.yml")
STEPS = (25, 50, 100, 200)
RANKS = (8, 32)
BATCH, LENGTH = 8, 64
WAYS: Mapping[str, Mapping[str, Any]] = {
    "LoRA, rank 8": {"rank": 8, "learning_rate": 0.01},
    "all weights": {"full": True, "learning_rate": 0.005},
}


class Bench:
    """The demo in memory, and texts of its languages."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.bed = Bed(config)
        self.models = [model["model"] for model in config.recipe["models"]]
        self.data = {model: str(folder / f"{Path(model).name}.jsonl") for model in self.models}
        self.soup = _linear(self.models)
        self.ensemble = self._ensemble()
        # Shorter trainings use the first of these passages.
        longest = Recovery(data=self.data, length=LENGTH, steps=max(STEPS), batch_size=BATCH)
        self.texts = open_recovery(longest, self.models, None, self.bed.tasks)
        self.without = sorted({name for names in self.texts.left_out.values() for name in names})

    def recovered(self, settings: Recovery) -> dict[str, Any]:
        """The uniform soup, recovered: its accuracies, and what that took."""
        engine = self.bed.engine
        engine.build(self.soup)
        begun = time.perf_counter()
        parents = {name: Checkpoint(name) for name in self.models}
        record = recover(engine.model, engine.tokenizer, parents, settings)
        seconds = time.perf_counter() - begun
        scores = self.bed.tasks.score(self.bed.live, "test")
        return {"tokens": record.tokens, "seconds": round(seconds, 1), **self.row(scores)}

    def row(self, scores: Scores) -> dict[str, Any]:
        value, tasks = self.bed.tasks.combined("test", scores), self.bed.tasks.values("test", scores)
        difference = difference_of(self._strata(scores), self._strata(self.ensemble), self._combine)
        return {
            "test": round(value, 4),
            "from ensemble": round(difference.value, 4),
            "standard error": round(difference.standard_error, 4),
            "tasks": rounded(tasks),
        }

    def _strata(self, scores: Scores) -> Any:
        return self.bed.tasks.strata("test", scores)

    @property
    def _combine(self) -> Any:
        return self.bed.tasks.objective("test").combine

    def _ensemble(self) -> Scores:
        engine = self.bed.engine
        members = [deepcopy(engine.build(_linear([model]))) for model in self.models]
        return self.bed.tasks.score(average(members, engine.tokenizer), "test")


def _linear(models: Sequence[str]) -> Recipe:
    entries = [{"model": model, "parameters": {"weight": 1.0}} for model in models]
    return Recipe.read({"merge_method": "linear", "models": entries})


def write_texts(config: Path, folder: Path) -> dict[str, int]:
    """Writes the training text of each language; returns how many files of the tasks' items are in it."""
    content = json.loads((config.parent / "demo.json").read_text())["size"]
    found = {}
    for language in LANGUAGES:
        training = corpus.read(language, Size(**content)).training
        lines = (json.dumps({"text": text}) + "\n" for text in training.values())
        (folder / f"{language}.jsonl").write_text("".join(lines))
        items = (config.parent / "tasks" / f"demo_{language}.jsonl").read_text().splitlines()
        found[language] = len({json.loads(item)["source"] for item in items} & training.keys())
    return found


def plan(bench: Bench, seeds: int) -> Iterator[tuple[dict[str, Any], Recovery | None]]:
    """What each row is of, and how to recover; None: not at all."""
    shared: dict[str, Any] = {"data": bench.data, "length": LENGTH, "without": bench.without}
    yield {"way": "ensemble", "steps": 0, "seed": 0}, None
    yield {"way": "no recovery", "steps": 0, "seed": 0}, None
    for rank in RANKS:
        surgery = Recovery(**shared, how="surgery", rank=rank)
        yield {"way": f"surgery, rank {rank}", "steps": 0, "seed": 0}, surgery
    for seed in range(seeds):
        for way, settings in WAYS.items():
            for steps in STEPS:
                given = {**shared, **settings, "steps": steps, "batch_size": BATCH, "seed": seed}
                yield {"way": way, "steps": steps, "seed": seed}, Recovery(**given)


def measured(bench: Bench, what: Mapping[str, Any], settings: Recovery | None) -> dict[str, Any]:
    """The row of one recovery."""
    if settings is not None:
        return {**what, **bench.recovered(settings)}
    nothing = {**what, "tokens": 0, "seconds": 0.0}
    if what["way"] == "ensemble":
        return {**nothing, **bench.row(bench.ensemble)}
    bench.bed.engine.build(bench.soup)
    return {**nothing, **bench.row(bench.bed.tasks.score(bench.bed.live, "test"))}


def known_rows() -> list[dict[str, Any]]:
    file = FOLDER / f"{NAME}.json"
    return list(json.loads(file.read_text())["rows"]) if file.exists() else []


def left_out(bench: Bench) -> dict[str, tuple[int, int]]:
    """For each text how many passages share content with items, of how many that the longest training draws."""
    counts = {name: len(names) for name, names in bench.texts.left_out.items()}
    return {Path(name).name: (count, count + len(bench.texts.kept[name])) for name, count in counts.items()}


def as_markdown(result: Mapping[str, Any]) -> str:
    """The table."""
    rows = [
        f"| {row['way']} | {row['steps'] or ''} | {row['seed']} | {row['tokens']:,} | {row['seconds']:.0f} | "
        f"{row['test']:.4f} | {row['from ensemble']:+.4f} ± {row['standard error']:.4f} | "
        f"{' | '.join(f'{value:.3f}' for value in row['tasks'].values())} |"
        for row in result["rows"]
    ]
    tasks = list(result["rows"][0]["tasks"])
    shares = ", ".join(f"{count} of {all_} {name}" for name, (count, all_) in result["left out"].items())
    return "\n".join(
        [
            "# Recovery of a merge of the demo's experts",
            "",
            "The uniform soup of the four experts, recovered by them. Each teaches on texts of its own language: the",
            "files that it was trained on. Accuracies and differences are those of the test items, with standard",
            f"errors over files. A step has {BATCH} sequences of {LENGTH} tokens of each expert; tokens are those of",
            "all experts together, and seconds those of one core, parents included.",
            "",
            f"Passages that share content with an item of either split are left out: {shares}.",
            f"Files of the tasks' items that are in the texts: {sum(result['shared files'].values())}.",
            "",
            f"| how | steps | seed | tokens | seconds | mean | from the ensemble | {' | '.join(tasks)} |",
            "|---" * (7 + len(tasks)) + "|",
            *rows,
            "",
            f"Command: `{result['command']}`. Machine and versions: recovery.json.",
            "",
        ]
    )


@click.command()
@click.argument("config", type=click.Path(path_type=Path), default=CONFIG)
@click.option("--seeds", default=1, show_default=True, help="How often each training is repeated.")
def main(config: Path, seeds: int) -> None:
    """Measures, and writes the result."""
    torch.set_num_threads(1)
    notes = "\n" + Path(__file__).with_name("recovery_notes.md").read_text()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared = write_texts(config, folder)
        bench = Bench(Config.read(config), folder)
        facts = {"left out": left_out(bench), "shared files": shared}
        rows = known_rows()
        for what, settings in plan(bench, seeds):
            if not any(what.items() <= row.items() for row in rows):
                rows.append(measured(bench, what, settings))
                click.echo(rows[-1])
            write_result(NAME, {**facts, "rows": rows})
            (FOLDER / f"{NAME}.md").write_text(as_markdown(json.loads((FOLDER / f"{NAME}.json").read_text())) + notes)


if __name__ == "__main__":
    main()

"""The barrier between models that were trained apart: naive, aligned, and repaired.

    python benchmarks/alignment.py

The barrier is the loss of the midpoint, on held-out data, less the mean of the losses of the two models. Trains what
alignment_models.py describes if it is missing. Writes results/benchmarks/alignment.json and alignment.md.
"""

import os
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import click
import torch
from alignment_models import PAIRS, Pair, load, loss_of, make
from machine import FOLDER, write_result
from rich.console import Console

from mergesearch.files import write_text
from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.merge_ops.live.built import find_builder
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.trust import trust_code

TOKENS = 8192
WAYS = ("none", "weights", "activations", "orthogonal", "orthogonal, by activations")
"""How the second model is aligned to the first."""
NOTES = (
    "* The CNNs have two convolutions and two linear layers, and 700 digits of 8 × 8 pixels each; the second pair has "
    "batch norm. The Llamas have two layers, a stream of 96 entries, 380,000 parameters, and half a million tokens "
    "each.",
    "* The data for activations and repair is training data: 1,400 images, or 8,192 tokens.",
    "* *orthogonal*: the residual stream is rotated, by weights or by activations, and all else permuted by weights.",
)


def align_key(way: str, pair: Pair) -> Any:
    """The key ``align`` of the second model."""
    by, _, activations = way.partition(", ")
    data = {"data": pair.data} if by == "activations" or activations else {}
    spec = {"spec": pair.builder} if pair.builder else {}
    return {"by": by, **data, **spec} if by != "none" else "none"


def recipe_of(pair: Pair, way: str, has_repair: bool) -> Recipe:
    """The midpoint of a pair."""
    half = {"weight": 0.5}
    first, second = pair.models
    models = [{"model": first, "parameters": half}]
    models.append({"model": second, "parameters": half, "align": align_key(way, pair)})
    repair = {"repair": {"data": pair.data, "tokens": TOKENS}} if has_repair else {}
    return Recipe.read({"merge_method": "linear", "models": models, **repair})


def measure(pair: Pair, way: str, has_repair: bool) -> dict[str, float]:
    """The loss of the midpoint, and the seconds that it took to align and to build."""
    start, recipe = perf_counter(), recipe_of(pair, way, has_repair)
    builder = find_builder(pair.builder) if pair.builder else None
    engine = Engine(recipe.references, recipe.references[0], builder=builder)
    aligned = perf_counter()
    model = engine.build(recipe)
    built = perf_counter()
    return {"loss": loss_of(pair, model), "seconds_to_open": aligned - start, "seconds_to_build": built - aligned}


def measure_pair(pair: Pair, screen: Console) -> dict[str, Any]:
    """All rows of a pair."""
    ends = [loss_of(pair, load(pair, folder)) for folder in pair.models]
    rows: dict[str, Any] = {}
    for way in WAYS:
        if way.startswith("orthogonal") and pair.builder:
            continue  # no residual stream
        for has_repair in (False, True):
            found = measure(pair, way, has_repair)
            rows[f"{way}{' + repair' * has_repair}"] = {**found, "barrier": found["loss"] - sum(ends) / 2}
            screen.print(pair.name, way, has_repair, found)
    return {"ends": ends, "rows": rows}


def as_markdown(pairs: Mapping[str, Mapping[str, Any]]) -> str:
    """The table in Markdown."""
    lines = [
        "# Alignment: the barrier between models trained apart",
        "",
        "`python benchmarks/alignment.py`; the loss of the midpoint of two models on held-out data, less the mean of "
        "their own losses, in nats per image or per token (lower is better; 0: no barrier). The models of a pair have "
        "other initial weights and other halves of the training data. Versions and machine are in alignment.json.",
        "",
        f"| alignment | {' | '.join(pairs)} |",
        f"|---|{'---|' * len(pairs)}",
        f"| the models' own losses | {' | '.join(_ends(pair) for pair in pairs.values())} |",
    ]
    names = dict.fromkeys(name for pair in pairs.values() for name in pair["rows"])
    lines += [f"| {name} | {' | '.join(_cell(pair, name) for pair in pairs.values())} |" for name in names]
    return "\n".join([*lines, "", *NOTES]) + "\n"


def _ends(pair: Mapping[str, Any]) -> str:
    return ", ".join(f"{loss:.3f}" for loss in pair["ends"])


def _cell(pair: Mapping[str, Any], name: str) -> str:
    return f"{pair['rows'][name]['barrier']:.3f}" if name in pair["rows"] else "–"


@click.command()
def main() -> None:
    """Trains the missing models, measures all midpoints, prints the table."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    screen = Console(highlight=False)
    make(screen.print)
    with trust_code():
        pairs = {pair.name: measure_pair(pair, screen) for pair in PAIRS}
    write_result("alignment", {"pairs": pairs})
    write_text(FOLDER / "alignment.md", as_markdown(pairs))
    screen.print(as_markdown(pairs))


if __name__ == "__main__":
    main()

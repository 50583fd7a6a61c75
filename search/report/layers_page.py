"""``mergesearch show RUN --layers``: which layers come from which model."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console

from mergesearch.search.report.screen import print_table
from mergesearch.search.space.paths import model_labels
from mergesearch.search.verdict.layers import LayerRow

WHOLE = "whole model"


def print_layers(screen: Console, rows: Sequence[LayerRow]) -> None:
    """A table for each candidate: the whole, what is outside of layers, and each layer, by model."""
    if not rows:
        screen.print("the layers cannot be shown: the model is a checkpoint of another architecture")
    for _, of_candidate in groupby(rows, key=lambda row: row.trial):
        _print_candidate(screen, list(of_candidate))


def _print_candidate(screen: Console, rows: Sequence[LayerRow]) -> None:
    first, models = rows[0], list(dict.fromkeys(row.model for row in rows))
    labels = model_labels(list(dict.fromkeys([*models, first.base])))
    parts = named_parts(rows).items()
    cells = [[name, *(_cell(part, model) for model in models), *change_of(part)] for name, part in parts]
    base = f"the base, {labels[first.base]}" if first.base else "the models' mean"
    title = (
        f"{first.candidate}: each model's effective coefficient, and how far it is from {base}; how far the candidate "
        f"is from {'it' if first.base else 'the nearest model'}, and what the coefficients explain of that"
    )
    heads = ["", *(labels[model] for model in models), "change", "explained"]
    print_table(screen, title, heads, cells, numbers=True)


def named_parts(rows: Sequence[LayerRow]) -> dict[str, list[LayerRow]]:
    """A candidate's parts by name, in order: the whole, what is outside of layers, and each layer with all modules."""
    stacks = {row.stack for row in rows if row.layer is not None}
    by_part: dict[str, list[LayerRow]] = {}
    for row in sorted(rows, key=lambda row: (bool(row.module or row.stack), row.layer is not None)):
        if name := _name(row, several=len(stacks) > 1):
            by_part.setdefault(name, []).append(row)
    return by_part


def _name(row: LayerRow, several: bool) -> str:
    if row.layer is not None:
        stack = f"{row.stack} " if several else ""
        return "" if row.module else f"{stack}layer {row.layer}"
    if row.stack:
        return ""
    return row.module or WHOLE


def _cell(part: Sequence[LayerRow], model: str) -> str:
    """``+0.50 (3.1 %)`` for each time that the model is an input; of moved layers with the layer."""
    shown = (
        f"{coefficient_of(row):+.2f} ({row.delta:.1%}){'' if row.source is None else f' layer {row.source}'}"
        for row in part
        if row.model == model
    )
    return "\n".join(shown)


def coefficient_of(row: LayerRow) -> float:
    """The coefficient as it is shown, without a sign where it is 0."""
    return round(row.coefficient, 2) + 0.0


def change_of(part: Sequence[LayerRow]) -> tuple[str, str]:
    """How far the candidate is from the base in a part, and how much of that is explained."""
    explained = part[0].explained
    return f"{part[0].change:.1%}", "" if explained is None else f"{explained:.0%}"

"""Which layers of the winner, and of the recommended model, come from which model: a table in the run's folder.

A row is an input of a part of a model; see ``effective_coefficients`` for what they are. A part without a layer is a
module of all layers, or what is outside of them; without a module too it is the whole model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from mergesearch.search.study.table_file import read_table, write_table

if TYPE_CHECKING:  # the table is read without torch
    from mergesearch.merge_ops.engine.engine import Engine
    from mergesearch.merge_ops.recipe.recipe import Recipe

LAYERS = "layers.parquet"


@dataclass(frozen=True)
class LayerRow:
    """One model's share of a part of a candidate.

    Attributes:
        trial: the candidate's trial.
        candidate: its name.
        base: the base that changes are counted from; empty without one.
        stack: the name of the stack of layers; empty outside of them.
        layer: the layer's number; None where the part is no part of one layer.
        module: what the part is within a layer, such as ``mlp.up_proj``; empty for all of it.
        model: the model.
        source: the model's layer, where it is not sure to be the same.
        coefficient: the effective coefficient.
        delta: the length of the model's change from the base, relative to the base.
        change: the same of the candidate.
        explained: the share of the candidate's squared change that the coefficients of all models explain; None where
            there is no change.
    """

    trial: int
    candidate: str
    base: str
    stack: str
    layer: int | None
    module: str
    model: str
    source: int | None
    coefficient: float
    delta: float
    change: float
    explained: float | None


COLUMNS = [field.name for field in fields(LayerRow)]


def write_layers(folder: Path, engine: "Engine", recipes: Mapping[tuple[int, str], "Recipe"], base: str | None) -> None:
    """Writes the table of candidates, which are given by trial and name; ``base`` is the run's.

    Each is built into the live model, unless it is there already.
    """
    rows = [row for (trial, name), recipe in recipes.items() for row in _rows(engine, trial, name, recipe, base)]
    columns = zip(*map(astuple, rows), strict=True) if rows else [()] * len(COLUMNS)
    write_table(folder / LAYERS, dict(zip(COLUMNS, columns, strict=True)))


def _rows(engine: "Engine", trial: int, name: str, recipe: "Recipe", base: str | None) -> Iterator[LayerRow]:
    if engine.built != recipe:
        engine.build(recipe)
    origin = recipe.base_model or (base if recipe.models else None) or ""
    for found in engine.effective_coefficients(base):
        part = found.part
        for each, coefficient, delta in zip(found.inputs, found.coefficients, found.deltas, strict=True):
            yield LayerRow(
                trial,
                name,
                origin,
                part.stack,
                part.layer,
                part.module,
                each.model,
                each.layer,
                coefficient,
                delta,
                found.change,
                found.explained,
            )


def read_layers(folder: Path) -> list[LayerRow]:
    """Reads a run's table. Raises UserError where there is none, or it is damaged."""
    columns, _ = read_table(folder / LAYERS, COLUMNS)
    return [LayerRow(*row) for row in zip(*(columns[name] for name in COLUMNS), strict=True)]

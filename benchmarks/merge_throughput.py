"""Seconds to build a candidate by each method, as a multiple of what the method cannot do without, beside mergekit.

    python benchmarks/merge_throughput.py [--small] [--methods linear,ties] [--dtypes float32] [--models 2]

Creates a Llama with 125 million random parameters and four fine-tunes in a temporary folder, and a virtual environment
for mergekit, unless --mergekit-python names one. Requires 12 GB of memory. Every candidate has new parameters. The
limit is the time in which what a candidate needs can be read and the result written, at the bandwidth of the fastest
copy, which is measured before each merge, and for `regmean` LAPACK's time for its systems. The preparation, which all
candidates of a run share, has a limit of its own: reading the inputs, LAPACK's time for the decompositions of the
paper, or forward and backward passes of the models on a text of 1,024 tokens. benchmarks/merge_methods.py lists what
each method needs. Prints tables and writes results/benchmarks/merge_throughput.{json,md}. Rows of earlier runs are kept
unless they are measured again, so the benchmark can be run in parts.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from llama_checkpoints import add_text, make_checkpoints
from machine import FOLDER, write_result
from memory_copies import Copies, timed
from merge_methods import SETTINGS, TOKENS, Inputs, check_covered, counts_of, recipe_of
from merge_work import Work
from mergekit_process import MERGEKIT, Mergekit, mergekit_python
from rich.console import Console
from rich.table import Table

from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.recipe.recipe import Recipe

NOTES = Path(__file__).with_name("merge_throughput_notes.md")
COLUMNS = {
    "dtype": "dtype",
    "models": "fine-tunes",
    "method": "method",
    "reads": "checkpoints read",
    "seconds": "s / candidate",
    "limit": "limit s",
    "multiple": "x limit",
    "aim": "aim",
    "prepare": "prepare s",
    "prepare_limit": "its limit s",
    "pays": "break-even after",
    "mergekit": "mergekit s",
    "mergekit_multiple": "x limit",
    "ratio": "mergekit / ours",
    "load": "load",
}


def measure(recipes: Sequence[dict[str, Any]], paths: list[str], mergekit: Mergekit | None) -> dict[str, Any]:
    """One row of the table. The first recipe pays for the preparation that all share."""
    row, copies = measure_ours(recipes, paths)
    if mergekit and SETTINGS[recipes[0]["merge_method"]].in_mergekit:
        row |= mergekit.measure(recipes[0], row, lambda: row["moved"] / copies.bandwidth() + row["work"])
    return {**row, "load": os.getloadavg()[0]}


def measure_ours(recipes: Sequence[dict[str, Any]], paths: list[str]) -> tuple[dict[str, Any], Copies]:
    """Our columns of a row, and the copies that measure the limit; the engine's memory is free again."""
    first_recipe, *others = [Recipe.read(data) for data in recipes]
    references, setting = first_recipe.references, SETTINGS[recipes[0]["merge_method"]]
    engine = Engine(references, paths[0] if paths[0] in references else references[0])
    engine.build(Recipe.read({**recipes[0], "merge_method": "linear", "parameters": {"weight": 1.0}}))
    copies, first = Copies(engine.views), timed(partial(engine.build, first_recipe))
    floor = floor_of(recipes[0], engine)
    seconds, limits = [], []
    for recipe in others:
        limits.append(floor["moved"] / copies.bandwidth() + floor["work"])
        seconds.append(timed(partial(engine.build, recipe)))
    ours, limit = median(seconds), median(limits)
    looked = setting.looks * len(references) * copies.bytes / copies.bandwidth()
    measured = {"seconds": ours, "limit": limit, "multiple": ours / limit, "prepare": max(0.0, first - ours)}
    return {**floor, **measured, "prepare_limit": (looked + floor.pop("prepare_work")) or None}, copies


def floor_of(data: dict[str, Any], engine: Engine) -> dict[str, float]:
    """What a candidate must read and write, in bytes, and the seconds of computing that it and the first one need."""
    setting, shapes = SETTINGS[data["merge_method"]], {name: tuple(view.shape) for name, view in engine.views.items()}
    models = [entry["model"] for entry in data["models"]]
    itemsize, references = next(iter(engine.views.values())).itemsize, len(models) + ("base_model" in data)
    inputs, work = Inputs(shapes, itemsize, references, len(models)), Work(models, shapes, data["parameters"])
    read = setting.reads(inputs)
    return {
        "reads": read / inputs.checkpoint,
        "moved": read + inputs.checkpoint,
        "work": setting.work(work) if setting.work else 0.0,
        "prepare_work": setting.prepares(work) if setting.prepares else 0.0,
    }


def cell(value: Any) -> str:
    """A value as a cell of a table."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)


def table(rows: list[dict[str, Any]], columns: dict[str, str], title: str) -> Table:
    """A table for the terminal."""
    result = Table(title=title)
    for heading in columns.values():
        result.add_column(heading, justify="right")
    for row in rows:
        result.add_row(*(cell(row.get(key)) for key in columns))
    return result


def markdown(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """A table in Markdown."""
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[cell(row.get(key)) for key in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def combined(earlier: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows, sorted; a new row replaces an earlier one of its case. Rows without today's floors are left out."""
    rows = {(row["dtype"], row["models"], row["method"]): row for row in (*earlier, *new) if "reads" in row}
    methods = list(SETTINGS)
    return sorted(
        rows.values(), key=lambda row: (row["dtype"] != "float32", methods.index(row["method"]), row["models"])
    )


def write(rows: list[dict[str, Any]]) -> None:
    """Writes the files of the result, with the rows that are in them already."""
    file = FOLDER / "merge_throughput.json"
    earlier = json.loads(file.read_text()) if file.exists() else {}
    rows = combined(earlier.get("rows", []), rows)
    write_result("merge_throughput", {"mergekit": MERGEKIT, "rows": rows})
    sections = [f"# Merging, compared with mergekit {MERGEKIT}", str(__doc__), markdown(rows, COLUMNS)]
    (FOLDER / "merge_throughput.md").write_text("\n\n".join([*map(str.strip, sections), NOTES.read_text()]))


def _split(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    return [name for name in value.split(",") if name]


@click.command(help=__doc__)
@click.option("--small", is_flag=True, help="a small model and two candidates; writes no files")
@click.option("--methods", default=",".join(METHODS), callback=_split)
@click.option("--dtypes", default="float32,bfloat16", callback=_split)
@click.option("--models", default="2,4", callback=_split, help="numbers of fine-tunes")
@click.option("--threads", default=os.cpu_count(), help="threads of both programs")
@click.option("--repeats", default=7, help="number of candidates")
@click.option("--mergekit-python", "mergekit", help="a Python that has mergekit; 'none' leaves mergekit out")
def main(  # noqa: PLR0913, PLR0917 - one for each option
    small: bool,
    methods: list[str],
    dtypes: list[str],
    models: list[str],
    threads: int,
    repeats: int,
    mergekit: str | None,
) -> None:
    check_covered()
    torch.set_num_threads(threads)
    python = None if mergekit == "none" else mergekit or mergekit_python()
    counts, candidates = [int(count) for count in models], 2 if small else repeats
    console = Console(width=150)
    rows: list[dict[str, Any]] = []
    for dtype in dtypes:
        with tempfile.TemporaryDirectory() as folder:
            size, most = "small" if small else "125M", max(2, *counts)
            paths = make_checkpoints(Path(folder), size, most, getattr(torch, dtype))
            add_text(Path(folder), paths, TOKENS)
            for row in measure_all(paths, methods, counts, candidates, python):
                rows.append({"dtype": dtype, **row})
                console.print(f"{dtype} {row['models']} {row['method']}: {cell(row['multiple'])} x limit")
        if not small:
            write(rows)
    console.print(table(rows, COLUMNS, "building a candidate in memory"))


def measure_all(
    paths: list[str], methods: Sequence[str], counts: Sequence[int], candidates: int, python: str | None
) -> Iterator[dict[str, Any]]:
    """The rows of one dtype, for each method with each number of fine-tunes in ``counts`` that it takes."""
    mergekit = Mergekit(python, Path(paths[0]).parent) if python else None
    for method in methods:
        for count in counts_of(method, counts):
            recipes = [recipe_of(method, paths, count, number) for number in range(candidates + 1)]
            settings = {"models": count, "method": method, "aim": SETTINGS[method].aim}
            yield {**settings, **measure(recipes, paths, mergekit)}
    if mergekit:
        mergekit.close()


if __name__ == "__main__":
    main()

"""Seconds to build a candidate, as a multiple of the limit that memory bandwidth sets, compared with mergekit.

    python benchmarks/merge_throughput.py [--small] [--methods linear,ties] [--dtypes float32] [--models 2]

Creates a Llama with 125 million random parameters and four fine-tunes in a temporary folder, and a virtual environment
for mergekit, unless --mergekit-python names one. Requires 9 GB of memory. Every candidate has new parameters. The limit
is the time in which the inputs can be read and the result written, at the bandwidth of the fastest copy, which is
measured before each merge. Prints tables and writes results/benchmarks/merge_throughput.{json,md}. Rows of earlier runs
are kept unless they are measured again, so the benchmark can be run in parts.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
import yaml
from llama_checkpoints import make_checkpoints
from machine import FOLDER, write_result
from rich.console import Console
from rich.table import Table

from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.merge_ops.kernels.combine import combine_all
from mergesearch.merge_ops.kernels.plans import LinearCombination, Pass
from mergesearch.merge_ops.kernels.threads import run_spans
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.recipe.recipe import Recipe

MERGEKIT = "0.1.5"
SETTINGS: dict[str, dict[str, Any]] = {
    "linear": {"weight": 0.5},
    "slerp": {"t": 0.4},
    "task_arithmetic": {"weight": 0.5},
    "model_stock": {},
    "karcher": {},
    "ties": {"weight": 0.5, "density": 0.5},
    "dare_ties": {"weight": 0.5, "density": 0.5},
}
AIMS = {"ties": 3.0, "dare_ties": 4.0}
AIM = 1.3
"""The multiple of the limit that a method should stay below, where AIMS has no other."""
NOTES = Path(__file__).with_name("merge_throughput_notes.md")
SLOW = 150.0
"""Seconds after which a merge of mergekit is given up."""
COLUMNS = {
    "dtype": "dtype",
    "models": "fine-tunes",
    "method": "method",
    "seconds": "s / candidate",
    "limit": "limit s",
    "multiple": "x limit",
    "aim": "aim",
    "prepare": "prepare s",
    "pays": "break-even after",
    "mergekit": "mergekit s",
    "mergekit_multiple": "x limit",
    "ratio": "mergekit / ours",
    "load": "load",
}


def recipe_of(method: str, paths: Sequence[str], count: int, number: int = 0) -> dict[str, Any]:
    """The data of a recipe that merges ``count`` fine-tunes; SLERP is between two. ``paths`` has the base first.

    Recipes of different ``number`` have different parameters.
    """
    base, *fine_tunes = paths[: count + 1]
    if method == "slerp":
        base, fine_tunes = fine_tunes[0], fine_tunes[:2]
    takes_base = METHODS[method].base != "input" and method != "karcher"
    return {
        "merge_method": method,
        "models": [{"model": model} for model in fine_tunes],
        "parameters": {name: value + number / 100 for name, value in SETTINGS[method].items()},
        "dtype": Path(base).name.split("-")[0],
        **({"base_model": base} if takes_base else {}),
    }


class Copies:
    """Copies of as many bytes as a checkpoint has: by torch on one thread or all, by our threads, or by our kernels."""

    def __init__(self, views: Mapping[str, torch.Tensor]) -> None:
        self._pairs = [(view.clone().view(-1), torch.zeros_like(view).view(-1)) for view in views.values()]
        self.bytes = sum(a.nbytes for a, _ in self._pairs)

    def bandwidth(self) -> float:
        """Bytes per second of the fastest copy, read and written."""
        copies = (self._one_thread, self._torch, self._spread, self._kernels)
        return 2 * self.bytes / min(timed(copy) for copy in copies)

    def _torch(self) -> None:
        for source, target in self._pairs:
            target.copy_(source)

    def _one_thread(self) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._torch()
        torch.set_num_threads(threads)

    def _spread(self) -> None:
        for source, target in self._pairs:
            a, b = (tensor.view(torch.uint8).numpy() for tensor in (source, target))
            run_spans(a.size, partial(_copy, a, b))

    def _kernels(self) -> None:
        combine_all(Pass(LinearCombination((1.0,)), None, [source], target) for source, target in self._pairs)


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(recipes: Sequence[dict[str, Any]], paths: list[str], mergekit: "Mergekit | None") -> dict[str, Any]:
    """One row of the table. The first recipe pays for the preparation that all share."""
    row, copies = measure_ours(recipes, paths)
    if mergekit:
        row |= mergekit.measure(recipes[0], row, lambda: row["moved"] / copies.bandwidth())
    return {**row, "load": os.getloadavg()[0]}


def measure_ours(recipes: Sequence[dict[str, Any]], paths: list[str]) -> tuple[dict[str, Any], Copies]:
    """Our columns of a row, and the copies that measure the limit; the engine's memory is free again."""
    first_recipe, *others = [Recipe.read(data) for data in recipes]
    references = first_recipe.references
    engine = Engine(references, paths[0] if paths[0] in references else references[0])
    engine.build(Recipe.read({**recipes[0], "merge_method": "linear", "parameters": {"weight": 1.0}}))
    copies, first = Copies(engine.views), timed(partial(engine.build, first_recipe))
    moved = (len(references) + 1) * copies.bytes
    seconds, limits = [], []
    for recipe in others:
        limits.append(moved / copies.bandwidth())
        seconds.append(timed(partial(engine.build, recipe)))
    ours, limit = median(seconds), median(limits)
    prepare = max(0.0, first - ours)
    return {"moved": moved, "seconds": ours, "limit": limit, "multiple": ours / limit, "prepare": prepare}, copies


class Mergekit:
    """mergekit in a process of its own, which keeps the checkpoints in memory."""

    def __init__(self, python: str, folder: Path) -> None:
        script = Path(__file__).with_name("mergekit_in_memory.py")
        self._command = [python, str(script), str(torch.get_num_threads()), "2"]
        self._recipe, self._log = folder / "recipe.yml", folder / "mergekit.log"
        self._process: subprocess.Popen[str] | None = None

    def measure(self, data: dict[str, Any], ours: dict[str, Any], limit: Callable[[], float]) -> dict[str, Any]:
        """mergekit's columns of a row for the same recipe; the limit is measured before and after the merge."""
        limits = [limit()]
        theirs = self._seconds(data)
        limits.append(limit())
        saved = theirs - ours["seconds"]
        return {
            "mergekit": theirs,
            "mergekit_multiple": theirs / median(limits),
            "ratio": theirs / ours["seconds"],
            "pays": max(1, -int(-ours["prepare"] // saved)) if saved > 0 else None,
            "gave_up": theirs == SLOW,
        }

    def _seconds(self, data: dict[str, Any]) -> float:
        """Seconds of a merge; SLOW where it was given up."""
        if self._process is None:
            with self._log.open("w") as log:
                pipe = subprocess.PIPE
                self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=log, text=True)
        self._recipe.write_text(yaml.safe_dump(data))
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{self._recipe}\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], SLOW)[0]:
            self.close()
            return SLOW
        answer = self._process.stdout.readline()
        if not answer:
            raise click.ClickException(f"mergekit: {self._log.read_text()[-2000:]}")
        return float(median(json.loads(answer)))

    def close(self) -> None:
        """Ends the process; the next merge starts another."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


def mergekit_python() -> str:
    """The Python of a virtual environment with mergekit, which is created where it does not exist."""
    folder = Path.home() / ".cache" / "mergesearch" / f"mergekit-{MERGEKIT}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        packages = [f"torch=={torch.__version__.split('+')[0]}", f"mergekit=={MERGEKIT}"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        done.touch()
    return str(python)


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


def combined(earlier: list[dict[str, Any]], new: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """All rows, sorted; a new row replaces an earlier one with the same values of ``keys``."""
    rows = {tuple(row[key] for key in keys): row for row in (*earlier, *new)}
    return sorted(
        rows.values(),
        key=lambda row: (row["dtype"] != "float32", row.get("models", 0), list(SETTINGS).index(row["method"])),
    )


def write(rows: list[dict[str, Any]]) -> None:
    """Writes the files of the result, with the rows that are in them already."""
    file = FOLDER / "merge_throughput.json"
    earlier = json.loads(file.read_text()) if file.exists() else {}
    rows = combined(earlier.get("rows", []), rows, "dtype", "models", "method")
    write_result("merge_throughput", {"mergekit": MERGEKIT, "rows": rows})
    sections = [f"# Merging, compared with mergekit {MERGEKIT}", str(__doc__), markdown(rows, COLUMNS)]
    (FOLDER / "merge_throughput.md").write_text("\n\n".join([*map(str.strip, sections), NOTES.read_text()]))


def _copy(source: np.ndarray[Any, Any], target: np.ndarray[Any, Any], start: int, end: int) -> None:
    np.copyto(target[start:end], source[start:end])


def _split(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    return [name for name in value.split(",") if name]


@click.command(help=__doc__)
@click.option("--small", is_flag=True, help="a small model and two candidates; writes no files")
@click.option("--methods", default=",".join(m for m in SETTINGS if m in METHODS), callback=_split)
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
    torch.set_num_threads(threads)
    python = None if mergekit == "none" else mergekit or mergekit_python()
    counts, candidates = [int(count) for count in models], 2 if small else repeats
    console = Console(width=150)
    rows: list[dict[str, Any]] = []
    for dtype in dtypes:
        with tempfile.TemporaryDirectory() as folder:
            size, most = "small" if small else "125M", max(2, *counts, 0)
            paths = make_checkpoints(Path(folder), size, most, getattr(torch, dtype))
            for row in measure_all(paths, methods, counts, candidates, python):
                rows.append({"dtype": dtype, **row})
                console.print(f"{dtype} {row['models']} {row['method']}: {cell(row['multiple'])} x limit")
        if not small:
            write(rows)
    console.print(table(rows, COLUMNS, "building a candidate in memory"))


def measure_all(
    paths: list[str], methods: Sequence[str], counts: Sequence[int], candidates: int, python: str | None
) -> Iterator[dict[str, Any]]:
    """The rows of one dtype, for each number of fine-tunes in ``counts``."""
    for count in counts:
        mergekit = Mergekit(python, Path(paths[0]).parent) if python else None
        for method in methods:
            if method != "slerp" or count == 2:
                recipes = [recipe_of(method, paths, count, number) for number in range(candidates + 1)]
                settings = {"models": count, "method": method, "aim": AIMS.get(method, AIM)}
                yield {**settings, **measure(recipes, paths, mergekit)}
        if mergekit:
            mergekit.close()


if __name__ == "__main__":
    main()

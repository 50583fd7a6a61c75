"""How fast candidates are built, in multiples of what the machine's memory allows, beside mergekit.

    python benchmarks/merge_throughput.py [--small] [--methods linear,ties] [--dtypes float32] [--models 2]

Makes a Llama with 125 million random parameters and four fine-tunes in a temporary folder, and a virtual environment
for mergekit (--mergekit-python gives one that is there). Needs 9 GB of memory. Every candidate has other numbers than
the one before. The limit is what must be read and written, at the bandwidth of the fastest copy, measured in turn with
the merges. Prints tables and writes results/benchmarks/merge_throughput.{json,md}; rows of an earlier run that this one
did not measure stay in them, so that it may be run by parts.
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
from llama_checkpoints import make_checkpoints, references
from machine import FOLDER, write_result
from rich.console import Console
from rich.table import Table

from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.merge_ops.kernels.combine import combine_all
from mergesearch.merge_ops.kernels.plans import LinearCombination, Pass
from mergesearch.merge_ops.kernels.threads import spread
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
NOTES = Path(__file__).with_name("merge_throughput_notes.md")
SLOW = 150.0
"""Seconds after which mergekit is not waited for."""
COLUMNS = {
    "dtype": "dtype",
    "models": "fine-tunes",
    "method": "method",
    "seconds": "s / candidate",
    "limit": "limit s",
    "multiple": "x limit",
    "aim": "aim",
    "prepare": "prepare s",
    "pays": "paid back after",
    "mergekit": "mergekit s",
    "mergekit_multiple": "x limit",
    "ratio": "mergekit / ours",
    "load": "load",
}
COMMANDS = {"dtype": "dtype", "method": "method", "command": "command", "seconds": "s", "peak_mb": "peak MB"}


def recipe_of(method: str, base: str, tuned: list[str], turn: int = 0) -> dict[str, Any]:
    """The recipe, as YAML has it, with numbers of its own for every ``turn``; SLERP is between two fine-tunes."""
    if method == "slerp":
        base, tuned = tuned[0], tuned[:2]
    own = {} if METHODS[method].base == "input" or method == "karcher" else {"base_model": base}
    return {
        "merge_method": method,
        "models": [{"model": model} for model in tuned],
        "parameters": {name: value + turn / 100 for name, value in SETTINGS[method].items()},
        "dtype": Path(base).name.split("-")[0],
        **own,
    }


class Copies:
    """The fastest copy of as many bytes as a checkpoint has: torch on one thread or all, or our threads or kernels."""

    def __init__(self, views: Mapping[str, torch.Tensor]) -> None:
        self._pairs = [(view.clone().view(-1), torch.zeros_like(view).view(-1)) for view in views.values()]
        self.bytes = sum(a.nbytes for a, _ in self._pairs)

    def bandwidth(self) -> float:
        """Bytes a second, read and written."""
        return 2 * self.bytes / min(timed(way) for way in (self._one_thread, self._torch, self._spread, self._kernels))

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
            spread(a.size, lambda start, end, a=a, b=b: np.copyto(b[start:end], a[start:end]))

    def _kernels(self) -> None:
        combine_all(Pass([LinearCombination((1.0,))], None, [source], [target]) for source, target in self._pairs)


def timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(recipes: Sequence[dict[str, Any]], paths: list[str], mergekit: "Mergekit | None") -> dict[str, Any]:
    """One row of the table; the first recipe pays for what the others share."""
    row, copies = build(recipes, paths)
    beside = mergekit.row(recipes[0], row, lambda: row["moved"] / copies.bandwidth()) if mergekit else {}
    return {**row, **beside, "load": os.getloadavg()[0]}


def build(recipes: Sequence[dict[str, Any]], paths: list[str]) -> tuple[dict[str, Any], Copies]:
    """Our side of a row, and what measures the limit; the engine is gone."""
    read = [Recipe.read(data) for data in recipes]
    used = read[0].references
    engine = Engine(used, paths[0] if paths[0] in used else used[0])
    engine.build(Recipe.read({**recipes[0], "merge_method": "linear", "parameters": {"weight": 1.0}}))
    copies, first = Copies(engine.views), timed(partial(engine.build, read[0]))
    moved = (len(used) + 1) * copies.bytes
    seconds, limits = [], []
    for recipe in read[1:]:
        limits.append(moved / copies.bandwidth())
        seconds.append(timed(partial(engine.build, recipe)))
    ours, limit = median(seconds), median(limits)
    prepare = max(0.0, first - ours)
    return {"moved": moved, "seconds": ours, "limit": limit, "multiple": ours / limit, "prepare": prepare}, copies


class Mergekit:
    """mergekit in a process of its own, which keeps what it has read."""

    def __init__(self, python: str, folder: Path) -> None:
        script = Path(__file__).with_name("mergekit_in_memory.py")
        self._command = [python, str(script), str(torch.get_num_threads()), "2"]
        self._recipe, self._log = folder / "recipe.yml", folder / "mergekit.log"
        self._process: subprocess.Popen[str] | None = None

    def row(self, data: dict[str, Any], ours: dict[str, Any], limit: Callable[[], float]) -> dict[str, Any]:
        """The same recipe, with the limit measured before and after."""
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
        """SLOW where it takes longer."""
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
        return median(json.loads(answer))

    def close(self) -> None:
        """Ends the process; the next row starts another."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


def commands(data: dict[str, Any], mergekit: str | None) -> Iterator[dict[str, Any]]:
    """Whole commands, from recipe to folder: seconds and peak memory."""
    programs = {"mergesearch merge": [sys.executable, "-m", "mergesearch", "merge"]}
    if mergekit:
        programs["mergekit-yaml"] = [str(Path(mergekit).with_name("mergekit-yaml"))]
    for name, program in programs.items():
        with tempfile.TemporaryDirectory() as folder:
            recipe = Path(folder) / "recipe.yml"
            recipe.write_text(yaml.safe_dump(data))
            yield {"command": name, **_watched([*program, str(recipe), str(Path(folder) / "out")])}


def _watched(command: list[str]) -> dict[str, Any]:
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            time.sleep(0.01)
        if process.returncode:
            log.seek(0)
            raise click.ClickException(f"{' '.join(command)}: {log.read().decode()[-2000:]}")
    return {"seconds": time.perf_counter() - start, "peak_mb": peak / 1000}


def _peak(process: int) -> int:
    """The most memory that a process had so far, in kB, mapped files that it touched included.

    Not rusage's, which begins with that of this process.
    """
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def mergekit_python() -> str:
    """The Python of a virtual environment of mergekit's own, made where it is missing."""
    folder = Path.home() / ".cache" / "mergesearch" / f"mergekit-{MERGEKIT}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        packages = [f"torch=={torch.__version__.split('+')[0]}", f"mergekit=={MERGEKIT}"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        done.touch()
    return str(python)


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)


def table(rows: list[dict[str, Any]], columns: dict[str, str], title: str) -> Table:
    result = Table(title=title)
    for heading in columns.values():
        result.add_column(heading, justify="right")
    for row in rows:
        result.add_row(*(shown(row.get(key)) for key in columns))
    return result


def markdown(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[shown(row.get(key)) for key in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def merged(earlier: list[dict[str, Any]], now: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """The rows of both, in the order of the keys; those of now where both have them."""
    rows = {tuple(row[key] for key in keys): row for row in (*earlier, *now)}
    return sorted(rows.values(), key=_place)


def _place(row: dict[str, Any]) -> tuple[bool, int, int]:
    return row["dtype"] != "float32", row.get("models", 0), list(SETTINGS).index(row["method"])


def write(rows: list[dict[str, Any]], whole: list[dict[str, Any]]) -> None:
    """The files, with what was in them before."""
    file = FOLDER / "merge_throughput.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    rows = merged(before.get("rows", []), rows, "dtype", "models", "method")
    whole = merged(before.get("commands", []), whole, "dtype", "method", "command")
    write_result("merge_throughput", {"mergekit": MERGEKIT, "rows": rows, "commands": whole})
    parts = [f"# Merging, beside mergekit {MERGEKIT}", __doc__, markdown(rows, COLUMNS), markdown(whole, COMMANDS)]
    (FOLDER / "merge_throughput.md").write_text("\n\n".join([*map(str.strip, parts), NOTES.read_text()]))


def _list(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    return [part for part in value.split(",") if part]


@click.command(help=__doc__)
@click.option("--small", is_flag=True, help="a small model, two candidates: to see that it runs; writes nothing")
@click.option("--methods", default=",".join(m for m in SETTINGS if m in METHODS), callback=_list)
@click.option("--dtypes", default="float32,bfloat16", callback=_list)
@click.option("--models", default="2,4", callback=_list, help="numbers of fine-tunes")
@click.option(
    "--commands", "whole", default="linear,ties", callback=_list, help="methods of whole commands; '' for none"
)
@click.option("--threads", default=os.cpu_count(), help="of both programs")
@click.option("--repeats", default=7, help="candidates")
@click.option("--mergekit-python", "mergekit", help="a Python that has mergekit; 'none' leaves it out")
def main(small: bool, threads: int, repeats: int, mergekit: str | None, **wished: list[str]) -> None:
    torch.set_num_threads(threads)
    python = None if mergekit == "none" else mergekit or mergekit_python()
    console, rows, whole = Console(width=150), [], []
    for dtype in wished["dtypes"]:
        with tempfile.TemporaryDirectory() as folder:
            most, size = max(2, *map(int, wished["models"]), 0), "small" if small else "125M"
            paths = make_checkpoints(Path(folder), size, most, getattr(torch, dtype))
            for row in measured(paths, wished, 2 if small else repeats, python, Path(folder)):
                rows.append({"dtype": dtype, **row})
                console.print(f"{dtype} {row['models']} {row['method']}: {shown(row['multiple'])} x limit")
            for method in wished["whole"]:
                data = recipe_of(method, *references(paths, 2))
                whole += [{"dtype": dtype, "method": method, **row} for row in commands(data, python)]
        if not small:
            write(rows, whole)
    console.print(table(rows, COLUMNS, "building a candidate in memory"), table(whole, COMMANDS, "whole commands"))


def measured(
    paths: list[str], wished: dict[str, list[str]], repeats: int, python: str | None, folder: Path
) -> Iterator[dict[str, Any]]:
    """The rows of one dtype."""
    for count in map(int, wished["models"]):
        mergekit = Mergekit(python, folder) if python else None
        for method in wished["methods"]:
            if method != "slerp" or count == 2:
                recipes = [recipe_of(method, *references(paths, count), turn) for turn in range(repeats + 1)]
                where = {"models": count, "method": method, "aim": AIMS.get(method, AIM)}
                yield {**where, **measure(recipes, paths, mergekit)}
        if mergekit:
            mergekit.close()


if __name__ == "__main__":
    main()

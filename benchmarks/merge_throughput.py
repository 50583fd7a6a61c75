"""How fast candidates are built, in multiples of what the machine's memory allows, beside mergekit.

    python benchmarks/merge_throughput.py [--small] [--methods linear,ties] [--dtypes float32,bfloat16]

Makes a Llama with 125 million random parameters and four fine-tunes in a temporary folder, and a virtual environment
for mergekit (--mergekit-python gives one that is there). The limit is what must be read and written, at the bandwidth
of the fastest copy, measured in turn with the merges. Prints tables and writes
results/benchmarks/merge_throughput.{json,md}.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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

from mergesearch.merge_ops.engine import Engine
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.recipe import Recipe
from mergesearch.merge_ops.threads import spread

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
NOTES = """
How to read it: `x limit` is the time over that of reading each input and writing the result once, at the bandwidth of
the fastest copy at that moment; here a copy on one thread already comes near the machine's bandwidth. `prepare` is
what the first candidate takes longer (inner products, sorted magnitudes), once per run. `load` is the machine's one
minute load average: above the number of threads, other programs took part of the processors.

What bounds what misses its aim: instructions, not memory. With all data in cache, one core of the machine above takes
0.7 ns an element for linear with two bfloat16 models, 2.1 for ties and dare_ties; memory alone would take 0.6 and 0.7.
Beside that about 0.2 ms of Python for every tensor (finding its numbers, deciding, starting threads), 0.4 for
model_stock.

What was tried: plain torch with its own threads (they wait for each other after every operation: hundreds of times the
limit when other programs run); plain torch in blocks on our threads (that is what runs without a C compiler); 256 and
1024 elements a tile (the same); 512-bit vectors (up to 1.4 times faster, kept); deciding the next tensor in another
thread than the one that combines (10 % slower: Python's lock).
"""
COLUMNS = {
    "dtype": "dtype",
    "models": "fine-tunes",
    "method": "method",
    "seconds": "s / candidate",
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


def recipe_of(method: str, base: str, tuned: list[str]) -> dict[str, Any]:
    """The recipe, as YAML has it; SLERP is between two fine-tunes."""
    if method == "slerp":
        base, tuned = tuned[0], tuned[:2]
    own = {} if METHODS[method].base == "input" or method == "karcher" else {"base_model": base}
    return {
        "merge_method": method,
        "models": [{"model": model} for model in tuned],
        "parameters": SETTINGS[method],
        "dtype": Path(base).name.split("-")[0],
        **own,
    }


class Copies:
    """The fastest copy of as many bytes as a checkpoint has: torch on one thread or all, or our threads."""

    def __init__(self, engine: Engine) -> None:
        self._pairs = [(view.clone().view(-1), torch.zeros_like(view).view(-1)) for view in engine.views.values()]
        self.bytes = sum(a.nbytes for a, _ in self._pairs)

    def bandwidth(self) -> float:
        """Bytes a second, read and written."""
        return 2 * self.bytes / min(timed(way) for way in (self._one_thread, self._torch, self._spread))

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


def timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(data: dict[str, Any], paths: list[str], repeats: int, mergekit: str | None) -> dict[str, Any]:
    """One row of the table."""
    recipe = Recipe.read(data)
    gc.collect()  # the last engine's checkpoints hang in a cycle
    engine = Engine(recipe.references, paths[0] if paths[0] in recipe.references else recipe.references[0])
    engine.build(Recipe.read({**data, "merge_method": "linear", "parameters": {"weight": 1.0}}))
    copies, first = Copies(engine), timed(lambda: engine.build(recipe))
    moved = (len(recipe.references) + 1) * copies.bytes
    seconds, limits = [], []
    for _ in range(repeats):
        limits.append(moved / copies.bandwidth())
        seconds.append(timed(lambda: engine.build(recipe)))
    ours, limit = median(seconds), median(limits)
    row = {"seconds": ours, "limit": limit, "multiple": ours / limit, "prepare": max(0.0, first - ours)}
    row["load"] = os.getloadavg()[0]
    return row if mergekit is None else {**row, **beside(row, data, mergekit, lambda: moved / copies.bandwidth())}


def beside(row: dict[str, Any], data: dict[str, Any], python: str, limit: Callable[[], float]) -> dict[str, Any]:
    """mergekit on the same recipe, with the limit measured before and after."""
    limits = [limit()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yml"
        path.write_text(yaml.safe_dump(data))
        script = Path(__file__).with_name("mergekit_in_memory.py")
        command = [python, str(script), str(path), str(torch.get_num_threads()), "2"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    limits.append(limit())
    theirs = median(json.loads(done.stdout.splitlines()[-1]))
    saved = theirs - row["seconds"]
    return {
        "mergekit": theirs,
        "mergekit_multiple": theirs / median(limits),
        "ratio": theirs / row["seconds"],
        "pays": max(1, -int(-row["prepare"] // saved)) if saved > 0 else None,
    }


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


def _list(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    return value.split(",")


@click.command(help=__doc__)
@click.option("--small", is_flag=True, help="a small model, two repeats: to see that it runs")
@click.option("--methods", default=",".join(m for m in SETTINGS if m in METHODS), callback=_list)
@click.option("--dtypes", default="float32,bfloat16", callback=_list)
@click.option("--models", default="2,4", callback=_list, help="numbers of fine-tunes")
@click.option("--threads", default=os.cpu_count(), help="of both programs")
@click.option("--repeats", default=7)
@click.option("--mergekit-python", "mergekit", help="a Python that has mergekit; 'none' leaves it out")
def main(  # noqa: PLR0913, PLR0917
    small: bool, methods: list[str], dtypes: list[str], models: list[str], threads: int, repeats: int, mergekit: str
) -> None:
    torch.set_num_threads(threads)
    python = None if mergekit == "none" else mergekit or mergekit_python()
    console, rows, whole = Console(width=150), [], []
    for dtype in dtypes:
        with tempfile.TemporaryDirectory() as folder:
            paths = make_checkpoints(
                Path(folder), "small" if small else "125M", max(map(int, models)), getattr(torch, dtype)
            )
            for count in map(int, models):
                for method in methods:
                    if method == "slerp" and count > 2:
                        continue
                    where = {"dtype": dtype, "models": count, "method": method, "aim": AIMS.get(method, AIM)}
                    data = recipe_of(method, *references(paths, count))
                    rows.append({**where, **measure(data, paths, 2 if small else repeats, python)})
                    console.print(f"{dtype} {count} {method}: {shown(rows[-1]['multiple'])} x limit")
            data = recipe_of("ties", *references(paths, 2))
            whole += [{"dtype": dtype, "method": "ties", **row} for row in commands(data, python)]
    console.print(table(rows, COLUMNS, "building a candidate in memory"), table(whole, COMMANDS, "whole commands"))
    if not small:
        text = f"# Merging, beside mergekit {MERGEKIT}\n\n{__doc__}\n{markdown(rows, COLUMNS)}\n\n"
        write_result("merge_throughput", {"mergekit": MERGEKIT, "rows": rows, "commands": whole})
        (FOLDER / "merge_throughput.md").write_text(f"{text}{markdown(whole, COMMANDS)}\n{NOTES}")


if __name__ == "__main__":
    main()

"""Seconds and peak memory of whole merges, from a recipe file to a model's folder, beside a copy of the same bytes.

    python benchmarks/whole_commands.py [--sizes 125M] [--methods linear] [--states warm] [--repeats 3]

Creates random Llamas in bfloat16, a base and two fine-tunes, in a temporary folder. Three commands take turns:
`mergesearch merge`, `mergekit-yaml` where it is installed, and the copy: `cat` of the inputs to nowhere, and `dd` of
one model to a file, which is on the disk at its end. In every turn `import torch` is timed, too. Warm: the inputs are
in the page cache. Cold: they are dropped from it before each command (posix_fadvise). CPU seconds are those of all
threads, and say most where other programs use the processors. Prints a table and writes
results/benchmarks/whole_commands.{json,md}, with medians. Rows of earlier runs are kept unless they are measured again,
so the benchmark can be run in parts.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
import yaml
from llama_checkpoints import SIZES, make_checkpoints
from machine import FOLDER, write_result
from merge_throughput import markdown, table
from rich.console import Console

from mergesearch.merge_ops.recipe.recipe import Recipe

METHODS: dict[str, dict[str, Any]] = {
    "linear": {"weight": 0.5},
    "slerp": {"t": 0.4},
    "dare_ties": {"weight": 0.5, "density": 0.4},
    "ties": {"weight": 0.5, "density": 0.4},
    "slices": {},
}
MERGEKIT = Path(__file__).parents[1] / ".venv-mergekit" / "bin" / "mergekit-yaml"
TORCH = (sys.executable, "-c", "import torch")
STATES = ("warm", "cold")
COLUMNS = {
    "size": "size",
    "state": "inputs",
    "method": "method",
    "command": "command",
    "seconds": "s",
    "cpu": "CPU s",
    "multiple": "x copy",
    "without_torch": "x copy, less torch",
    "peak_mb": "peak MB",
    "load": "load",
}
KEYS = ("size", "state", "method", "command")
Measured = dict[str, float]
"""The seconds of a command, of its threads on the processors, and its peak memory in MB."""


def recipe_of(method: str, paths: Sequence[str]) -> dict[str, Any]:
    """The data of a recipe. ``paths`` has the base and two fine-tunes; slices are two thirds of either of these."""
    base, *fine_tunes = paths
    if method == "slices":
        layers = json.loads((Path(base) / "config.json").read_text())["num_hidden_layers"]
        spans = ([0, layers * 2 // 3], [layers // 3, layers])
        slices = [{"sources": [{"model": m, "layer_range": s}]} for m, s in zip(fine_tunes, spans, strict=True)]
        return {"merge_method": "passthrough", "slices": slices, "dtype": "bfloat16"}
    needs_base = {"dare_ties": base, "ties": base, "slerp": fine_tunes[0]}
    return {
        "merge_method": method,
        "models": [{"model": model} for model in fine_tunes],
        "parameters": METHODS[method],
        "dtype": "bfloat16",
        **({"base_model": needs_base[method]} if method in needs_base else {}),
    }


class Turns:
    """The commands for one recipe, each of which writes to a new place.

    Args:
        data: the recipe.
        folder: where the recipe and results are written.
        is_cold: drop the inputs from the page cache before each command.
        mergekit: the path of mergekit-yaml, if it is there.
    """

    def __init__(self, data: dict[str, Any], folder: Path, is_cold: bool, mergekit: Path | None) -> None:
        self._recipe, self._out, self._is_cold = folder / "recipe.yml", folder / "out", is_cold
        self._recipe.write_text(yaml.safe_dump(data))
        self._inputs = [Path(reference) / "model.safetensors" for reference in Recipe.read(data).references]
        merge = [sys.executable, "-m", "mergesearch", "merge"]
        self.commands: dict[str, Callable[[], Measured]] = {"mergesearch merge": lambda: self._merge(merge)}
        if mergekit:
            self.commands["mergekit-yaml"] = lambda: self._merge([str(mergekit)])
        self.commands["cat and dd"] = self._copy
        self.commands["import torch"] = lambda: run_command(TORCH)

    def measured(self, repeats: int) -> dict[str, Measured]:
        """The medians of each command, in ``repeats`` turns."""
        found: dict[str, list[Measured]] = {name: [] for name in self.commands}
        for _ in range(repeats):
            for name, command in self.commands.items():
                self._prepare()
                found[name].append(command())
                shutil.rmtree(self._out, ignore_errors=True)
        return {name: {key: median(each[key] for each in runs) for key in runs[0]} for name, runs in found.items()}

    def _prepare(self) -> None:
        os.sync()  # what the command before wrote is not this one's time
        for path in self._inputs:
            with path.open("rb") as file:
                if self._is_cold:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                else:
                    while file.read(1 << 24):
                        pass

    def _merge(self, program: Sequence[str]) -> Measured:
        return run_command([*program, str(self._recipe), str(self._out)])

    def _copy(self) -> Measured:
        self._out.mkdir()
        read = run_command(["cat", *map(str, self._inputs)])
        target = f"of={self._out / 'copy'}"
        written = run_command(["dd", f"if={self._inputs[-1]}", target, "bs=16M", "conv=fsync"])
        return {key: max(read[key], written[key]) if key == "peak_mb" else read[key] + written[key] for key in read}


def run_command(command: Sequence[str]) -> Measured:
    """Runs a command to its end. Raises ClickException where it fails."""
    start, used, peak = time.perf_counter(), _cpu_seconds(), 0
    with tempfile.TemporaryFile() as log:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=environment)
        while process.poll() is None:
            peak = max(peak, _peak_kb(process.pid))
            time.sleep(0.01)
        if process.returncode:
            log.seek(0)
            raise click.ClickException(f"{' '.join(command)}: {log.read().decode()[-2000:]}")
    return {"seconds": time.perf_counter() - start, "cpu": _cpu_seconds() - used, "peak_mb": peak / 1000}


def _cpu_seconds() -> float:
    """The CPU seconds of all commands that ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _peak_kb(process: int) -> int:
    """The peak memory of a process so far, in kB, with the pages of mapped files that it touched.

    The value of getrusage does not serve: a child's begins at that of its parent.
    """
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def rows_of(measured: dict[str, Measured]) -> list[dict[str, Any]]:
    """The rows of a recipe's commands, with multiples of the copy's time."""
    copy, torch_import = measured["cat and dd"]["seconds"], measured["import torch"]["seconds"]
    rows = []
    for command, values in measured.items():
        row = {"command": command, **values, "load": os.getloadavg()[0]}
        if command.startswith("merge"):
            row["multiple"] = values["seconds"] / copy
            row["without_torch"] = (values["seconds"] - torch_import) / copy
        rows.append(row)
    return rows


def write(rows: list[dict[str, Any]]) -> None:
    """Writes the files of the result, with the rows that are in them already."""
    file = FOLDER / "whole_commands.json"
    earlier = json.loads(file.read_text())["rows"] if file.exists() else []
    kept = {tuple(row[key] for key in KEYS): row for row in (*earlier, *rows)}
    ordered = sorted(kept.values(), key=lambda row: (row["size"], STATES[::-1].index(row["state"])))
    write_result("whole_commands", {"rows": ordered})
    sections = ["# Whole merges, compared with copies", str(__doc__).strip(), markdown(ordered, COLUMNS)]
    (FOLDER / "whole_commands.md").write_text("\n\n".join(sections) + "\n")


def _split(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    return [name for name in value.split(",") if name]


@click.command(help=__doc__)
@click.option("--sizes", default="125M,551M", callback=_split, help=f"of {', '.join(SIZES)}; small writes no files")
@click.option("--methods", default=",".join(METHODS), callback=_split)
@click.option("--states", default=",".join(STATES), callback=_split)
@click.option("--repeats", default=3, help="number of turns")
@click.option(
    "--mergekit", default=MERGEKIT, type=click.Path(path_type=Path), help="mergekit-yaml; left out if missing"
)
def main(sizes: list[str], methods: list[str], states: list[str], repeats: int, mergekit: Path) -> None:
    """Times whole commands."""
    console, rows = Console(width=150), list[dict[str, Any]]()
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            paths = make_checkpoints(Path(name), size, 2, torch.bfloat16)
            for state, method in ((state, method) for state in states for method in methods):
                found = mergekit if mergekit.exists() else None
                turns = Turns(recipe_of(method, paths), Path(name), state == "cold", found)
                new = rows_of(turns.measured(repeats))
                rows += [{"size": size, "state": state, "method": method, **row} for row in new]
                console.print(table(rows[-len(new) :], COLUMNS, ""))
                if size != "small":
                    write(rows)


if __name__ == "__main__":
    main()

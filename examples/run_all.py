"""Makes the models of all examples, runs the examples, and records the number that came out of each.

    python examples/run_all.py                    # writes results/benchmarks/examples.json
    python examples/run_all.py wise_ft esrgan     # prints what came out of these

The commands are those in the heads of the examples' files.
"""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from click.testing import CliRunner
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parent))

import make_models
from machine import FOLDER, write_result

from mergesearch.search.cli import main as mergesearch

HERE = Path(__file__).resolve().parent
RECORD = FOLDER / "examples.json"
CURVES, RUNS = Path("results/curves"), Path("results/runs")


@contextmanager
def workplace(folder: Path, families: list[str], effort: float = 1.0) -> Iterator[None]:
    """A current folder with the examples and their models."""
    before = Path.cwd()
    shutil.copytree(HERE, folder / "examples", ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
    os.chdir(folder)
    try:
        make_models.main(families, effort=effort)
        yield
    finally:
        os.chdir(before)


def commands(name: str) -> list[list[str]]:
    """The commands in the head of an example's file, without the program's name."""
    lines = (HERE / f"{name}.yml").read_text(encoding="utf-8").splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith("# mergesearch ")]


def run(name: str) -> str:
    """What an example prints. Raises RuntimeError where a command fails."""
    printed = ""
    for arguments in commands(name):
        result = CliRunner().invoke(mergesearch, arguments)
        if result.exit_code:
            raise RuntimeError(f"mergesearch {shlex.join(arguments)}: {result.output}") from result.exception
        printed = result.stdout
    return printed


class Curve:
    """A curve that was written, by task."""

    def __init__(self, name: str) -> None:
        found = json.loads((CURVES / name / "curve.json").read_text(encoding="utf-8"))
        self.points: list[float] = found["points"]
        self.values = {each["task"]: [value["value"] for value in each["values"]] for each in found["tasks"]}

    def at(self, task: str, point: float) -> float:
        """A task's value at a point."""
        return self.values[task][self.points.index(point)]

    def best(self, task: str, choose: Callable[..., float] = min) -> str:
        """A task's best value, with its point and the values of both ends."""
        values = self.values[task]
        best = choose(values)
        ends = f"the ends have {abs(values[0]):.3f} and {abs(values[-1]):.3f}"
        return f"{abs(best):.3f} at {self.points[values.index(best)]:g}; {ends}"


def of_curve(name: str, task: str, what: str, choose: Callable[..., float] = min) -> Callable[[str], str]:
    """Gives the best point of a curve."""
    return lambda _: f"{what} {Curve(name).best(task, choose)}"


def of_dare(_: str) -> str:
    """What is left at each drop rate."""
    curve = Curve("dare_drop_rate")
    rates = ", ".join(f"{1 - density:.0%}: {curve.at('id', density):.3f}" for density in (0.7, 0.5, 0.1, 0.01))
    return f"bits per byte without drops {curve.at('id', 1.0):.3f}; drop rate {rates}"


def of_inpainting(_: str) -> str:
    """The error in the new style, and the channels that were kept. Raises RuntimeError where they were not."""
    curve, weight = Curve("unet_inpainting"), "input_blocks.0.0.weight"
    recipe = sorted((CURVES / "unet_inpainting" / "recipes").iterdir())[-1]
    result = CliRunner().invoke(mergesearch, ["merge", str(recipe), "results/examples/inpainting-stripes"])
    if result.exit_code:
        raise RuntimeError(result.output)
    merged = load_file("results/examples/inpainting-stripes/model.safetensors")[weight]
    before = load_file("results/examples/unet/inpainting/model.safetensors")[weight]
    if merged.shape[1] != 9 or not merged[:, 4:].equal(before[:, 4:]) or merged[:, :4].equal(before[:, :4]):
        raise RuntimeError("the channels of the mask did not survive")
    first, last = curve.values["stripes"][0], curve.values["stripes"][-1]
    return f"error on stripes {first:.3f} before, {last:.3f} after; all 9 input channels are there"


def of_esrgan(_: str) -> str:
    """What is given up, and what is won."""
    curve = Curve("esrgan")
    psnr, texture = curve.values["psnr"], curve.values["texture"]
    parts = (f"{curve.points[n]:g}: {psnr[n]:.2f} dB, texture off by {texture[n]:.2f}" for n in (0, 2, 5))
    return "; ".join(parts)


def of_aligned(_: str) -> str:
    """The middle of the path before and after."""
    before, after = (Curve(name).values["psnr"] for name in ("apart", "aligned"))
    ends = f"the networks alone have {after[0]:.1f} and {after[-1]:.1f}"
    return f"the middle has {before[5]:.1f} dB as they are, {after[5]:.1f} dB aligned; {ends}"


def of_recovered(printed: str) -> str:
    """The mean of both domains before and after."""
    return "bits per byte {:.3f} before, {:.3f} after 100 steps".format(*_means(printed))


def of_fourteen(printed: str) -> str:
    """The mean over the tasks."""
    tasks = json.loads(printed)["tasks"]
    better = sum(task["better"] == "B" for task in tasks)
    means = "bits per byte {:.3f} before, {:.3f} after".format(*_means(printed))
    return f"{means}; proven better on {better} of {len(tasks)} topics"


def _means(printed: str) -> list[float]:
    """The means over the tasks of both sides of a comparison."""
    tasks = json.loads(printed)["tasks"]
    return [sum(task[side] for task in tasks) / len(tasks) for side in ("a", "b")]


def of_verdict(name: str) -> Callable[[str], str]:
    """Gives the gain over the best baseline, on the test items."""

    def found(_: str) -> str:
        verdict = json.loads((RUNS / name / "verdict.json").read_text(encoding="utf-8"))
        gain = verdict["difference"]
        interval = f"{gain['value']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
        return f"{verdict['winner']['name']} over {verdict['best_baseline']}: {interval}, p = {verdict['p']:.4f}"

    return found


FOUND: Mapping[str, Callable[[str], str]] = {
    "gptj_average": of_curve("gptj_average", "objective", "mean bits per byte", max),
    "gptj_add_difference": of_curve("gptj_add_difference", "objective", "mean bits per byte", max),
    "recovered": of_recovered,
    "bert_vocabularies": of_curve("bert_vocabularies", "objective", "mean accuracy", max),
    "unet_inpainting": of_inpainting,
    "unet_blocks": of_verdict("unet_blocks"),
    "wise_ft": of_curve("wise_ft", "ood", "bits per byte on ood"),
    "esrgan": of_esrgan,
    "aligned": of_aligned,
    "dare_drop_rate": of_dare,
    "fourteen": of_fourteen,
    "soup_sweep": of_verdict("soup-sweep"),
}
"""What came out of each example, in words, from its files and from what it printed last."""


def main(names: list[str]) -> None:
    """Runs these examples, or all, whose numbers are recorded."""
    record: dict[str, Any] = {}
    with TemporaryDirectory() as folder, workplace(Path(folder), []):
        for name in names or FOUND:
            record[name] = FOUND[name](run(name))
            print(f"{name}: {record[name]}", flush=True)
    if not names:
        write_result(RECORD.stem, {"found": record})


if __name__ == "__main__":
    main(sys.argv[1:])

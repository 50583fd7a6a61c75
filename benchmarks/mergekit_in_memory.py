"""Seconds that mergekit takes to merge in memory, as its evolve does; run by merge_throughput in mergekit's own Python.

    python benchmarks/mergekit_in_memory.py THREADS REPEATS < RECIPES

For every line of standard input, the path of a recipe, prints a line: a list of seconds as JSON. The checkpoints are
read once before, and the result is copied into tensors that are there.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from mergekit.architecture import get_architecture_info
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache
from mergekit.merge import _model_out_config
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

LONG = 3.0
"""Seconds from which the first time, which allocates the result, is good enough."""


class Resident:
    """Checkpoints that LoaderCache gives from memory, and the last result."""

    def __init__(self) -> None:
        self._loaded: dict[Any, dict[str, torch.Tensor]] = {}
        self._outs: dict[str, torch.Tensor] = {}

    def seconds(self, recipe: str, repeats: int) -> list[float]:
        config = MergeConfiguration.model_validate(yaml.safe_load(Path(recipe).read_text()))
        for reference in config.referenced_models():
            self._load(reference)
        first = self._build(config)
        return [first] if first > LONG else [self._build(config) for _ in range(repeats)]

    def _load(self, reference: Any) -> None:
        if reference not in self._loaded:
            loader = LoaderCache().get(reference)
            tensors = {name: loader.get_tensor(name).clone() for name in loader.index.tensor_paths}
            self._loaded[reference] = tensors
            loader.get_tensor = lambda name, *_, **__: tensors.get(name)

    def _build(self, config: MergeConfiguration) -> float:
        options = MergeOptions()
        architecture = get_architecture_info(config, options)
        model = _model_out_config(config, architecture)
        start = time.perf_counter()
        planner = MergePlanner(config, architecture, options, model)
        # What plan_in_memory does; that itself fails with current versions of pydantic.
        planner._plan()
        names = {task: weight.name for weight, task in planner._tensors}
        for task, value in Executor(list(names), math_device="cpu", storage_device="cpu").run(quiet=True):
            self._keep(names[task], value)
        return time.perf_counter() - start

    def _keep(self, name: str, value: torch.Tensor) -> None:
        if name in self._outs:
            self._outs[name].copy_(value)
        else:
            self._outs[name] = value.clone()


def main(threads: str, repeats: str) -> None:
    torch.set_num_threads(int(threads))
    resident = Resident()
    for line in sys.stdin:
        print(json.dumps(resident.seconds(line.strip(), int(repeats))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Times mergekit's merges in memory, as mergekit-evolve makes them. merge_throughput.py runs it in mergekit's Python.

    python benchmarks/mergekit_in_memory.py THREADS REPEATS < RECIPES

Every line of standard input is the path of a recipe. Prints a line for each recipe: the seconds of its merges, as a
JSON list. Checkpoints are read beforehand, and the result is copied into existing tensors.
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
"""Seconds above which a recipe is merged once, although the first merge also allocates the result."""


class MergesInMemory:
    """Keeps checkpoints in memory, from where mergekit's LoaderCache gives them, and the last result."""

    def __init__(self) -> None:
        self._loaded: dict[Any, dict[str, torch.Tensor]] = {}
        self._result: dict[str, torch.Tensor] = {}

    def seconds(self, recipe: str, repeats: int) -> list[float]:
        """The seconds of each merge of the recipe at this path."""
        config = MergeConfiguration.model_validate(yaml.safe_load(Path(recipe).read_text()))
        for reference in config.referenced_models():
            self._load(reference)
        first = self._merge(config)
        return [first] if first > LONG else [self._merge(config) for _ in range(repeats)]

    def _load(self, reference: Any) -> None:
        if reference not in self._loaded:
            loader = LoaderCache().get(reference)
            tensors = {name: loader.get_tensor(name).clone() for name in loader.index.tensor_paths}
            self._loaded[reference] = tensors
            loader.get_tensor = lambda name, *_, **__: tensors.get(name)

    def _merge(self, config: MergeConfiguration) -> float:
        options = MergeOptions()
        architecture = get_architecture_info(config, options)
        model = _model_out_config(config, architecture)
        start = time.perf_counter()
        planner = MergePlanner(config, architecture, options, model)
        # As MergePlanner.plan_in_memory does, which fails with current versions of pydantic.
        planner._plan()
        names = {task: weight.name for weight, task in planner._tensors}
        for task, value in Executor(list(names), math_device="cpu", storage_device="cpu").run(quiet=True):
            self._keep(names[task], value)
        return time.perf_counter() - start

    def _keep(self, name: str, value: torch.Tensor) -> None:
        if name in self._result:
            self._result[name].copy_(value)
        else:
            self._result[name] = value.clone()


def main(threads: str, repeats: str) -> None:
    torch.set_num_threads(int(threads))
    merges = MergesInMemory()
    for line in sys.stdin:
        print(json.dumps(merges.seconds(line.strip(), int(repeats))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

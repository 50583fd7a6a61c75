"""Seconds that mergekit takes to merge in memory, as its evolve does; run by merge_throughput in mergekit's own Python.

    python benchmarks/mergekit_in_memory.py RECIPE THREADS REPEATS

Prints a list of seconds as JSON. The checkpoints are read once before, and the result is copied into tensors that are
there.
"""

import json
import sys
import time
from pathlib import Path

import torch
import yaml
from mergekit.architecture import get_architecture_info
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache
from mergekit.merge import _model_out_config
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

LONG = 5.0
"""Seconds from which the first time, which allocates the result, is good enough."""


def main(recipe: str, threads: str, repeats: str) -> None:
    torch.set_num_threads(int(threads))
    config = MergeConfiguration.model_validate(yaml.safe_load(Path(recipe).read_text()))
    options = MergeOptions()
    architecture = get_architecture_info(config, options)
    model = _model_out_config(config, architecture)
    loaded = {
        (reference, name): LoaderCache().get(reference).get_tensor(name).clone()
        for reference in config.referenced_models()
        for name in LoaderCache().get(reference).index.tensor_paths
    }
    for reference in config.referenced_models():
        loader = LoaderCache().get(reference)
        loader.get_tensor = lambda name, *_, reference=reference, **__: loaded.get((reference, name))
    outs: dict[str, torch.Tensor] = {}

    def build() -> float:
        start = time.perf_counter()
        planner = MergePlanner(config, architecture, options, model)
        # What plan_in_memory does; that itself fails with current versions of pydantic.
        planner._plan()
        names = {task: weight.name for weight, task in planner._tensors}
        for task, value in Executor(list(names), math_device="cpu", storage_device="cpu").run(quiet=True):
            name = names[task]
            if name in outs:
                outs[name].copy_(value)
            else:
                outs[name] = value.clone()
        return time.perf_counter() - start

    first = build()
    print(json.dumps([first] if first > LONG else [build() for _ in range(int(repeats))]))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Rough estimates of a run's time and memory, before it runs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch

from mergesearch.evaluators import Item, LoadedModel
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import Engine, MemoryReserve, Merger, find_device
from mergesearch.merge_ops.inputs.memory import MemoryPlan
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.problem.problem import Problem
from mergesearch.search.problem.tasks import Task
from mergesearch.search.scoring.live_model import open_engine, scored_model
from mergesearch.search.scoring.token_budget import new_budget

TOKENS = 128
"""The assumed length of an item that is not tokenised yet."""
USED = 0.3
"""The speed of a forward pass, as a share of that of a matrix product."""
OVERHEAD = 0.01
"""The least seconds of a forward pass, however small the model is."""
PROBE = 24
"""The number of items of each task that are scored for a measurement, after as many for a warm-up."""
BUILT = 3
"""The number of candidates that are built for a measurement; the fastest counts."""
PROBE_BYTES = 1 << 26
PROBE_WIDTH = 1024


@dataclass(frozen=True)
class Cost:
    """Seconds to build and to score one candidate, and how they were estimated."""

    build: float
    score: float
    how: str

    def total(self, trials: int) -> float:
        """Seconds of a run without early stopping."""
        return trials * (self.build + self.score)


def memory_plan(problem: Problem, takes_gradients: bool) -> MemoryPlan:
    """Where checkpoints, statistics of methods and gradients would be kept, given the memory that is free now."""
    reserve = MemoryReserve(problem.space.methods, takes_gradients)
    merger = Merger(problem.references, resident=True, device=find_device(problem.config.device), reserve=reserve)
    return merger.memory_plan


def guess(problem: Problem) -> Cost:
    """An estimate from two measured speeds of this machine; no model is loaded."""
    device = find_device(problem.config.device)
    infos = {r: Checkpoint(r).tensors.values() for r in problem.references}
    moved = sum(info.bytes for tensors in infos.values() for info in tensors)
    weights = sum(prod(info.shape) for info in infos[problem.template])
    bandwidth, rate = _copy_rate(device), _product_rate(device)
    items = sum(len(task.search) for task in problem.tasks.searched)
    how = (
        f"a guess: checkpoints read once at {bandwidth / 1e9:.3g} GB/s, {items} items of {TOKENS} tokens at "
        f"{rate * USED / 1e9:.3g} GFLOP/s; --measure builds a candidate and scores some items for a better one"
    )
    passes = ceil(items / problem.config.evaluate.batch_size)
    return Cost(moved / bandwidth, 2 * weights * items * TOKENS / (rate * USED) + passes * OVERHEAD, how)


def measure(problem: Problem, takes_gradients: bool) -> Cost:
    """Measures one candidate on some items of each task; takes as long as loading the models."""
    engine, space, evaluate = open_engine(problem, takes_gradients), problem.space, problem.config.evaluate
    model = scored_model(engine.model, evaluate, lambda: engine.built)
    method = space.methods[0]
    recipes = [space.fill(method, space.start(method, {})) for _ in range(BUILT)]
    build = min(_seconds(lambda recipe=recipe: _build(engine, recipe, model)) for recipe in recipes)  # type: ignore[misc]
    subject = LoadedModel(
        model, engine.tokenizer, engine.save, new_budget(evaluate, find_device(problem.config.device))
    )
    score = sum(_score_seconds(task, subject) for task in problem.tasks.searched)
    how = f"measured: one candidate built, up to {PROBE} items of each task scored"
    return Cost(build, score, how)


def _build(engine: Engine, recipe: Recipe, model: Any) -> None:
    """Builds a candidate; a quantised double is made at its first call, which is part of the time."""
    engine.build(recipe)
    if model is not engine.model:
        with torch.no_grad():
            model(torch.zeros(1, 1, dtype=torch.int64, device=model.device))


def _score_seconds(task: Task, subject: LoadedModel) -> float:
    items: Sequence[Item] = task.search[:: max(1, len(task.search) // PROBE)][:PROBE]
    task.score(subject, items)
    return _seconds(lambda: task.score(subject, items)) * len(task.search) / len(items)


def _seconds(action: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _copy_rate(device: str) -> float:
    """Bytes per second of a copy: read and written."""
    source = torch.ones(PROBE_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return PROBE_BYTES / min(_seconds(lambda: target.copy_(source)) for _ in range(4))


def _product_rate(device: str) -> float:
    """Floating-point operations per second of a float32 matrix product."""
    matrix = torch.ones(PROBE_WIDTH, PROBE_WIDTH, device=device)
    return 2 * PROBE_WIDTH**3 / min(_seconds(lambda: matrix @ matrix) for _ in range(4))


def spoken(seconds: float) -> str:
    """``3 h 20 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 90:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"

"""How long and how much memory a run would take, before it runs: rough, and said to be so."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch

from mergesearch.evaluators import Item, LoadedModel
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import Engine, Merger, Uses, find_device
from mergesearch.merge_ops.inputs.memory import MemoryPlan
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.problem.problem import Job, live_model
from mergesearch.search.problem.tasks import Task
from mergesearch.search.scoring.token_budget import new_budget

TOKENS = 128
"""Assumed of an item that nobody has tokenised yet."""
USED = 0.3
"""The part of a matrix product's speed that a whole forward pass reaches."""
OVERHEAD = 0.01
"""Seconds that a forward pass takes however small the model is."""
PROBE = 24
"""Items of each task that are scored to measure, after as many to warm up."""
BUILT = 3
"""Candidates that are built to measure, of which the quickest counts."""
PROBE_BYTES = 1 << 26
PROBE_WIDTH = 1024


@dataclass(frozen=True)
class Cost:
    """Seconds to build and to score one candidate, and where the numbers come from."""

    build: float
    score: float
    how: str

    def total(self, trials: int) -> float:
        """Seconds of a run without early stopping."""
        return trials * (self.build + self.score)


def memory_plan(job: Job) -> MemoryPlan:
    """Where the checkpoints would be kept, with statistics that methods keep and gradients, by what is free now."""
    uses = Uses(job.space.methods, job.takes_gradients)
    merger = Merger(job.references, resident=True, device=find_device(job.config.device), uses=uses)
    assert merger.residents is not None
    return merger.residents.plan


def guess(job: Job) -> Cost:
    """From two speeds of this machine, measured here in a blink; nothing is loaded."""
    device = find_device(job.config.device)
    infos = {r: Checkpoint(r).tensors.values() for r in job.references}
    moved = sum(info.bytes for tensors in infos.values() for info in tensors)
    weights = sum(prod(info.shape) for info in infos[job.template])
    bandwidth, rate = _copy_rate(device), _product_rate(device)
    items = sum(len(task.search) for task in job.searched)
    how = (
        f"a guess: checkpoints once through memory at {bandwidth / 1e9:.3g} GB/s, {items} items of {TOKENS} tokens at "
        f"{rate * USED / 1e9:.3g} GFLOP/s; --measure builds a candidate and scores some items instead"
    )
    passes = ceil(items / job.config.evaluate.batch_size)
    return Cost(moved / bandwidth, 2 * weights * items * TOKENS / (rate * USED) + passes * OVERHEAD, how)


def measure(job: Job) -> Cost:
    """From one candidate that is built and scored on a few items of each task; takes as long as loading the models."""
    from mergesearch.search.run import open_engine

    engine, space, evaluate = open_engine(job), job.space, job.config.evaluate
    model = live_model(engine.model, evaluate, lambda: engine.built)
    method = space.methods[0]
    recipes = [space.fill(method, space.start(method, {})) for _ in range(BUILT)]
    build = min(_seconds(lambda recipe=recipe: _build(engine, recipe, model)) for recipe in recipes)  # type: ignore[misc]
    subject = LoadedModel(model, engine.tokenizer, engine.save, new_budget(evaluate, find_device(job.config.device)))
    score = sum(_score_seconds(task, subject) for task in job.searched)
    how = f"measured: one candidate built, up to {PROBE} items of each task scored"
    return Cost(build, score, how)


def _build(engine: Engine, recipe: Recipe, model: Any) -> None:
    """Builds a candidate; its quantised double, where that is what is scored, is made when it is first called."""
    engine.build(recipe)
    if model is not engine.model:
        with torch.no_grad():
            model(torch.zeros(1, 1, dtype=torch.int64, device=model.device))


def _score_seconds(task: Task, subject: LoadedModel) -> float:
    items: Sequence[Item] = task.search[:: max(1, len(task.search) // PROBE)][:PROBE]
    task.evaluator.score(subject, items)
    return _seconds(lambda: task.evaluator.score(subject, items)) * len(task.search) / len(items)


def _seconds(action: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _copy_rate(device: str) -> float:
    """Bytes a second that are read and written again."""
    source = torch.ones(PROBE_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return PROBE_BYTES / min(_seconds(lambda: target.copy_(source)) for _ in range(4))


def _product_rate(device: str) -> float:
    """Floating-point operations a second in a product of two float32 matrices."""
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

"""Estimates of a run's time and memory, before it runs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from statistics import fmean
from typing import Any

import torch

from mergesearch.errors import listed
from mergesearch.evaluators import EVALUATORS, Item, LoadedModel
from mergesearch.merge_ops.engine.engine import MemoryReserve, Merger, find_device
from mergesearch.merge_ops.inputs.memory import MemoryPlan
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.problem.problem import Problem
from mergesearch.search.problem.tasks import Task
from mergesearch.search.scoring.live_model import LiveModel

TOKENS = 128
"""The assumed length of an item of a model that is not loaded."""
USED = 0.3
"""The speed of a forward pass, as a share of that of a matrix product."""
OVERHEAD = 0.01
"""The least seconds of a forward pass, however small the model is."""
BOOKKEEPING = 0.015
"""Seconds of a trial beside building and scoring: sampling a point, saving scores, telling the study."""
COUNTING = 1e-9
"""Seconds for each element of a model whose magnitudes are counted once, before the first candidate."""
PROBE_SECONDS, MEASURE_SECONDS = 0.4, 4.0
"""The number of items that are scored for an estimate grows until scoring them takes this long."""
BUILT = 3
"""The number of candidates of each method that are built for a measurement."""
PROBE_BYTES = 1 << 26
PROBE_WIDTH = 1024


@dataclass(frozen=True)
class Cost:
    """Seconds of parts of a run without early stopping, and how they were estimated.

    Attributes:
        first: what the first candidates take in addition, for statistics of the checkpoints.
        build: to build a candidate.
        score: to score it on the search items.
        verdict: to score one candidate on the test items.
        how: how they were estimated.
    """

    first: float
    build: float
    score: float
    verdict: float
    how: str

    def search(self, trials: int) -> float:
        """Seconds of a search without early stopping."""
        return self.first + trials * (self.build + self.score + BOOKKEEPING)


def memory_plan(problem: Problem, takes_gradients: bool) -> MemoryPlan:
    """Where checkpoints, statistics of methods and gradients would be kept, given the memory that is free now."""
    reserve = MemoryReserve(problem.space.methods, takes_gradients, problem.standalone)
    merger = Merger(
        problem.references,
        resident=True,
        device=find_device(problem.config.device),
        reserve=reserve,
        dequantize=problem.dequantizes,
        tokenizer=problem.tokenizer,
    )
    return merger.memory_plan


def guess_unloaded(problem: Problem) -> Cost:
    """An estimate from two measured speeds of this machine, for a model that is not loaded."""
    device = find_device(problem.config.device)
    infos = problem.checkpoint(problem.template).tensors.values()
    weights, rate = sum(prod(info.shape) for info in infos), _product_rate(device)
    first, build = _guess_build(problem)
    items, test = (sum(len(task.items(side)) for task in problem.tasks.searched) for side in ("search", "test"))
    passes = ceil(items / problem.config.evaluate.batch_size)
    score = 2 * weights * items * TOKENS / (rate * USED) + passes * OVERHEAD
    how = f"a guess: {items} items of {TOKENS} tokens at {rate * USED / 1e9:.3g} GFLOP/s"
    return Cost(first, build, score, score * test / max(1, items), how)


def estimate(problem: Problem, live: LiveModel, measured: bool) -> Cost:
    """Estimates the time of a run from items that are scored with the live model, whatever is built into it.

    Args:
        problem: the problem.
        live: its live model. The problem's tasks are prepared for it.
        measured: whether to build candidates too, which reads all checkpoints, to score more items, and to run the
            user's functions and programs.
    """
    first, build = _measure_build(problem, live) if measured else _guess_build(problem)
    tasks = [task for task in problem.tasks.searched if measured or not _is_external(task)]
    left_out = [task.name for task in problem.tasks.searched if task not in tasks]
    seconds = {task.name: _seconds_per_item(task, live.loaded, measured) for task in tasks}
    score, verdict = (sum(seconds[t.name] * len(t.items(side)) for t in tasks) for side in ("search", "test"))
    how = (
        "candidates were built and items scored" if measured else "some items were scored; --measure builds candidates"
    )
    how += f", and runs {listed(left_out)}, whose time is not known" if left_out else ""
    return Cost(first, build, score, verdict, how)


def _is_external(task: Task) -> bool:
    return isinstance(task.evaluator, (EVALUATORS["function"], EVALUATORS["command"]))


def _seconds_per_item(task: Task, subject: LoadedModel, measured: bool) -> float:
    """Scores more and more items, until that takes long enough to be measured. The first one is the warm-up."""
    least, count = MEASURE_SECONDS if measured else PROBE_SECONDS, 1
    if _is_external(task):
        count = len(task.search)  # its code may score everything, whatever it is asked
    else:
        _score(task, subject, task.search[:1])
    while True:
        items: Sequence[Item] = task.search[:: max(1, len(task.search) // count)][:count]
        seconds = _seconds(lambda items=items: _score(task, subject, items))  # type: ignore[misc]
        if seconds >= least or len(items) == len(task.search):
            return seconds / len(items)
        count *= 4


def _score(task: Task, subject: LoadedModel, items: Sequence[Item]) -> None:
    with task.refusals():
        task.score(subject, items)


def _guess_build(problem: Problem) -> tuple[float, float]:
    """Seconds of the first candidate in addition, and of each: checkpoints are read once at the speed of a copy."""
    device = find_device(problem.config.device)
    infos = {r: problem.checkpoint(r).tensors.values() for r in problem.references}
    moved = sum(info.bytes for tensors in infos.values() for info in tensors)
    elements = sum(prod(info.shape) for tensors in infos.values() for info in tensors)
    counts = any(
        method.statistics_bytes(info.shape, 1) for method in problem.space.methods for info in infos[problem.template]
    )
    return (elements * COUNTING if counts else 0.0), moved / _copy_rate(device)


def _measure_build(problem: Problem, live: LiveModel) -> tuple[float, float]:
    """Builds candidates of every method; the first of each computes statistics that are kept."""
    space = problem.space
    times = [
        [_build_seconds(live, space.fill(method, space.start(method, {}))) for _ in range(BUILT)]
        for method in space.methods
    ]
    return sum(own[0] - min(own[1:]) for own in times), fmean(min(own[1:]) for own in times)


def _build_seconds(live: LiveModel, recipe: Recipe) -> float:
    def build() -> None:
        live.engine.build(recipe)
        model: Any = live.loaded.model
        if model is not live.engine.model:  # a quantised double is made at its first call
            with torch.no_grad():
                model(torch.zeros(1, 1, dtype=torch.int64, device=model.device))

    return _seconds(build)


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

"""What a search needs of a machine: disk, memory and GPU memory, for each place where the checkpoints may be kept."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mergesearch.evaluators import EVALUATORS
from mergesearch.merge_ops.engine.engine import find_device
from mergesearch.merge_ops.inputs.memory import USABLE, MemoryPlan, free_on_device, free_on_host, size
from mergesearch.merge_ops.methods import find_method
from mergesearch.search.problem.problem import Problem

PROCESS = 10**9
"""The bytes of memory of the process itself: Python, torch, transformers and lm-eval; 0.7 GB were measured."""
USUAL_METHODS = ("task_arithmetic", "ties", "dare_ties")


@dataclass(frozen=True)
class Place:
    """Bytes of disk, RAM (``host``) and VRAM (``device``) where the checkpoints are kept in one place."""

    name: str
    disk: int
    host: int
    device: int = 0


@dataclass(frozen=True)
class Needs:
    """Bytes of the parts of a search.

    Attributes:
        checkpoints: all checkpoints, which are on the disk, too.
        live: the live models.
        statistics: what methods keep of the checkpoints.
        gradients: those beside the live model.
        written: the models that a run writes.
    """

    checkpoints: int
    live: int
    statistics: int
    gradients: int
    written: int

    @classmethod
    def of(cls, problem: Problem, plan: MemoryPlan) -> "Needs":
        """Those of a config, from its checkpoints. Programs read the candidate from the disk, once more."""
        sizes = plan.checkpoints
        largest = max(sizes.values())
        alone = max((sizes[reference] for reference in problem.standalone), default=0)
        programs = any(isinstance(task.evaluator, EVALUATORS["command"]) for task in problem.tasks)
        written = largest * (int(problem.config.output.model) + int(programs))
        return cls(sum(sizes.values()), largest + alone, plan.statistics, plan.gradients, written)

    @property
    def places(self) -> list[Place]:
        """From the fastest to the one that needs least; a fifth of the memory is left for evaluation."""
        kept, live = self.checkpoints + self.statistics, self.live + self.gradients
        rows = (
            ("GPU, all on it", PROCESS, _with_reserve(kept + live)),
            ("GPU, models in RAM", PROCESS + _with_reserve(kept), _with_reserve(live)),
            ("GPU, models on disk", PROCESS, _with_reserve(live)),
            ("CPU, models in RAM", PROCESS + _with_reserve(kept + live), 0),
            ("CPU, models on disk", PROCESS + _with_reserve(live), 0),
        )
        return [Place(name, self.checkpoints + self.written, host, device) for name, host, device in rows]


def _with_reserve(count: int) -> int:
    return round(count / USABLE)


def free_here(results: Path, device: str) -> Place:
    """What is free on this machine: on the disk of the results, in RAM, and on the GPU if there is one."""
    folder = next(path for path in (results.absolute(), *results.absolute().parents) if path.exists())
    vram = free_on_device(found) if (found := find_device(device)).startswith("cuda") else 0
    return Place("free here", shutil.disk_usage(folder).free, free_on_host(), vram)


@dataclass(frozen=True)
class Llama:
    """The shape of a language model."""

    hidden: int
    layers: int
    inner: int
    vocabulary: int
    keys: int

    def shapes(self) -> Iterator[tuple[int, ...]]:
        """Those of its tensors."""
        yield from ((self.vocabulary, self.hidden), (self.vocabulary, self.hidden), (self.hidden,))
        for _ in range(self.layers):
            yield from ((self.hidden, self.hidden), (self.hidden, self.hidden), (self.keys, self.hidden))
            yield from ((self.keys, self.hidden), (self.inner, self.hidden), (self.inner, self.hidden))
            yield from ((self.hidden, self.inner), (self.hidden,), (self.hidden,))


SIZES = {
    "1B": Llama(2048, 22, 5632, 32_000, 256),
    "7B": Llama(4096, 32, 11_008, 32_000, 4096),
    "13B": Llama(5120, 40, 13_824, 32_000, 5120),
}
"""TinyLlama 1.1B, Llama 2 7B and 13B."""


def usual_needs(shape: Llama, models: int = 2, gradients: bool = True) -> Needs:
    """Those of a search over a base and so many fine-tunes in bfloat16, by methods of task vectors."""
    shapes, found = list(shape.shapes()), [find_method(name) for name in USUAL_METHODS]
    one = 2 * sum(_count(each) for each in shapes)
    statistics = sum(method.statistics_bytes(each, models) for method in found for each in shapes)
    return Needs((1 + models) * one, one, statistics, one if gradients else 0, one)


def _count(shape: tuple[int, ...]) -> int:
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def cells(place: Place) -> list[str]:
    """A row: the place, disk, RAM and VRAM."""
    return [place.name, size(place.disk), size(place.host), size(place.device) if place.device else ""]

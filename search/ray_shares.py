"""How the workers of a run share a Ray cluster: how many there are, and the GPUs and processors of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mergesearch.errors import UserError
from mergesearch.search.config import Device

Nodes = Sequence[tuple[float, float]]
"""The processors and GPUs of each node."""


@dataclass(frozen=True)
class Share:
    """What each of the ``workers`` has. ``on_a_node``: the most workers that may be on the same node."""

    workers: int
    gpus: Literal[0, 1]
    processors: float
    on_a_node: int


def share_of(nodes: Nodes, workers: int | Literal["auto"], device: Device) -> Share:
    """What each worker has of the cluster, so that all find a place: a GPU where the cluster has any.

    ``auto``: one worker for each GPU, and without GPUs one for each node. Each has as many processors as it can, a
    whole number from one on; 0 where the nodes with GPUs have none. Raises UserError where there are too few GPUs.
    """
    found = 0 if device == "cpu" else int(sum(gpus for _, gpus in nodes))
    if device == "cuda" and not found:
        raise UserError("device: found cuda, but no node of the cluster has a GPU")
    count = (found or len(nodes)) if workers == "auto" else workers
    if found and count > found:
        raise UserError(
            f"workers: found {count}, but the cluster has {found} GPU{'s' * (found > 1)}, and each worker needs one; "
            "device=cpu is for workers without"
        )
    usable = [(processors, int(gpus) if found else count) for processors, gpus in nodes if gpus or not found]
    processors = _processors_each(usable, count)
    return Share(count, 1 if found else 0, processors, min(count, max(_places(usable, processors))))


def _processors_each(usable: Sequence[tuple[float, int]], workers: int) -> float:
    shares = {processors / count for processors, _ in usable for count in range(1, workers + 1)}
    for share in sorted(shares, reverse=True):
        if share and sum(_places(usable, share)) >= workers:
            return float(int(share)) if share >= 1 else int(share * 1000) / 1000
    return 0.0


def _places(usable: Sequence[tuple[float, int]], share: float) -> list[int]:
    """How many workers fit on each node with that share of its processors, of which it can have so many."""
    return [min(most, int(processors / share + 1e-6)) if share else most for processors, most in usable]

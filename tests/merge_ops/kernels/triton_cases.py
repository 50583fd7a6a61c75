"""What the tests of the Triton kernels share."""

import platform
import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

import pytest
import torch

from mergesearch.merge_ops.kernels.plans import GRAIN, PADDING, RankedDrop, SignConsensus, Sparsity

TILE = 1024
SIZE = 2 * TILE + 77


def skip_where_triton_is_not_made() -> None:
    """Skips a module; on Linux on x86-64, where there is Triton, it must be installed."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("Triton is made for Linux on x86-64", allow_module_level=True)


def own_copy() -> ModuleType:
    """The kernels' module, which reads when it is imported how they are to run, apart from everybody else's."""
    spec = find_spec("mergesearch.merge_ops.kernels.triton_backend")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ranked(key: int, size: int, ranks: int = 97) -> Sparsity:
    """A drop by rank: some always kept, some never, the places anywhere among the bit patterns of uint16."""
    generator = torch.Generator().manual_seed(key)
    places = torch.randint(0, ranks, (size + PADDING,), generator=generator).to(torch.int16)
    kept = torch.linspace(0, GRAIN, ranks).int() - GRAIN // 2
    return Sparsity(
        key=key * 0x9E3779B97F4A7C15 % (1 << 64), ranked=RankedDrop(places, kept, torch.linspace(1, 3, ranks))
    )


def consensus(count: int, **settings: Any) -> SignConsensus:
    """A plan of so many models, dropped in every way in turn."""
    kinds = [
        ranked(count, SIZE),
        Sparsity(keep=0.4, key=count, scale=1 / 0.4),
        Sparsity(threshold=0.1),
        ranked(count + 1, SIZE, 1 << 16),
        Sparsity(ceiling=0.5),
    ]
    weights = tuple((-1) ** i * (0.3 + 0.1 * i) for i in range(count))
    return SignConsensus(weights, tuple(kinds[i % len(kinds)] for i in range(count)), **settings)

"""The kernels on CUDA: those of ``torch_backend`` in one pass, with the same operations in the same order.

Contraction of a·b + c is switched off and division rounds to nearest, so that the bits are those of the CPU.

Every ``LinearCombination`` and ``SignConsensus`` of float32, bfloat16 and float16 tensors runs here, whatever its
votes, ranks and masks. Plain torch runs the rest on the GPU: ``Elementwise`` plans, whose function is Python over torch
tensors, which Triton cannot compile; and tensors of other dtypes, as these kernels compute in float32 only.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

# ruff: noqa: N803, PLR0913, PLR0917 (kernels name constants in capitals, and take many)
import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.merge_ops.kernels.native_backend import VOTES
from mergesearch.merge_ops.kernels.numbers import Digit, Numbers
from mergesearch.merge_ops.kernels.plans import GRAIN, LinearCombination, Pass, SignConsensus, Sparsity, grains

TILE = 1024
PART = 1 << 23
"""Elements that share a table of counts."""
PLACE_BITS = tl.constexpr(40)
"""A place of this table has the count in its upper bits, and the sum of the keys' lower bits below."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PLAN_NUMBERS = tl.constexpr(6)
MODEL_NUMBERS = tl.constexpr(4)
MODEL_BITS = tl.constexpr(3)
MODEL_TABLES = tl.constexpr(3)
COUNT, CHANGE = tl.constexpr(VOTES["count"]), tl.constexpr(VOTES["change"])
WEYL, FIRST, SECOND = tl.constexpr(0x9E3779B1), tl.constexpr(0x7FEB352D), tl.constexpr(0x846CA68B)


def _jit(kernel: Callable[..., Any]) -> Any:
    return triton.jit(kernel)


def serves(tensor_pass: Pass) -> bool:
    """Whether these kernels support the pass: its plan, and the dtypes of its (contiguous) tensors."""
    is_supported = isinstance(tensor_pass.plan, LinearCombination | SignConsensus)
    return is_supported and all(tensor.dtype in DTYPES for tensor in (*tensor_pass.inputs, tensor_pass.out))


def combine(tensor_pass: Pass) -> None:
    """Writes the output of a pass whose tensors are flat, contiguous and on one device."""
    device = tensor_pass.out.device
    if tensor_pass.out.numel() == 0:
        return
    with _on(device):
        _launch(tensor_pass)


def count_keys(
    numbers: Numbers, base: Tensor, models: Sequence[Tensor], digit: Digit
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns [ranges, count] counts and sums of lower bits. Zeros are left out where the digit takes all keys."""
    device, parts = base.device, -(-numbers.size // PART)
    tables = torch.zeros(len(digit.firsts), max(1, parts), digit.count, dtype=torch.int64, device=device)
    factors = base if numbers.factors is None else numbers.factors
    flags = {"SPREAD": numbers.kind == "spread", "IMPORTANCE": numbers.kind == "importance", "WHOLE": digit.takes_all}
    sizes = {"MODELS": len(models), "BLOCK": TILE, "PART": PART, "enable_fp_fusion": False}
    given = base, tuple(models), factors, numbers.size, numbers.row, digit.shift, digit.count
    with _on(device):
        for table, first in zip(tables, digit.firsts if numbers.size else (), strict=False):
            _count_keys[(triton.cdiv(numbers.size, TILE),)](table, *given, first, **sizes, **flags)
    counts, lows = (tables >> PLACE_BITS.value).sum(1), (tables & ((1 << PLACE_BITS.value) - 1)).sum(1)
    return counts.cpu().numpy(), lows.cpu().numpy()


def _on(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _launch(tensor_pass: Pass) -> None:
    size, models = tensor_pass.out.numel(), tuple(tensor_pass.models)
    base = models[0] if tensor_pass.base is None else tensor_pass.base
    kernel, tables, flags = _prepared(tensor_pass)
    on_device = [table.to(tensor_pass.out.device) for table in tables]
    sizes = {"MODELS": len(models), "BLOCK": TILE, "enable_fp_fusion": False}
    kernel[(triton.cdiv(size, TILE),)](tensor_pass.out, base, models, *on_device, size, **sizes, **flags)


def _prepared(tensor_pass: Pass) -> tuple[Any, list[Tensor], dict[str, bool]]:
    """A kernel, the tables that it reads, and the flags that it is compiled for."""
    plan = tensor_pass.plan
    if isinstance(plan, LinearCombination):
        return _linear_combination, [_linear_numbers(plan, tensor_pass.base is not None)], {}
    assert isinstance(plan, SignConsensus)
    bits = torch.tensor(list(map(_mask_words, plan.sparsity)), dtype=torch.int32)
    addresses = torch.tensor(list(map(_addresses, plan.sparsity)), dtype=torch.int64)
    flags = {"SPREAD": plan.least_spread > 0, "RANKED": any(sparsity.ranked for sparsity in plan.sparsity)}
    return _sign_consensus, [_consensus_numbers(plan), bits, addresses], flags


def _linear_numbers(plan: LinearCombination, has_base: bool) -> Tensor:
    base = plan.base if has_base else 0.0
    return torch.tensor([base, float(plan.task_vectors and has_base), *plan.coefficients], dtype=torch.float32)


def _consensus_numbers(plan: SignConsensus) -> Tensor:
    each = zip(plan.sparsity, plan.weights, strict=True)
    numbers = [
        *(plan.lambda_, float(plan.elect), float(plan.normalize), plan.rounding),
        *(float(VOTES[plan.vote]), plan.least_spread),
        *(number for s, weight in each for number in (weight, s.scale * weight, s.threshold, s.ceiling)),
    ]
    return torch.tensor(numbers, dtype=torch.float32)


def _mask_words(sparsity: Sparsity) -> tuple[int, int, int]:
    """The limit below which draws are kept, then the halves of the mask's key as signed words."""
    low, high = ((half + (1 << 31)) % (1 << 32) - (1 << 31) for half in (sparsity.key, sparsity.key >> 32))
    return grains(sparsity.keep) - GRAIN // 2, low, high


def _addresses(sparsity: Sparsity) -> tuple[int, int, int]:
    """The device addresses of the tables of a drop by rank, which the plan keeps alive; zeros where there is none."""
    ranked = sparsity.ranked
    return (ranked.places.data_ptr(), ranked.kept.data_ptr(), ranked.factors.data_ptr()) if ranked else (0, 0, 0)


@_jit
def _linear_combination(
    out: tl.tensor,
    base: tl.tensor,
    models: tl.tuple,
    numbers: tl.tensor,
    size: tl.tensor,
    MODELS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < size
    b = _load(base + places, inside)
    share, task_vectors = tl.load(numbers), tl.load(numbers + 1) != 0
    first = share == 0
    total = tl.where(first, 0.0, b * share)
    for i in tl.static_range(MODELS):
        x = _load(models[i] + places, inside)
        c = tl.load(numbers + 2 + i)
        term = tl.where(task_vectors, x - b, x) * c
        # Not 0 + term for the first, which would lose the sign of a zero.
        total = tl.where(c == 0, total, tl.where(first, term, total + term))
        first = first & (c == 0)
    _store(out + places, total, inside)


@_jit
def _sign_consensus(
    out: tl.tensor,
    base: tl.tensor,
    models: tl.tuple,
    numbers: tl.tensor,
    bits: tl.tensor,
    addresses: tl.tensor,
    size: tl.tensor,
    MODELS: tl.constexpr,
    BLOCK: tl.constexpr,
    SPREAD: tl.constexpr,
    RANKED: tl.constexpr,
) -> None:
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < size
    b = _load(base + places, inside)
    zero = tl.full((BLOCK,), 0.0, tl.float32)
    spread = zero
    if SPREAD:
        spread = _spread(models, b, places, inside, MODELS)
    vote, least_spread = tl.load(numbers + 4), tl.load(numbers + 5)
    total, positive, negative, above, below = zero, zero, zero, zero, zero
    for i in tl.static_range(MODELS):
        own, words = numbers + PLAN_NUMBERS + MODEL_NUMBERS * i, bits + MODEL_BITS * i
        weight, factor = tl.load(own), tl.load(own + 1)
        delta = _load(models[i] + places, inside) - b
        delta = tl.where(tl.abs(delta) < tl.load(own + 2), 0.0, delta)
        delta = tl.where(tl.abs(delta) > tl.load(own + 3), 0.0, delta)
        delta = _drop(delta, places, inside, words, addresses + MODEL_TABLES * i, RANKED)
        delta = tl.where(spread < least_spread, 0.0, delta)
        part = delta * factor
        sign = tl.where(part > 0, 1.0, tl.where(part < 0, -1.0, 0.0))
        total += tl.where(vote == COUNT, sign, tl.where(vote == CHANGE, delta, part))
        positive += tl.where(part < 0, 0.0, part)
        negative += tl.where(part > 0, 0.0, part)
        above += tl.where(part > 0, weight, 0.0)
        below += tl.where(part < 0, weight, 0.0)
    scale, elect, normalize, rounding = (
        tl.load(numbers),
        tl.load(numbers + 1),
        tl.load(numbers + 2),
        tl.load(numbers + 3),
    )
    plus = total >= 0
    divisor = tl.where(plus, above, below)
    divisor = tl.where(tl.abs(divisor) <= rounding, 1.0, divisor)
    divisor = tl.where(normalize == 0, 1.0, divisor)
    total = tl.where(elect == 0, total, tl.div_rn(tl.where(plus, positive, negative), divisor))
    _store(out + places, total * scale + b, inside)


@_jit
def _count_keys(
    table: tl.tensor,
    base: tl.tensor,
    models: tl.tuple,
    factors: tl.tensor,
    size: tl.tensor,
    row: tl.tensor,
    shift: tl.tensor,
    count: tl.tensor,
    first: tl.tensor,
    MODELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PART: tl.constexpr,
    SPREAD: tl.constexpr,
    IMPORTANCE: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < size
    b = _load(base + places, inside)
    if SPREAD:  # noqa: SIM108 (Triton compiles one branch alone)
        number = _spread(models, b, places, inside, MODELS)
    else:
        number = tl.abs(_load(models[0] + places, inside) - b)
    if IMPORTANCE:
        number = number * tl.load(factors + places // row, mask=inside, other=0)
        key = number.to(tl.int32, bitcast=True)
        key = key ^ ((key >> 31) & 0x7FFFFFFF)
    else:
        key = number.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    value = (key >> shift) - first
    mine = inside & (value >= 0) & (value < count)
    if WHOLE:
        mine = mine & (key != 0)
    low = (key & ((1 << shift) - 1)).to(tl.int64)
    at = table + (places // PART) * count + value
    tl.atomic_add(at, (tl.full(low.shape, 1, tl.int64) << PLACE_BITS) + low, mask=mine, sem="relaxed")


@_jit
def _spread(models: tl.tuple, b: tl.tensor, places: tl.tensor, inside: tl.tensor, MODELS: tl.constexpr) -> tl.tensor:
    """``spread_of`` in torch_backend."""
    mean = _load(models[0] + places, inside) - b
    for i in tl.static_range(1, MODELS):
        mean += _load(models[i] + places, inside) - b
    mean = mean * (1 / MODELS)
    total = tl.full(mean.shape, 0.0, tl.float32)
    for i in tl.static_range(MODELS):
        apart = _load(models[i] + places, inside) - b - mean
        total += apart * apart
    return total


@_jit
def _drop(
    delta: tl.tensor, places: tl.tensor, inside: tl.tensor, words: tl.tensor, addresses: tl.tensor, RANKED: tl.constexpr
) -> tl.tensor:
    """Drops at random, with one probability for all or with that of each element's rank."""
    kept, drawn = tl.load(words), _draws(places, tl.load(words + 1), tl.load(words + 2))
    if RANKED:
        ranks = tl.load(addresses)
        mine = inside & (tl.broadcast_to(ranks, places.shape) != 0)  # the interpreter broadcasts no booleans
        rank = tl.load(ranks.to(tl.pointer_type(tl.int16)) + places, mask=mine, other=0).to(tl.int32) & 0xFFFF
        limit = tl.load(tl.load(addresses + 1).to(tl.pointer_type(tl.int32)) + rank, mask=mine, other=kept)
        factor = tl.load(tl.load(addresses + 2).to(tl.pointer_type(tl.float32)) + rank, mask=mine, other=1.0)
        return tl.where(drawn < limit, delta, 0.0) * factor
    else:  # noqa: RET505 (Triton wants both)
        return tl.where(drawn < kept, delta, 0.0)


@_jit
def _draws(places: tl.tensor, low: tl.tensor, high: tl.tensor) -> tl.tensor:
    """``draws`` in masks.py: each word serves two elements."""
    epoch = (places >> 33).to(tl.uint32)
    x = (places >> 1).to(tl.uint32) * WEYL + (low.to(tl.uint32, bitcast=True) + epoch)
    x = ((x ^ (x >> 16)) * FIRST) ^ (high.to(tl.uint32, bitcast=True) ^ epoch)
    x = (x ^ (x >> 15)) * SECOND
    x = x ^ (x >> 16)
    return (x >> ((places & 1) * 16).to(tl.uint32)).to(tl.int16).to(tl.int32)


# bfloat16 is cast by hand, as the interpreter truncates and loses the smallest numbers.


@_jit
def _load(where: tl.tensor, inside: tl.tensor) -> tl.tensor:
    values = tl.load(where, mask=inside, other=0)
    if where.dtype.element_ty == tl.bfloat16:
        return (values.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:  # noqa: RET505 (Triton wants both)
        return values.to(tl.float32)


@_jit
def _store(where: tl.tensor, values: tl.tensor, inside: tl.tensor) -> None:
    if where.dtype.element_ty == tl.bfloat16:
        # To nearest, ties to even.
        bits = values.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        bits = tl.where(values != values, 0x7FC0, bits)  # noqa: PLR0124
        tl.store(where, bits.to(tl.uint16).to(tl.bfloat16, bitcast=True), mask=inside)
    else:
        tl.store(where, values.to(where.dtype.element_ty), mask=inside)

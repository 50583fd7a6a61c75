"""The kernels on CUDA: those of ``kernels_torch`` in one pass, with the same operations in the same order.

Contraction of a·b + c is switched off and division rounds to nearest, so that the bits are those of the CPU.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

# ruff: noqa: N803, PLR0913, PLR0917 (kernels name constants in capitals, and take many)
import torch
import triton
import triton.language as tl
from torch import Tensor

from mergesearch.merge_ops.kernels.plans import LinearCombination, Plan, SignConsensus, Sparsity, grains

TILE = 1024
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST = 1 << 33
"""Elements from which a mask goes on under another key, which these kernels do not do."""
PLAN_NUMBERS = tl.constexpr(4)
MODEL_NUMBERS = tl.constexpr(4)
MODEL_BITS = tl.constexpr(3)
WEYL, FIRST, SECOND = tl.constexpr(0x9E3779B1), tl.constexpr(0x7FEB352D), tl.constexpr(0x846CA68B)


def _jit(kernel: Callable[..., Any]) -> Any:
    return triton.jit(kernel)


def serves(plans: Sequence[Plan], tensors: Sequence[Tensor]) -> bool:
    """Whether these kernels know the plans and (contiguous) tensors; all plans are of one form."""
    form = type(plans[0])
    known = form in (LinearCombination, SignConsensus) and all(type(plan) is form for plan in plans)
    return (
        known and not any(map(_is_special, plans)) and all(t.dtype in DTYPES and t.numel() < LARGEST for t in tensors)
    )


def _is_special(plan: Plan) -> bool:
    if not isinstance(plan, SignConsensus):
        return False
    return plan.vote != "mass" or plan.least_spread > 0 or any(sparsity.ranked for sparsity in plan.sparsity)


def combine(plans: Sequence[Plan], base: Tensor | None, models: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
    """Writes each plan's tensor to its ``out``; all flat, contiguous and on one device."""
    size, device = outs[0].numel(), outs[0].device
    if size == 0:
        return
    numbers = torch.tensor([_numbers(plan, base is not None) for plan in plans], dtype=torch.float32).to(device)
    bits = torch.tensor([_bits(plan) for plan in plans], dtype=torch.int64).to(torch.int32).to(device)
    shared = (tuple(outs), models[0] if base is None else base, tuple(models))
    sizes = {"MODELS": len(models), "PLANS": len(plans), "BLOCK": TILE, "enable_fp_fusion": False}
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        if isinstance(plans[0], LinearCombination):
            _linear_combination[(triton.cdiv(size, TILE),)](*shared, numbers, size, **sizes)
        else:
            _sign_consensus[(triton.cdiv(size, TILE),)](*shared, numbers, bits, size, **sizes)


def _numbers(plan: Plan, has_base: bool) -> list[float]:
    if isinstance(plan, LinearCombination):
        return [plan.base if has_base else 0.0, float(plan.task_vectors), *plan.coefficients]
    assert isinstance(plan, SignConsensus)
    each = zip(plan.sparsity, plan.weights, strict=True)
    return [
        *(plan.lambda_, float(plan.elect), float(plan.normalize), plan.rounding),
        *(number for s, weight in each for number in (weight, s.scale * weight, s.threshold, s.ceiling)),
    ]


def _bits(plan: Plan) -> list[int]:
    return [word for s in plan.sparsity for word in _mask_words(s)] if isinstance(plan, SignConsensus) else [0]


def _mask_words(sparsity: Sparsity) -> tuple[int, int, int]:
    """How much a mask keeps, and the halves of its key as signed words."""
    low, high = ((half + (1 << 31)) % (1 << 32) - (1 << 31) for half in (sparsity.key, sparsity.key >> 32))
    return grains(sparsity.keep), low, high


@_jit
def _linear_combination(
    outs: Any,
    base: Any,
    models: Any,
    numbers: Any,
    size: Any,
    MODELS: tl.constexpr,
    PLANS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < size
    b = _load(base + places, inside)
    for p in tl.static_range(PLANS):
        row = numbers + p * (2 + MODELS)
        share, task_vectors = tl.load(row), tl.load(row + 1) != 0
        first = share == 0
        total = tl.where(first, 0.0, b * share)
        for i in tl.static_range(MODELS):
            x = _load(models[i] + places, inside)
            c = tl.load(row + 2 + i)
            term = tl.where(task_vectors, x - b, x) * c
            # Not 0 + term for the first, which would lose the sign of a zero.
            total = tl.where(c == 0, total, tl.where(first, term, total + term))
            first = first & (c == 0)
        _store(outs[p] + places, total, inside)


@_jit
def _sign_consensus(
    outs: Any,
    base: Any,
    models: Any,
    numbers: Any,
    bits: Any,
    size: Any,
    MODELS: tl.constexpr,
    PLANS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < size
    b = _load(base + places, inside)
    for p in tl.static_range(PLANS):
        row = numbers + p * (PLAN_NUMBERS + MODEL_NUMBERS * MODELS)
        total = tl.full((BLOCK,), 0.0, tl.float32)
        positive, negative, above, below = total, total, total, total
        for i in tl.static_range(MODELS):
            x = _load(models[i] + places, inside)
            own, words = row + PLAN_NUMBERS + MODEL_NUMBERS * i, bits + MODEL_BITS * (p * MODELS + i)
            weight = tl.load(own)
            part = _sparse(x - b, places, tl.load(own + 2), tl.load(own + 3), words) * tl.load(own + 1)
            total += part
            positive += tl.where(part < 0, 0.0, part)
            negative += tl.where(part > 0, 0.0, part)
            above += tl.where(part > 0, weight, 0.0)
            below += tl.where(part < 0, weight, 0.0)
        scale, elect, normalize, rounding = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
        plus = total >= 0
        divisor = tl.where(plus, above, below)
        divisor = tl.where(tl.abs(divisor) <= rounding, 1.0, divisor)
        divisor = tl.where(normalize == 0, 1.0, divisor)
        total = tl.where(elect == 0, total, tl.div_rn(tl.where(plus, positive, negative), divisor))
        _store(outs[p] + places, total * scale + b, inside)


@_jit
def _sparse(delta: Any, places: Any, threshold: Any, ceiling: Any, words: Any) -> Any:
    delta = tl.where(tl.abs(delta) < threshold, 0.0, delta)
    delta = tl.where(tl.abs(delta) > ceiling, 0.0, delta)
    kept, low, high = tl.load(words), tl.load(words + 1), tl.load(words + 2)
    # keep_mask of random.py: each word serves two elements.
    x = (places >> 1).to(tl.uint32) * WEYL + low.to(tl.uint32, bitcast=True)
    x = ((x ^ (x >> 16)) * FIRST) ^ high.to(tl.uint32, bitcast=True)
    x = (x ^ (x >> 15)) * SECOND
    x = x ^ (x >> 16)
    half = ((x >> ((places & 1) * 16).to(tl.uint32)) & 0xFFFF) ^ 0x8000
    return tl.where(half.to(tl.int32) < kept, delta, 0.0)


# bfloat16 is cast by hand, as the interpreter truncates and loses the smallest numbers.


@_jit
def _load(where: Any, inside: Any) -> Any:
    values = tl.load(where, mask=inside, other=0)
    if where.dtype.element_ty == tl.bfloat16:
        return (values.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:  # noqa: RET505 (Triton wants both)
        return values.to(tl.float32)


@_jit
def _store(where: Any, values: Any, inside: Any) -> None:
    if where.dtype.element_ty == tl.bfloat16:
        # To nearest, ties to even.
        bits = values.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        bits = tl.where(values != values, 0x7FC0, bits)  # noqa: PLR0124
        tl.store(where, bits.to(tl.uint16).to(tl.bfloat16, bitcast=True), mask=inside)
    else:
        tl.store(where, values.to(where.dtype.element_ty), mask=inside)

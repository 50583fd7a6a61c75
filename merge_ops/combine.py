"""One pass over memory writes a tensor, or several candidates' at once, from its inputs and a plan for each.

Inputs of any float dtype are cast in once and the result is cast out once; between them everything is float32 (float64
where an input is). The compiled kernels serve the CPU (``native``) and CUDA (``kernels_triton``), those in plain torch
all else; a plan gives the same bits by each of them, in blocks of any size and on any number of threads.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from mergesearch.merge_ops import kernels_torch, native
from mergesearch.merge_ops.plans import SMALLEST_NORM, Plan, SignConsensus, Sparsity

BLOCK = 1 << 14
"""Elements that plain torch takes at a time: so many stay in cache, and torch gives them to one thread."""


def combine(plan: Plan, base: Tensor | None, models: Sequence[Tensor], out: Tensor) -> None:
    """Writes the merged tensor to ``out`` (same shape, any float dtype), in place.

    ``base`` is None for methods that take no task vectors. Nothing is allocated that grows with the tensor, unless a
    tensor is not contiguous.
    """
    combine_many([plan], base, models, [out])


def combine_many(plans: Sequence[Plan], base: Tensor | None, models: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
    """Writes one merged tensor for each plan to its ``out``; the inputs are read from memory once.

    No ``out`` may share memory with an input.
    """
    flat_base, inputs = None if base is None else _flat(base), [_flat(model) for model in models]
    targets = [_flat(out) if out.is_contiguous() else _flat(torch.empty_like(out).contiguous()) for out in outs]
    ready = [_with_scales(plan, flat_base, inputs) for plan in plans]
    _kernels(ready, [*targets, *inputs, *([] if flat_base is None else [flat_base])])(ready, flat_base, inputs, targets)
    for out, target in zip(outs, targets, strict=True):
        if not out.is_contiguous():
            out.copy_(target.view(out.shape))


def _flat(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1)


Kernels = Callable[[Sequence[Plan], Tensor | None, Sequence[Tensor], Sequence[Tensor]], None]


def _kernels(plans: Sequence[Plan], tensors: Sequence[Tensor]) -> Kernels:
    if tensors[0].is_cuda and find_spec("triton"):
        from mergesearch.merge_ops import kernels_triton

        if kernels_triton.serves(plans, tensors):
            return kernels_triton.combine
    if native.serves(plans, tensors):
        return native.combine
    return partial(kernels_torch.combine, block=BLOCK)


def _with_scales(plan: Plan, base: Tensor | None, models: Sequence[Tensor]) -> Plan:
    """The plan with the scales that it leaves open (``match_l1``) as numbers."""
    if not isinstance(plan, SignConsensus) or not any(sparsity.match_l1 for sparsity in plan.sparsity):
        return plan
    assert base is not None
    scaled = (replace(s, scale=_scale(s, base, model)) for s, model in zip(plan.sparsity, models, strict=True))
    return replace(plan, sparsity=tuple(scaled))


def _scale(sparsity: Sparsity, base: Tensor, model: Tensor) -> float:
    if not sparsity.match_l1:
        return sparsity.scale
    before, after = 0.0, 0.0
    for start, delta in task_vector_blocks(base, model):
        before += delta.abs().sum(dtype=torch.float64).item()
        after += kernels_torch.make_sparse(delta, sparsity, start).abs_().sum(dtype=torch.float64).item()
    return before / after if min(before, after) > SMALLEST_NORM else 1.0


def task_vector_blocks(base: Tensor, model: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The task vector in pieces, each with the place where it starts."""
    wide = kernels_torch.wide_dtype([base, model])
    for start in range(0, model.numel(), BLOCK):
        block = slice(start, start + BLOCK)
        yield start, model[block].to(wide) - base[block].to(wide)

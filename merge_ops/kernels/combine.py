"""Merges tensors by their plans, each in one pass over memory.

Inputs of any float dtype are cast to float32 (float64 if an input is float64), the result is cast once to the dtype of
the output. ``native_backend`` serves the CPU, ``triton_backend`` serves CUDA, and ``torch_backend`` everything else. A
plan gives the same bits by every backend, for any block size and any number of threads.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels import native_backend, torch_backend
from mergesearch.merge_ops.kernels.blocks import blocks
from mergesearch.merge_ops.kernels.plans import SMALLEST_NORM, Pass, Plan, SignConsensus, Sparsity

BLOCK = 1 << 14
"""Elements that the torch backend takes at a time: they stay in cache, and torch processes them on one thread."""


def combine(plan: Plan, base: Tensor | None, models: Sequence[Tensor], out: Tensor) -> bool:
    """Writes the merged tensor to ``out``. Returns whether that is finite for certain.

    Memory that grows with the tensor is allocated only if a tensor is not contiguous.

    Args:
        plan: the method's decision.
        base: the base, or None for methods without task vectors.
        models: the models, of the same shape and of any float dtype.
        out: the output, of the same shape and of any float dtype. It must not share memory with an input.
    """
    return bool(combine_all([Pass(plan, base, models, out)]))


def combine_all(passes: Iterable[Pass]) -> list[Tensor]:
    """Writes the output of every pass.

    On the CPU, all passes are one call of the compiled kernels for each thread, and threads take parts of any tensor
    without waiting for each other.

    Returns:
        The outputs that are finite for certain, as the compiled kernels see while they write them.
    """
    native = [scaled for scaled in map(_with_scales, passes) if not _combine_elsewhere(scaled)]
    if not native:
        return []
    return [each.out for each, is_finite in zip(native, native_backend.combine(native), strict=True) if is_finite]


def _combine_elsewhere(tensor_pass: Pass) -> bool:
    """Combines what the compiled kernels do not take as it is. Returns False if they take it."""
    if not all(tensor.is_contiguous() for tensor in (*tensor_pass.inputs, tensor_pass.out)):
        _combine_packed(tensor_pass)
    elif _is_for_triton(tensor_pass):
        _combine_on_gpu(tensor_pass)
    elif native_backend.serves(tensor_pass):
        return False
    else:
        torch_backend.combine(_flat(tensor_pass), BLOCK)
    return True


def _combine_packed(tensor_pass: Pass) -> None:
    """Combines contiguous copies."""
    packed = torch.empty_like(tensor_pass.out, memory_format=torch.contiguous_format)
    base = None if tensor_pass.base is None else tensor_pass.base.contiguous()
    combine(tensor_pass.plan, base, [model.contiguous() for model in tensor_pass.models], packed)
    tensor_pass.out.copy_(packed)


def _is_for_triton(tensor_pass: Pass) -> bool:
    return tensor_pass.out.is_cuda and find_spec("triton") is not None


def _combine_on_gpu(tensor_pass: Pass) -> None:
    from mergesearch.merge_ops.kernels import triton_backend

    flat = _flat(tensor_pass)
    if triton_backend.serves(flat):
        triton_backend.combine(flat)
    else:
        torch_backend.combine(flat, BLOCK)


def _flat(tensor_pass: Pass) -> Pass:
    base = None if tensor_pass.base is None else tensor_pass.base.view(-1)
    return Pass(tensor_pass.plan, base, [model.view(-1) for model in tensor_pass.models], tensor_pass.out.view(-1))


def _with_scales(tensor_pass: Pass) -> Pass:
    """Returns the pass with a number for every scale that its plan leaves open (``match_l1``)."""
    plan, base = tensor_pass.plan, tensor_pass.base
    if not isinstance(plan, SignConsensus) or not any(sparsity.match_l1 for sparsity in plan.sparsity):
        return tensor_pass
    assert base is not None
    models = zip(plan.sparsity, tensor_pass.models, strict=True)
    scaled = tuple(replace(sparsity, scale=_scale(sparsity, base, model)) for sparsity, model in models)
    return replace(tensor_pass, plan=replace(plan, sparsity=scaled))


def _scale(sparsity: Sparsity, base: Tensor, model: Tensor) -> float:
    """Returns the scale, or with ``match_l1`` the factor that restores the task vector's L1 norm."""
    if not sparsity.match_l1:
        return sparsity.scale
    before, after = 0.0, 0.0
    for start, (base_block, model_block) in blocks([base, model], BLOCK):
        delta = model_block - base_block
        before += delta.abs().sum(dtype=torch.float64).item()
        after += torch_backend.make_sparse(delta, sparsity, start).abs_().sum(dtype=torch.float64).item()
    return before / after if min(before, after) > SMALLEST_NORM else 1.0

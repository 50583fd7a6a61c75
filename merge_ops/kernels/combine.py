"""One pass over memory writes a tensor, or several candidates' at once, from its inputs and a plan for each.

Inputs of any float dtype are cast in once and the result is cast out once; between them everything is float32 (float64
where an input is). The compiled kernels serve the CPU (``native``) and CUDA (``kernels_triton``), those in plain torch
all else; a plan gives the same bits by each of them, in blocks of any size and on any number of threads.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels import native_backend as native
from mergesearch.merge_ops.kernels import torch_backend as kernels_torch
from mergesearch.merge_ops.kernels.plans import SMALLEST_NORM, Pass, Plan, SignConsensus, Sparsity

BLOCK = 1 << 14
"""Elements that plain torch takes at a time: so many stay in cache, and torch gives them to one thread."""


def combine(plan: Plan, base: Tensor | None, models: Sequence[Tensor], out: Tensor) -> None:
    """Writes the merged tensor to ``out`` (same shape, any float dtype), in place.

    ``base`` is None for methods that take no task vectors. Nothing is allocated that grows with the tensor, unless a
    tensor is not contiguous.
    """
    combine_all([Pass([plan], base, models, [out])])


def combine_all(passes: Iterable[Pass]) -> None:
    """Writes every plan's tensor to its ``out``; the inputs of each pass are read from memory once.

    On the CPU all passes are one call of the compiled kernels, in which the threads go from tensor to tensor without
    waiting for each other. No ``out`` may share memory with an input.
    """
    together = [ready for ready in (_with_scales(one) for one in passes) if not _combined_alone(ready)]
    if together:
        native.combine(together)


def _combined_alone(one: Pass) -> bool:
    """Combines what the compiled kernels do not take as it is: False where they do."""
    if not all(tensor.is_contiguous() for tensor in (*one.inputs, *one.outs)):
        _combine_packed(one)
    elif one.outs[0].is_cuda and find_spec("triton"):
        _combine_on_gpu(one)
    elif native.serves(one):
        return False
    else:
        kernels_torch.combine(_flat(one), BLOCK)
    return True


def _combine_packed(one: Pass) -> None:
    outs = [torch.empty_like(out, memory_format=torch.contiguous_format) for out in one.outs]
    base = None if one.base is None else one.base.contiguous()
    combine_all([Pass(one.plans, base, [model.contiguous() for model in one.models], outs)])
    for out, packed in zip(one.outs, outs, strict=True):
        out.copy_(packed)


def _combine_on_gpu(one: Pass) -> None:
    from mergesearch.merge_ops.kernels import triton_backend as kernels_triton

    flat = _flat(one)
    if kernels_triton.serves(flat.plans, [*flat.outs, *flat.inputs]):
        kernels_triton.combine(flat.plans, flat.base, flat.models, flat.outs)
    else:
        kernels_torch.combine(flat, BLOCK)


def _flat(one: Pass) -> Pass:
    base = None if one.base is None else one.base.view(-1)
    return Pass(one.plans, base, [model.view(-1) for model in one.models], [out.view(-1) for out in one.outs])


def _with_scales(one: Pass) -> Pass:
    """The pass with the scales that its plans leave open (``match_l1``) as numbers."""
    if not any(map(_leaves_scales, one.plans)):
        return one
    assert one.base is not None
    base, models = one.base.reshape(-1), [model.reshape(-1) for model in one.models]
    return replace(one, plans=[_scaled(plan, base, models) for plan in one.plans])


def _leaves_scales(plan: Plan) -> bool:
    return isinstance(plan, SignConsensus) and any(sparsity.match_l1 for sparsity in plan.sparsity)


def _scaled(plan: Plan, base: Tensor, models: Sequence[Tensor]) -> Plan:
    if not isinstance(plan, SignConsensus):
        return plan
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

"""How a loss of the merged model changes with a recipe's coefficients, from one gradient by its weights.

Where ``θ = base·b + Σ_i c_i·x_i``, the chain rule gives ``∂L/∂c_i = ⟨∂L/∂θ, x_i⟩`` for every coefficient at once; with
task vectors the inner product is that with ``δ_i`` (AdaMerging, arXiv:2310.02575, learns its coefficients so).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mergesearch.merge_ops.assembly.merger import Assembly, Job
from mergesearch.merge_ops.kernels.plans import SMALLEST_SUM, LinearCombination, Plan, SignConsensus

BLOCK = 1 << 22
"""Elements that are taken to float64 at once."""
Numbers = tuple[float, ...]
"""A tensor's coefficients, or the slopes by them: the base's, then each model's."""


def linear_form(plan: Plan) -> LinearCombination | None:
    """The plan as a linear combination: itself, or the surrogate that overlooks trimming, dropping and election.

    None for a plan that has no coefficients.
    """
    if isinstance(plan, LinearCombination):
        return plan
    if not isinstance(plan, SignConsensus):
        return None
    total = sum(plan.weights)
    divisor = total if plan.normalize and abs(total) > SMALLEST_SUM else 1.0
    return LinearCombination(tuple(plan.lambda_ * w / divisor for w in plan.weights), base=1.0, task_vectors=True)


def coefficients(assembly: Assembly, names: Sequence[str]) -> dict[str, Numbers] | None:
    """Every merged tensor's coefficients; None where a tensor has none."""
    found: dict[str, Numbers] = {}
    for name in names:
        job = assembly.job(name)
        form = linear_form(job.plan) if job else None
        if job and form is None:
            return None
        if form:
            found[name] = (form.base, *form.coefficients)
    return found


def is_exact(assembly: Assembly, names: Sequence[str]) -> bool:
    """Whether the coefficients are all that the model depends on."""
    jobs = (assembly.job(name) for name in names)
    return all(job is None or isinstance(job.plan, LinearCombination) for job in jobs)


def slopes(assembly: Assembly, gradients: Mapping[str, Tensor]) -> dict[str, Numbers]:
    """``∂L/∂c`` by the coefficients of every merged tensor, from ``∂L/∂θ`` by the tensors' names."""
    jobs = ((assembly.job(name), name, gradient) for name, gradient in gradients.items())
    return {name: _slopes(job, gradient) for job, name, gradient in jobs if job}


def _slopes(job: Job, gradient: Tensor) -> Numbers:
    form = linear_form(job.plan)
    assert form is not None
    flat = gradient.reshape(-1)
    base = None if job.base is None else job.base.reshape(-1)
    origin = base if form.task_vectors else None
    models = tuple(_inner(flat, model.reshape(-1), origin) for model in job.models)
    return (0.0 if base is None else _inner(flat, base, None), *models)


def _inner(gradient: Tensor, tensor: Tensor, origin: Tensor | None) -> float:
    """``⟨g, x − origin⟩`` in float64."""
    total = 0.0
    for start in range(0, gradient.numel(), BLOCK):
        part = slice(start, start + BLOCK)
        wide = tensor[part].double()
        if origin is not None:
            wide = wide - origin[part].double()
        total += float(gradient[part].double() @ wide)
    return total


def backward_in_place(model: nn.Module, backward: Callable[[], float]) -> float:
    """Runs ``backward``, which leaves gradients on the parameters, and writes these over the parameters themselves.

    So they are read under the checkpoints' names, through the views into the model, without a second model in memory.
    What ``backward`` returned is returned.
    """
    model.requires_grad_(True)
    try:
        with _whole_embeddings(model):
            loss = backward()
    finally:
        model.requires_grad_(False)
        with torch.no_grad():
            for parameter in model.parameters():
                _take_gradient(parameter)
    return loss


@contextmanager
def _whole_embeddings(model: nn.Module) -> Iterator[None]:
    """Lets the padding token have a gradient, too: it may be the one that texts begin with."""
    padded = {module: module.padding_idx for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in padded:
        module.padding_idx = None
    try:
        yield
    finally:
        for module, index in padded.items():
            module.padding_idx = index


def _take_gradient(parameter: nn.Parameter) -> None:
    if parameter.grad is None:
        parameter.zero_()
    else:
        parameter.copy_(parameter.grad)
    parameter.grad = None

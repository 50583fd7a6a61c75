"""Gradients of a loss by a recipe's coefficients, from the gradients by the merged weights.

With ``θ = base·b + Σ_i c_i·x_i``, the chain rule gives ``∂L/∂c_i = ⟨∂L/∂θ, x_i⟩`` for every coefficient from one
backward pass. With task vectors, the inner product is that with ``δ_i``. AdaMerging (arXiv:2310.02575) learns its
coefficients in this way.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from mergesearch.merge_ops.assembly.assembly import Assembly, InputKey, PlannedTensor
from mergesearch.merge_ops.kernels.inner_products import inner_products
from mergesearch.merge_ops.kernels.plans import SMALLEST_SUM, LinearCombination, Plan, SignConsensus
from mergesearch.merge_ops.live.reproducible import reproducible

Coefficients = tuple[float, ...]
"""A tensor's coefficients, or the gradients by them: the base's, then each model's."""


def linear_form(plan: Plan) -> LinearCombination | None:
    """Returns the plan as a linear combination, or None if it has no coefficients.

    For a ``SignConsensus`` it is a surrogate, which ignores trimming, dropping and election.
    """
    if isinstance(plan, LinearCombination):
        return plan
    if not isinstance(plan, SignConsensus):
        return None
    total = sum(plan.weights)
    divisor = total if plan.normalize and abs(total) > SMALLEST_SUM else 1.0
    return LinearCombination(tuple(plan.lambda_ * w / divisor for w in plan.weights), base=1.0, task_vectors=True)


def coefficients(assembly: Assembly, names: Sequence[str]) -> dict[str, Coefficients] | None:
    """Returns the coefficients of every merged tensor, or None if one has none or a step follows."""
    by_name: dict[str, Coefficients] = {}
    if assembly.recipe.has_steps_after_merge:
        return None
    for name in names:
        planned = assembly.planned(name)
        form = linear_form(planned.plan) if planned else None
        if planned and form is None:
            return None
        if form:
            by_name[name] = (form.base, *form.coefficients)
    return by_name


def is_exact(assembly: Assembly, names: Sequence[str]) -> bool:
    """Returns whether all merged tensors are linear combinations, so that the coefficients determine the model."""
    planned = (assembly.planned(name) for name in names)
    is_linear = all(entry is None or isinstance(entry.plan, LinearCombination) for entry in planned)
    return is_linear and not assembly.recipe.has_steps_after_merge


def input_weights(assembly: Assembly, names: Sequence[str]) -> dict[str, dict[InputKey, float]] | None:
    """Returns the weight of every input in every float tensor, without zeros; None unless all are weighted sums.

    Recipes with the same weights build the same model, up to rounding. A tensor that is a copy has one input.
    """
    by_name = {}
    if assembly.recipe.has_steps_after_merge:
        return None
    for name in (name for name in names if assembly.layout.properties[name].info.dtype.is_floating_point):
        weights = weights_of(assembly, name)
        if weights is None:
            return None
        by_name[name] = {key: weight for key, weight in weights.items() if abs(weight) > SMALLEST_SUM}
    return by_name


def weights_of(assembly: Assembly, name: str) -> dict[InputKey, float] | None:
    """Returns the weight of every input in a float tensor, or None if it is no weighted sum."""
    if copied := assembly.copied(name):
        return {copied: 1.0}
    planned, tensor_recipe = assembly.planned(name), assembly.layout.tensor_recipes[name]
    if planned is None or not isinstance(planned.plan, LinearCombination):
        return None
    plan, weights = planned.plan, dict.fromkeys(tensor_recipe.inputs, 0.0)
    for key, weight in zip(tensor_recipe.model_inputs, plan.coefficients, strict=True):
        weights[key] += weight
    if planned.base is not None:
        weights[tensor_recipe.inputs[0]] += plan.base - (sum(plan.coefficients) if plan.task_vectors else 0.0)
    return weights


def coefficient_gradients(assembly: Assembly, weight_gradients: Mapping[str, Tensor]) -> dict[str, Coefficients]:
    """Returns ``∂L/∂c`` for the coefficients of every merged tensor, from ``∂L/∂θ`` by tensor name."""
    planned = ((assembly.planned(name), name, gradient) for name, gradient in weight_gradients.items())
    products = {name: _products(entry, gradient) for entry, name, gradient in planned if entry}
    numbers = iter(torch.cat(list(products.values())).tolist() if products else ())  # waits for the device once
    return {name: tuple(islice(numbers, len(row))) for name, row in products.items()}


def _products(planned: PlannedTensor, weight_gradient: Tensor) -> Tensor:
    form = linear_form(planned.plan)
    assert form is not None
    return inner_products(weight_gradient, planned.base, planned.models, form.task_vectors)


def backward_in_place(model: nn.Module, backward: Callable[[], float]) -> float:
    """Runs ``backward`` and overwrites the parameters with their gradients.

    The views into the parameters then show the gradients under the checkpoint's names, without a second model in
    memory. They are the same bytes every time, see ``reproducible``.

    Args:
        model: the live model.
        backward: computes the loss, leaves the gradients on the parameters, and returns the loss.
    """
    model.requires_grad_(True)
    try:
        with _without_padding_index(model), reproducible():
            loss = backward()
    finally:
        model.requires_grad_(False)
        with torch.no_grad():
            for parameter in model.parameters():
                _overwrite_with_gradient(parameter)
    return loss


@contextmanager
def _without_padding_index(model: nn.Module) -> Iterator[None]:
    """Lets the padding token have a gradient. It may be the token that texts begin with."""
    padded = {module: module.padding_idx for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in padded:
        module.padding_idx = None
    try:
        yield
    finally:
        for module, index in padded.items():
            module.padding_idx = index


def _overwrite_with_gradient(parameter: nn.Parameter) -> None:
    if parameter.grad is None:
        parameter.zero_()
    else:
        parameter.copy_(parameter.grad)
    parameter.grad = None

"""Learned soups: the coefficients of the average by gradient descent on the search items.

Wortsman et al., arXiv:2203.05482, appendix I: ``min_α Σ_j loss(f(x_j; Σ_i softmax(α)_i θ_i), y_j)``, with one α for
each model, or ("by layer") for each model and layer; their temperature of the output is left out, since it changes no
ranking. One backward pass through the soup's model gives the derivative by every tensor's coefficients at once
(``Engine.slopes``); what shares an α adds up.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.evaluators import Differentiable
from mergesearch.merge_ops.recipe.layout import heights, layer_of
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.gradient.start import Calibration

if TYPE_CHECKING:
    from mergesearch.search.candidates.soup_source import SoupStage
    from mergesearch.search.scoring.live_model import Bench

Group = tuple[str, int] | None
"""The tensors that share a coefficient: a layer of a stack; None: all outside the stacks."""
DIGITS = 4
"""Of the weights in the recipe."""


def check_gold(bench: "Bench") -> None:
    """Raises UserError for a task of which it is not known what the model should say to every item."""
    for task in bench.job.tasks_of("search"):
        assert isinstance(task.evaluator, Differentiable)
        if not task.evaluator.targets(bench.subject, task.search).has_gold:
            raise UserError(
                f"the task {task.name} does not say of every item what is right, so that there is no loss to learn "
                "from; leave out the learned soups"
            )


def learn(bench: "Bench", stage: "SoupStage", by_layer: bool) -> Recipe:
    """The learned soup of the stage's models. Depends on the run's seed and the arguments alone.

    Needs room for one gradient of the live model's size beside it. Raises FloatingPointError where it diverges.
    """
    models, learning = stage.models, stage.learning
    calibration = Calibration(bench.job, bench.subject, learning.items, "targets")
    groups = {name: layer_of(name) if by_layer else None for name in bench.engine.names}
    index = {group: number for number, group in enumerate(dict.fromkeys(groups.values()))}
    places = {name: index[group] for name, group in groups.items()}
    alpha = torch.zeros(len(models), len(index), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([alpha], lr=learning.learning_rate)
    for step in range(learning.steps):
        weights = alpha.softmax(0)
        recipe = stage.recipe(_settings(models, weights.detach(), index), "learned soup")
        _, slopes = bench.engine.slopes(recipe, lambda step=step: calibration.backward(step))  # type: ignore[misc]
        gradient = _shared(slopes, places, weights)
        if not gradient.isfinite().all():
            raise FloatingPointError(f"step {step} of the learned soup: the derivatives are not numbers")
        alpha.grad = torch.autograd.grad((weights * gradient).sum(), alpha)[0]
        adam.step()
    return stage.recipe(_settings(models, alpha.detach().softmax(0), index), "learned soup")


def _shared(slopes: Mapping[str, Sequence[float]], places: Mapping[str, int], like: Tensor) -> Tensor:
    """[models, groups]: the derivatives by the models' coefficients, summed over the tensors that share them."""
    total = torch.zeros_like(like)
    for name, (_, *by_model) in slopes.items():
        total[:, places[name]] += torch.tensor(by_model, dtype=total.dtype)
    return total


def _settings(models: Sequence[str], weights: Tensor, index: Mapping[Group, int]) -> dict[str, object]:
    """Each model's weight: a number, or one for the layers of each stack and one for the rest."""
    return {
        model: _setting([round(w, DIGITS) for w in row], index)
        for model, row in zip(models, weights.tolist(), strict=True)
    }


def _setting(row: Sequence[float], index: Mapping[Group, int]) -> object:
    if set(index) == {None}:
        return row[0]
    layers = [f"{stack}.{layer}." for stack, layer in filter(None, index)]
    stacks = [
        {"filter": f"{stack}.", "value": [row[index[stack, layer]] for layer in range(count)]}
        for stack, count in heights(layers).items()
    ]
    return [*stacks, {"value": row[index[None]]}] if None in index else stacks

"""Learned soups: the coefficients of the average by gradient descent on the search items.

Wortsman et al., arXiv:2203.05482, appendix I: ``min_α Σ_j loss(f(x_j; Σ_i softmax(α)_i θ_i), y_j)``, with one α for
each model, or ("by layer") for each model and layer; their temperature of the output is left out, since it changes no
ranking. One backward pass through the soup's model gives the derivative by every tensor's coefficients at once
(``Engine.coefficient_gradients``); what shares an α adds up.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.evaluators import Differentiable
from mergesearch.merge_ops.recipe.layout import layer_counts, layer_of
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.gradient.calibration_loss import CalibrationLoss
from mergesearch.search.candidates.soup_source import SoupPlan
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.scoring.live_model import LiveModel
from mergesearch.steps import step, units

LayerGroup = tuple[str, int] | None
"""The tensors that share a coefficient: a layer of a stack; None: all outside the stacks."""
DIGITS = 4
"""Decimal digits of the weights in the recipe."""


class SoupLearner:
    """Learns the coefficients of the plan's soups. The result depends on the run's ``seed`` and the arguments alone."""

    def __init__(self, plan: SoupPlan, tasks: TaskSet, live: LiveModel, seed: int) -> None:
        self._plan, self._tasks, self._live, self._seed = plan, tasks, live, seed

    def check_gold(self) -> None:
        """Raises UserError where a task has an item without a known right answer."""
        for task in self._tasks.counted("search"):
            assert isinstance(task.evaluator, Differentiable)
            if not task.evaluator.targets(self._live.loaded, task.search).has_gold:
                raise UserError(
                    f"task {task.name!r}: some items have no known right answer, so there is no loss to learn a soup "
                    "from; leave out the learned soups"
                )

    def learn(self, by_layer: bool) -> Recipe:
        """The learned soup, with one coefficient for each model, or for each model and layer.

        Needs memory for one gradient of the live model's size. Raises FloatingPointError where it diverges.
        """
        engine, models, learning = self._live.engine, self._plan.models, self._plan.learning
        loss = CalibrationLoss(self._tasks, self._live.loaded, learning.items, "targets", self._seed)
        groups = {name: layer_of(name) if by_layer else None for name in engine.names}
        index = {group: number for number, group in enumerate(dict.fromkeys(groups.values()))}
        columns = {name: index[group] for name, group in groups.items()}
        alpha = torch.zeros(len(models), len(index), dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([alpha], lr=learning.learning_rate)
        with step("learned soup", learning.steps, "steps"):
            for number in range(learning.steps):
                weights = alpha.softmax(0)
                recipe = self._plan.recipe(_settings(models, weights.detach(), index), "learned soup")
                with units(1):
                    _, slopes = engine.coefficient_gradients(recipe, partial(loss.backward, number))
                gradient = _shared(slopes, columns, weights)
                if not gradient.isfinite().all():
                    raise FloatingPointError(f"step {number} of the learned soup: the derivatives are not numbers")
                alpha.grad = torch.autograd.grad((weights * gradient).sum(), alpha)[0]
                adam.step()
        return self._plan.recipe(_settings(models, alpha.detach().softmax(0), index), "learned soup")


def _shared(slopes: Mapping[str, Sequence[float]], columns: Mapping[str, int], like: Tensor) -> Tensor:
    """[models, groups]: the derivatives by the models' coefficients, summed over the tensors that share them."""
    total = torch.zeros_like(like)
    for name, (_, *by_model) in slopes.items():
        total[:, columns[name]] += torch.tensor(by_model, dtype=total.dtype)
    return total


def _settings(models: Sequence[str], weights: Tensor, index: Mapping[LayerGroup, int]) -> dict[str, object]:
    """Each model's weight: a number, or one for the layers of each stack and one for the rest."""
    return {
        model: _setting([round(w, DIGITS) for w in row], index)
        for model, row in zip(models, weights.tolist(), strict=True)
    }


def _setting(row: Sequence[float], index: Mapping[LayerGroup, int]) -> object:
    if set(index) == {None}:
        return row[0]
    layers = [f"{stack}.{layer}." for stack, layer in filter(None, index)]
    stacks = [
        {"filter": f"{stack}.", "value": [row[index[stack, layer]] for layer in range(count)]}
        for stack, count in layer_counts(layers).items()
    ]
    return [*stacks, {"value": row[index[None]]}] if None in index else stacks

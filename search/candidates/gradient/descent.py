"""A descent in the coordinates of a chart: Adam, within the ranges of the space."""

from collections.abc import Callable
from functools import partial

import numpy as np

from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.search.candidates.gradient.chart import Chart
from mergesearch.search.statistics import Array
from mergesearch.steps import units

BETAS, EPSILON = (0.5, 0.999), 1e-8
"""Adam's (arXiv:1412.6980), with a short memory of the gradient: a leg has few steps."""


def descend(
    chart: Chart, engine: Engine, backward: Callable[[int], float], steps: range, rate: float
) -> tuple[Array, list[float]]:
    """One leg: Adam within the unit cube, with a step size that falls linearly from ``rate`` to zero.

    ``backward`` computes the loss of one step and its gradients. Returns the coordinates at the end and the loss before
    each step. The falling step size averages out the noise of small batches. Raises FloatingPointError where a
    derivative is not a number.
    """
    point, losses = chart.origin, []
    first, second = np.zeros_like(point), np.zeros_like(point)
    for count, step in enumerate(steps, 1):
        with units(1):
            loss, by_tensor = engine.coefficient_gradients(chart.recipe(point), partial(backward, step))
        slopes = np.array([slope for row in by_tensor.values() for slope in row])
        gradient = chart.jacobian(point).T @ slopes
        if not np.isfinite(gradient).all():
            raise FloatingPointError(f"step {step} of the gradient start: the derivatives are not numbers")
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
        mean, variance = first / (1 - BETAS[0] ** count), second / (1 - BETAS[1] ** count)
        remaining = 1 - (count - 1) / len(steps)
        point = np.clip(point - rate * remaining * mean / (np.sqrt(variance) + EPSILON), 0, 1)
        losses.append(loss)
    return point, losses

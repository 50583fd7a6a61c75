"""F1 and MCC from how many items are predicted, and are gold, by label: counts, or expectations under probabilities.

F1 of a label is 2 · correct / (predicted + gold), and 0 for 0 / 0. MCC is that of several classes (Gorodkin 2004).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mergesearch.evaluators.contract.graded import SMALLEST
from mergesearch.evaluators.contract.jackknife import pseudo_values

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 1e308
"""Of a logit: at a tiny scale they are beyond the range of floats."""


def label_margins(values: Sequence[float], gold: int) -> list[float]:
    """The margins of an item with one label: the value of the gold label less that of each label.

    Args:
        values: A number for each label, the largest of which is predicted; among equal ones the first.
        gold: The correct label.

    Returns:
        A margin for each label: below 0 if it is likelier than the gold one, and NaN for the gold label itself.
        Infinite ones can be appended, for labels that the item does not have.
    """
    margins: list[float] = []
    seen: set[float] = set()
    for label, value in enumerate(values):
        margin = values[gold] - value
        if value == values[gold]:
            margin = math.nan if label == gold else SMALLEST * (label - gold)
        while margin in seen and math.isfinite(margin):  # of equal ones the first is predicted
            margin += 1e-15 * abs(margin)
        margins.append(margin)
        seen.add(margin)
    return margins


def soft_predictions(margins: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(probabilities, gold), both [items, labels] float64, from ``label_margins``.

    The probabilities are the softmax of −margin / scale. gold: 1 for the gold label, else 0.
    """
    from scipy.special import softmax

    is_gold = margins.isnan()
    logits = (-margins.masked_fill(is_gold, 0.0) / scale).clamp(max=LARGEST)
    return margins.new_tensor(softmax(logits.numpy(), axis=1)), is_gold.double()


def soft_value(name: str, margins: Tensor, weights: Tensor, scale: float) -> float:
    """The smooth counterpart of a statistic: of the expected numbers of items, and of labels that occur.

    Args:
        name: A name of ``STATISTICS``.
        margins: [items, labels] float64, see ``label_margins``.
        weights: [items] float64.
        scale: Of the grades, see ``soft_predictions``.
    """
    columns, absent = _soft_columns(margins, scale)
    shares = (weights / weights.sum())[:, None, None]
    return float(_soft_statistic(name, (shares * columns).sum(0), absent.prod(0)))


def soft_contributions(name: str, margins: Tensor, weights: Tensor, scale: float) -> Tensor:
    """[items] float64: what each item contributes to ``soft_value``, see ``pseudo_values``."""
    value = soft_value(name, margins, weights, scale)
    if len(margins) < 2:
        return weights.new_full(weights.shape, value)
    columns, absent = _soft_columns(margins, scale)
    weighted, factors = weights[:, None, None] * columns, weights[:, None, None]
    others = (weighted.sum(0) - weighted) / (weights.sum() - factors)
    return pseudo_values(value, _soft_statistic(name, others, _products_of_others(absent)), weights)


def _soft_columns(margins: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """([items, 3, labels] probabilities of correct, predicted, gold; [items, labels] that the label does not occur)."""
    predicted, gold = soft_predictions(margins, scale)
    columns = margins.new_empty(len(margins), 3, margins.shape[1])
    columns[:, 0], columns[:, 1], columns[:, 2] = predicted * gold, predicted, gold
    return columns, 1 - predicted.maximum(gold)


def _soft_statistic(name: str, means: Tensor, absent: Tensor) -> Tensor:
    """[...] from [..., 3, labels] and [..., labels], the probability that no item has or gets the label."""
    correct, predicted, gold = means.unbind(-2)
    if name != "f1_macro":
        return STATISTICS[name](correct, predicted, gold)
    return _ratio(((1 - absent) * _f1(correct, predicted, gold)).sum(-1), (1 - absent).sum(-1))


def _products_of_others(factors: Tensor) -> Tensor:
    """[items, labels]: the product over all items but one."""
    is_zero = factors == 0
    logs = factors.masked_fill(is_zero, 1.0).log()
    return (logs.sum(0) - logs).exp() * (is_zero.sum(0) - is_zero.long() == 0)


# Statistics: fractions of items by label, [..., labels], to the value, [...]. correct: predicted and gold.


def _f1(correct: Tensor, predicted: Tensor, gold: Tensor) -> Tensor:
    return _ratio(2 * correct, predicted + gold)


def _f1_positive(correct: Tensor, predicted: Tensor, gold: Tensor) -> Tensor:
    return _f1(correct, predicted, gold)[..., 1]


def _f1_macro(correct: Tensor, predicted: Tensor, gold: Tensor) -> Tensor:
    # Not > 0: without an item, its label may have a rounding error in place of 0.
    occurs = (predicted + gold > 1e-12).double()
    return _ratio((occurs * _f1(correct, predicted, gold)).sum(-1), occurs.sum(-1))


def _f1_weighted(correct: Tensor, predicted: Tensor, gold: Tensor) -> Tensor:
    return (gold * _f1(correct, predicted, gold)).sum(-1)


def _mcc(correct: Tensor, predicted: Tensor, gold: Tensor) -> Tensor:
    covariance = correct.sum(-1) - (predicted * gold).sum(-1)
    variances = (1 - predicted.square().sum(-1)) * (1 - gold.square().sum(-1))
    return _ratio(covariance, variances.clamp(min=0).sqrt())


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator; 0 if the denominator is 0, apart from rounding errors."""
    nonzero = denominator > 1e-9
    return numerator / denominator.where(nonzero, 1.0) * nonzero


STATISTICS = {"f1": _f1_positive, "f1_macro": _f1_macro, "f1_weighted": _f1_weighted, "mcc": _mcc}
"""By the name of the metric: the value from the fractions of items that are correct, predicted and gold, by label."""

"""F1 and MCC from how many items are predicted, and are gold, by label: counts, or expectations under probabilities.

F1 of a label is 2 · correct / (predicted + gold), and 0 for 0 / 0. MCC is that of several classes (Gorodkin 2004).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mergesearch.evaluators.contract.graded import SMALLEST

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
    for label, value in enumerate(values):
        margin = values[gold] - value
        if value == values[gold]:
            margin = math.nan if label == gold else SMALLEST * (label - gold)
        while margin in margins and math.isfinite(margin):  # of equal ones the first is predicted
            margin = math.nextafter(margin, math.inf)
        margins.append(margin)
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
    predicted, gold = soft_predictions(margins, scale)
    shares = (weights / weights.sum())[:, None]
    means = [(shares * column).sum(0) for column in (predicted * gold, predicted, gold)]
    if name != "f1_macro":
        return float(STATISTICS[name](*means))
    occurs = 1 - (1 - predicted.maximum(gold)).prod(dim=0)
    return float(_ratio((occurs * _f1(*means)).sum(), occurs.sum()))


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

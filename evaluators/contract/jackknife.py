"""Per-item numbers for values that are no mean over items: F1, correlations, corpus statistics.

Comparisons of candidates pair and resample items. They need to know what each item contributes to the value. The
pseudo-values of the jackknife are such numbers: their mean is the value, and their spread is that of the value over
samples of items (Tukey 1958; Efron & Tibshirani, An introduction to the bootstrap, 1993, section 11.5).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mergesearch.evaluators.contract.evaluator import EvaluatorDefaults
from mergesearch.evaluators.contract.item import Item

if TYPE_CHECKING:
    from torch import Tensor


def pseudo_values(value: float, left_out: Tensor, weights: Tensor) -> Tensor:
    """What each item contributes to a statistic.

    With h_i = Σw / w_i the pseudo-values are h_i · value − (h_i − 1) · left_out_i (Busing, Meijer & van der Leeden
    1999, equation 6; with equal weights Tukey's n · value − (n − 1) · left_out_i). A constant is added to remove their
    bias. For a weighted mean they are the items' own scores.

    Args:
        value: The statistic over all items.
        left_out: [n] float64, the statistic over all items but one.
        weights: [n] float64, the items' weights.

    Returns:
        [n] float64, whose mean weighted by ``weights`` is exactly ``value``.
    """
    shares = weights / weights.sum()
    biased = value / shares - (1 / shares - 1) * left_out
    unbiased: Tensor = biased + (value - (shares * biased).sum())
    return unbiased


class Jackknife(EvaluatorDefaults, ABC):
    """For evaluators whose value is no mean of their items' scores: contributions are ``pseudo_values``.

    Pseudo-values suit values that change smoothly when an item is added or removed. For others, such as medians and
    maxima, set ``has_contributions = False``: then the task cannot be part of an objective that needs intervals.
    """

    @abstractmethod
    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        """See ``Evaluator.value``."""

    def leave_one_out(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """[items] float64: the value without each of the items. There are at least two items.

        Calls ``value`` once per item. Override it if there is a faster way.
        """
        import torch

        others = [[n for n in range(len(items)) if n != left] for left in range(len(items))]
        values = [self.value([items[n] for n in rest], scores[rest]) for rest in others]
        return torch.tensor(values, dtype=torch.float64)

    def contributions(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """See ``Evaluator.contributions``."""
        import torch

        if len(items) < 2:
            return torch.tensor([self.value([item], scores) for item in items], dtype=torch.float64)
        weights = torch.tensor([item.weight for item in items], dtype=torch.float64)
        return pseudo_values(self.value(items, scores), self.leave_one_out(items, scores), weights)


class FunctionOfMeans(Jackknife):
    """For values that are a function of weighted means over the items (perplexity, F1, MCC)."""

    @abstractmethod
    def statistic(self, means: Tensor) -> Tensor:
        """The value from the means of the features: [..., k] float64 -> [...]."""

    def features(self, items: Sequence[Item], scores: Tensor) -> Tensor:  # noqa: ARG002
        """[items, k] float64: the numbers whose means are taken. By default the scores themselves."""
        return scores.reshape(len(scores), -1)

    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        """See ``Evaluator.value``."""
        weighted, weights = self._weighted_features(items, scores)
        return float(self.statistic(weighted.sum(0) / weights.sum()))

    def leave_one_out(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """See ``Jackknife.leave_one_out``: all items in one call of ``statistic``."""
        weighted, weights = self._weighted_features(items, scores)
        return self.statistic((weighted.sum(0) - weighted) / (weights.sum() - weights))

    def _weighted_features(self, items: Sequence[Item], scores: Tensor) -> tuple[Tensor, Tensor]:
        """([items, k] features times weights, [items, 1] weights)."""
        import torch

        weights = torch.tensor([[item.weight] for item in items], dtype=torch.float64)
        return weights * self.features(items, scores), weights

"""lm-eval's metrics as numbers per document, and lm-eval's aggregations of them.

A search stores numbers for each item. Each class here converts what ``process_results`` returns for a document into a
row of numbers, and converts rows back, so that lm-eval's own aggregation gets what it would have got.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.api.metrics import _sacreformat
from lm_eval.api.registry import get_aggregation
from torch import Tensor

from mergesearch.evaluators.contract.jackknife import pseudo_values
from mergesearch.text import quoted

AggregationFunction = Callable[[Sequence[Any]], float]


class DocumentMetric(ABC):
    """A metric of documents and its aggregation.

    Attributes:
        width: How many numbers a row has.
        has_contributions: Whether ``contributions`` show how the value varies from sample to sample.
        is_mean: Whether the value is the mean of the documents' numbers, one for each.
    """

    width = 1
    has_contributions = True
    is_mean = False

    @abstractmethod
    def row(self, result: Any) -> list[float]:
        """A document's result as numbers. Raises TypeError or ValueError if it is something else."""

    @abstractmethod
    def value(self, rows: Tensor, weights: Sequence[float]) -> float:
        """The value that lm-eval prints. rows: [documents, width] float64."""

    def weight(self, result: Any) -> float:  # noqa: ARG002
        """The document's weight in the value: 1, unless the aggregation weights documents."""
        return 1.0

    def contributions(self, rows: Tensor, weights: Sequence[float]) -> Tensor:
        """[documents] float64, whose weighted mean is the value. Pseudo-values, unless there is something simpler."""
        if 0 in weights and any(weights):
            return self._of_weight(rows, weights)
        if len(rows) < 2:
            return torch.tensor([self.value(rows, weights)] * len(rows), dtype=torch.float64)
        left_out = torch.tensor(self._leave_one_out(rows, weights), dtype=torch.float64)
        return pseudo_values(self.value(rows, weights), left_out, torch.tensor(weights, dtype=torch.float64))

    def _of_weight(self, rows: Tensor, weights: Sequence[float]) -> Tensor:
        """The contributions where some documents have no weight, such as empty texts: they contribute nothing."""
        counted = [n for n, weight in enumerate(weights) if weight]
        contributions = torch.zeros(len(rows), dtype=torch.float64)
        contributions[counted] = self.contributions(rows[counted], [weights[n] for n in counted])
        return contributions

    def _leave_one_out(self, rows: Tensor, weights: Sequence[float]) -> list[float]:
        """The value without each document. Computed once for documents with equal rows and weights."""
        values: dict[tuple[Any, ...], float] = {}
        indices = list(range(len(rows)))
        keys = [(*map(str, row), weight) for row, weight in zip(rows.tolist(), weights, strict=True)]
        for left, key in enumerate(keys):
            if key not in values:
                rest = indices[:left] + indices[left + 1 :]
                values[key] = self.value(rows[rest], [weights[n] for n in rest])
        return [values[key] for key in keys]


class ScalarMetric(DocumentMetric):
    """One number per document, with any aggregation."""

    def __init__(self, aggregation: AggregationFunction) -> None:
        self._aggregation = aggregation
        self.is_mean = aggregation is get_aggregation("mean")

    def row(self, result: Any) -> list[float]:
        """See ``DocumentMetric.row``."""
        return [float(result)]

    def value(self, rows: Tensor, weights: Sequence[float]) -> float:  # noqa: ARG002
        """See ``DocumentMetric.value``."""
        return float(self._aggregation(rows[:, 0].tolist()))

    def contributions(self, rows: Tensor, weights: Sequence[float]) -> Tensor:
        """See ``DocumentMetric.contributions``: for a mean the numbers themselves."""
        return rows[:, 0] if self.is_mean else super().contributions(rows, weights)


class MedianMetric(ScalarMetric):
    """The median of the documents. Without one document it changes by a gap or not at all, whatever its spread."""

    has_contributions = False


class PerplexityMetric(ScalarMetric):
    """exp(−mean of the documents' log-probabilities)."""

    def _leave_one_out(self, rows: Tensor, weights: Sequence[float]) -> list[float]:
        means = (rows.sum() - rows[:, 0]) / (len(weights) - 1)
        values: list[float] = torch.exp(-means).tolist()
        return values


class WeightedMetric(DocumentMetric):
    """Bits per byte, or perplexity per word or byte. A result is (log-probability, number of words or bytes)."""

    def __init__(self, aggregation: AggregationFunction) -> None:
        self._aggregation = aggregation
        self._is_bits_per_byte = aggregation is get_aggregation("bits_per_byte")
        self.nats_per_unit = math.log(2) if self._is_bits_per_byte else 1.0

    def row(self, result: Any) -> list[float]:
        """See ``DocumentMetric.row``."""
        logprob, _ = result
        return [float(logprob)]

    def weight(self, result: Any) -> float:
        """See ``DocumentMetric.weight``."""
        return float(result[1])

    def value(self, rows: Tensor, weights: Sequence[float]) -> float:
        """See ``DocumentMetric.value``."""
        return float(self._aggregation(list(zip(rows[:, 0].tolist(), weights, strict=True))))

    def contributions(self, rows: Tensor, weights: Sequence[float]) -> Tensor:
        """See ``DocumentMetric.contributions``."""
        if not self._is_bits_per_byte or 0 in weights:
            return super().contributions(rows, weights)
        sizes = torch.tensor(weights, dtype=torch.float64)
        return -rows[:, 0] / self.nats_per_unit / sizes

    def _leave_one_out(self, rows: Tensor, weights: Sequence[float]) -> list[float]:
        sizes = torch.tensor(weights, dtype=torch.float64)
        values: list[float] = torch.exp(-(rows.sum() - rows[:, 0]) / (sizes.sum() - sizes)).tolist()
        return values


class ListMetric(DocumentMetric):
    """Up to ``width`` numbers per document, such as (gold, predicted). Shorter rows are filled with NaN."""

    def __init__(self, aggregation: AggregationFunction, width: int) -> None:
        self._aggregation = aggregation
        self.width = width

    def row(self, result: Any) -> list[float]:
        """See ``DocumentMetric.row``."""
        numbers = [float(number) for number in result]
        if isinstance(result, str) or len(numbers) > self.width:
            raise ValueError(f"found {quoted(result)}, expected at most {self.width} numbers")
        return numbers + [math.nan] * (self.width - len(numbers))

    def value(self, rows: Tensor, weights: Sequence[float]) -> float:  # noqa: ARG002
        """See ``DocumentMetric.value``."""
        results = [tuple(_int_if_whole(number) for number in row if not math.isnan(number)) for row in rows.tolist()]
        return float(self._aggregation(results))


class BrierMetric(ListMetric):
    """The Brier score. A result is (gold, probabilities of the choices)."""

    def row(self, result: Any) -> list[float]:
        """See ``DocumentMetric.row``."""
        gold, probabilities = result
        return super().row([gold, *probabilities])

    def value(self, rows: Tensor, weights: Sequence[float]) -> float:  # noqa: ARG002
        """See ``DocumentMetric.value``."""
        return float(self._aggregation([(int(row[0]), np.array(row[1:])) for row in rows.tolist()]))

    def contributions(self, rows: Tensor, weights: Sequence[float]) -> Tensor:  # noqa: ARG002
        """See ``DocumentMetric.contributions``: each document's squared distance."""
        gold = torch.nn.functional.one_hot(rows[:, 0].long(), rows.shape[1] - 1)
        return ((rows[:, 1:] - gold) ** 2).sum(1)


class CorpusMetric(DocumentMetric):
    """BLEU, chrF or TER. A row is sacrebleu's counts of a document; the score follows from their sums.

    A result is (reference or references, text).
    """

    def __init__(self, metric: Any) -> None:
        """metric: sacrebleu's object."""
        self._metric = metric
        self.width = len(metric._extract_corpus_statistics(["a"], [["a"]])[0])

    def row(self, result: Any) -> list[float]:
        """See ``DocumentMetric.row``."""
        references, texts = _sacreformat(*([each] for each in result))
        (counts,) = self._metric._extract_corpus_statistics(texts, references)
        return [float(count) for count in counts]

    def value(self, rows: Tensor, weights: Sequence[float]) -> float:  # noqa: ARG002
        """See ``DocumentMetric.value``."""
        return self._score(rows.sum(0))

    def _leave_one_out(self, rows: Tensor, weights: Sequence[float]) -> list[float]:  # noqa: ARG002
        return [self._score(counts) for counts in rows.sum(0) - rows]

    def _score(self, counts: Tensor) -> float:
        numbers = [_int_if_whole(count) for count in counts.tolist()]
        return float(self._metric._aggregate_and_compute([numbers]).score)


def _int_if_whole(number: float) -> float:
    return int(number) if number.is_integer() else number


def metric_of(aggregation: AggregationFunction, results: Sequence[Any]) -> DocumentMetric:
    """The ``DocumentMetric`` for an aggregation.

    Args:
        aggregation: lm-eval's function.
        results: Results of some documents. Those of lists give the width of the rows.
    """
    name = next((name for name in AGGREGATIONS if get_aggregation(name) is aggregation), None)
    if name is not None:
        return AGGREGATIONS[name](aggregation, results)
    widths = [len(result) for result in results if isinstance(result, list | tuple | np.ndarray)]
    return ListMetric(aggregation, max(widths)) if widths else ScalarMetric(aggregation)


def _corpus(name: str, **options: Any) -> Callable[[AggregationFunction, Sequence[Any]], DocumentMetric]:
    def make(_: AggregationFunction, __: Sequence[Any]) -> DocumentMetric:
        from sacrebleu import metrics

        return CorpusMetric(getattr(metrics, name)(**options))

    return make


def _brier(aggregation: AggregationFunction, results: Sequence[Any]) -> DocumentMetric:
    return BrierMetric(aggregation, 1 + max((len(result[1]) for result in results), default=1))


AGGREGATIONS: dict[str, Callable[[Any, Sequence[Any]], DocumentMetric]] = {
    "mean": lambda aggregation, _: ScalarMetric(aggregation),
    "median": lambda aggregation, _: MedianMetric(aggregation),
    "perplexity": lambda aggregation, _: PerplexityMetric(aggregation),
    "weighted_perplexity": lambda aggregation, _: WeightedMetric(aggregation),
    "bits_per_byte": lambda aggregation, _: WeightedMetric(aggregation),
    "f1": lambda aggregation, _: ListMetric(aggregation, 2),
    "matthews_corrcoef": lambda aggregation, _: ListMetric(aggregation, 2),
    "brier_score": _brier,
    "bleu": _corpus("BLEU"),
    "chrf": _corpus("CHRF"),
    "chrf++": _corpus("CHRF", word_order=2),
    "ter": _corpus("TER"),
}
"""By the name of lm-eval's aggregation: makes the ``DocumentMetric`` from the function and some results."""

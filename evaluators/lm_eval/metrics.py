"""What lm-eval's metrics say of one document, as numbers, and how its aggregations make one value of them.

A search keeps numbers per item. Each class here turns what ``process_results`` gives into a row of numbers and back, so
that lm-eval's own aggregation sees what it would have seen.
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

Aggregation = Callable[[Sequence[Any]], float]


class Values(ABC):
    """width: numbers of a row. weight of a document: 1, unless its aggregation weights documents.

    has_contributions: whether ``contributions`` tell how the value varies from sample to sample.
    """

    width = 1
    has_contributions = True

    @abstractmethod
    def row(self, value: Any) -> list[float]:
        """A document's metric as numbers. Raises TypeError or ValueError where it is something else."""

    @abstractmethod
    def value(self, rows: Tensor, weights: Sequence[float]) -> float:
        """[items, width] float64 -> what lm-eval prints for them."""

    def weight(self, value: Any) -> float:  # noqa: ARG002
        """The document's share in the value."""
        return 1.0

    def contributions(self, rows: Tensor, weights: Sequence[float]) -> Tensor:
        """[items] float64, whose mean by weight is the value: the jackknife's, unless there is something simpler."""
        if len(rows) < 2:
            return torch.tensor([self.value(rows, weights)] * len(rows), dtype=torch.float64)
        left_out = torch.tensor(self._left_out(rows, weights), dtype=torch.float64)
        return pseudo_values(self.value(rows, weights), left_out, torch.tensor(weights, dtype=torch.float64))

    def _left_out(self, rows: Tensor, weights: Sequence[float]) -> list[float]:
        """The value without each item; items of equal rows and weights tell the same."""
        known: dict[tuple[Any, ...], float] = {}
        places = list(range(len(rows)))
        keys = [(*map(str, row), weight) for row, weight in zip(rows.tolist(), weights, strict=True)]
        for left, key in enumerate(keys):
            if key not in known:
                others = places[:left] + places[left + 1 :]
                known[key] = self.value(rows[others], [weights[n] for n in others])
        return [known[key] for key in keys]


class Numbers(Values):
    """A number of each document, under any aggregation."""

    def __init__(self, aggregation: Aggregation) -> None:
        self._aggregation = aggregation

    def row(self, value: Any) -> list[float]:
        """See ``Values.row``."""
        return [float(value)]

    def value(self, rows: Tensor, weights: Sequence[float]) -> float:  # noqa: ARG002
        """See ``Values.value``."""
        return float(self._aggregation(rows[:, 0].tolist()))

    def contributions(self, rows: Tensor, weights: Sequence[float]) -> Tensor:
        """See ``Values.contributions``: of a mean the numbers themselves."""
        is_mean = self._aggregation is get_aggregation("mean")
        return rows[:, 0] if is_mean else super().contributions(rows, weights)


class Median(Numbers):
    """The document in the middle: to leave one out moves it by a gap or not at all, whatever its spread."""

    has_contributions = False


class Perplexity(Numbers):
    """exp(−mean of the log-probabilities)."""

    def _left_out(self, rows: Tensor, weights: Sequence[float]) -> list[float]:
        others = (rows.sum() - rows[:, 0]) / (len(weights) - 1)
        left_out: list[float] = torch.exp(-others).tolist()
        return left_out


class Weighted(Values):
    """(log-probability, words or bytes): bits per byte, perplexity per word."""

    def __init__(self, aggregation: Aggregation) -> None:
        self._aggregation = aggregation
        self.unit = math.log(2) if aggregation is get_aggregation("bits_per_byte") else 1.0
        """Nats of what is counted: bits, or nats themselves."""

    def row(self, value: Any) -> list[float]:
        """See ``Values.row``."""
        logprob, _ = value
        return [float(logprob)]

    def weight(self, value: Any) -> float:
        """See ``Values.weight``."""
        return float(value[1])

    def value(self, rows: Tensor, weights: Sequence[float]) -> float:
        """See ``Values.value``."""
        return float(self._aggregation(list(zip(rows[:, 0].tolist(), weights, strict=True))))

    def contributions(self, rows: Tensor, weights: Sequence[float]) -> Tensor:
        """See ``Values.contributions``."""
        if self._aggregation is not get_aggregation("bits_per_byte"):
            return super().contributions(rows, weights)
        sizes = torch.tensor(weights, dtype=torch.float64)
        return -rows[:, 0] / self.unit / sizes

    def _left_out(self, rows: Tensor, weights: Sequence[float]) -> list[float]:
        sizes = torch.tensor(weights, dtype=torch.float64)
        left_out: list[float] = torch.exp(-(rows.sum() - rows[:, 0]) / (sizes.sum() - sizes)).tolist()
        return left_out


class Lists(Values):
    """Several numbers of each document, of some fewer than ``width``: (gold, predicted), the verdicts on its parts."""

    def __init__(self, aggregation: Aggregation, width: int) -> None:
        self._aggregation = aggregation
        self.width = width

    def row(self, value: Any) -> list[float]:
        """See ``Values.row``."""
        numbers = [float(one) for one in value]
        if isinstance(value, str) or len(numbers) > self.width:
            raise ValueError(f"found {value!r}, expected at most {self.width} numbers")
        return numbers + [math.nan] * (self.width - len(numbers))

    def value(self, rows: Tensor, weights: Sequence[float]) -> float:  # noqa: ARG002
        """See ``Values.value``."""
        found = ([_whole(one) for one in row if not math.isnan(one)] for row in rows.tolist())
        return float(self._aggregation([tuple(row) for row in found]))


class Brier(Lists):
    """(gold, probabilities of the choices)."""

    def row(self, value: Any) -> list[float]:
        """See ``Values.row``."""
        gold, probabilities = value
        return super().row([gold, *probabilities])

    def value(self, rows: Tensor, weights: Sequence[float]) -> float:  # noqa: ARG002
        """See ``Values.value``."""
        return float(self._aggregation([(int(row[0]), np.array(row[1:])) for row in rows.tolist()]))

    def contributions(self, rows: Tensor, weights: Sequence[float]) -> Tensor:  # noqa: ARG002
        """See ``Values.contributions``: each document's own squared distance."""
        gold = torch.nn.functional.one_hot(rows[:, 0].long(), rows.shape[1] - 1)
        return ((rows[:, 1:] - gold) ** 2).sum(1)


class Corpus(Values):
    """(reference or references, text): sacrebleu's counts of each document, whose sums make the score."""

    def __init__(self, metric: Any, width: int) -> None:
        self._metric = metric
        self.width = width

    def row(self, value: Any) -> list[float]:
        """See ``Values.row``."""
        references, texts = _sacreformat(*([one] for one in value))
        (counts,) = self._metric._extract_corpus_statistics(texts, references)
        return [float(count) for count in counts]

    def value(self, rows: Tensor, weights: Sequence[float]) -> float:  # noqa: ARG002
        """See ``Values.value``."""
        return self._score(rows.sum(0))

    def _left_out(self, rows: Tensor, weights: Sequence[float]) -> list[float]:  # noqa: ARG002
        return [self._score(others) for others in rows.sum(0) - rows]

    def _score(self, counts: Tensor) -> float:
        return float(self._metric._aggregate_and_compute([[_whole(one) for one in counts.tolist()]]).score)


def _whole(number: float) -> float:
    return int(number) if number.is_integer() else number


def values_of(aggregation: Aggregation, samples: Sequence[Any]) -> Values:
    """The way to keep a metric's values, from its aggregation and from what it says of documents at a trial."""
    name = next((name for name in _KNOWN if get_aggregation(name) is aggregation), None)
    if name is not None:
        return _KNOWN[name](aggregation, samples)
    listed = [one for one in samples if isinstance(one, list | tuple | np.ndarray)]
    return Lists(aggregation, max(map(len, listed))) if listed else Numbers(aggregation)


def _corpus(name: str, **options: Any) -> Callable[[Aggregation, Sequence[Any]], Values]:
    def make(_: Aggregation, __: Sequence[Any]) -> Values:
        from sacrebleu import metrics

        metric = getattr(metrics, name)(**options)
        return Corpus(metric, len(metric._extract_corpus_statistics(["a"], [["a"]])[0]))

    return make


def _brier(aggregation: Aggregation, samples: Sequence[Any]) -> Values:
    return Brier(aggregation, 1 + max((len(one[1]) for one in samples), default=1))


_KNOWN: dict[str, Callable[[Any, Sequence[Any]], Values]] = {
    "mean": lambda aggregation, _: Numbers(aggregation),
    "median": lambda aggregation, _: Median(aggregation),
    "perplexity": lambda aggregation, _: Perplexity(aggregation),
    "weighted_perplexity": lambda aggregation, _: Weighted(aggregation),
    "bits_per_byte": lambda aggregation, _: Weighted(aggregation),
    "f1": lambda aggregation, _: Lists(aggregation, 2),
    "matthews_corrcoef": lambda aggregation, _: Lists(aggregation, 2),
    "brier_score": _brier,
    "bleu": _corpus("BLEU"),
    "chrf": _corpus("CHRF"),
    "chrf++": _corpus("CHRF", word_order=2),
    "ter": _corpus("TER"),
}

"""The choice of a bandwidth: how wide grades must be to foretell the metric best.

A grade is sigmoid(margin / (bandwidth x the candidate's own spread)). Wide grades have little noise and much bias; with
bandwidth 0 they are the metric. What counts is how well the grades on the items at hand tell candidates apart by their
metric on other items. Over all splits of the items into two halves, the covariance over candidates of the grades on one
half with the metric on the other one is a sum over all pairs of distinct clusters of items, so that no split needs to
be drawn. Divided by the standard deviation of the grades on all items, it is, up to a factor that all bandwidths share,
the correlation of the grades at hand with the metric on further items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mergesearch.search.statistics import Array

BANDWIDTHS = (0.0, 0.1, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
USUAL = 0.35
"""The bandwidth where the candidates do not tell of a better one."""
EVIDENCE = 1.5
"""By how many standard errors another bandwidth must foretell the metric better than the usual one."""
FOLDS = 20
"""How many groups of clusters are left out in turn for the standard error."""
FEWEST_CANDIDATES, FEWEST_CLUSTERS = 8, 20
"""Fewer tell nothing about bandwidths."""


@dataclass(frozen=True)
class Choice:
    """A bandwidth, and for the user why it is taken."""

    bandwidth: float
    reason: str


def choose_bandwidth(bandwidths: Sequence[float], grades: Array, metric: Array, sizes: Array) -> Choice:
    """The bandwidth that foretells the metric best, or the usual one where none is better beyond chance.

    Args:
        bandwidths: those to choose from, ``USUAL`` among them.
        grades: [bandwidths, candidates, clusters], sums of weight times grade.
        metric: [candidates, clusters], sums of weight times contribution to the metric.
        sizes: [clusters], sums of weight.
    """
    _, candidates, clusters = grades.shape
    if candidates < FEWEST_CANDIDATES or clusters < FEWEST_CLUSTERS:
        return Choice(USUAL, f"the usual one: {candidates} candidates and {clusters} clusters of items are too few")
    usual = bandwidths.index(USUAL)
    whole, *parts = _foretold_without_folds(grades, metric, sizes)
    gains = np.stack([whole, *parts]) - np.stack([whole, *parts])[:, [usual]]
    errors = np.sqrt((len(parts) - 1) * gains[1:].var(0))
    margins = gains[0] - EVIDENCE * errors
    best = int(np.argmax(margins)) if margins.max() > 0 else usual
    seen = f"{candidates} candidates"
    if best == usual:
        return Choice(USUAL, f"the usual one: no other foretells the metric better beyond chance ({seen})")
    if whole[usual] <= 0:
        return Choice(bandwidths[best], f"grades of the usual {USUAL} do not foretell the metric ({seen})")
    better = f"{whole[best] / whole[usual] - 1:.0%}"
    return Choice(bandwidths[best], f"foretells the metric on other items {better} better than {USUAL} ({seen})")


def _foretold_without_folds(grades: Array, metric: Array, sizes: Array) -> list[Array]:
    """``foretold`` of all clusters, and without each fold of them."""
    folds = np.arange(len(sizes)) % min(FOLDS, len(sizes))
    keeps = [np.full(len(sizes), True), *(folds != fold for fold in range(folds.max() + 1))]
    return [foretold(grades[..., keep], metric[:, keep], sizes[keep]) for keep in keeps]


def foretold(grades: Array, metric: Array, sizes: Array) -> Array:
    """[bandwidths]: how well the grades tell candidates apart by their metric on other items; see the module.

    The standard deviation of the candidates' metric on unlimited items times the correlation with it.
    """
    grades = grades - grades.mean(1, keepdims=True)
    metric = metric - metric.mean(0)
    pairs = sizes.sum() ** 2 - np.square(sizes).sum()
    together = grades.sum(-1) @ metric.sum(-1) - np.einsum("kcn,cn->k", grades, metric)
    spread = np.sqrt(np.square(grades.sum(-1)).sum(-1)) / sizes.sum()
    covariances = together / pairs
    return np.asarray(np.divide(covariances, spread, out=np.zeros_like(spread), where=spread > 0))

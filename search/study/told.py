"""Trials as the search sees them, which may have other values than the metric; see ``Signal.told``."""

from collections.abc import Callable, Sequence
from operator import itemgetter

from optuna.trial import FrozenTrial

from mergesearch.search.study.trials import rank

Told = Callable[[Sequence[FrozenTrial]], list[FrozenTrial]]


def as_they_are(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The ``Told`` of a search that is told the metric."""
    return list(trials)


def ranked(trials: Sequence[FrozenTrial], told: Told) -> list[FrozenTrial]:
    """The trials from the best on by ``trials.rank``, as they are told."""
    return [trial for _, trial in sorted(zip(map(rank, told(trials)), trials, strict=True), key=itemgetter(0))]

"""Holm's correction of p values for their number."""

from collections.abc import Sequence


def holm(ps: Sequence[float]) -> list[float]:
    """The corrected p values, in order: with a probability of 95 %, no true hypothesis has one below 0.05.

    Whatever the tests' dependence (Holm, Scandinavian Journal of Statistics 6, 1979). ``ps`` are valid p values.
    """
    corrected, largest = [1.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = largest
    return corrected

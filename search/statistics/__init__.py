"""Numbers computed from items in clusters (``contrast``), one test with its interval (``sign_flips``), and ``holm``."""

from mergesearch.search.statistics.contrast import Array, Combine, Contrast, Stratum, difference_of, value_of
from mergesearch.search.statistics.corrections import holm
from mergesearch.search.statistics.sign_flips import (
    LEVEL,
    Estimate,
    Outcome,
    against_all,
    detectable_difference,
    estimated,
    sign_flip_test,
)

__all__ = [
    "LEVEL",
    "Array",
    "Combine",
    "Contrast",
    "Estimate",
    "Outcome",
    "Stratum",
    "against_all",
    "detectable_difference",
    "difference_of",
    "estimated",
    "holm",
    "sign_flip_test",
    "value_of",
]

"""How numbers are written in sentences and tables."""

from mergesearch.search.statistics import Estimate


def interval(estimate: Estimate | None, sign: str = "", digits: int = 3) -> str:
    """``0.812 [0.790, 0.834]``; empty where there is no estimate, and without an interval where there is none.

    ``sign="+"`` shows the sign of positive numbers.
    """
    if estimate is None:
        return ""
    value, low, high = (f"{number:{sign}.{digits}f}" for number in (estimate.value, estimate.low, estimate.high))
    return value if estimate.is_unbounded else f"{value} [{low}, {high}]"

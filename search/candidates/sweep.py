"""The sweep of one number: successive parabolic interpolation, as in Brent, Algorithms for minimization without
derivatives (1973, chapter 5), for a value that is highest somewhere in a range."""

from collections.abc import Mapping

GAP = 0.05
"""The least distance of two points, as a part of the range: a closer one tells nothing new."""
GRID = (0.5, 0.25, 0.75)
"""Where the sweep begins, unless points near there are known."""


def next_point(known: Mapping[float, float]) -> float | None:
    """The coordinate, from 0 to 1, to look at after these coordinates and their values; None where it is found.

    First, three points; then the end of the range, where the best one is next to it; then the top of the parabola
    through the best one and its neighbours, or the middle of the wider gap beside the best one.
    """
    if len(known) < len(GRID):
        return next(unit for unit in GRID if _is_new(unit, known))
    units = sorted(known)
    best = max(range(len(units)), key=lambda index: known[units[index]])
    for end in (0.0, 1.0):
        if best == (len(units) - 1) * end and _is_new(end, known):
            return end
    low, high = units[max(best - 1, 0)], units[min(best + 1, len(units) - 1)]
    if low < units[best] < high:
        top = _top([(unit, known[unit]) for unit in (low, units[best], high)])
        if _is_new(top, known):
            return top
    middles = [(side - units[best], (side + units[best]) / 2) for side in (low, high)]
    _, middle = max(middles, key=lambda entry: abs(entry[0]))
    return middle if _is_new(middle, known) else None


def _is_new(unit: float, known: Mapping[float, float]) -> bool:
    return all(abs(unit - other) >= GAP for other in known)


def _top(points: list[tuple[float, float]]) -> float:
    """Where the parabola through three points, of which the middle one is the highest, has its top."""
    (a, fa), (b, fb), (c, fc) = points
    left, right = (b - a) * (fb - fc), (b - c) * (fb - fa)
    if left == right:
        return b
    return b - ((b - a) * left - (b - c) * right) / (2 * (left - right))

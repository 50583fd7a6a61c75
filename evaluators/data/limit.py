"""A part of a task's items, for tasks that are too large to be scored as a whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from mergesearch.evaluators.contract.item import Item
from mergesearch.seeds import derive


def limited(items: Sequence[Item], limit: float) -> list[Item]:
    """Some of a task's items, chosen by hashes of their contents and by nothing else.

    Each subtask keeps its share of the items. A larger limit keeps all that a smaller one keeps, but for the rounding
    of the shares.

    Args:
        items: The items of one task.
        limit: How many items, where it is an integer; else the fraction of them. At most all of them are kept.

    Returns:
        The items in the order given.
    """
    by_subtask: dict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        by_subtask[item.subtask].append(place)
    wanted = limit if isinstance(limit, int) else max(1, round(limit * len(items)))
    counts = _shares({name: len(places) for name, places in by_subtask.items()}, min(wanted, len(items)))
    kept = {
        place
        for name, places in by_subtask.items()
        for place in sorted(places, key=lambda place: _order(items[place]))[: counts[name]]
    }
    return [item for place, item in enumerate(items) if place in kept]


def _shares(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """Whole numbers in proportion to the sizes, whose sum is ``wanted``: by the largest remainders."""
    total = sum(sizes.values())
    counts = {name: wanted * size // total for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: (-(wanted * sizes[name] % total), name))
    for name in by_remainder[: wanted - sum(counts.values())]:
        counts[name] += 1
    return counts


def _order(item: Item) -> tuple[int, str]:
    return derive(0, "limit", item.content or item.fingerprint, bits=128), item.id

"""The search split, which a search may look at, and the test split, which only the final verdict looks at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.evaluator import Item
from mergesearch.evaluators.data.near_duplicates import near_groups
from mergesearch.seeds import derive


def split_items(items: Sequence[Item], search: float, seed: int) -> tuple[list[Item], list[Item]]:
    """(search items, test items), both in the order given; of each task about the fraction ``search`` in the first.

    Items of one task with equal fingerprints, and those with nearly the same text, fall on the same side. The side
    depends on the seed, the task and the task's items alone, not on their order. Raises UserError where a side of a
    task would be empty.
    """
    chosen = {(task, print_) for task in _tasks(items) for print_ in _chosen(items, task, search, seed)}
    sides: tuple[list[Item], list[Item]] = ([], [])
    for item in items:
        sides[(item.task, item.fingerprint) not in chosen].append(item)
    return sides


def _tasks(items: Iterable[Item]) -> list[str]:
    return sorted({item.task for item in items})


def _chosen(items: Iterable[Item], task: str, search: float, seed: int) -> set[str]:
    """The fingerprints of the task's search split: in hashed order, each group that brings the count nearer to the
    target."""
    mine = [item for item in items if item.task == task]
    groups = _groups(mine)
    sizes = Counter(groups[item.fingerprint] for item in mine)
    target, count, chosen = search * sizes.total(), 0, set()
    for name in sorted(sizes, key=lambda name: (derive(seed, task, name, bits=128), name)):
        if abs(count + sizes[name] - target) < abs(count - target):
            chosen.add(name)
            count += sizes[name]
    if not 0 < len(chosen) < len(sizes):
        raise UserError(
            f"task {task!r}: {sizes.total()} items in {len(sizes)} distinct groups cannot be split with a fraction of "
            f"{search:g} for the search and neither side empty; give the task more items or change the fraction"
        )
    return {print_ for print_, name in groups.items() if name in chosen}


def _groups(items: Sequence[Item]) -> Mapping[str, str]:
    """Each fingerprint's group, named by the least of its fingerprints."""
    texts = {item.fingerprint: item.text for item in sorted(items, key=lambda item: item.text, reverse=True)}
    return near_groups(texts)

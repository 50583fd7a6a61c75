"""The split of items into search items, which candidates are compared on, and test items for the final verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.item import Item
from mergesearch.evaluators.data.near_duplicates import near_duplicate_groups
from mergesearch.seeds import derive


def split_items(items: Sequence[Item], search: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Splits the items of each task.

    Items of one task with equal fingerprints or nearly equal texts are on the same side. The side depends on the seed,
    the task and the set of its items, not on their order.

    Args:
        items: Items of one or more tasks.
        search: Fraction of each task's items that are search items.
        seed: Seed of the run.

    Returns:
        (search items, test items), both in the order given.

    Raises:
        UserError: One side of a task would be empty.
    """
    tasks = sorted({item.task for item in items})
    on_search_side = {(task, each) for task in tasks for each in _search_fingerprints(items, task, search, seed)}
    sides: tuple[list[Item], list[Item]] = ([], [])
    for item in items:
        sides[(item.task, item.fingerprint) not in on_search_side].append(item)
    return sides


def _search_fingerprints(items: Iterable[Item], task: str, search: float, seed: int) -> set[str]:
    """The fingerprints of the task's search items.

    Takes the groups in the order of their hashes, and each group that brings the number of items closer to the one
    wanted.
    """
    task_items = [item for item in items if item.task == task]
    groups = _groups(task_items)
    sizes = Counter(groups[item.fingerprint] for item in task_items)
    wanted, count, taken = search * sizes.total(), 0, set()
    for group in sorted(sizes, key=lambda group: (derive(seed, task, group, bits=128), group)):
        if abs(count + sizes[group] - wanted) < abs(count - wanted):
            taken.add(group)
            count += sizes[group]
    if not 0 < len(taken) < len(sizes):
        raise UserError(
            f"task {task!r}: its {sizes.total()} items cannot be split: they form {len(sizes)} groups of equal or "
            f"nearly equal items, and a search fraction of {search:g} leaves one side empty; "
            "give the task more items or change evaluate.split"
        )
    return {fingerprint for fingerprint, group in groups.items() if group in taken}


def _groups(items: Sequence[Item]) -> Mapping[str, str]:
    """For each fingerprint the smallest fingerprint in its group of near-duplicates."""
    texts = {item.fingerprint: item.text for item in sorted(items, key=lambda item: item.text, reverse=True)}
    return near_duplicate_groups(texts)

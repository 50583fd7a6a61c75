"""The split of items into search items, which candidates are compared on, and test items for the final verdict.

Items with equal fingerprints or nearly equal texts are on the same side. Within a task they form a group; groups of
several tasks that share content form a unit.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.item import Item
from mergesearch.evaluators.data.near_duplicates import near_duplicate_groups, words
from mergesearch.evaluators.data.overlap import LEAST_WORDS, TextIndex
from mergesearch.seeds import derive

SplitItems = tuple[list[Item], list[Item]]
"""Search items and test items."""
Unit = tuple[int, str]
"""A part and a group of it, for all groups that share its content."""


def split_items(items: Sequence[Item], search: float, seed: int) -> SplitItems:
    """Splits the items of each task by itself.

    The side depends on the seed, the task and the set of its items, not on their order.

    Args:
        items: Items of one or more tasks.
        search: Fraction of each task's items that are search items.
        seed: Seed of the run.

    Returns:
        (search items, test items), both in the order given.

    Raises:
        UserError: One side of a task would be empty.
    """
    by_task: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_task[item.task].append(item)
    parts = {task: _split([*part], Units([part]), 0, {}, search, seed)[0] for task, part in by_task.items()}
    searched = {(task, item.fingerprint) for task, part in parts.items() for item in part}
    sides: SplitItems = ([], [])
    for item in items:
        sides[(item.task, item.fingerprint) not in searched].append(item)
    return sides


def split_together(
    parts: Sequence[Sequence[Item]], search: float, seed: int, searched: Sequence[str] = ()
) -> list[SplitItems]:
    """Splits the items of several parts, such as a config's tasks; what has the same content is on the same side.

    A part that shares nothing with those before it is split as ``split_items`` does.

    Args:
        parts: The items of each part, which have one task.
        search: Fraction of each part's items that are search items.
        seed: Seed of the run.
        searched: Texts that the search uses beside the items. Items that share content with them are search items.

    Returns:
        (search items, test items) of each part, in the order given.

    Raises:
        UserError: One side of a part would be empty.
    """
    units = Units(parts)
    sides = dict.fromkeys(units.sharing(searched), True)
    return [_split(part, units, index, sides, search, seed) for index, part in enumerate(parts)]


def without_shared(parts: Sequence[Sequence[Item]], others: Sequence[Sequence[Item]]) -> list[list[Item]]:
    """The items of the parts that share no content with an item of the others."""
    units = Units([*parts, *others], has_groups=False)
    shared = {units.of(len(parts) + n, item) for n, part in enumerate(others) for item in part}
    return [[item for item in part if units.of(n, item) not in shared] for n, part in enumerate(parts)]


class Units:
    """Which items of several parts share content, directly or through others.

    Items without a text share the content of those with equal fingerprints if ``has_groups``, else of none.
    """

    def __init__(self, parts: Sequence[Sequence[Item]], has_groups: bool = True) -> None:
        self._has_groups = has_groups
        self._groups = [_groups(part) for part in parts]
        self._parent: dict[Unit, Unit] = {}
        self._texts = [_texts(part) for part in parts]
        for one, two in self._links():
            low, high = sorted((self._root(one), self._root(two)))
            if low != high:
                self._parent[high] = low

    def of(self, part: int, item: Item) -> Unit:
        """The unit of an item."""
        return self._root((part, self._groups[part][item.fingerprint]))

    def group_of(self, part: int, item: Item) -> str:
        """The smallest fingerprint of the item's group in its part."""
        return self._groups[part][item.fingerprint]

    def sharing(self, texts: Sequence[str]) -> set[Unit]:
        """The units of the items that share content with one of these texts."""
        if not texts:
            return set()
        indices = [TextIndex(part) for part in self._texts]
        found = {(n, each) for text in texts for n, index in enumerate(indices) for each in index.sharing(text)}
        return {self._root(self._unit(*each)) for each in found}

    def _root(self, unit: Unit) -> Unit:
        while unit in self._parent:
            unit = self._parent[unit]
        return unit

    def _links(self) -> Iterator[tuple[Unit, Unit]]:
        """Groups of two parts that share content."""
        parts: dict[str, list[int]] = defaultdict(list)
        for part, texts in enumerate(self._texts):
            for fingerprint in texts:
                parts[fingerprint].append(part)
        for fingerprint, (first, *others) in parts.items():
            if self._is_content(self._texts[first][fingerprint]):
                yield from ((self._unit(first, fingerprint), self._unit(part, fingerprint)) for part in others)
        if len({frozenset(texts) for texts in self._texts}) > 1:
            for one, two in self._similar({each: self._texts[numbers[0]][each] for each, numbers in parts.items()}):
                if parts[one] != parts[two]:
                    yield self._unit(parts[one][0], one), self._unit(parts[two][0], two)

    def _similar(self, texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        index = TextIndex({fingerprint: text for fingerprint, text in texts.items() if text})
        for one, text in texts.items():
            yield from ((one, two) for two in index.sharing(text) if one != two)

    def _unit(self, part: int, fingerprint: str) -> Unit:
        return part, self._groups[part][fingerprint]

    def _is_content(self, text: str) -> bool:
        """Whether equal fingerprints mean equal content in another task."""
        return len(words(text)) >= LEAST_WORDS if text else self._has_groups


def _split(  # noqa: PLR0913, PLR0917 - what a split depends on
    part: Sequence[Item], units: Units, index: int, sides: dict[Unit, bool], search: float, seed: int
) -> SplitItems:
    """The sides of one part. ``sides`` has those of units that are settled, and gets those of the part's others.

    Takes the units in the order of the hashes of their groups, and each unit that brings the number of items closer to
    the one wanted.
    """
    sizes = Counter(units.of(index, item) for item in part)
    names: dict[Unit, str] = {}
    for group, unit in sorted((units.group_of(index, item), units.of(index, item)) for item in part):
        names.setdefault(unit, group)
    wanted, settled = search * sizes.total(), sizes.keys() & sides.keys()
    count = sum(size for unit, size in sizes.items() if sides.get(unit))
    task = part[0].task if part else ""
    for unit in sorted(sizes.keys() - sides, key=lambda unit: (derive(seed, task, names[unit], bits=128), names[unit])):
        sides[unit] = abs(count + sizes[unit] - wanted) < abs(count - wanted)
        count += sizes[unit] * sides[unit]
    if not 0 < sum(sides[unit] for unit in sizes) < len(sizes):
        raise UserError(_one_sided(task, sizes, search, len(settled)))
    both: SplitItems = ([], [])
    for item in part:
        both[not sides[units.of(index, item)]].append(item)
    return both


def _one_sided(task: str, sizes: Mapping[Unit, int], search: float, settled: int) -> str:
    elsewhere = f", {settled} of which are in another task or a calibration text too" if settled else ""
    return (
        f"task {task!r}: its {sum(sizes.values())} items cannot be split: they form {len(sizes)} groups of equal or "
        f"nearly equal items{elsewhere}, and a search fraction of {search:g} leaves one side empty; "
        "give the task more items or change evaluate.split"
    )


def _texts(part: Iterable[Item]) -> dict[str, str]:
    """For each fingerprint the text, the same whatever the order of the items."""
    return {item.fingerprint: item.text for item in sorted(part, key=lambda item: item.text, reverse=True)}


def _groups(part: Sequence[Item]) -> Mapping[str, str]:
    """For each fingerprint the smallest fingerprint in its group of near-duplicates."""
    return near_duplicate_groups(_texts(part))

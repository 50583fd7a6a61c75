"""The split of items into search items, which candidates are compared on, and test items for the final verdict.

Items with equal fingerprints or nearly equal texts are on the same side, or are both left unused. Within a task they
form a group; groups of several tasks that share content form a unit.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.item import Item
from mergesearch.evaluators.data.near_duplicates import near_duplicate_groups, words
from mergesearch.evaluators.data.overlap import LEAST_WORDS, TextIndex
from mergesearch.seeds import derive

SplitItems = tuple[list[Item], list[Item]]
"""Search items and test items."""
Unit = tuple[int, str]
"""A part and a group of it, for all groups that share its content."""
Side = Literal["search", "test", "unused"]


@dataclass(frozen=True)
class Fractions:
    """Of the items of a part, those that the search uses and those for the verdict. The others are left unused."""

    search: float
    test: float

    @property
    def use_everything(self) -> bool:
        """Whether no item is left unused."""
        return self.search + self.test > 1 - 1e-9


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
    fractions = Fractions(search, 1 - search)
    parts = {task: _split([*part], Units([part]), 0, {}, fractions, seed)[0] for task, part in by_task.items()}
    searched = {(task, item.fingerprint) for task, part in parts.items() for item in part}
    sides: SplitItems = ([], [])
    for item in items:
        sides[(item.task, item.fingerprint) not in searched].append(item)
    return sides


def split_together(
    parts: Sequence[Sequence[Item]], search: float, seed: int, searched: Sequence[str] = (), test: float | None = None
) -> list[SplitItems]:
    """Splits the items of several parts, such as a config's tasks; what has the same content is on the same side.

    A part that shares nothing with those before it is split as ``split_items`` does. What shares content with an item
    that is left unused is left unused, too. The test items come from the other end of the order of hashes than the
    search items, so that neither fraction changes the other side, as long as items are left.

    Args:
        parts: The items of each part, which have one task.
        search: Fraction of each part's items that are search items.
        seed: Seed of the run.
        searched: Texts that the search uses beside the items. Items that share content with them are search items.
        test: Fraction of each part's items that are test items; None: all others.

    Returns:
        (search items, test items) of each part, in the order given.

    Raises:
        UserError: One side of a part would be empty.
    """
    units, fractions = Units(parts), Fractions(search, 1 - search if test is None else test)
    sides: dict[Unit, Side] = dict.fromkeys(units.sharing(searched), "search")
    return [_split(part, units, index, sides, fractions, seed) for index, part in enumerate(parts)]


def without_shared(parts: Sequence[Sequence[Item]], others: Sequence[Sequence[Item]]) -> list[list[Item]]:
    """The items of the parts that share no content with an item of the others."""
    units = Units([*parts, *others], has_groups=False)
    shared = {units.of(len(parts) + n, item) for n, part in enumerate(others) for item in part}
    return [[item for item in part if units.of(n, item) not in shared] for n, part in enumerate(parts)]


class ItemTexts:
    """The texts of the items of several parts, by any names, with which other texts are compared."""

    def __init__(self, parts: Sequence[Mapping[str, str]]) -> None:
        self._indices = [TextIndex(part) for part in parts]

    def share(self, text: str) -> bool:
        """Whether an item shares content with a text: near-duplicates, or a run of words in common."""
        return any(index.sharing(text) for index in self._indices)


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
    part: Sequence[Item], units: Units, index: int, sides: dict[Unit, Side], fractions: Fractions, seed: int
) -> SplitItems:
    """The sides of one part. ``sides`` has those of units that are settled, and gets those of the part's others.

    Takes the units in the order of the hashes of their groups, and for each side each unit that brings the number of
    its items closer to the one wanted.
    """
    sizes = Counter(units.of(index, item) for item in part)
    names: dict[Unit, str] = {}
    for group, unit in sorted((units.group_of(index, item), units.of(index, item)) for item in part):
        names.setdefault(unit, group)
    task, settled = part[0].task if part else "", sizes.keys() & sides.keys()
    left = sorted(sizes.keys() - sides, key=lambda unit: (derive(seed, task, names[unit], bits=128), names[unit]))
    _take(left, sizes, sides, "search", fractions.search)
    if not fractions.use_everything:
        _take([unit for unit in reversed(left) if unit not in sides], sizes, sides, "test", fractions.test)
    sides.update({unit: "test" if fractions.use_everything else "unused" for unit in left if unit not in sides})
    found = {sides[unit] for unit in sizes}
    if not found >= {"search", "test"}:
        raise UserError(_one_sided(task, sizes, fractions, len(settled)))
    both: dict[Side, list[Item]] = {"search": [], "test": [], "unused": []}
    for item in part:
        both[sides[units.of(index, item)]].append(item)
    return both["search"], both["test"]


def _take(left: Sequence[Unit], sizes: Mapping[Unit, int], sides: dict[Unit, Side], side: Side, share: float) -> None:
    """Gives a side its share of the items, from the units that are left."""
    wanted = share * sum(sizes.values())
    count = sum(size for unit, size in sizes.items() if sides.get(unit) == side)
    for unit in left:
        if abs(count + sizes[unit] - wanted) < abs(count - wanted):
            sides[unit] = side
            count += sizes[unit]


def _one_sided(task: str, sizes: Mapping[Unit, int], fractions: Fractions, settled: int) -> str:
    test = "" if fractions.use_everything else f" with a test fraction of {fractions.test:g}"
    elsewhere = f", {settled} of which are in another task or a calibration text too" if settled else ""
    return (
        f"task {task!r}: its {sum(sizes.values())} items cannot be split: they form {len(sizes)} groups of equal or "
        f"nearly equal items{elsewhere}, and a search fraction of {fractions.search:g}{test} leaves one side empty; "
        "give the task more items or change evaluate.split"
    )


def _texts(part: Iterable[Item]) -> dict[str, str]:
    """For each fingerprint the text, the same whatever the order of the items."""
    return {item.fingerprint: item.text for item in sorted(part, key=lambda item: item.text, reverse=True)}


def _groups(part: Sequence[Item]) -> Mapping[str, str]:
    """For each fingerprint the smallest fingerprint in its group of near-duplicates."""
    return near_duplicate_groups(_texts(part))

"""Near-duplicates: texts that have most of their shingles, which are runs of words, in common."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from math import ceil
from typing import TypeVar

SHINGLE_WORDS = 5
"""Words in a shingle (Broder, On the resemblance and containment of documents, 1997)."""
MIN_JACCARD = 0.7
"""Texts whose sets of shingles have at least this Jaccard index are near-duplicates."""
MAX_CHARACTERS = 20_000
"""Only so many characters of a text are compared."""

T = TypeVar("T")
Shingle = tuple[str, ...]


def near_duplicate_groups(texts: Mapping[str, str]) -> dict[str, str]:
    """Groups texts that are near-duplicates, directly or through other near-duplicates.

    Shingles that occur in more than a tenth of the texts (half, for fewer than 40 texts) are the task's template and
    are ignored. A text without other shingles has no near-duplicates.

    The search is exact. Two sets with a Jaccard index of at least t have one of their 1 + n − ⌈t n⌉ rarest elements in
    common, so only those pairs are compared (Bayardo, Ma & Srikant, Scaling up all pairs similarity search, WWW 2007).

    Args:
        texts: Text by name.

    Returns:
        For each name the smallest name in its group.
    """
    parent = {name: name for name in texts}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    sets = {name: shingles(text) for name, text in sorted(texts.items())}
    for first, second in _near_duplicates(without_template(sets)):
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return {name: root(name) for name in texts}


def shingles(text: str) -> frozenset[Shingle]:
    """The runs of ``SHINGLE_WORDS`` words of a text; of a shorter text all its words."""
    found = words(text[:MAX_CHARACTERS])
    starts = range(max(1, len(found) - SHINGLE_WORDS + 1))
    return frozenset(tuple(found[start : start + SHINGLE_WORDS]) for start in starts if found)


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"\w+", text.casefold())


def without_template(sets: Mapping[str, frozenset[T]]) -> dict[str, frozenset[T]]:
    """The sets without what more than a tenth of them have (half, for fewer than 40)."""
    frequency = Counter(shingle for members in sets.values() for shingle in members)
    limit = max(1.0, min(len(sets) / 2, max(20, len(sets) / 10)))
    return {
        name: frozenset(shingle for shingle in members if frequency[shingle] <= limit) for name, members in sets.items()
    }


def _near_duplicates(sets: Mapping[str, frozenset[Shingle]]) -> Iterator[tuple[str, str]]:
    """All pairs of names whose sets have a Jaccard index of ``MIN_JACCARD`` or more."""
    frequency = Counter(shingle for members in sets.values() for shingle in members)
    names_with: dict[Shingle, list[str]] = defaultdict(list)
    for name, members in sets.items():
        rarest = sorted(members, key=lambda shingle: (frequency[shingle], shingle))
        prefix = rarest[: 1 + len(rarest) - ceil(MIN_JACCARD * len(rarest))]
        for other in {other for shingle in prefix for other in names_with[shingle]}:
            if len(members & sets[other]) >= MIN_JACCARD * len(members | sets[other]):
                yield other, name
        for shingle in prefix:
            names_with[shingle].append(name)

"""Near-duplicates: texts that share most of their runs of words."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from math import ceil

RUN = 5
"""Words in a shingle (Broder, On the resemblance and containment of documents, 1997)."""
ALIKE = 0.7
"""Share of two texts' shingles that is common to both, from which on they are near-duplicates."""
LONGEST = 20_000
"""Characters of a text that are looked at."""

Shingles = frozenset[tuple[str, ...]]


def near_groups(texts: Mapping[str, str]) -> dict[str, str]:
    """For each name the least name among those whose texts are its near-duplicates, or theirs, and so on.

    Shingles that a tenth of the texts have (half, of a few) are the task's form, and are not compared; texts without
    any others are like no other. Exact: every pair that is alike is found, by the rule that two sets with a
    Jaccard index of at least t have one of their 1 + n − ⌈t n⌉ rarest members in common (Bayardo, Ma & Srikant,
    Scaling up all pairs similarity search, WWW 2007).
    """
    group = {name: name for name in texts}

    def root(name: str) -> str:
        while group[name] != name:
            group[name] = group[group[name]]
            name = group[name]
        return name

    for one, two in _pairs(_without_form({name: _shingles(text) for name, text in sorted(texts.items())})):
        low, high = sorted((root(one), root(two)))
        group[high] = low
    return {name: root(name) for name in texts}


def _shingles(text: str) -> Shingles:
    words = re.findall(r"\w+", text[:LONGEST].casefold())
    return frozenset(tuple(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1)) if words)


def _without_form(sets: Mapping[str, Shingles]) -> dict[str, Shingles]:
    frequency = Counter(shingle for shingles in sets.values() for shingle in shingles)
    most = min(len(sets) / 2, max(20, len(sets) / 10))
    return {name: frozenset(one for one in shingles if frequency[one] <= most) for name, shingles in sets.items()}


def _pairs(sets: Mapping[str, Shingles]) -> Iterator[tuple[str, str]]:
    frequency = Counter(shingle for shingles in sets.values() for shingle in shingles)
    having: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, shingles in sets.items():
        rarest = sorted(shingles, key=lambda shingle: (frequency[shingle], shingle))
        prefix = rarest[: 1 + len(rarest) - ceil(ALIKE * len(rarest))]
        for other in {other for shingle in prefix for other in having[shingle]}:
            if len(shingles & sets[other]) >= ALIKE * len(shingles | sets[other]):
                yield other, name
        for shingle in prefix:
            having[shingle].append(name)


def plain(document: object) -> str:
    """What is written in a document: its strings and numbers, without the names of its fields."""
    if isinstance(document, Mapping):
        return "\n".join(plain(document[key]) for key in sorted(document, key=str))
    if isinstance(document, list | tuple):
        return "\n".join(map(plain, document))
    return str(document)

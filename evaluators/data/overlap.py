"""Texts that share content: documents of one task beside those of another, or beside the examples in its prompts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import TypeVar

from mergesearch.evaluators.data.near_duplicates import MIN_JACCARD, Shingle, shingles, without_template, words

T = TypeVar("T")
RUN_WORDS = 13
"""Texts with so many consecutive words in common share content (Brown et al., arXiv:2005.14165, appendix C)."""
LEAST_WORDS = 3
"""Shorter texts are not compared: a word or two may be the name that an item has in any task."""


class TextIndex:
    """Texts by name, with which other texts are compared.

    What occurs in more than a tenth of the texts (half, for fewer than 40 texts) is a template and is ignored.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        every = {name: shingles(text) for name, text in texts.items()}
        self._shingles = without_template(every)
        self._template = frozenset().union(*every.values()).difference(*self._shingles.values())
        self._runs = without_template({name: frozenset(_runs(text)) for name, text in texts.items()})
        self._with_shingle = _inverted(self._shingles)
        self._with_run = _inverted(self._runs)

    def sharing(self, text: str) -> list[str]:
        """The names of the texts that are near-duplicates of this one, or have ``RUN_WORDS`` words in common with it.

        Sorted.
        """
        found = {name for run in set(_runs(text)) for name in self._with_run.get(run, ())}
        own = shingles(text) - self._template if len(words(text)) >= LEAST_WORDS else frozenset[Shingle]()
        common = Counter(name for shingle in own for name in self._with_shingle.get(shingle, ()))
        found |= {name for name, count in common.items() if count >= MIN_JACCARD * self._union(own, name, count)}
        return sorted(found)

    def _union(self, own: frozenset[Shingle], name: str, common: int) -> int:
        return len(own) + len(self._shingles[name]) - common


def _inverted(sets: Mapping[str, frozenset[T]]) -> dict[T, list[str]]:
    names: dict[T, list[str]] = defaultdict(list)
    for name, members in sets.items():
        for member in members:
            names[member].append(name)
    return dict(names)


def _runs(text: str) -> Iterator[int]:
    """Hashes of the runs of ``RUN_WORDS`` words: a long text has many."""
    found = words(text)
    for start in range(len(found) - RUN_WORDS + 1):
        yield hash(tuple(found[start : start + RUN_WORDS]))

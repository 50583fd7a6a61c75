"""Minimal pairs: a line of a real file, and the same line with something wrong.

Pairs come in passages: the context of each line of a passage is the passage up to that line, and several pairs ask for
the same line. So most tokens of an item are those of other items, too, and go through the model once for all of them.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tokenizers import Tokenizer

from mergesearch.demo.corpus import Corpus
from mergesearch.demo.kinds import KINDS, Kind, Language
from mergesearch.demo.size import Size
from mergesearch.demo.words import RankedNames, Words, split
from mergesearch.seeds import derive

_IS_TEXT = {
    "python": re.compile(r"[^#\"'].*[()=:;{\[]"),
    "cpp": re.compile(r"(?!//|/\*|[*#\"]).*[()=:;{\[]"),
    "english": re.compile(r"[\w(].* .* "),
    "yaml": re.compile(r"[^#].*[:\s-]"),
}
"""What a line begins with and has in it, without its indentation."""
_CONTEXT_LINES = 1
"""The lines of a passage before the first one that is asked for."""
_PER_LINE = 5
_NAMING_LINES = 25_000
"""Lines of the training text that names are counted in."""
_MIN_LENGTH, _MAX_LENGTH = 8, 90
"""Characters of a line without indentation."""


@dataclass(frozen=True)
class Pair:
    """One item: ``right`` is the line that follows the lines of ``context`` in the file ``source``."""

    source: str
    kind: str
    context: str
    right: str
    wrong: str


class PairMaker:
    """Makes the pairs of one language."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, size: Size) -> None:
        self._corpus, self._tokenizer, self._size = corpus, tokenizer, size
        self._rng = random.Random(derive(size.seed, "pairs", corpus.language))
        training = [line for text in corpus.training.values() for line in text.splitlines()]
        self._seen = {line.strip() for line in training}
        lines = (line for line in training[:_NAMING_LINES] if self._is_text(line.strip()))
        self._language = Language(corpus.language, RankedNames(corpus.language, lines, tokenizer))

    def make(self) -> list[Pair]:
        """Pairs of lines of held-out files, an equal number of each file if possible."""
        passages = [self._passages(source, text) for source, text in self._corpus.held_out.items()]
        pairs: list[Pair] = []
        while passages and len(pairs) < self._size.items:
            found = [next(of_file, None) for of_file in passages]
            pairs += [pair for passage in found for pair in passage or ()]
            passages = [of_file for of_file, passage in zip(passages, found, strict=True) if passage is not None]
        return pairs[: self._size.items]

    def _passages(self, source: str, text: str) -> Iterator[list[Pair]]:
        """The pairs of each passage of a file, in random order."""
        lines = [line.rstrip() for line in text.splitlines()]
        starts = [*range(self._rng.randrange(8), len(lines) - _CONTEXT_LINES, 8)]
        self._rng.shuffle(starts)
        for start in starts:
            if pairs := self._passage(source, lines[start : start + 8]):
                yield pairs

    def _passage(self, source: str, lines: list[str]) -> list[Pair]:
        pairs: list[Pair] = []
        for number in range(_CONTEXT_LINES, len(lines)):
            context = "\n".join(lines[:number]) + "\n"
            if context.strip() and self._is_new(lines[number]):
                pairs += self._pairs(source, context, lines[number])
        return pairs

    def _is_new(self, line: str) -> bool:
        bare = line.strip()
        is_new = bare not in self._seen and self._is_text(bare)
        self._seen.add(bare)
        return is_new

    def _is_text(self, bare: str) -> bool:
        return _MIN_LENGTH <= len(bare) <= _MAX_LENGTH and _IS_TEXT[self._corpus.language].match(bare) is not None

    def _pairs(self, source: str, context: str, line: str) -> list[Pair]:
        """Pairs of one line, each with another wrong line."""
        pairs: dict[str, Pair] = {}
        room = self._size.context - 4 - self._tokens(context)
        for _ in range(_PER_LINE):
            kind, wrong = self._wrong(split(line))
            if wrong and max(map(self._tokens, (line, wrong))) + 1 <= room:
                pairs[wrong] = Pair(source, kind, context, line + "\n", wrong + "\n")
        return list(pairs.values())

    def _wrong(self, words: Words) -> tuple[str, str]:
        """A kind, and the line with something wrong of that kind; empty where nothing can be wrong."""
        kind = self._rng.choices(list(self._kinds), [share for _, share in self._kinds.values()])[0]
        replace: Kind = self._kinds[kind][0]
        choices = [(i, others) for i in range(len(words)) if (others := replace(words, i, self._language))]
        if not choices:
            return kind, ""
        index, others = self._rng.choice(choices)
        other = self._rng.choice(others)
        return kind, "".join([*words[:index], *other, *words[index + len(other) :]])

    @cached_property
    def _kinds(self) -> dict[str, tuple[Kind, int]]:
        return KINDS[self._corpus.language]

    def _tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text).ids)

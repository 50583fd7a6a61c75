"""Minimal pairs: a line of real code, and the same line with one wrong word."""

import keyword
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from mergesearch.demo.corpus import Corpus
from mergesearch.demo.size import Size
from mergesearch.seeds import derive

_WORD = re.compile(r"[A-Za-z_]\w*|\d+|\s+|->|::|==|!=|<=|>=|&&|\|\||.")
_NAME = re.compile(r"[A-Za-z_]\w{2,}")
_CODE = re.compile(r"[()=:;{\[]")
_COMMENTS = {"python": ("#", '"', "'"), "cpp": ("//", "/*", "*", "#", '"')}
_CONTEXT_LINES = 3
_MAX_PER_FILE = 8
_MIN_LENGTH, _MAX_LENGTH = 12, 80
"""Characters of a line without indentation."""
_RANKS, _NEIGHBOURS = 300, 30
"""How many names of a role are kept, and how many of the ranks before and after a name may replace it."""

_CPP_KEYWORDS = """
auto bool break case catch char class const constexpr continue default delete do double else enum explicit false float
for friend if inline int long namespace new noexcept nullptr operator override private protected public return short
sizeof static static_cast struct switch template this throw true try typedef typename union unsigned using virtual void
while
"""
KEYWORDS = {"python": frozenset(keyword.kwlist), "cpp": frozenset(_CPP_KEYWORDS.split())}
# The word with about the same meaning in the other language.
FOREIGN = {
    "python": {
        "None": "nullptr",
        "True": "true",
        "False": "false",
        "self": "this",
        "and": "&&",
        "or": "||",
        "not": "!",
        "elif": "else",
        "raise": "throw",
        "except": "catch",
        "def": "void",
        "class": "struct",
    },
    "cpp": {
        "nullptr": "None",
        "true": "True",
        "false": "False",
        "this": "self",
        "&&": "and",
        "||": "or",
        "!": "not ",
        "throw": "raise",
        "catch": "except",
        "void": "def",
        "struct": "class",
        "const": "final",
        "auto": "var",
    },
}
OPERATORS = ((".", "->", "::"), ("==", "=", "!=", "<=", ">="), (",", ";", ":"), ("+", "-", "*", "/"), ("&&", "||"))


@dataclass(frozen=True)
class Pair:
    """One item: ``right`` is the line that follows the lines of ``context`` in the file ``source``."""

    source: str
    kind: str
    context: str
    right: str
    wrong: str


Words = list[str]
Role = tuple[str, str]
"""The operators before and after a name: a call is another role than a namespace."""


class RankedNames:
    """The names of a language by role, in the order of their frequency in the training text."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer) -> None:
        counts: defaultdict[Role, Counter[str]] = defaultdict(Counter)
        for text in corpus.training.values():
            for line in text.splitlines():
                if _is_code(line.strip(), corpus.language):
                    _count_names(line, counts, KEYWORDS[corpus.language])
        self._ranked = {role: [name for name, _ in counter.most_common(_RANKS)] for role, counter in counts.items()}
        names = sorted({name for ranked in self._ranked.values() for name in ranked})
        encodings = tokenizer.encode_batch(names)
        self._lengths = {name: len(encoding.ids) for name, encoding in zip(names, encodings, strict=True)}

    def similar(self, words: Words, index: int) -> Words:
        """Other names of the same role, frequency and number of tokens as ``words[index]``; none for a rare name."""
        ranked = self._ranked.get(_role(words, index), [])
        if words[index] not in ranked:
            return []
        rank = ranked.index(words[index])
        length = self._lengths[words[index]]
        near = ranked[max(0, rank - _NEIGHBOURS) : rank] + ranked[rank + 1 : rank + _NEIGHBOURS]
        return [name for name in near if self._lengths[name] == length]


def _count_names(line: str, counts: dict[Role, Counter[str]], reserved: frozenset[str]) -> None:
    words = _WORD.findall(line)
    for index, word in enumerate(words):
        if word not in reserved and _NAME.fullmatch(word):
            counts[_role(words, index)][word] += 1


def _role(words: Words, index: int) -> Role:
    before = words[index - 1] if index else ""
    after = words[index + 1] if index + 1 < len(words) else ""
    return before if before in (".", "->", "::") else "", after if after in (".", "->", "::", "(", "<") else ""


@dataclass(frozen=True)
class _Language:
    name: str
    names: RankedNames


def _name(words: Words, index: int, language: _Language) -> Words:
    return language.names.similar(words, index)


def _keyword(words: Words, index: int, language: _Language) -> Words:
    keywords = KEYWORDS[language.name]
    return sorted(keywords - {words[index]}) if words[index] in keywords else []


def _foreign(words: Words, index: int, language: _Language) -> Words:
    foreign = FOREIGN[language.name].get(words[index])
    return [foreign] if foreign else []


def _operator(words: Words, index: int, _: _Language) -> Words:
    word = words[index]
    return [other for family in OPERATORS if word in family for other in family if other != word]


_KINDS: dict[str, tuple[Callable[[Words, int, _Language], Words], int]] = {
    "name": (_name, 6),
    "keyword": (_keyword, 1),
    "operator": (_operator, 2),
    "foreign": (_foreign, 1),
}
"""For each kind of pair, the words that may replace a word, and the weight of the kind among the lines."""


def make_pairs(corpus: Corpus, tokenizer: Tokenizer, size: Size) -> list[Pair]:
    """Pairs of held-out lines, a few of each file. No line is part of the training text."""
    rng = random.Random(derive(size.seed, "pairs", corpus.language))
    language = _Language(corpus.language, RankedNames(corpus, tokenizer))
    seen = {line.strip() for text in corpus.training.values() for line in text.splitlines()}
    pairs: list[Pair] = []
    for source, text in corpus.held_out.items():
        of_file = (
            _pair(source, lines, language, rng) for lines in _lines_with_context(text, corpus.language, seen, rng)
        )
        short = (pair for pair in of_file if pair and _token_count(pair, tokenizer) <= size.context - 4)
        pairs += [pair for pair, _ in zip(short, range(_MAX_PER_FILE), strict=False)]
    rng.shuffle(pairs)
    return pairs[: size.items]


def _lines_with_context(text: str, language: str, seen: set[str], rng: random.Random) -> Iterator[list[str]]:
    """Lines of code in random order, each after the lines before it. Lines that were seen are skipped."""
    lines = [line.rstrip() for line in text.splitlines()]
    numbers = list(range(_CONTEXT_LINES, len(lines)))
    rng.shuffle(numbers)
    for number in numbers:
        bare = lines[number].strip()
        if bare not in seen and _is_code(bare, language):
            seen.add(bare)
            yield lines[number - _CONTEXT_LINES : number + 1]


def _is_code(bare: str, language: str) -> bool:
    has_length = _MIN_LENGTH <= len(bare) <= _MAX_LENGTH
    return has_length and not bare.startswith(_COMMENTS[language]) and _CODE.search(bare) is not None


def _pair(source: str, lines: list[str], language: _Language, rng: random.Random) -> Pair | None:
    """A pair of the last line with the lines before it; None where no word can be replaced."""
    kind = rng.choices(list(_KINDS), [share for _, share in _KINDS.values()])[0]
    words = _WORD.findall(lines[-1])
    replacements, _ = _KINDS[kind]
    choices = [(i, others) for i in range(len(words)) if (others := replacements(words, i, language))]
    if not choices or not "".join(lines[:-1]).strip():
        return None
    index, others = rng.choice(choices)
    wrong = [*words[:index], rng.choice(others), *words[index + 1 :]]
    return Pair(source, kind, "\n".join(lines[:-1]) + "\n", lines[-1] + "\n", "".join(wrong) + "\n")


def _token_count(pair: Pair, tokenizer: Tokenizer) -> int:
    """Tokens of the context and of the longer choice."""
    context, right, wrong = (len(tokenizer.encode(text).ids) for text in (pair.context, pair.right, pair.wrong))
    return context + max(right, wrong)

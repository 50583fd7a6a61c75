"""Minimal pairs: a line of real code, and the same line with one word that does not belong there."""

import keyword
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from mergesearch.demo import Size
from mergesearch.demo.corpus import Corpus
from mergesearch.seeds import derive

_WORD = re.compile(r"[A-Za-z_]\w*|\d+|\s+|->|::|==|!=|<=|>=|&&|\|\||.")
_NAME = re.compile(r"[A-Za-z_]\w{2,}")
_CODE = re.compile(r"[()=:;{\[]")
_COMMENTS = {"python": ("#", '"', "'"), "cpp": ("//", "/*", "*", "#", '"')}
_CONTEXT_LINES = 3
_MOST_PER_FILE = 8
_SHORTEST, _LONGEST = 12, 80

_CPP_KEYWORDS = """
auto bool break case catch char class const constexpr continue default delete do double else enum explicit false float
for friend if inline int long namespace new noexcept nullptr operator override private protected public return short
sizeof static static_cast struct switch template this throw true try typedef typename union unsigned using virtual void
while
"""
KEYWORDS = {"python": frozenset(keyword.kwlist), "cpp": frozenset(_CPP_KEYWORDS.split())}
# The word for about the same thing in the other language.
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
    """One item: after ``context`` (whole lines), ``right`` is what the file says."""

    source: str
    kind: str
    context: str
    right: str
    wrong: str


Words = list[str]
Role = tuple[str, str]
"""What stands right before and right after a name: a call is another role than a namespace."""


class Names:
    """A language's names by role, in the order of their frequency in the training files' code."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer) -> None:
        counts: defaultdict[Role, Counter[str]] = defaultdict(Counter)
        for text in corpus.training.values():
            for line in text.splitlines():
                if _is_code(line.strip(), corpus.language):
                    _count(line, counts, KEYWORDS[corpus.language])
        self._ranked = {role: [name for name, _ in counter.most_common(_RANKS)] for role, counter in counts.items()}
        names = sorted({name for ranked in self._ranked.values() for name in ranked})
        encodings = tokenizer.encode_batch(names)
        self._lengths = {name: len(one.ids) for name, one in zip(names, encodings, strict=True)}

    def like(self, words: Words, place: int) -> Words:
        """Other names of the same role, about as frequent in it and as many tokens long; none for a rare name."""
        ranked = self._ranked.get(_role(words, place), [])
        if words[place] not in ranked:
            return []
        rank = ranked.index(words[place])
        length = self._lengths[words[place]]
        near = ranked[max(0, rank - _NEAR) : rank] + ranked[rank + 1 : rank + _NEAR]
        return [name for name in near if self._lengths[name] == length]


_RANKS, _NEAR = 300, 30


def _count(line: str, counts: dict[Role, Counter[str]], reserved: frozenset[str]) -> None:
    words = _WORD.findall(line)
    for place, word in enumerate(words):
        if word not in reserved and _NAME.fullmatch(word):
            counts[_role(words, place)][word] += 1


def _role(words: Words, place: int) -> Role:
    before = words[place - 1] if place else ""
    after = words[place + 1] if place + 1 < len(words) else ""
    return before if before in (".", "->", "::") else "", after if after in (".", "->", "::", "(", "<") else ""


@dataclass(frozen=True)
class _Language:
    name: str
    names: Names


def _name(words: Words, place: int, language: _Language) -> Words:
    return language.names.like(words, place)


def _keyword(words: Words, place: int, language: _Language) -> Words:
    keywords = KEYWORDS[language.name]
    return sorted(keywords - {words[place]}) if words[place] in keywords else []


def _foreign(words: Words, place: int, language: _Language) -> Words:
    foreign = FOREIGN[language.name].get(words[place])
    return [foreign] if foreign else []


def _operator(words: Words, place: int, _: _Language) -> Words:
    word = words[place]
    return [other for family in OPERATORS if word in family for other in family if other != word]


_KINDS: dict[str, tuple[Callable[[Words, int, _Language], Words], int]] = {
    "name": (_name, 6),
    "keyword": (_keyword, 1),
    "operator": (_operator, 2),
    "foreign": (_foreign, 1),
}
"""What may stand in a word's place, and the kind's share among the lines that are tried."""


def pairs(corpus: Corpus, tokenizer: Tokenizer, size: Size) -> list[Pair]:
    """Pairs of the held-out files, a few of each file, none with a line that was trained on."""
    rng = random.Random(derive(size.seed, "pairs", corpus.language))
    language = _Language(corpus.language, Names(corpus, tokenizer))
    seen = {line.strip() for text in corpus.training.values() for line in text.splitlines()}
    found: list[Pair] = []
    for source, text in corpus.held_out.items():
        of_file = (_pair(source, lines, language, rng) for lines in _places(text, corpus.language, seen, rng))
        short = (pair for pair in of_file if pair and _tokens(pair, tokenizer) <= size.context - 4)
        found += [pair for pair, _ in zip(short, range(_MOST_PER_FILE), strict=False)]
    rng.shuffle(found)
    return found[: size.items]


def _places(text: str, language: str, seen: set[str], rng: random.Random) -> Iterator[list[str]]:
    """Lines of code in random order, each after the lines before it."""
    lines = [line.rstrip() for line in text.splitlines()]
    places = list(range(_CONTEXT_LINES, len(lines)))
    rng.shuffle(places)
    for place in places:
        bare = lines[place].strip()
        if bare not in seen and _is_code(bare, language):
            seen.add(bare)
            yield lines[place - _CONTEXT_LINES : place + 1]


def _is_code(bare: str, language: str) -> bool:
    fits = _SHORTEST <= len(bare) <= _LONGEST
    return fits and not bare.startswith(_COMMENTS[language]) and _CODE.search(bare) is not None


def _pair(source: str, lines: list[str], language: _Language, rng: random.Random) -> Pair | None:
    kind = rng.choices(list(_KINDS), [share for _, share in _KINDS.values()])[0]
    words = _WORD.findall(lines[-1])
    choices = [(i, others) for i in range(len(words)) if (others := _KINDS[kind][0](words, i, language))]
    if not choices or not "".join(lines[:-1]).strip():
        return None
    place, others = rng.choice(choices)
    wrong = [*words[:place], rng.choice(others), *words[place + 1 :]]
    return Pair(source, kind, "\n".join(lines[:-1]) + "\n", lines[-1] + "\n", "".join(wrong) + "\n")


def _tokens(pair: Pair, tokenizer: Tokenizer) -> int:
    return len(tokenizer.encode(pair.context).ids) + max(
        len(tokenizer.encode(line).ids) for line in (pair.right, pair.wrong)
    )

"""The words of a line, the names of a language by role and frequency, and its keywords and operators."""

import keyword
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from tokenizers import Tokenizer

Words = list[str]
Role = tuple[str, str]
"""The marks before and after a name: a call is another role than a namespace, and a key another one than a value."""

_WORD = re.compile(r"[A-Za-z_]\w*|\d+|\s+|->|::|==|!=|<=|>=|&&|\|\||.")
_NAME = re.compile(r"[A-Za-z_]\w{2,}")
_RANKS, _NEIGHBOURS = 300, 30
"""How many names of a role are kept, and how many of the ranks before and after a name may replace it."""

_CPP_KEYWORDS = """
auto bool break case catch char class const constexpr continue default delete do double else enum explicit false float
for friend if inline int long namespace new noexcept nullptr operator override private protected public return short
sizeof static static_cast struct switch template this throw true try typedef typename union unsigned using virtual void
while
"""
_FUNCTION_WORDS = """
a about after all also an and any are as at be because been before but by can does each either for from had has have if
in into is it its may more must no not of on only or other should so some such than that the their then there these they
this to up used was we were when where which while will with without would you
"""
_YAML_WORDS = """
include task dataset_path dataset_name output_type test_split training_split validation_split fewshot_split doc_to_text
doc_to_target doc_to_choice metric_list metric aggregation higher_is_better metadata version description process_docs
group tag true false mean function
"""
KEYWORDS = {
    "python": frozenset(keyword.kwlist),
    "cpp": frozenset(_CPP_KEYWORDS.split()),
    "english": frozenset(_FUNCTION_WORDS.split()),
    "yaml": frozenset(_YAML_WORDS.split()),
}
_MARKS = {
    "python": ((".",), (".", "(")),
    "cpp": ((".", "->", "::"), (".", "->", "::", "(", "<")),
    "english": ((), ()),
    "yaml": (("{", "!"), (":", "}")),
}
"""For each language the marks before and those after a name that tell roles apart."""


def split(line: str) -> Words:
    """The words of a line, its white space and marks among them."""
    return _WORD.findall(line)


def is_name(word: str) -> bool:
    """Whether a word has the form of a name, of three characters or more."""
    return _NAME.fullmatch(word) is not None


class RankedNames:
    """The names of a language by role, in the order of their frequency in lines of its training text."""

    def __init__(self, language: str, lines: Iterable[str], tokenizer: Tokenizer) -> None:
        self._language = language
        counts: defaultdict[Role, Counter[str]] = defaultdict(Counter)
        for line in lines:
            self._count(split(line), counts)
        self._ranked = {role: [name for name, _ in counter.most_common(_RANKS)] for role, counter in counts.items()}
        names = sorted({name for ranked in self._ranked.values() for name in ranked})
        encodings = tokenizer.encode_batch(names)
        self._lengths = {name: len(encoding.ids) for name, encoding in zip(names, encodings, strict=True)}

    def similar(self, words: Words, index: int) -> Words:
        """Other names of the same role, frequency and number of tokens as ``words[index]``; none for a rare name."""
        ranked = self._ranked.get(self._role(words, index), [])
        if words[index] not in ranked:
            return []
        rank, length = ranked.index(words[index]), self._lengths[words[index]]
        near = ranked[max(0, rank - _NEIGHBOURS) : rank] + ranked[rank + 1 : rank + 1 + _NEIGHBOURS]
        return [name for name in near if self._lengths[name] == length]

    def _count(self, words: Words, counts: dict[Role, Counter[str]]) -> None:
        for index, word in enumerate(words):
            if is_name(word) and word not in KEYWORDS[self._language]:
                counts[self._role(words, index)][word] += 1

    def _role(self, words: Words, index: int) -> Role:
        marks_before, marks_after = _MARKS[self._language]
        before = words[index - 1] if index else ""
        after = words[index + 1] if index + 1 < len(words) else ""
        return before if before in marks_before else "", after if after in marks_after else ""

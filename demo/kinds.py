"""The kinds of minimal pairs: for each language, what may be wrong in a line."""

from collections.abc import Callable
from dataclasses import dataclass

from mergesearch.demo.words import KEYWORDS, RankedNames, Words, is_name


@dataclass(frozen=True)
class Language:
    """A language and its names."""

    name: str
    names: RankedNames


# The word with about the same meaning in another language.
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
    "yaml": {"true": "True", "false": "False", "null": "None", ":": " =", "-": "*"},
}
OPERATORS = ((".", "->", "::"), ("==", "=", "!=", "<=", ">="), (",", ";", ":"), ("+", "-", "*", "/"), ("&&", "||"))
FORMS = (
    ("is", "are"),
    ("was", "were"),
    ("has", "have"),
    ("does", "do"),
    ("this", "these"),
    ("that", "those"),
    ("a", "an"),
    ("its", "their"),
    ("it", "they"),
)
"""Forms of a word in the singular and in the plural, or before a consonant and before a vowel."""
_FORMS = {one: other for pair in FORMS for one, other in (pair, pair[::-1])}
_MIN_PLURAL = 4


def _name(words: Words, index: int, language: Language) -> list[Words]:
    return _each(language.names.similar(words, index))


def _keyword(words: Words, index: int, language: Language) -> list[Words]:
    keywords = KEYWORDS[language.name]
    return _each(sorted(keywords - {words[index]})) if words[index] in keywords else []


def _foreign(words: Words, index: int, language: Language) -> list[Words]:
    foreign = FOREIGN[language.name].get(words[index])
    return _each([foreign] if foreign else [])


def _operator(words: Words, index: int, _: Language) -> list[Words]:
    word = words[index]
    return _each([other for family in OPERATORS if word in family for other in family if other != word])


def _order(words: Words, index: int, _: Language) -> list[Words]:
    """Two neighbouring words, the other way round."""
    three = words[index : index + 3]
    swaps = len(three) == 3 and three[1] == " " and three[0].isalpha() and three[2].isalpha()
    return [three[::-1]] if swaps and three[0].islower() and three[0] != three[2] else []


def _number(words: Words, index: int, _: Language) -> list[Words]:
    """Singular and plural: another form, or a noun with or without its s."""
    word = words[index]
    if word in _FORMS:
        return [[_FORMS[word]]]
    if not word.isalpha() or not word.islower() or len(word) < _MIN_PLURAL or word.endswith(("ss", "us", "is")):
        return []
    return [[word[:-1] if word.endswith("s") else word + "s"]]


def _key(words: Words, index: int, language: Language) -> list[Words]:
    """The first word of a line: the key."""
    is_key = is_name(words[index]) and not "".join(words[:index]).strip(" \"'-")
    if not is_key:
        return []
    others = [*language.names.similar(words, index), *sorted(KEYWORDS[language.name] - {words[index]})]
    return _each(others)


def _value(words: Words, index: int, language: Language) -> list[Words]:
    """A word after the first one."""
    return [] if not "".join(words[:index]).strip(" \"'-") else _name(words, index, language)


def _each(words: Words) -> list[Words]:
    return [[word] for word in words]


Kind = Callable[[Words, int, Language], list[Words]]
"""What may stand in the place of as many words from an index on; empty where the kind does not apply."""

_OF_CODE: dict[str, tuple[Kind, int]] = {
    "name": (_name, 6),
    "keyword": (_keyword, 1),
    "operator": (_operator, 2),
    "foreign": (_foreign, 1),
}
KINDS: dict[str, dict[str, tuple[Kind, int]]] = {
    "python": _OF_CODE,
    "cpp": _OF_CODE,
    "english": {"word": (_name, 4), "function word": (_keyword, 2), "order": (_order, 2), "number": (_number, 2)},
    "yaml": {"key": (_key, 4), "value": (_value, 4), "operator": (_operator, 1), "foreign": (_foreign, 1)},
}
"""For each language the kinds of pairs and their weights."""

"""From the content of a source file to the text of its language."""

import re
from collections.abc import Callable
from inspect import cleandoc

Extract = Callable[[str], str]
"""The text of a file's content; empty where there is too little. Remembers what earlier files had."""

_DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)
_PARAGRAPH = re.compile(r"\n\s*\n")
_PLAIN = re.compile(r"[A-Za-z ,.;\n'-]")
_MIN_WORDS, _MIN_PLAIN = 12, 0.96
_MIN_PROSE = 400
_DIGITS = re.compile(r"\d+")
_MIN_NEW, _MIN_YAML, _MAX_YAML = 0.5, 80, 3_000
_ASCII = 0.97


def whole() -> Extract:
    """Takes all of a file."""
    return lambda content: content


def prose() -> Extract:
    """Takes the paragraphs of prose of the docstrings, each the first time that it is seen."""
    seen: set[str] = set()

    def extract(content: str) -> str:
        paragraphs = []
        for docstring in _DOCSTRING.findall(content):
            for paragraph in _PARAGRAPH.split(cleandoc(docstring)):
                text = cleandoc(paragraph)
                if _is_prose(text) and text not in seen:
                    seen.add(text)
                    paragraphs.append(text)
        text = "\n\n".join(paragraphs) + "\n"
        return text if len(text) >= _MIN_PROSE else ""

    return extract


def _is_prose(text: str) -> bool:
    return (
        text.endswith((".", ":"))
        and text[0].isupper()
        and len(text.split()) >= _MIN_WORDS
        and len(_PLAIN.findall(text)) >= _MIN_PLAIN * len(text)
    )


def novel() -> Extract:
    """Takes the files most of whose lines are new: many files are copies of each other but for a name or a number."""
    seen: set[str] = set()

    def extract(content: str) -> str:
        content = content[:_MAX_YAML]
        lines = [line for line in content.splitlines() if line.strip()]
        keys = [_DIGITS.sub("0", line.strip()) for line in lines]
        new = sum(len(key) for key in keys if key not in seen)
        if not content.isascii() and sum(map(str.isascii, content)) < _ASCII * len(content):
            return ""
        seen.update(keys)
        total = sum(map(len, keys))
        return "\n".join(lines) + "\n" if new >= _MIN_NEW * max(total, 1) and total >= _MIN_YAML else ""

    return extract


EXTRACTIONS: dict[str, Callable[[], Extract]] = {"python": whole, "cpp": whole, "english": prose, "yaml": novel}

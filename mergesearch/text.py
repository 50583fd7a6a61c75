"""Text of other people - exceptions, files, models, tasks - made fit to be shown and stored, at one place.

Such text may have markup, terminal escapes, lone surrogates or megabytes. ``shown`` makes plain text of it; the other
functions escape that for what they are named after.
"""

import codecs
import html
import os
import re
import sys
from pathlib import Path
from reprlib import Repr
from typing import TextIO

NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""Characters that no file name and no UTF-8 can have: NUL, and halves of surrogate pairs."""
SCREEN = 2_000
"""The most characters of one text that are shown."""
LINE = 500
"""The most characters of a text that is shown in one line."""
INTEGER_BITS = 128
"""The most bits of an integer whose digits are shown."""
_BEGINNING = 0.6
"""The share of a text that is too long which is kept of its beginning; the rest is its end, which says why."""
_UNFIT = re.compile(
    r"\x1b\[[0-9;:?]*[ -/]*[@-~]"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Terminal escapes, and characters that move the cursor, turn the direction of writing, or are no characters."""
_TYPED = str.maketrans({"−": "-", "–": "-", "—": "-", "…": "...", "×": "x", "’": "'", "‘": "'", "“": '"', "”": '"'})
_ENCODING_ERRORS = "mergesearch.typed"


def shown(text: object, most: int = SCREEN) -> str:
    """Plain text that is safe to print, to store as UTF-8 and to put into a message; never raises.

    Line breaks and tabs stay. Terminal escapes become nothing, other control characters and lone surrogates become
    ``\\x..`` and ``\\u....``. Of a text that is longer than ``most`` characters, the middle is left out.
    """
    return _UNFIT.sub(_spelled, shortened(_string(text), most))


def shortened(text: str, most: int = SCREEN) -> str:
    """The text with its middle left out where it is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    beginning = int(most * _BEGINNING)
    left_out = f" [... {len(text) - most:,} characters ...] "
    return text[:beginning] + left_out + text[len(text) - (most - beginning) :]


def _string(text: object) -> str:
    if isinstance(text, str):
        return str.__str__(text)
    try:
        return str(text)
    except (Exception, SystemExit) as error:
        return f"(a {type(text).__name__} that cannot be shown: its __str__ raises {type(error).__name__})"


def _spelled(found: re.Match[str]) -> str:
    character = found[0]
    if len(character) > 1 or character == "\r":
        return ""
    return f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}"


class _Short(Repr):
    """``repr`` of a few entries and a few levels, so that it ends whatever the value contains."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 4, 200, 200
        self.maxlist = self.maxdict = self.maxtuple = self.maxset = 8

    def repr_int(self, number: int, _: int) -> str:
        return repr(number) if number.bit_length() <= INTEGER_BITS else f"an integer of {number.bit_length()} bits"


_SHORT = _Short()


def quoted(value: object, most: int = 100) -> str:
    """``repr`` of a value of other people in one line, cut and safe to print; never raises."""
    try:
        return as_line(_SHORT.repr(value), most)
    except (Exception, SystemExit) as error:
        return f"(a {type(value).__name__} that cannot be shown: its __repr__ raises {type(error).__name__})"


def as_line(text: object, most: int = LINE) -> str:
    """Text in one line: line breaks and tabs are spelled out."""
    return re.sub(r"[\n\t]", lambda found: repr(found[0])[1:-1], shown(text, most))


def as_html(text: object, most: int = SCREEN) -> str:
    """Text for HTML, and for the labels of Plotly, which reads tags and entities, too."""
    return html.escape(shown(text, most))


def as_code(text: object) -> str:
    """Text as a code span of Markdown, in which nothing else is interpreted."""
    line = " ".join(shown(text).split("\n")) or " "
    fence = "`" * (_longest_run(line) + 1)
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{padding}{line}{padding}{fence}"


def as_code_block(text: str, language: str = "") -> str:
    """Text as a fenced code block of Markdown, which ends with a line break; nothing in the text ends the block."""
    fence = "`" * max(3, _longest_run(text) + 1)
    end = "" if text.endswith("\n") else "\n"
    return f"{fence}{language}\n{text}{end}{fence}\n"


def as_heading(text: object) -> str:
    """Text as one line of Markdown that has no tags, links or emphasis."""
    line = " ".join(html.escape(shown(text), quote=False).split())
    return re.sub(r"([\\`*_\[\]#!|~])", r"\\\1", line)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def as_encoded(text: str, encoding: str) -> str:
    """Text as an encoding has it: signs that it lacks are typed in ASCII or spelled out."""
    codecs.register_error(_ENCODING_ERRORS, _typed)
    return text.encode(encoding, errors=_ENCODING_ERRORS).decode(encoding)


def print_anything() -> None:
    """Lets standard output and error print every text, whatever their encoding is; see ``as_encoded``.

    Where one of them is closed, what is printed there goes nowhere.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, _nowhere(number))
    codecs.register_error(_ENCODING_ERRORS, _typed)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a caller replaced it
            stream.reconfigure(errors=_ENCODING_ERRORS)


def _nowhere(number: int) -> TextIO:
    """A stream for a closed one. No other file gets its number, into which libraries print, too."""
    try:
        os.fstat(number)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    return Path(os.devnull).open("r+", encoding="utf-8")


def _typed(error: UnicodeError) -> tuple[str | bytes, int]:
    """Typographic signs as they are typed in ASCII, anything else spelled out."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_TYPED)
    return text.encode("ascii", errors="backslashreplace").decode("ascii"), error.end

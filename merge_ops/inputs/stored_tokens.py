"""The tokens of a checkpoint's vocabulary, read from its files, without transformers where that can be done."""

import json
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mergesearch.errors import UserError, in_words
from mergesearch.files import digest
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.inputs.tokenizer import load_tokenizer, vocabulary_files
from mergesearch.reading import JSON_BYTES, read_json_object, read_text

Tokens = Mapping[str, int]
"""The row of each token."""
KEPT = 16
"""How many files' tokens are kept in memory."""


def stored_tokens(checkpoint: Checkpoint) -> Tokens | None:
    """Returns a checkpoint's tokens, or None if it has no tokenizer.

    Raises:
        UserError: a file is damaged, or the vocabulary is of a kind that cannot be read here.
    """
    folder = checkpoint.tokenizer_folder
    if folder is None:
        return None
    for name, parse in FORMS.items():
        if (folder / name).is_file():
            return _with_added(_parsed(_Content(digest(folder / name), folder / name), parse), folder)
    if not vocabulary_files(folder):
        return None
    tokenizer = load_tokenizer(checkpoint)
    return None if tokenizer is None else tokenizer.get_vocab()


def _tokenizer_json(text: str) -> dict[str, int]:
    """BPE, WordPiece and WordLevel have a mapping, Unigram a list of [token, score]."""
    content = json.loads(text)
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):
        vocabulary = {entry[0]: row for row, entry in enumerate(vocabulary)}
    added = {entry["content"]: entry["id"] for entry in content.get("added_tokens") or ()}
    return {**vocabulary, **added}


def _vocab_json(text: str) -> dict[str, int]:
    return dict(json.loads(text))


def _vocab_txt(text: str) -> dict[str, int]:
    return {token: row for row, token in enumerate(text.removesuffix("\n").split("\n"))}


def _tekken(text: str) -> dict[str, int]:
    """Mistral's form. Tokens are bytes in base64, here written as in the vocabularies of byte-level BPE."""
    content = json.loads(text)
    special, alphabet = content["config"]["default_num_special_tokens"], _byte_alphabet()
    named = {entry["token_str"]: entry["rank"] for entry in content.get("special_tokens") or ()}
    tokens = {
        "".join(alphabet[byte] for byte in b64decode(entry["token_bytes"])): special + entry["rank"]
        for entry in content["vocab"]
    }
    return {**tokens, **named}


def _byte_alphabet() -> list[str]:
    """Returns the character of each byte in GPT-2's byte-level BPE: itself, or one from 256 on if it is not visible."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in visible]
    return [chr(byte if byte in visible else 256 + others.index(byte)) for byte in range(256)]


FORMS: dict[str, Callable[[str], dict[str, int]]] = {
    "tokenizer.json": _tokenizer_json,
    "vocab.json": _vocab_json,
    "vocab.txt": _vocab_txt,
    "tekken.json": _tekken,
}
"""The files that have all tokens, in the order in which they are preferred, and how each is read."""


@dataclass(frozen=True)
class _Content:
    """A file, as it is identified by its content: fine-tunes have copies of one vocabulary."""

    digest: str
    file: Path = field(compare=False)


@lru_cache(KEPT)
def _parsed(content: _Content, parse: Callable[[str], dict[str, int]]) -> Tokens:
    file = content.file
    try:
        tokens = parse(read_text(file, JSON_BYTES))
        if not all(isinstance(token, str) and isinstance(row, int) for token, row in tokens.items()):
            raise TypeError("expected the row of each token")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(f"{file}: is not a readable vocabulary: {in_words(error)}") from None
    return tokens


def _with_added(tokens: Tokens, folder: Path) -> Tokens:
    """Adds the tokens of ``added_tokens.json`` and ``tokenizer_config.json``."""
    added, config = (_json_object(folder / name) for name in ("added_tokens.json", "tokenizer_config.json"))
    decoder = config.get("added_tokens_decoder") or {}
    try:
        more = {str(entry["content"]): int(row) for row, entry in decoder.items()} | added
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'tokenizer_config.json'}: added_tokens_decoder: {in_words(error)}") from None
    return {**more, **tokens} if more.keys() - tokens.keys() else tokens


def _json_object(file: Path) -> dict[str, Any]:
    return read_json_object(file) if file.is_file() else {}

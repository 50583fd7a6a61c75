"""Vocabularies of byte-level BPE as GGUF files have them.

llama.cpp splits texts by a name for the way, which it knows; a way that is none of these is refused.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergesearch.errors import UserError
from mergesearch.reading import read_json_object

TOKENIZER = "tokenizer.json"
UNKNOWN = ("unk_token", "dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
"""Settings of BPE that llama.cpp does not have."""
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {_LETTERS + r"\p{N}{1,3}" + _REST: "llama-bpe", _LETTERS + r"\p{N}" + _REST: "qwen2"}
"""llama.cpp's names by the patterns of Llama 3 and Qwen 2."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer of a model's folder, whose model has embeddings for ``size`` tokens."""

    folder: Path
    size: int

    def add_to(self, writer: Any) -> None:
        """Adds it to a ``gguf.GGUFWriter``. Raises UserError where llama.cpp would read other tokens of a text."""
        import gguf
        from tokenizers import Tokenizer

        content = read_json_object(self.folder / TOKENIZER)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self._way(content))
        tokens, types = self._tokens(content)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        special = gguf.SpecialVocab(self.folder, load_merges=True, n_vocab=self.size)
        ids = Tokenizer.from_str(json.dumps(content)).encode("").ids
        bos, eos = (special.special_token_ids.get(kind) for kind in ("bos", "eos"))
        special.add_special_token = {"bos": ids[:1] == [bos], "eos": bool(ids) and ids[-1:] == [eos]}
        special.add_to_gguf(writer, quiet=True)

    def _way(self, content: Mapping[str, Any]) -> str:
        """llama.cpp's name of the way in which the tokenizer splits texts."""
        model, normalizer = content.get("model") or {}, (content.get("normalizer") or {}).get("type")
        name = _name_of_split(content.get("pre_tokenizer"))
        is_known = model.get("type") == "BPE" and not any(model.get(key) for key in UNKNOWN)
        ignores_merges = bool(model.get("ignore_merges"))
        if not is_known or name is None or ignores_merges != (name == "llama-bpe"):
            raise self._unknown("byte-level BPE that splits texts as GPT-2, SmolLM, Llama 3 or Qwen 2 do")
        if normalizer not in ({"qwen2": (None, "NFC")}.get(name, (None,))):
            raise self._unknown("no normalizer")
        return name

    def _unknown(self, expected: str) -> UserError:
        return UserError(
            f"{self.folder / TOKENIZER}: expected {expected}; llama.cpp's convert_hf_to_gguf.py may know this "
            "tokenizer: name that file with --converter"
        )

    def _tokens(self, content: Mapping[str, Any]) -> tuple[list[str], list[int]]:
        """Each token, and its kind in GGUF. Rows of the embeddings without a token get a name that no text has."""
        from gguf import TokenType

        tokens = {int(number): token for token, number in content["model"]["vocab"].items()}
        added = {int(entry["id"]): entry for entry in content.get("added_tokens") or ()}
        tokens |= {number: entry["content"] for number, entry in added.items()}
        if tokens and max(tokens) >= self.size:
            raise UserError(f"{self.folder}: has {max(tokens) + 1} tokens, and embeddings for {self.size}")
        kinds = {number: TokenType.CONTROL if e["special"] else TokenType.USER_DEFINED for number, e in added.items()}
        names = [tokens.get(number, f"[PAD{number}]") for number in range(self.size)]
        types = [kinds.get(n, TokenType.NORMAL if n in tokens else TokenType.UNUSED) for n in range(self.size)]
        return names, [int(kind) for kind in types]


def _name_of_split(given: Any) -> str | None:
    """llama.cpp's name of a pre-tokenizer of tokenizers; None for another way."""
    steps = given.get("pretokenizers") if isinstance(given, dict) and given.get("type") == "Sequence" else [given]
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return None
    *first, last = steps
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if last.get("use_regex", True):
        is_plain, digits = not first, [{"type": "Digits", "individual_digits": True}]
        return "gpt-2" if is_plain else "smollm" if first == digits else None
    split = first[0] if len(first) == 1 else {}
    is_isolated = split.get("type") == "Split" and split.get("behavior") == "Isolated" and not split.get("invert")
    return SPLITS.get((split.get("pattern") or {}).get("Regex", "")) if is_isolated else None

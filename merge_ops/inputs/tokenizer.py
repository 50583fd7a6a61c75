"""The tokenizer of the result (the base's, a model's, or the union of all) and its chat template."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mergesearch.errors import UserError, first_line, listed
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.side_files import TOKENIZER_FILES, VOCABULARIES, side_files
from mergesearch.merge_ops.recipe.vocabulary_config import TokenizerConfig
from mergesearch.text import quoted

BESIDE_A_VOCABULARY = {"special_tokens_map.json", "added_tokens.json", "normalizer.json"}
"""Files that are no tokenizer by themselves."""


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """Returns transformers' tokenizer of a checkpoint, or None if it has none.

    Raises:
        UserError: transformers cannot read the tokenizer, or the files lack its vocabulary.
    """
    folder = checkpoint.tokenizer_folder
    files = [file.name for file in side_files(folder, TOKENIZER_FILES)] if folder else []
    if folder is None or set(files) <= BESIDE_A_VOCABULARY:
        return None
    from transformers import AutoTokenizer

    try:
        with quiet_tokenizers():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever the files make transformers do
        raise UserError(
            f"{checkpoint.reference}: transformers cannot read the tokenizer ({listed(files)}): "
            f"{_reason(error, files)}; "
            "where it can, tokenizer.save_pretrained(FOLDER) writes a tokenizer.json, which is all that is needed here"
        ) from None
    if not isinstance(tokenizer.model_max_length, int | float):
        found = quoted(tokenizer.model_max_length)
        raise UserError(f"{folder / 'tokenizer_config.json'}: model_max_length: found {found}, expected a number")
    if getattr(tokenizer, "is_fast", False) and not vocabulary_files(folder):
        # transformers makes an empty tokenizer of some classes.
        raise UserError(f"{checkpoint.reference}: found {listed(files)} without a vocabulary, expected tokenizer.json")
    return tokenizer


def vocabulary_files(folder: Path) -> list[str]:
    """Returns the names of the files that tell the tokens."""
    return [file.name for file in side_files(folder, VOCABULARIES)]


def _reason(error: Exception, files: Sequence[str]) -> str:
    """Returns the last line of the message: transformers begins with what it tried."""
    if any(name.endswith((".model", ".spm")) for name in files) and find_spec("sentencepiece") is None:
        return "the package sentencepiece is not installed"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def result_tokenizer(
    config: TokenizerConfig,
    tokenizers: Mapping[str, Any],
    rows: Mapping[str, int],
    base: str,
    named_paths: Mapping[str, Path],
) -> Any:
    """Returns the result's tokenizer, with every token that ``config`` names.

    As in mergekit, tokens of the base beyond its embeddings are dropped, and tokens of other models are appended as
    added tokens.

    Args:
        config: the ``tokenizer`` section of the recipe.
        tokenizers: the tokenizer of each model.
        rows: the number of embeddings of each model.
        base: the reference of the template.
        named_paths: as for ``Checkpoint``.
    """
    if config.source == "base":
        tokenizer = _without_unembedded(tokenizers[base], rows[base], base)
    elif config.source == "union":
        tokenizer = _union(_without_unembedded(tokenizers[base], rows[base], base), tokenizers, rows)
    else:
        tokenizer = load_tokenizer(Checkpoint(config.source, named_paths))
        if tokenizer is None:
            raise UserError(f"tokenizer.source: {config.source} has no tokenizer")
    vocabulary = tokenizer.get_vocab()
    tokenizer.add_tokens([token for token in config.tokens if token not in vocabulary])
    return tokenizer


def _without_unembedded(tokenizer: Any, rows: int, reference: str) -> Any:
    """Returns a copy without the tokens that have no embedding."""
    copy = _copied(tokenizer, reference)
    unembedded = {token for token, index in copy.get_vocab().items() if index >= rows}
    if unembedded:
        content = json.loads(copy.backend_tokenizer.to_str())
        kind = content["model"]["type"]
        if kind != "BPE":
            raise UserError(
                f"{reference}: {len(unembedded)} tokens of the tokenizer have no embedding; they can be removed from a "
                f"BPE tokenizer only, found {kind}"
            )
        _remove_tokens(content, unembedded)
        # transformers has no public way to replace the backend.
        copy._tokenizer = type(copy.backend_tokenizer).from_str(json.dumps(content))
    return copy


def _remove_tokens(content: dict[str, Any], tokens: set[str]) -> None:
    model = content["model"]
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in tokens]
    model["vocab"] = {token: index for token, index in model["vocab"].items() if token not in tokens}
    model["merges"] = [merge for merge in model["merges"] if not tokens & _tokens_of_merge(merge)]


def _tokens_of_merge(merge: Any) -> set[str]:
    """Returns the two tokens of a BPE merge, "a b" or ["a", "b"], and the token that it produces."""
    pair = merge.split(" ") if isinstance(merge, str) else list(merge)
    return {*pair, "".join(pair)}


def _copied(tokenizer: Any, reference: str) -> Any:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        try:
            tokenizer.save_pretrained(folder)
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # whatever its files make transformers do
            raise UserError(f"{reference}: transformers cannot save its tokenizer: {first_line(error)}") from error


def _union(tokenizer: Any, tokenizers: Mapping[str, Any], rows: Mapping[str, int]) -> Any:
    """Adds the tokens of all tokenizers that have an embedding. Changes ``tokenizer``."""
    vocabulary = tokenizer.get_vocab()
    plain, added = dict[str, None](), dict[str, Any]()
    for reference, other in tokenizers.items():
        special = {info.content: info for i, info in other.added_tokens_decoder.items() if i < rows[reference]}
        by_index = sorted(other.get_vocab().items(), key=lambda entry: entry[1])
        plain |= dict.fromkeys(t for t, i in by_index if i < rows[reference] and t not in special)
        added = {**special, **added}
    tokenizer.add_tokens([token for token in plain if token not in added and token not in vocabulary])
    tokenizer.add_tokens(list(added.values()))
    return tokenizer


@contextmanager
def quiet_tokenizers() -> Iterator[None]:
    """Suppresses transformers' warnings about vocabularies, which are about to be adapted."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)

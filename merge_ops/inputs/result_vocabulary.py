"""The tokenizer of a model in another vocabulary than its own, and what its configs say about it."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from mergesearch.merge_ops.checkpoint.config_sections import FILES, Json, each_section, edit
from mergesearch.merge_ops.checkpoint.side_files import TOKENIZER_FILES, side_files
from mergesearch.merge_ops.inputs.vocabulary import Vocabulary

SIZE = "vocab_size"
TEXT_SECTIONS = ("text_config", "llm_config", "language_config")
"""The sections of the language model in configs of models with several parts, in the order of preference."""
TOKEN_IDS = ("_token_id", "_token_ids", "_token_index", "suppress_tokens")
"""The endings of keys whose values are ids of tokens."""
NewId = Callable[[str, int], int | None]
"""From a key of a config and an id under it to the new id, or None if there is no such token in the result."""


def write_vocabulary(folder: Path, vocabulary: Vocabulary, model: str, old_sizes: Collection[int]) -> None:
    """Replaces the tokenizer in a folder, and adapts its configs.

    Args:
        folder: a folder with the model's files.
        vocabulary: the result's vocabulary.
        model: the reference of the model.
        old_sizes: the numbers of rows of its embeddings.
    """
    for file in side_files(folder, TOKENIZER_FILES):
        file.unlink()
    vocabulary.tokenizer.save_pretrained(folder)
    new_id = _renumbering(vocabulary, model)
    edit(folder, lambda config: with_size(config, old_sizes, vocabulary.size))
    edit(folder, lambda config: with_token_ids(config, new_id), FILES)


def with_size(config: Json, old_sizes: Collection[int], size: int) -> Json:
    """Returns the config with a vocabulary of ``size`` rows, in each section that has one of the old sizes.

    If there is none, as where a config leaves out a default, the language model's section gets the size.
    """
    found: list[Json] = []

    def change(section: Json) -> Json:
        if section.get(SIZE) not in old_sizes:
            return section
        found.append(section)
        return {**section, SIZE: size}

    changed = each_section(config, change)
    if found:
        return changed
    key = next((key for key in TEXT_SECTIONS if isinstance(config.get(key), dict)), None)
    return {**config, SIZE: size} if key is None else {**config, key: {**config[key], SIZE: size}}


def with_token_ids(config: Json, new_id: NewId) -> Json:
    """Returns the config with the new ids of tokens. Of a list, tokens that are gone are left out."""

    def renumbered(key: str, value: Any) -> Any:
        if not key.endswith(TOKEN_IDS):
            return value
        if isinstance(value, list):
            return [new for entry in value if (new := renumbered(key, entry)) is not None]
        return new_id(key, value) if isinstance(value, int) and not isinstance(value, bool) else value

    return each_section(config, lambda section: {key: renumbered(key, value) for key, value in section.items()})


def _renumbering(vocabulary: Vocabulary, model: str) -> NewId:
    """Returns a function that follows a token to its new row.

    In place of a token that is gone, the result's tokenizer has one of the same role, such as ``pad_token_id``. An id
    of no token stays, if the result has such a row. Negative ids mean that there is none.
    """
    tokens = {index: token for token, index in vocabulary.model_tokens[model].items()}

    def new_id(key: str, index: int) -> int | None:
        if index < 0:
            return index
        if index in tokens and tokens[index] in vocabulary.tokens:
            return vocabulary.tokens[tokens[index]]
        if index not in tokens and index < vocabulary.size:
            return index
        role = getattr(vocabulary.tokenizer, key, None)
        return role if isinstance(role, int) else None

    return new_id

"""Which checkpoints are other models than the template with other weights: they compute or are used otherwise."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.side_files import CHAT_TEMPLATES, TOKENIZER_FILES, side_files
from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint
from mergesearch.merge_ops.inputs.model_config import config_differences
from mergesearch.merge_ops.inputs.sentence_modules import differing_modules
from mergesearch.merge_ops.inputs.tokenizer import load_tokenizer
from mergesearch.reading import read_json_object

GENERATION = "generation_config.json"


def standalone(inputs: Mapping[str, AlignedCheckpoint], changed: Collection[str] = ()) -> list[str]:
    """Returns the references of models that only a live model of their own can stand for.

    They differ from the first one, the template, in config, tokenizer, settings of generation or modules of
    sentence-transformers, and have all of its tensors.

    Args:
        inputs: the models by reference.
        changed: the references of models, the template maybe among them, that are copies in another vocabulary.
    """
    template = next(iter(inputs.values()))
    return [
        reference
        for reference, other in inputs.items()
        if template.tensors.keys() <= other.tensors.keys() and (reference in changed or _is_another(template, other))
    ]


def _is_another(template: AlignedCheckpoint, other: AlignedCheckpoint) -> bool:
    one, two = template.checkpoint, other.checkpoint
    if one is two or not (one.has_config and two.has_config):
        return False
    if config_differences(one, two, with_usage=True) or _generation(one) != _generation(two):
        return True
    if differing_modules(one, two):
        return True
    return not same_tokenizer(one, two)


def same_tokenizer(one: Checkpoint, two: Checkpoint) -> bool:
    """Returns whether two tokenizers make the same tokens of all texts and messages.

    A model without a tokenizer has that of the other, and so has one whose tokenizer transformers cannot read.
    """
    return tokenizer_difference(one, two) is None


def tokenizer_difference(one: Checkpoint, two: Checkpoint) -> str | None:
    """Returns in what two tokenizers differ: ``tokens``, only in their ``usage`` (chat template), or None."""
    if _files(one) == _files(two):
        return None
    try:
        tokenizers = load_tokenizer(one), load_tokenizer(two)
    except UserError:
        return None
    if None in tokenizers:
        return None
    if not make_same_tokens(*tokenizers):
        return "tokens"
    return "usage" if _usage(tokenizers[0]) != _usage(tokenizers[1]) else None


def used_otherwise(one: Checkpoint, two: Checkpoint) -> bool:
    """Returns whether two models differ in chat template, settings of generation or ids of special tokens."""
    is_same = config_differences(one, two, with_usage=True) == {} and _generation(one) == _generation(two)
    return not is_same or tokenizer_difference(one, two) == "usage"


def _files(checkpoint: Checkpoint) -> dict[str, bytes]:
    folder = checkpoint.tokenizer_folder
    files = side_files(folder, (*TOKENIZER_FILES, *CHAT_TEMPLATES)) if folder else ()
    return {file.name: file.read_bytes() for file in files}


def make_same_tokens(one: Any, two: Any) -> bool:
    """Returns whether two tokenizers of transformers make the same tokens of all texts. None makes none."""
    return one is two or (None not in (one, two) and _tokens(one) == _tokens(two))


def _tokens(tokenizer: Any) -> list[Any]:
    """Returns what decides on the tokens. Padding and truncation are set by whoever uses the tokenizer."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else tokenizer.get_vocab()
    others = {key: value for key, value in backend.items() if key not in ("padding", "truncation", "version")}
    return [others, {key: str(value) for key, value in tokenizer.special_tokens_map.items()}]


def _usage(tokenizer: Any) -> list[Any]:
    return [tokenizer.chat_template, tokenizer.model_max_length, tokenizer.padding_side]


def _generation(checkpoint: Checkpoint) -> Any:
    file = checkpoint.path / GENERATION
    content = read_json_object(file) if file.exists() else {}
    ignored = ("transformers_version", "_from_model_config")
    return {key: value for key, value in content.items() if key not in ignored and value is not None}

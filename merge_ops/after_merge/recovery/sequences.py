"""Passages to sequences of tokens, in batches: the same for a parent and for the merged model."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.seeds import derive

Sequences = list[list[int]]
Batch = dict[str, Tensor]
"""The inputs of a model: ``input_ids`` and, where lengths differ, ``attention_mask``; [sequences, tokens] int64."""


def sequences(model: Any, tokenizer: Any, passages: Sequence[str], length: int, count: int) -> Sequences:
    """Returns up to ``count`` sequences of at most ``length`` tokens of passages.

    Of a model that generates text, passages are put one after another and cut into sequences of one length. Else every
    passage is a sequence, with the special tokens.

    Raises:
        UserError: there is no tokenizer, or too little text.
    """
    if tokenizer is None:
        raise UserError("recover: the merged model has no tokenizer, which the texts need")
    length = min(length, *_limits(model, tokenizer))
    found = (_packed if generates(model) else _single)(tokenizer, passages, length, count)
    if not found:
        raise UserError("recover: the texts of a parent have fewer than two tokens, expected more")
    return found


def generates(model: Any) -> bool:
    """Returns whether a model predicts the next token."""
    return bool(getattr(model, "can_generate", lambda: False)())


def _limits(model: Any, tokenizer: Any) -> Iterator[int]:
    yield int(min(tokenizer.model_max_length, 1 << 30))
    yield getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30


def _packed(tokenizer: Any, passages: Sequence[str], length: int, count: int) -> Sequences:
    ids: list[int] = []
    for passage in passages:
        ids += tokenizer(passage, verbose=False)["input_ids"]
        if len(ids) >= length * count:
            break
    starts = range(0, max(len(ids) - length, 0) + 1, length)
    return [ids[start : start + length] for start in starts if len(ids) > 1][:count]


def _single(tokenizer: Any, passages: Sequence[str], length: int, count: int) -> Sequences:
    return [tokenizer(each, truncation=True, max_length=length)["input_ids"] for each in passages[:count]]


def in_turn(rows: Sequences, count: int, seed: int) -> Sequences:
    """Returns ``count`` sequences in a random order, which go through all as often as it takes."""
    order: list[int] = []
    for epoch in range(-(-count // len(rows))):
        order += random.Random(derive(seed, epoch)).sample(range(len(rows)), len(rows))
    return [rows[index] for index in order[:count]]


def batches(rows: Sequences, size: int, padding: int, device: str) -> list[Batch]:
    """Returns the sequences in batches of ``size``."""
    return [batch(rows[start : start + size], padding, device) for start in range(0, len(rows), size)]


def batch(rows: Sequences, padding: int, device: str) -> Batch:
    """Returns these sequences as one batch."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [padding] * (longest - len(row)) for row in rows], device=device)
    if all(len(row) == longest for row in rows):
        return {"input_ids": ids}
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}


def padding_of(tokenizer: Any) -> int:
    """Returns the id of the padding, which attention masks out."""
    return int(tokenizer.pad_token_id or 0)


def run(model: nn.Module, inputs: Batch, hidden: bool = False) -> Any:
    """Returns a model's outputs. Raises UserError if it has no logits."""
    options: dict[str, Any] = {"use_cache": False} if generates(model) else {}
    outputs = model(**inputs, **options, output_hidden_states=hidden)
    if getattr(outputs, "logits", None) is None:
        raise UserError(f"recover: {type(model).__name__} has no logits to compare with its parents'")
    return outputs

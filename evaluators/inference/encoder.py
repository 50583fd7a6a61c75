"""Texts through a model, whole sequences at a time: encoded once, in batches of similar lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.evaluator import LoadedModel, Shared

Encoding = dict[str, list[int]]
"""What the tokenizer makes of a text: ids, attention mask, and token types where the model knows them."""


class Encoder:
    """Texts, or pairs of them, for one model whose weights may change between calls.

    Longer ones are cut to the context; ``cut`` counts them. Raises UserError where there is no tokenizer.
    """

    def __init__(self, subject: LoadedModel, texts: Sequence[tuple[str, ...]], shared: Shared) -> None:
        self.subject = subject
        self._limit = _limit(subject, shared)
        encodings = [_encoded(subject, text, None) for text in texts]
        self.cut = [n for n, encoding in enumerate(encodings) if len(encoding["input_ids"]) > self._limit]
        for number in self.cut:
            encodings[number] = _encoded(subject, texts[number], self._limit)
        self._encodings = encodings
        self._pad = subject.tokenizer.pad_token_id
        # Classifiers of decoders find a sequence's end by the padding, and refuse several without.
        alone = self._pad is None or getattr(subject.model.config, "pad_token_id", None) is None
        self._batch_size = 1 if alone else shared.batch_size
        self._batches = lru_cache(maxsize=64)(self._make_batches)

    def note(self) -> list[str]:
        """What the user should know of cut texts."""
        if not self.cut:
            return []
        return [f"{len(self.cut)} of {len(self._encodings)} texts are cut to {self._limit} tokens"]

    def run(self, numbers: Sequence[int], read: Callable[[dict[str, Tensor]], Tensor]) -> dict[int, Tensor]:
        """For each text asked what ``read`` makes of it: a batch's inputs [texts, length] -> [texts, ...] float64."""
        found: dict[int, Tensor] = {}
        with torch.no_grad():
            for members, inputs in self._batches(tuple(sorted(set(numbers)))):
                found.update(zip(members, read(inputs).cpu().double(), strict=True))
        return found

    def _make_batches(self, numbers: tuple[int, ...]) -> list[tuple[tuple[int, ...], dict[str, Tensor]]]:
        ordered = sorted(numbers, key=lambda n: (-len(self._encodings[n]["input_ids"]), n))
        parts = (ordered[a : a + self._batch_size] for a in range(0, len(ordered), self._batch_size))
        return [(tuple(part), self._inputs(part)) for part in parts]

    def _inputs(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        chosen = [self._encodings[n] for n in numbers]
        return {key: self._padded([encoding[key] for encoding in chosen], key) for key in chosen[0]}

    def _padded(self, rows: Sequence[list[int]], key: str) -> Tensor:
        """[texts, length] int64, filled up on the right."""
        length, filler = max(map(len, rows)), (self._pad or 0) if key == "input_ids" else 0
        even = [row + [filler] * (length - len(row)) for row in rows]
        device: Any = self.subject.model.device
        return torch.tensor(even, device=device)


def _encoded(subject: LoadedModel, text: tuple[str, ...], limit: int | None) -> Encoding:
    # verbose: without it, transformers warns of texts longer than the context, which are counted here.
    made = subject.tokenizer(*text, truncation=limit is not None, max_length=limit, verbose=False)
    if not made["input_ids"]:
        raise UserError(f"the text {text[0][:40]!r} has no tokens")
    return {key: list(made[key]) for key in made if key in ("input_ids", "attention_mask", "token_type_ids")}


def _limit(subject: LoadedModel, shared: Shared) -> int:
    """The most tokens of a sequence: the config's, the tokenizer's, and what is asked."""
    if subject.tokenizer is None:
        raise UserError("the model's folder has no tokenizer, which this task needs")
    found = _context(subject.model.config, subject.tokenizer)
    if shared.max_length is None:
        return found
    if shared.max_length > found:
        raise UserError(f"max_length: {shared.max_length} is more than the model's context of {found} tokens")
    return shared.max_length


def _context(config: Any, tokenizer: Any) -> int:
    named = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_sequence_length"))
    positions = next((value for value in named if value), 10**9)
    # RoBERTa and its kin count positions from behind the padding's.
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "longformer", "mpnet"):
        positions -= config.pad_token_id + 1
    return int(min(positions, tokenizer.model_max_length))

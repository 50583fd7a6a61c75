"""Whole texts through a model: tokenized once, in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.evaluators.contract.loaded_model import LoadedModel, budget_of, tokenizer_of
from mergesearch.evaluators.contract.options import Shared
from mergesearch.evaluators.contract.token_budget import gradient_tokens
from mergesearch.steps import followed
from mergesearch.text import quoted

OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "longformer", "mpnet")
"""Types of models whose first position comes after that of the padding token."""

Encoding = dict[str, list[int]]
"""Token ids, attention mask and token types, as far as the tokenizer has them."""


class Encoder:
    """Runs texts, or pairs of texts, through one model, whose weights may change between calls.

    Texts that are longer than the context are cut.
    """

    def __init__(
        self,
        subject: LoadedModel,
        texts: Sequence[tuple[str, ...]],
        shared: Shared,
        items: Sequence[int] | None = None,
    ) -> None:
        """Raises UserError if there is no tokenizer, or if it makes no tokens of some texts.

        Args:
            subject: The model.
            texts: For each item one text, or the texts of a pair.
            shared: The options of all tasks.
            items: The number of the item of each text; None where these are the numbers of the texts.
        """
        self.subject = subject
        self._max_length = _max_length(subject, shared)
        self._encodings = [_encode(subject, text, None) for text in texts]
        _check_tokens(self._encodings, texts, items or range(len(texts)))
        cut = [n for n, encoding in enumerate(self._encodings) if len(encoding["input_ids"]) > self._max_length]
        for number in cut:
            self._encodings[number] = _encode(subject, texts[number], self._max_length)
        self.notes = [f"{len(cut)} of {len(texts)} texts are cut to {self._max_length} tokens"] if cut else []
        self._pad = subject.tokenizer.pad_token_id
        # Decoders with a classification head find the last token by the padding, and refuse batches without it.
        has_padding = self._pad is not None and getattr(subject.model.config, "pad_token_id", None) is not None
        self._batch_size = shared.batch_size if has_padding else 1
        self._batches = lru_cache(maxsize=64)(self._make_batches)

    def run(self, numbers: Sequence[int], read: Callable[[dict[str, Tensor]], Tensor]) -> dict[int, Tensor]:
        """Runs the texts with these numbers.

        Args:
            numbers: Indices of the texts.
            read: Computes a result from a batch's inputs, [texts, length] -> [texts, ...].

        Returns:
            For each number its result, float64 on the CPU.
        """
        results: dict[int, Tensor] = {}
        with torch.no_grad():
            for batch, inputs in followed(self._batches(tuple(sorted(set(numbers))))):
                results.update(zip(batch, read(inputs).cpu().double(), strict=True))
        return results

    def run_with_graph(
        self, numbers: Sequence[int], read: Callable[[dict[str, Tensor]], Tensor]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Runs the texts batch by batch, with a graph if gradients are on. Arguments as for ``run``.

        Yields:
            Indices of the batch's texts in ``numbers``; [texts, ...] what ``read`` gives of them.
        """
        tokens = gradient_tokens(budget_of(self.subject), self.subject.model.device)
        lengths = [self._length(n) for n in numbers]
        places = sorted(range(len(numbers)), key=lambda place: -lengths[place])
        while places:
            rows = max(min(tokens // lengths[places[0]], self._batch_size), 1)
            batch, places = places[:rows], places[rows:]
            yield batch, read(self._inputs([numbers[place] for place in batch]))

    def _length(self, number: int) -> int:
        return len(self._encodings[number]["input_ids"])

    def _make_batches(self, numbers: tuple[int, ...]) -> list[tuple[tuple[int, ...], dict[str, Tensor]]]:
        ordered = sorted(numbers, key=lambda n: (-self._length(n), n))
        batches = (ordered[a : a + self._batch_size] for a in range(0, len(ordered), self._batch_size))
        return [(tuple(batch), self._inputs(batch)) for batch in batches]

    def _inputs(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        keys = self._encodings[numbers[0]]
        return {key: self._padded([self._encodings[n][key] for n in numbers], key) for key in keys}

    def _padded(self, rows: Sequence[list[int]], key: str) -> Tensor:
        """[texts, length] int64, padded on the right."""
        length, padding = max(map(len, rows)), (self._pad or 0) if key == "input_ids" else 0
        padded = [row + [padding] * (length - len(row)) for row in rows]
        device: Any = self.subject.model.device
        return torch.tensor(padded, device=device)


def _encode(subject: LoadedModel, text: tuple[str, ...], max_length: int | None) -> Encoding:
    # verbose=False: otherwise transformers warns of texts longer than the context, which are counted here.
    encoding = subject.tokenizer(*text, truncation=max_length is not None, max_length=max_length, verbose=False)
    keys = ("input_ids", "attention_mask", "token_type_ids")
    return {key: list(encoding[key]) for key in encoding if key in keys}


def _check_tokens(encodings: Sequence[Encoding], texts: Sequence[tuple[str, ...]], items: Sequence[int]) -> None:
    """Raises UserError for texts without tokens, with the numbers of their items."""
    empty = [n for n, encoding in enumerate(encodings) if not encoding["input_ids"]]
    if empty:
        named = listed(f"{items[n]} ({quoted(texts[n][0], 40)})" for n in empty)
        raise UserError(
            f"the tokenizer makes no tokens of the text of item{'s' * (len(empty) > 1)} {named}; remove "
            f"{'them' if len(empty) > 1 else 'it'} from the data"
        )


def _max_length(subject: LoadedModel, shared: Shared) -> int:
    """The maximum number of tokens: the smallest of the model's, the tokenizer's and the config's."""
    context = _context(subject.model.config, tokenizer_of(subject))
    if shared.max_length is None:
        return context
    if shared.max_length > context:
        raise UserError(f"max_length: {shared.max_length} is more than the model's context of {context} tokens")
    return shared.max_length


def _context(config: Any, tokenizer: Any) -> int:
    keys = ("max_position_embeddings", "n_positions", "max_sequence_length")
    positions = next((value for key in keys if (value := getattr(config, key, None))), 10**9)
    if config.model_type in OFFSET_POSITIONS:
        positions -= config.pad_token_id + 1
    return int(min(positions, tokenizer.model_max_length))

"""Texts in the middle of being said: their keys and values side by side, and one token more for all of them at once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

ROOM = 64
"""Tokens that a buffer of keys has room for behind those that it was made for."""


@dataclass
class Text:
    """A prompt's tokens, and what was said to it. sound: whether every logit that chose a token was a number."""

    prompt: list[int]
    most: int
    stops: tuple[str, ...]
    said: list[int] = field(default_factory=list)
    sound: bool = True


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values in a buffer with room behind them: a new token is written there, and the others not copied."""

    def __init__(self, parts: Sequence[tuple[Tensor, Tensor]]) -> None:
        """parts: keys and values of some rows each, [rows, heads, length, width], whose ends are side by side."""
        super().__init__()
        self.lazy_initialization(*parts[0])
        self._hold(parts)

    def _hold(self, parts: Sequence[tuple[Tensor, Tensor]]) -> None:
        length = max(keys.shape[-2] for keys, _ in parts)
        self._buffers = [_buffer(tensors, length) for tensors in zip(*parts, strict=True)]
        self._show(length)

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        begin = self.keys.shape[-2]
        end = begin + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._hold([(torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2))])
            return self.keys, self.values
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin:end] = states
        self._show(end)
        return self.keys, self.values

    def select(self, rows: Tensor, columns: Tensor) -> None:
        """These rows and tokens alone."""
        self._hold([(self.keys[rows][:, :, columns], self.values[rows][:, :, columns])])


def _buffer(parts: Sequence[Tensor], length: int) -> Tensor:
    """[all rows, heads, length + room, width], zero before a part that is shorter."""
    (_, heads, _, width), rows = parts[0].shape, sum(map(len, parts))
    buffer = parts[0].new_empty(rows, heads, length + ROOM, width)
    for part, own in zip(parts, torch.split(buffer[:, :, :length], [len(part) for part in parts]), strict=True):
        begin = length - part.shape[-2]
        own[:, :, :begin], own[:, :, begin:] = 0, part
    return buffer


@dataclass
class Rows:
    """Texts that are being said, one a row, and what the next step needs.

    mask: [rows, length] int64, of all tokens up to the last one said. tokens, positions: [rows, 1] int64, of that one,
    which the model has not been given yet.
    """

    texts: list[Text]
    cache: Any
    mask: Tensor
    tokens: Tensor
    positions: Tensor

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def length(self) -> int:
        """Of the longest text so far, in tokens."""
        return self.mask.shape[1]

    def keep(self, going: Sequence[int]) -> None:
        """These rows alone, without the columns in which none of them has a token."""
        self.texts = [self.texts[n] for n in going]
        kept = torch.tensor(going, dtype=torch.int64, device=self.mask.device)
        self.mask, self.tokens, self.positions = self.mask[kept], self.tokens[kept], self.positions[kept]
        if going and _is_roomy(self.cache):
            used = self.mask.any(0)
            self.mask = self.mask[:, used]
            for layer in self.cache.layers:
                layer.select(kept, used[:-1])
        elif going:
            self.cache.batch_select_indices(kept)


class Decoder:
    """For one causal language model of transformers, whose weights may change between calls."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.joins = self._joins()
        takes = inspect.signature(model.forward).parameters
        self._last: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def _joins(self) -> bool:
        """Whether rows can be put beside others later: all keys are kept, and nothing but keys and values."""
        layers = self._new_cache().layers
        return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)

    def _new_cache(self) -> Any:
        return DynamicCache(config=self._model.config)

    def prefix(self, tokens: Sequence[int]) -> Any:
        """The keys and values of tokens that several prompts begin with, for ``begin``."""
        cache = self._new_cache()
        ids = torch.tensor([tokens], device=self._model.device)
        positions = torch.arange(len(tokens), device=ids.device)[None]
        self._logits(ids, torch.ones_like(ids), positions, cache)
        return cache

    def begin(self, texts: Sequence[Text], prefix: Any = None) -> Rows:
        """Rows in which each text has its first token; ``prefix`` is what all the prompts begin with."""
        shared = prefix.get_seq_length() if prefix is not None else 0
        ids, mask = _padded([text.prompt[shared:] for text in texts], self._model.device)
        mask = pad(mask, (shared, 0), value=1)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        cache = self._new_cache() if prefix is None else _repeated(prefix, len(texts))
        logits = self._logits(ids, mask, positions[:, shared:], cache)
        return _following(Rows(list(texts), cache, mask, ids, positions[:, -1:]), logits)

    def step(self, rows: Rows) -> Rows:
        """The same rows, each with one token more."""
        return _following(rows, self._logits(rows.tokens, rows.mask, rows.positions, rows.cache))

    def _logits(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """[rows, vocabulary] after the last token of each row."""
        output = self._model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **self._last
        )
        logits: Tensor = output.logits[:, -1]
        return logits


def joined(parts: Sequence[Rows]) -> Rows:
    """All of their rows, their last tokens side by side; for a ``Decoder`` that ``joins``."""
    length = max(rows.length for rows in parts)
    columns = zip(*(rows.cache.layers for rows in parts), strict=True)
    return Rows(
        [text for rows in parts for text in rows.texts],
        Cache(layers=[RoomyLayer([(layer.keys, layer.values) for layer in layers]) for layers in columns]),
        torch.cat([pad(rows.mask, (length - rows.length, 0)) for rows in parts]),
        torch.cat([rows.tokens for rows in parts]),
        torch.cat([rows.positions for rows in parts]),
    )


def _repeated(cache: Any, rows: int) -> Any:
    """A copy of a cache of one row, with so many."""
    wide = [[tensor.expand(rows, -1, -1, -1) for tensor in (layer.keys, layer.values)] for layer in cache.layers]
    return Cache(layers=[RoomyLayer([(keys, values)]) for keys, values in wide])


def _is_roomy(cache: Any) -> bool:
    return all(isinstance(layer, RoomyLayer) for layer in cache.layers)


def _following(rows: Rows, logits: Tensor) -> Rows:
    """Adds each text's likeliest token, which is one whose logit is not a number where there is such a one."""
    tokens = logits.float().argmax(-1, keepdim=True)
    sound = ~logits.gather(-1, tokens).isnan()
    for text, token, fine in zip(rows.texts, tokens[:, 0].tolist(), sound[:, 0].tolist(), strict=True):
        text.said.append(token)
        text.sound = text.sound and fine
    mask = torch.cat([rows.mask, rows.mask.new_ones(len(rows), 1)], dim=1)
    return Rows(rows.texts, rows.cache, mask, tokens, rows.positions + 1)


def _padded(prompts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, attention mask), [prompts, length] int64, padded on the left."""
    length = max(map(len, prompts))
    ids = [[0] * (length - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

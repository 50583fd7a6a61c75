"""Decoding of several texts at once, one token per step, with a key-value cache that rows can join and leave."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

EXTRA_TOKENS = 16
"""Tokens for which a new buffer of keys or values has space in addition to those that it gets."""
ALIGNMENT = 16
"""Buffers have a multiple of so many tokens: attention is slow on a CPU where its vectors are not full."""


@dataclass
class Completion:
    """A prompt and the tokens generated after it.

    Attributes:
        prompt: Token ids.
        max_tokens: Generation ends after so many tokens.
        stop: Stop sequences.
        tokens: The generated token ids.
        is_valid: Whether the logits of every generated token are numbers.
    """

    prompt: list[int]
    max_tokens: int
    stop: tuple[str, ...]
    tokens: list[int] = field(default_factory=list)
    is_valid: bool = True


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values, in buffers with free space: a new token is written there, and nothing is copied.

    Attention gets the whole buffers, and a mask that hides the free space: on a CPU it takes half the time if nothing
    lies between the keys of one head and those of the next.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, Tensor]], space: int = 0) -> None:
        """Args:
        parts: Keys and values, [rows, heads, length, width], of one or more batches. They are aligned at the end.
        space: Tokens that will be added. 0: not known.
        """
        super().__init__()
        self.lazy_initialization(*parts[0])
        self._allocate(parts, space or EXTRA_TOKENS)

    def _allocate(self, parts: Sequence[tuple[Tensor, Tensor]], space: int) -> None:
        length = max(keys.shape[-2] for keys, _ in parts)
        self._buffers = [_buffer(tensors, length, space) for tensors in zip(*parts, strict=True)]
        self._set_length(length)

    def _set_length(self, length: int) -> None:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """See transformers' ``DynamicLayer.get_mask_sizes``."""
        length, size = self.keys.shape[-2] + query_length, self._buffers[0].shape[-2]
        return size if length <= size else _aligned(length + EXTRA_TOKENS), 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """See transformers' ``DynamicLayer.update``."""
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            keys, values = torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)
            self._allocate([(keys, values)], EXTRA_TOKENS)
        else:
            for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
                buffer[:, :, start:end] = states
            self._set_length(end)
        return self._buffers[0], self._buffers[1]

    def select(self, rows: Tensor, columns: Tensor) -> None:
        """Keeps only these rows and tokens."""
        self._allocate([(self.keys[rows][:, :, columns], self.values[rows][:, :, columns])], EXTRA_TOKENS)


def _buffer(parts: Sequence[Tensor], length: int, space: int) -> Tensor:
    """[all rows, heads, length + space, aligned, width]; zero before and after each part."""
    (_, heads, _, width), rows = parts[0].shape, sum(map(len, parts))
    buffer = parts[0].new_empty(rows, heads, _aligned(length + space), width)
    buffer[:, :, length:] = 0
    for part, target in zip(parts, torch.split(buffer[:, :, :length], [len(part) for part in parts]), strict=True):
        start = length - part.shape[-2]
        target[:, :, :start], target[:, :, start:] = 0, part
    return buffer


def _aligned(tokens: int) -> int:
    return -(-tokens // ALIGNMENT) * ALIGNMENT


class StemLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values of a stem, behind which each call writes its own: the next one overwrites them."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """keys, values: [1, heads, length, width]."""
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self._buffers = [keys, values]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The stem's keys and values before those of the call, for each of its rows."""
        rows, new, start = len(key_states), key_states.shape[-2], self.keys.shape[-2]
        if len(self._buffers[0]) < rows or self._buffers[0].shape[-2] < start + new:
            self._buffers = [_with_space(tensor, rows, new) for tensor in (self.keys, self.values)]
        keys, values = (buffer[:rows, :, : start + new] for buffer in self._buffers)
        keys[:, :, start:], values[:, :, start:] = key_states, value_states
        return keys, values


def _with_space(stem: Tensor, rows: int, tokens: int) -> Tensor:
    """[rows, heads, length + tokens, width], of which the stem is written."""
    _, heads, length, width = stem.shape
    buffer = stem.new_empty(rows, heads, length + tokens, width)
    buffer[:, :, :length] = stem
    return buffer


def stem_cache(cache: Any) -> Any:
    """The cache of one row, as what all rows of later calls begin with."""
    return Cache(layers=[StemLayer(layer.keys, layer.values) for layer in cache.layers])


def new_cache(model: Any) -> Any:
    """An empty cache for a causal language model of transformers."""
    return DynamicCache(config=model.config)


def caches_all(model: Any) -> bool:
    """Whether the model caches the keys and values of all tokens, and nothing else."""
    layers = new_cache(model).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


@dataclass
class DecodingBatch:
    """Completions in progress, one per row, with what the next step needs.

    Attributes:
        completions: The completion of each row.
        cache: Keys and values of all tokens but the last of each row.
        mask: [rows, length] int64 attention mask of all tokens, up to the last.
        tokens: [rows, 1] int64, the last token of each row. The model has not seen it yet.
        positions: [rows, 1] int64, the position of that token.
    """

    completions: list[Completion]
    cache: Any
    mask: Tensor
    tokens: Tensor
    positions: Tensor

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def length(self) -> int:
        """Tokens of the longest row, prompt included."""
        return self.mask.shape[1]

    def keep(self, rows: Sequence[int]) -> None:
        """Keeps only these rows, and only columns where one of them has a token."""
        self.completions = [self.completions[n] for n in rows]
        index = torch.tensor(rows, dtype=torch.int64, device=self.mask.device)
        self.mask, self.tokens, self.positions = self.mask[index], self.tokens[index], self.positions[index]
        if rows and all(isinstance(layer, PreallocatedLayer) for layer in self.cache.layers):
            used = self.mask.any(0)
            self.mask = self.mask[:, used]
            for layer in self.cache.layers:
                layer.select(index, used[:-1])
        elif rows:
            self.cache.batch_select_indices(index)


class Decoder:
    """Greedy decoding with a causal language model of transformers, whose weights may change between calls."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.can_concatenate = caches_all(model)
        """Whether batches can be concatenated."""
        parameters = inspect.signature(model.forward).parameters
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    @cached_property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values."""
        with torch.no_grad():
            layers = self.prefix([0]).layers
        return sum(tensor.nbytes for layer in layers for tensor in (layer.keys, layer.values))

    def prefix(self, tokens: Sequence[int]) -> Any:
        """The cache of a common prefix of several prompts, for ``start``."""
        cache = new_cache(self._model)
        ids = torch.tensor([tokens], device=self._model.device)
        positions = torch.arange(len(tokens), device=ids.device)[None]
        self._last_logits(ids, torch.ones_like(ids), positions, cache)
        return cache

    def start(self, completions: Sequence[Completion], prefix: Any = None) -> DecodingBatch:
        """A batch in which each completion has its first token. prefix: the cache of what all prompts begin with."""
        shared = prefix.get_seq_length() if prefix is not None else 0
        ids, mask = _left_padded([each.prompt[shared:] for each in completions], self._model.device)
        mask = pad(mask, (shared, 0), value=1)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        cache = new_cache(self._model) if prefix is None else _repeated(prefix, *ids.shape)
        logits = self._last_logits(ids, mask, positions[:, shared:], cache)
        return _with_next_tokens(DecodingBatch(list(completions), cache, mask, ids, positions[:, -1:]), logits)

    def step(self, batch: DecodingBatch) -> DecodingBatch:
        """The same batch with one more token in each row."""
        return _with_next_tokens(batch, self._last_logits(batch.tokens, batch.mask, batch.positions, batch.cache))

    def _last_logits(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """[rows, vocabulary], after the last token of each row."""
        if cache.layers and isinstance(cache.layers[0], PreallocatedLayer):
            size, _ = cache.layers[0].get_mask_sizes(ids.shape[1])
            mask = pad(mask, (0, size - mask.shape[1]))
        output = self._model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **self._last_only
        )
        logits: Tensor = output.logits[:, -1]
        return logits


def concatenate(batches: Sequence[DecodingBatch]) -> DecodingBatch:
    """All rows in one batch, aligned at their last tokens. For a ``Decoder`` that ``can_concatenate``."""
    length = max(batch.length for batch in batches)
    layers = zip(*(batch.cache.layers for batch in batches), strict=True)
    return DecodingBatch(
        [completion for batch in batches for completion in batch.completions],
        Cache(layers=[PreallocatedLayer([(layer.keys, layer.values) for layer in parts]) for parts in layers]),
        torch.cat([pad(batch.mask, (length - batch.length, 0)) for batch in batches]),
        torch.cat([batch.tokens for batch in batches]),
        torch.cat([batch.positions for batch in batches]),
    )


def _repeated(cache: Any, rows: int, space: int) -> Any:
    """A copy of a cache of one row, with ``rows`` of them, and with space for so many tokens."""
    wide = [[tensor.expand(rows, -1, -1, -1) for tensor in (layer.keys, layer.values)] for layer in cache.layers]
    return Cache(layers=[PreallocatedLayer([(keys, values)], space) for keys, values in wide])


def _with_next_tokens(batch: DecodingBatch, logits: Tensor) -> DecodingBatch:
    """Adds the likeliest token to each completion. In a row with NaN logits, ``argmax`` picks one of these."""
    tokens = logits.float().argmax(-1, keepdim=True)
    valid = ~logits.gather(-1, tokens).isnan()
    for completion, token, is_valid in zip(batch.completions, tokens[:, 0].tolist(), valid[:, 0].tolist(), strict=True):
        completion.tokens.append(token)
        completion.is_valid = completion.is_valid and is_valid
    mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch), 1)], dim=1)
    return DecodingBatch(batch.completions, batch.cache, mask, tokens, batch.positions + 1)


def _left_padded(prompts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, attention mask), both [prompts, length] int64, padded on the left."""
    length = max(map(len, prompts))
    ids = [[0] * (length - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

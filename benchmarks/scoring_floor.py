"""The least time that a task can take: its unique tokens through the model once, and nothing else.

Written without the project's evaluators. lm-eval's requests are tokenized, and a tree of their tokens says how many are
distinct and at how many of them logits are needed. As many tokens go through ``model.forward``, in rows of equal
length, so that nothing is padded. Rows of items that begin alike attend to the keys and values of what they share. The
time includes the logits at the needed positions, and their log-normaliser. For generation, the prompts and the decoding
steps are timed apart: each is as fast as its best number of rows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

SHORTEST_PREFIX = 16
"""Fewer common tokens than this are not counted as a shared beginning: rows start without keys and values."""
BATCH_TOKENS = (256, 512, 1_024, 2_048, 4_096)
"""Tokens of a batch that are tried."""
DECODED_ROWS = (32, 64, 128, 256, 512)
"""Rows of a decoding step that are tried, and all of them at once if they are fewer."""

Part = dict[str, Callable[[], object]]
"""The ways to do one part of the work, by name. The fastest counts."""


@dataclass(frozen=True)
class Row:
    """The new tokens of one item.

    Attributes:
        start: Tokens before them, which an earlier item begins with, too.
        length: New tokens.
        needed: How many of them need logits.
    """

    start: int
    length: int
    needed: int


@dataclass(frozen=True)
class Work:
    """A task's items as rows, and for generation the tokens that follow the first one of each text."""

    rows: list[Row]
    steps: int = 0

    @property
    def tokens(self) -> int:
        """Unique tokens of all rows."""
        return sum(row.length for row in self.rows)


def work_of(documents: Iterable[Sequence[Any]], wrapped: Any) -> Work:
    """documents: for each of them lm-eval's instances. wrapped: the model as lm-eval's HFLM, for its tokenization."""
    children: dict[tuple[int, int], int] = {}
    needed: set[int] = set()
    rows = []
    steps = 0
    for instances in documents:
        before, needed_before, starts = len(children), len(needed), [0]
        for instance in instances:
            tokens, wanted = _input_tokens(instance, wrapped)
            path, start = _add(children, tokens)
            needed.update(path[-wanted:])
            starts.append(start)
            if instance.request_type == "generate_until":
                steps = instance.args[1]["max_gen_toks"] - 1
        rows.append(Row(min(starts[1:]), len(children) - before, len(needed) - needed_before))
    return Work([row for row in rows if row.length], steps)


def _input_tokens(instance: Any, wrapped: Any) -> tuple[list[int], int]:
    """What the model gets for a request, and at how many of its last tokens logits are needed."""
    if instance.request_type == "generate_until":
        return wrapped.tok_encode(instance.args[0]), 1
    if instance.request_type == "loglikelihood_rolling":
        tokens = [wrapped.prefix_token_id, *wrapped.tok_encode(instance.args[0])][:-1]
        return tokens, len(tokens)
    context, continuation = wrapped._encode_pair(*instance.args)
    return [*context, *continuation][:-1], len(continuation)


def _add(children: dict[tuple[int, int], int], tokens: Sequence[int]) -> tuple[list[int], int]:
    """Adds tokens to a tree of them: their nodes, and how many were there before."""
    path, known, node = [], len(children), -1
    for token in tokens:
        node = children.setdefault((node, token), len(children))
        path.append(node)
    return path, sum(node < known for node in path)


def parts(model: Any, work: Work) -> dict[str, Part]:
    """The parts of the work, each with the ways to do it."""
    alone = [row for row in work.rows if row.start < SHORTEST_PREFIX]
    sharing = [row for row in work.rows if row.start >= SHORTEST_PREFIX]
    found = {name: _forward_ways(model, rows) for name, rows in (("rows", alone), ("after prefix", sharing)) if rows}
    if work.steps:
        length = round(sum(row.start + row.length for row in work.rows) / len(work.rows))
        found["steps"] = _decoding_ways(model, len(work.rows), length, work.steps)
    return found


def _forward_ways(model: Any, rows: Sequence[Row]) -> Part:
    shape = Row(_mean(row.start for row in rows), _mean(row.length for row in rows), _mean(row.needed for row in rows))
    start = 0 if shape.start < SHORTEST_PREFIX else shape.start
    prefix = _keys_and_values(model, start) if start else []
    sizes = sorted({max(min(tokens // shape.length, len(rows)), 1) for tokens in BATCH_TOKENS})
    return {f"{size} rows": partial(_forward, model, prefix, shape, len(rows), size) for size in sizes}


def _forward(model: Any, prefix: Sequence[tuple[Tensor, Tensor]], shape: Row, count: int, size: int) -> None:
    """Runs ``count`` rows, ``size`` at once, behind these keys and values of each layer."""
    for rows in _batches(count, size):
        extra: dict[str, Any] = {"use_cache": False}
        if prefix:
            extra = {"past_key_values": DynamicCache([tuple(_widened(pair, rows)) for pair in prefix])}
        ids = torch.ones(rows, shape.length, dtype=torch.int64)
        model(ids, logits_to_keep=shape.needed, **extra).logits.logsumexp(-1)


def _decoding_ways(model: Any, count: int, length: int, steps: int) -> Part:
    cached = _keys_and_values(model, length)
    sizes = sorted({min(size, count) for size in DECODED_ROWS})
    kinds = {"dynamic": partial(_dynamic, cached), "static": partial(_static, model, cached, length + steps)}
    return {
        f"{size} rows, {kind}": _Decoding(model, count, size, steps, length, make)
        for size in sizes
        for kind, make in kinds.items()
    }


@dataclass
class _Decoding:
    """Takes ``steps`` steps for ``count`` texts, ``size`` at once, whose prompts have ``length`` tokens."""

    model: Any
    count: int
    size: int
    steps: int
    length: int
    make: Callable[[int], Any]

    def __call__(self) -> None:
        for rows in _batches(self.count, self.size):
            cache, tokens = self.make(rows), torch.ones(rows, 1, dtype=torch.int64)
            for step in range(self.steps):
                positions = torch.full((rows, 1), self.length + step)
                logits = self.model(tokens, past_key_values=cache, position_ids=positions, use_cache=True).logits
                tokens = logits[:, -1].argmax(-1, keepdim=True)


def _dynamic(cached: Sequence[tuple[Tensor, Tensor]], rows: int) -> Any:
    return DynamicCache([tuple(_widened(pair, rows)) for pair in cached])


def _static(model: Any, cached: Sequence[tuple[Tensor, Tensor]], length: int, rows: int) -> Any:
    cache = StaticCache(model.config, max_cache_len=length)
    for layer, pair in enumerate(cached):
        cache.update(*_widened(pair, rows), layer)
    return cache


def _keys_and_values(model: Any, length: int) -> list[tuple[Tensor, Tensor]]:
    """Of each layer, for one row of this length."""
    cache = model(torch.ones(1, length, dtype=torch.int64), use_cache=True, logits_to_keep=1).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


def _widened(pair: Iterable[Tensor], rows: int) -> Iterator[Tensor]:
    return (tensor.expand(rows, -1, -1, -1) for tensor in pair)


def _batches(count: int, size: int) -> Iterator[int]:
    """The rows of each batch."""
    return (min(size, count - first) for first in range(0, count, size))


def _mean(numbers: Iterable[int]) -> int:
    values = list(numbers)
    return round(sum(values) / len(values))

"""Batches of token sequences in, log-probabilities of their continuations out.

The numbers are those of lm-eval's ``HFLM`` at its default settings: log-softmax, and the sum over a continuation, in
the dtype of the model's logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mergesearch.evaluators._logits import Logits

MAX_TOKENS = 16_384
"""The most tokens, padding included, of a batch with more than one sequence."""
MAX_SCORED = 4_096
"""The most scored positions, each with a whole vocabulary of logits, of a batch with more than one sequence."""


@dataclass(frozen=True)
class Request:
    """The tokens of a continuation, to be scored after those of a context; neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right, and what to read from their output.

    ids: [sequences, length] int64. scored: [rows] int64, the positions in the flattened ids whose logits are needed.
    row, target: [tokens] int64, for each continuation token the row that predicts it, and its id.
    """

    ids: Tensor
    scored: Tensor
    row: Tensor
    target: Tensor


@dataclass(frozen=True)
class Plan:
    """Batches for ``count`` requests; request: [tokens] int64 on the CPU, whose token each is, over all batches."""

    batches: tuple[Batch, ...]
    request: Tensor
    count: int


@dataclass(frozen=True)
class _Sequence:
    tokens: tuple[int, ...]
    members: tuple[int, ...]
    scored: int  # how many of the last positions are needed


def plan(requests: Sequence[Request], max_length: int, batch_size: int, device: torch.device) -> Plan:
    """Batches of similar lengths, longest first; requests that feed the model the same tokens share one sequence.

    Sequences longer than ``max_length`` lose tokens on the left, as in lm-eval.
    """
    sequences = _sequences(requests, max_length)
    bounds = _bounds(sequences, batch_size)
    batches = tuple(_batch(sequences[a:b], requests, device) for a, b in pairwise(bounds))
    owners = [n for sequence in sequences for n in sequence.members for _ in requests[n].continuation]
    return Plan(batches, torch.tensor(owners, dtype=torch.int64), len(requests))


def _sequences(requests: Sequence[Request], max_length: int) -> list[_Sequence]:
    members: dict[tuple[int, ...], list[int]] = {}
    for number, request in enumerate(requests):
        tokens = (request.context + request.continuation)[-(max_length + 1) : -1]
        members.setdefault(tokens, []).append(number)
    return [
        _Sequence(tokens, tuple(numbers), max(len(requests[n].continuation) for n in numbers))
        for tokens, numbers in sorted(members.items(), key=lambda entry: (-len(entry[0]), entry[0]))
    ]


def _bounds(sequences: Sequence[_Sequence], batch_size: int) -> list[int]:
    """Where batches start, and the end. The first sequence of a batch is its longest: it sets the padded length."""
    bounds, scored = [0], 0
    for number, sequence in enumerate(sequences):
        count = number - bounds[-1] + 1
        padded = count * len(sequences[bounds[-1]].tokens)
        scored += sequence.scored
        if count > 1 and (count > batch_size or padded > MAX_TOKENS or scored > MAX_SCORED):
            bounds.append(number)
            scored = sequence.scored
    return [*bounds, len(sequences)] if sequences else []


def _batch(sequences: Sequence[_Sequence], requests: Sequence[Request], device: torch.device) -> Batch:
    length = len(sequences[0].tokens)
    scored: list[int] = []
    tokens: list[tuple[int, int]] = []
    for place, sequence in enumerate(sequences):
        end = place * length + len(sequence.tokens)
        scored.extend(range(end - sequence.scored, end))
        for number in sequence.members:
            targets = requests[number].continuation
            first = len(scored) - len(targets)
            tokens.extend((first + k, target) for k, target in enumerate(targets))
    ids = [list(sequence.tokens) + [0] * (length - len(sequence.tokens)) for sequence in sequences]
    columns = torch.tensor(tokens, device=device).T.contiguous()
    return Batch(torch.tensor(ids, device=device), torch.tensor(scored, device=device), *columns)


class Scorer:
    """Questions of one or more requests each, put to one model whose weights may change between calls."""

    def __init__(self, model: Any, questions: Sequence[Sequence[Request]], max_length: int, batch_size: int) -> None:
        self._logits = Logits(model)
        self._device = model.device
        self._questions = questions
        self._max_length = max_length
        self._batch_size = batch_size
        self._plan = lru_cache(maxsize=64)(self._make_plan)

    def score(self, numbers: Sequence[int]) -> list[tuple[float, bool]]:
        """For each question asked: the log-probability of its continuations, in nats, and whether all are greedy.

        Not a number where the model's output is not one.
        """
        logprobs, greedy = self._run(self._plan(tuple(numbers)))
        answers, place = [], 0
        for number in numbers:
            end = place + len(self._questions[number])
            answers.append((sum(logprobs[place:end]), all(greedy[place:end])))
            place = end
        return answers

    def _make_plan(self, numbers: tuple[int, ...]) -> Plan:
        requests = [request for number in numbers for request in self._questions[number]]
        return plan(requests, self._max_length, self._batch_size, self._device)

    def _run(self, plan: Plan) -> tuple[list[float], list[bool]]:
        if not plan.batches:
            return [], []
        with torch.no_grad():
            parts = [_read(self._logits.at(batch.ids, batch.scored), batch) for batch in plan.batches]
        values, hits = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
        sums = torch.zeros(plan.count, dtype=torch.float64).index_add_(0, plan.request, values.double())
        misses = torch.zeros(plan.count, dtype=torch.int64).index_add_(0, plan.request, (~hits).long())
        # lm-eval sums in the logits' dtype, which is the exact sum rounded once.
        return sums.to(values.dtype).tolist(), (misses == 0).tolist()


def _read(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Per continuation token: its log-probability, in the logits' dtype, and whether it is the most likely one."""
    logprobs = torch.log_softmax(logits, dim=-1)
    row, target = batch.row.to(logprobs.device), batch.target.to(logprobs.device)
    # The arg max of the *rounded* log-probabilities, as in lm-eval: in bfloat16 it may differ from that of the logits.
    return logprobs[row, target], logprobs.argmax(dim=-1)[row] == target

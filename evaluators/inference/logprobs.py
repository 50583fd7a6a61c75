"""Batches of token sequences in, log-probabilities of their continuations out.

The numbers are those of lm-eval's ``HFLM`` at its default settings: log-softmax, and the sum over a continuation, in
the dtype of the model's logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mergesearch.evaluators.contract.evaluator import LoadedModel
from mergesearch.evaluators.contract.token_budget import budget_of
from mergesearch.evaluators.inference.logits import Logits
from mergesearch.evaluators.inference.prefix_tree import Layout, Row, fold, layout, work

SCORED = 4
"""A batch has one scored position, with a whole vocabulary of logits, for so many tokens of the budget at most."""
MASK = 1_024
"""The most elements of the attention's mask for each token of the budget."""


@dataclass(frozen=True)
class Request:
    """The tokens of a continuation, to be scored after those of a context; neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right, and what to read from their output.

    ids: [rows, length] int64. scored: [positions] int64, those in the flattened ids whose logits are needed. place,
    target: [tokens] int64, for each continuation token which of ``scored`` predicts it, and its id. request: [tokens]
    int64 on the CPU, whose token each is. layout: where the rows are trees of tokens.
    """

    ids: Tensor
    scored: Tensor
    place: Tensor
    target: Tensor
    request: Tensor
    layout: Layout | None


@dataclass(frozen=True)
class Plan:
    """Batches for ``count`` requests."""

    batches: tuple[Batch, ...]
    count: int


@dataclass(frozen=True)
class Limits:
    """max_length: of a sequence; longer ones lose tokens on the left, as in lm-eval.

    rows: of a batch; tokens: of a batch with more than one row, padding included.
    """

    max_length: int
    rows: int
    tokens: int


@dataclass(frozen=True)
class _Sequence:
    """What the model is fed for those requests (``members``) of which it is the same."""

    tokens: tuple[int, ...]
    members: tuple[int, ...]
    scored: int  # how many of the last positions are needed


def plan(requests: Sequence[Request], limits: Limits, device: torch.device, width: int | None = None) -> Plan:
    """Batches of similar lengths, longest first; requests that feed the model the same tokens share one sequence.

    width: of the model's hidden states; where given, sequences that begin alike share rows (see ``_packed``).
    """
    sequences = _sequences(requests, limits.max_length)
    rows = sorted(_rows(sequences, width), key=len, reverse=True)
    owners = [each.members for each in sequences]
    groups = _groups(rows, limits, square=width is not None)
    return Plan(tuple(_batch(group, owners, requests, device, width is not None) for group in groups), len(requests))


def _sequences(requests: Sequence[Request], max_length: int) -> list[_Sequence]:
    members: dict[tuple[int, ...], list[int]] = {}
    for number, request in enumerate(requests):
        tokens = (request.context + request.continuation)[-(max_length + 1) : -1]
        members.setdefault(tokens, []).append(number)
    return [
        _Sequence(tokens, tuple(numbers), max(len(requests[n].continuation) for n in numbers))
        for tokens, numbers in sorted(members.items(), key=lambda entry: (-len(entry[0]), entry[0]))
    ]


def _alone(number: int, sequence: _Sequence) -> Row:
    length = len(sequence.tokens)
    return Row(list(sequence.tokens), paths={number: list(range(length - sequence.scored, length))})


def _rows(sequences: Sequence[_Sequence], width: int | None) -> list[Row]:
    if width is None:
        return [_alone(number, sequence) for number, sequence in enumerate(sequences)]
    return fold([each.tokens for each in sequences], [each.scored for each in sequences], width)


def _groups(rows: Sequence[Row], limits: Limits, square: bool) -> Iterator[list[Row]]:
    """The rows of each batch. Its first row is its longest: it sets the padded length."""
    group: list[Row] = []
    scored = 0
    for row in rows:
        length, count = len(group[0] if group else row), len(group) + 1
        scored += len(row.needed)
        full = count > limits.rows or count * length > limits.tokens or scored > max(limits.tokens // SCORED, 1)
        if group and (full or (square and count * length**2 > limits.tokens * MASK)):
            yield group
            group, scored = [], len(row.needed)
        group.append(row)
    if group:
        yield group


def _batch(
    rows: Sequence[Row],
    owners: Sequence[Sequence[int]],
    requests: Sequence[Request],
    device: torch.device,
    folded: bool,
) -> Batch:
    length = len(rows[0])
    scored: list[int] = []
    tokens: list[tuple[int, int, int]] = []
    for number, row in enumerate(rows):
        place = {node: len(scored) + n for n, node in enumerate(row.needed)}
        scored.extend(number * length + node for node in row.needed)
        for sequence, path in row.paths.items():
            for owner in owners[sequence]:
                targets = requests[owner].continuation
                tokens.extend((place[n], t, owner) for n, t in zip(path[-len(targets) :], targets, strict=True))
    ids = torch.tensor([row.tokens + [0] * (length - len(row)) for row in rows], device=device)
    places, targets_, owned = torch.tensor(tokens).T.contiguous()
    shape = layout(rows, length, device) if folded else None
    positions = torch.tensor(scored, device=device)
    return Batch(ids, positions, places.to(device), targets_.to(device), owned, shape)


def _largest(whole: Plan) -> Plan:
    """Of its batches, those with the most tokens, the most logits and the largest attention."""
    sizes = (lambda b: b.ids.numel(), lambda b: b.scored.numel(), lambda b: b.ids.numel() * b.ids.shape[1])
    return Plan(tuple(max(whole.batches, key=size) for size in sizes if whole.batches), whole.count)


class Scorer:
    """Questions of one or more requests each, put to one model whose weights may change between calls."""

    def __init__(
        self, subject: LoadedModel, questions: Sequence[Sequence[Request]], max_length: int, rows: int
    ) -> None:
        """max_length: of a sequence. rows: of a batch."""
        model: Any = subject.model
        self._logits = Logits(model)
        self._device = model.device
        self._questions = questions
        self._max_length = max_length
        self._rows = rows
        self._budget = budget_of(subject)
        self._width: int | None = None
        self._plan = lru_cache(maxsize=64)(self._make_plan)

    def pack(self, width: int | None) -> None:
        """From now on, sequences that begin alike share rows; or, with None, do not."""
        self._width = width

    def compile(self, on: bool) -> None:
        """See ``Logits.compile``."""
        self._logits.compile(on)

    def length(self, number: int) -> int:
        """Of a question's longest request, in tokens."""
        return max((len(one.context) + len(one.continuation) for one in self._questions[number]), default=0)

    def saved(self, width: int) -> float:
        """The part of the work, over all questions, that shared rows save; see ``_packed.work``."""
        requests = [request for question in self._questions for request in question]
        sequences = _sequences(requests, self._max_length)
        alone, shared = (sum(work(len(row), width) for row in _rows(sequences, each)) for each in (None, width))
        return 1 - shared / alone if alone else 0.0

    def score(self, numbers: Sequence[int]) -> list[tuple[float, bool]]:
        """For each question asked: the log-probability of its continuations, in nats, and whether all are greedy.

        Not a number where the model's output is not one.
        """
        logprobs, greedy = self._fitted(numbers)
        answers, place = [], 0
        for number in numbers:
            end = place + len(self._questions[number])
            answers.append((sum(logprobs[place:end]), all(greedy[place:end])))
            place = end
        return answers

    def logprobs(self, numbers: Sequence[int], rows: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of the questions asked, so many rows at a time, with a graph for gradients where they are wanted.

        [tokens, vocabulary] log-probabilities, at least float32; [tokens] the continuations' ids; [tokens] int64 on the
        CPU, the places in ``numbers`` that the tokens belong to. Rows are never shared: no two sequences' graphs meet.
        """
        requests = [request for number in numbers for request in self._questions[number]]
        place = torch.tensor([place for place, number in enumerate(numbers) for _ in self._questions[number]])
        limits = Limits(self._max_length, rows, self._budget.tokens * rows // self._rows)
        for batch in plan(requests, limits, self._device).batches:
            logits = self._logits.at(batch.ids, batch.scored)
            wide = logits if logits.dtype == torch.float64 else logits.float()
            chosen = torch.log_softmax(wide, dim=-1)[batch.place.to(wide.device)]
            yield chosen, batch.target.to(wide.device), place[batch.request]

    def answer_length(self, number: int) -> int:
        """Tokens of a question's continuations."""
        return sum(len(request.continuation) for request in self._questions[number])

    def try_budget(self) -> None:
        """Runs the largest batches that there can be, so that it shows beforehand where they do not fit."""
        if not self._budget.tried:
            self._fitted(range(len(self._questions)), _largest)

    def _fitted(
        self, numbers: Sequence[int], part: Callable[[Plan], Plan] = lambda whole: whole
    ) -> tuple[list[float], list[bool]]:
        """Runs the batches of these questions, or a part of them."""
        return self._budget.fitting(
            lambda: self._budget.tokens <= self._longest(numbers), lambda: self._run(part(self._plan_for(numbers)))
        )

    def _longest(self, numbers: Sequence[int]) -> int:
        """The tokens of the longest row."""
        return max((batch.ids.shape[1] for batch in self._plan_for(numbers).batches), default=0)

    def _plan_for(self, numbers: Sequence[int]) -> Plan:
        return self._plan(tuple(numbers), self._width, self._budget.tokens)

    def _make_plan(self, numbers: tuple[int, ...], width: int | None, tokens: int) -> Plan:
        requests = [request for number in numbers for request in self._questions[number]]
        return plan(requests, Limits(self._max_length, self._rows, tokens), self._device, width)

    def _run(self, plan: Plan) -> tuple[list[float], list[bool]]:
        if not plan.batches:
            return [], []
        with torch.no_grad():
            parts = [self._read(batch) for batch in plan.batches]
        values, hits = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
        owners = torch.cat([batch.request for batch in plan.batches])
        sums = torch.zeros(plan.count, dtype=torch.float64).index_add_(0, owners, values.double())
        misses = torch.zeros(plan.count, dtype=torch.int64).index_add_(0, owners, (~hits).long())
        # lm-eval sums in the logits' dtype, which is the exact sum rounded once.
        return sums.to(values.dtype).tolist(), (misses == 0).tolist()

    def _read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Per continuation token: its log-probability, in the logits' dtype, and whether it is the most likely one."""
        logprobs = torch.log_softmax(self._logits.at(batch.ids, batch.scored, batch.layout), dim=-1)
        place, target = batch.place.to(logprobs.device), batch.target.to(logprobs.device)
        # The arg max of the *rounded* log-probabilities, as in lm-eval: in bfloat16 it may differ from the logits'.
        return logprobs[place, target], logprobs.argmax(dim=-1)[place] == target

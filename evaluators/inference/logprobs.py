"""Log-probabilities of continuations, with the numbers of lm-eval's ``HFLM`` at its default settings.

Log-softmax, and the sum over a continuation, are in the dtype of the model's logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mergesearch.evaluators.contract.graded import SMALLEST
from mergesearch.evaluators.contract.loaded_model import LoadedModel, budget_of
from mergesearch.evaluators.contract.token_budget import cache_tokens, call_tokens, gradient_tokens
from mergesearch.evaluators.inference.batch_plan import (
    Batch,
    BatchLimits,
    BatchPlan,
    Request,
    plan_batches,
    work_saved,
)
from mergesearch.evaluators.inference.logits import Logits, widened
from mergesearch.steps import reached

Reader = Callable[[Batch, Tensor], tuple[Tensor, ...]]
"""What is read of each continuation token of a batch, from its logits: columns, [tokens] each."""


class Sureness(NamedTuple):
    """How sure the model is of a query's continuations, from log-probabilities of at least float32.

    Attributes:
        logprob: Their log-probability, in nats.
        margin: The least margin of a token: its log-probability less that of the likeliest other one. Greedy decoding
            gives the continuations if it is above 0. NaN if it was not asked for.
    """

    logprob: float
    margin: float


class ContinuationScorer:
    """Scores queries with one model, whose weights may change between calls.

    A query is one or more requests, whose log-probabilities are added. Methods take queries by their indices.
    """

    def __init__(
        self,
        subject: LoadedModel,
        queries: Sequence[Sequence[Request]],
        max_length: int,
        rows: int,
        exact: bool = False,
    ) -> None:
        """Args:
        subject: The model.
        queries: The queries.
        max_length: Maximum tokens of a sequence.
        rows: Maximum rows of a batch.
        exact: Batches depend on these limits alone, not on what is fast on the device.
        """
        model: Any = subject.model
        self.logits = Logits(model)
        self._device = model.device
        self._queries = queries
        self._max_length = max_length
        self._rows = rows
        self._exact = exact
        self._budget = budget_of(subject)
        self.packing_width: int | None = None
        """Size of the model's hidden states if sequences share common prefixes; None if they do not."""
        self._cached_plan = lru_cache(maxsize=64)(self._make_plan)

    def pack(self, width: int | None) -> None:
        """Shares common prefixes from now on, or stops sharing them. See ``packing_width``."""
        self.packing_width = width

    def compile(self, on: bool) -> None:
        """See ``Logits.compile``."""
        self.logits.compile(on)

    def query_length(self, query: int) -> int:
        """Tokens of the query's longest request."""
        return max((len(each.context) + len(each.continuation) for each in self._queries[query]), default=0)

    def continuation_length(self, query: int) -> int:
        """Tokens of all continuations of the query."""
        return sum(len(request.continuation) for request in self._queries[query])

    def tokens_of(self, queries: Sequence[int]) -> int:
        """About how many tokens the model gets for these queries. One that they all begin with may be shared."""
        lengths = [self.query_length(query) for query in queries]
        if self.packing_width is None:
            return sum(lengths)
        own = [self.continuation_length(query) for query in queries]
        return max(lengths) + sum(own) - max(own)

    @property
    def gradient_tokens(self) -> int:
        """See ``token_budget.gradient_tokens``."""
        return gradient_tokens(self._budget, self._device)

    def work_saved(self, width: int) -> float:
        """The fraction of the work for all queries that is saved when common prefixes are shared."""
        requests = self._requests(range(len(self._queries)))
        return work_saved(requests, self._max_length, width, self.logits.has_stems)

    def score(self, queries: Sequence[int]) -> list[tuple[float, bool]]:
        """For each query its log-probability, in nats, and whether greedy decoding gives its continuations.

        The log-probability is NaN if the model's output is not a number.
        """
        logprobs, greedy, *_ = self._run_within_budget(queries)
        return [(sum(logprobs[own]), all(greedy[own])) for own in self._slices(queries)]

    def score_with_sureness(
        self, queries: Sequence[int], token_margins: bool
    ) -> tuple[list[tuple[float, bool]], list[Sureness]]:
        """What ``score`` returns, and the sureness of each query, from the same forward passes."""
        read = partial(self._sure_logprobs, token_margins=token_margins)
        logprobs, greedy, wide, margins = self._run_within_budget(queries, read=read)
        slices = list(self._slices(queries))
        scores = [(sum(logprobs[own]), all(greedy[own])) for own in slices]
        return scores, [Sureness(sum(wide[own]), min(margins[own], default=torch.inf)) for own in slices]

    def _slices(self, queries: Sequence[int]) -> Iterator[slice]:
        """For each query the indices of its requests."""
        start = 0
        for query in queries:
            yield slice(start, start := start + len(self._queries[query]))

    def logprobs(self, queries: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Log-probabilities over the vocabulary, batch by batch, with a graph if gradients are on.

        Args:
            queries: Indices of the queries.

        Yields:
            [tokens, vocabulary] log-probabilities, at least float32; [tokens] int64 ids of the continuation tokens;
            [tokens] int64 on the CPU, which of ``queries`` each token belongs to.
        """
        owners = torch.tensor([index for index, query in enumerate(queries) for _ in self._queries[query]])
        limits = BatchLimits(self._max_length, self._rows, self.gradient_tokens)
        for batch in plan_batches(self._requests(queries), limits, self._device, self.packing_width).batches:
            logits = self.logits.at(batch.ids, batch.positions, batch.attention)
            logprobs = torch.log_softmax(widened(logits), dim=-1)[batch.logit_index.to(logits.device)]
            yield logprobs, batch.token_ids.to(logits.device), owners[batch.request_index]

    def try_budget(self) -> None:
        """Runs the largest batches if the budget was not tried before, to find out whether they fit into memory."""
        if not self._budget.tried:
            read = partial(self._sure_logprobs, token_margins=True)
            self._run_within_budget(range(len(self._queries)), BatchPlan.largest, read)

    def _run_within_budget(
        self,
        queries: Sequence[int],
        select: Callable[[BatchPlan], BatchPlan] = lambda plan: plan,
        read: Reader | None = None,
    ) -> list[list[Any]]:
        """Runs the selected batches of these queries; with a smaller budget if they do not fit into memory."""
        return self._budget.retry_smaller(
            is_smallest=lambda: self._budget.tokens <= self._plan(queries).row_length,
            attempt=lambda: self._run(select(self._plan(queries)), read or self._token_logprobs),
        )

    def _plan(self, queries: Sequence[int]) -> BatchPlan:
        return self._cached_plan(tuple(queries), self.packing_width, self._budget.tokens)

    def _make_plan(self, queries: tuple[int, ...], width: int | None, tokens: int) -> BatchPlan:
        limits = BatchLimits(self._max_length, self._rows, tokens)
        if not self._exact:
            has_stems = width is not None and self.logits.has_stems
            limits = replace(
                limits,
                cached=cache_tokens(self._budget, self._device) if has_stems else 0,
                padding=call_tokens(self._device),
                vocabulary=self.logits.vocabulary,
            )
        return plan_batches(self._requests(queries), limits, self._device, width)

    def _requests(self, queries: Sequence[int]) -> list[Request]:
        return [request for query in queries for request in self._queries[query]]

    def _run(self, plan: BatchPlan, read: Reader) -> list[list[Any]]:
        """For each request what ``read`` gives of its tokens, combined as ``COMBINE`` says."""
        if not plan.batches:
            return [[] for _ in COMBINE]
        with torch.no_grad():
            outputs = [read(batch, logits) for batch, logits in self._logits_of(plan)]
        owners, count = torch.cat([batch.request_index for batch in plan.batches]), plan.request_count
        columns = [torch.cat(column).cpu() for column in zip(*outputs, strict=True)]
        combined = (combine(column, owners, count) for combine, column in zip(COMBINE, columns, strict=False))
        return [column.tolist() for column in combined]

    def _logits_of(self, plan: BatchPlan) -> Iterator[tuple[Batch, Tensor]]:
        """Each batch with its logits, [positions, vocabulary]. A stem's keys and values are kept for its batches."""
        stem, cache = None, None
        done, tokens = 0, sum(batch.ids.numel() for batch in plan.batches)
        for batch in plan.batches:
            if batch.stem is not stem:
                cache = None
                stem, cache = batch.stem, None if batch.stem is None else self.logits.stem(batch.stem)
            yield batch, self.logits.at(batch.ids, batch.positions, batch.attention, cache)
            done += batch.ids.numel()
            reached(done / tokens)

    def _token_logprobs(self, batch: Batch, logits: Tensor) -> tuple[Tensor, ...]:
        """For each continuation token its log-probability, in the logits' dtype, and whether it is the likeliest."""
        return self._read(batch, torch.log_softmax(logits, dim=-1))

    def _sure_logprobs(self, batch: Batch, logits: Tensor, token_margins: bool) -> tuple[Tensor, ...]:
        """The same, and for each token its log-probability in float32 at least, and its margin there."""
        wide = torch.log_softmax(logits, dim=-1)
        plain = self._read(batch, wide)
        if wide.dtype.itemsize < 4:
            wide = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
        index, token_ids = batch.logit_index.to(wide.device), batch.token_ids.to(wide.device)
        tokens = wide[index, token_ids]
        margins = _margins(wide, index, token_ids) if token_margins else torch.full_like(tokens, torch.nan)
        return (*plain, tokens, margins)

    def _read(self, batch: Batch, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        index, token_ids = batch.logit_index.to(logprobs.device), batch.token_ids.to(logprobs.device)
        # As in lm-eval, the arg max is that of the rounded log-probabilities. In bfloat16 the logits' may differ.
        return logprobs[index, token_ids], logprobs.argmax(dim=-1)[index] == token_ids


def _sums(tokens: Tensor, owners: Tensor, count: int) -> Tensor:
    # lm-eval adds in the dtype of the logits. That is the exact sum, rounded once.
    return torch.zeros(count, dtype=torch.float64).index_add_(0, owners, tokens.double()).to(tokens.dtype)


def _all(tokens: Tensor, owners: Tensor, count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64).index_add_(0, owners, (~tokens).long()) == 0


def _least(tokens: Tensor, owners: Tensor, count: int) -> Tensor:
    return torch.full((count,), torch.inf, dtype=torch.float64).scatter_reduce(0, owners, tokens.double(), "amin")


COMBINE = (_sums, _all, _sums, _least)
"""For each column of tokens: how those of one request, [count] from [tokens] and their owners, are combined."""


def token_margins(logprobs: Tensor, token_ids: Tensor) -> Tensor:
    """[tokens] from [tokens, vocabulary]: each token's own log-probability less that of the likeliest other one.

    A tie is decided for the first of the vocabulary, see ``SMALLEST``.
    """
    own = logprobs.gather(1, token_ids[:, None])[:, 0]
    return _margin(own, token_ids, *logprobs.scatter(1, token_ids[:, None], -torch.inf).max(dim=1))


def _margins(logprobs: Tensor, index: Tensor, token_ids: Tensor) -> Tensor:
    """The same for tokens that share rows: [tokens] from [rows, vocabulary] and each token's row.

    For want of memory for a copy, the largest number of each row is overwritten.
    """
    own = logprobs[index, token_ids]
    best, place = logprobs.max(dim=1)
    second, other = logprobs.scatter_(1, place[:, None], -torch.inf).max(dim=1)
    is_best = place[index] == token_ids
    rival, rival_id = torch.where(is_best, second[index], best[index]), torch.where(is_best, other[index], place[index])
    return _margin(own, token_ids, rival, rival_id)


def _margin(own: Tensor, own_id: Tensor, other: Tensor, other_id: Tensor) -> Tensor:
    tie = (other_id - own_id).sign().double() * SMALLEST
    return torch.where(own == other, tie, (own - other).double())

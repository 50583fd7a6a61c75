"""Log-probabilities of continuations, with the numbers of lm-eval's ``HFLM`` at its default settings.

Log-softmax, and the sum over a continuation, are in the dtype of the model's logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mergesearch.evaluators.contract.loaded_model import LoadedModel, budget_of
from mergesearch.evaluators.inference.batch_plan import (
    Batch,
    BatchLimits,
    BatchPlan,
    Request,
    plan_batches,
    work_saved,
)
from mergesearch.evaluators.inference.logits import Logits


class ContinuationScorer:
    """Scores queries with one model, whose weights may change between calls.

    A query is one or more requests, whose log-probabilities are added. Methods take queries by their indices.
    """

    def __init__(self, subject: LoadedModel, queries: Sequence[Sequence[Request]], max_length: int, rows: int) -> None:
        """max_length: Maximum tokens of a sequence. rows: Maximum rows of a batch."""
        model: Any = subject.model
        self.logits = Logits(model)
        self._device = model.device
        self._queries = queries
        self._max_length = max_length
        self._rows = rows
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

    def work_saved(self, width: int) -> float:
        """The fraction of the work for all queries that is saved when common prefixes are shared."""
        return work_saved(self._requests(range(len(self._queries))), self._max_length, width)

    def score(self, queries: Sequence[int]) -> list[tuple[float, bool]]:
        """For each query its log-probability, in nats, and whether greedy decoding gives its continuations.

        The log-probability is NaN if the model's output is not a number.
        """
        logprobs, greedy = self._run_within_budget(queries)
        scores, start = [], 0
        for query in queries:
            end = start + len(self._queries[query])
            scores.append((sum(logprobs[start:end]), all(greedy[start:end])))
            start = end
        return scores

    def logprobs(self, queries: Sequence[int], rows: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Log-probabilities over the vocabulary, batch by batch, with a graph if gradients are on.

        Sequences do not share prefixes, so that each has a graph of its own.

        Args:
            queries: Indices of the queries.
            rows: Maximum rows of a batch.

        Yields:
            [tokens, vocabulary] log-probabilities, at least float32; [tokens] int64 ids of the continuation tokens;
            [tokens] int64 on the CPU, which of ``queries`` each token belongs to.
        """
        owners = torch.tensor([index for index, query in enumerate(queries) for _ in self._queries[query]])
        limits = BatchLimits(self._max_length, rows, self._budget.tokens * rows // self._rows)
        for batch in plan_batches(self._requests(queries), limits, self._device).batches:
            logits = self.logits.at(batch.ids, batch.positions)
            wide = logits if logits.dtype == torch.float64 else logits.float()
            logprobs = torch.log_softmax(wide, dim=-1)[batch.logit_index.to(wide.device)]
            yield logprobs, batch.token_ids.to(wide.device), owners[batch.request_index]

    def try_budget(self) -> None:
        """Runs the largest batches if the budget was not tried before, to find out whether they fit into memory."""
        if not self._budget.tried:
            self._run_within_budget(range(len(self._queries)), BatchPlan.largest)

    def _run_within_budget(
        self, queries: Sequence[int], select: Callable[[BatchPlan], BatchPlan] = lambda plan: plan
    ) -> tuple[list[float], list[bool]]:
        """Runs the selected batches of these queries; with a smaller budget if they do not fit into memory."""
        return self._budget.retry_smaller(
            is_smallest=lambda: self._budget.tokens <= self._plan(queries).row_length,
            attempt=lambda: self._run(select(self._plan(queries))),
        )

    def _plan(self, queries: Sequence[int]) -> BatchPlan:
        return self._cached_plan(tuple(queries), self.packing_width, self._budget.tokens)

    def _make_plan(self, queries: tuple[int, ...], width: int | None, tokens: int) -> BatchPlan:
        limits = BatchLimits(self._max_length, self._rows, tokens)
        return plan_batches(self._requests(queries), limits, self._device, width)

    def _requests(self, queries: Sequence[int]) -> list[Request]:
        return [request for query in queries for request in self._queries[query]]

    def _run(self, plan: BatchPlan) -> tuple[list[float], list[bool]]:
        """For each request its log-probability, and whether greedy decoding gives its continuation."""
        if not plan.batches:
            return [], []
        with torch.no_grad():
            outputs = [self._token_logprobs(batch) for batch in plan.batches]
        logprobs, greedy = (torch.cat(column).cpu() for column in zip(*outputs, strict=True))
        owners = torch.cat([batch.request_index for batch in plan.batches])
        sums = torch.zeros(plan.request_count, dtype=torch.float64).index_add_(0, owners, logprobs.double())
        misses = torch.zeros(plan.request_count, dtype=torch.int64).index_add_(0, owners, (~greedy).long())
        # lm-eval adds in the dtype of the logits. That is the exact sum, rounded once.
        return sums.to(logprobs.dtype).tolist(), (misses == 0).tolist()

    def _token_logprobs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """For each continuation token its log-probability, in the logits' dtype, and whether it is the likeliest."""
        logprobs = torch.log_softmax(self.logits.at(batch.ids, batch.positions, batch.attention), dim=-1)
        index, token_ids = batch.logit_index.to(logprobs.device), batch.token_ids.to(logprobs.device)
        # As in lm-eval, the arg max is that of the rounded log-probabilities. In bfloat16 the logits' may differ.
        return logprobs[index, token_ids], logprobs.argmax(dim=-1)[index] == token_ids

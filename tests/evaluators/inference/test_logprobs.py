"""Log-probabilities of queries against plain transformers, and batches that do not fit into memory."""

from typing import Any

import pytest
import torch

from mergesearch.evaluators import Budget, LoadedModel
from mergesearch.evaluators.inference.batch_plan import Request
from mergesearch.evaluators.inference.logits import Logits
from mergesearch.evaluators.inference.logprobs import ContinuationScorer

from .helpers import close_logprobs, random_model, random_requests, reference_scores


def test_a_query_of_several_requests_has_their_sum() -> None:
    model, requests = random_model("Llama").double(), random_requests(6)
    scorer = ContinuationScorer(LoadedModel(model, None), [requests[:4], requests[4:]], 64, 2)
    alone = [logprob for logprob, _ in reference_scores(model, requests)]
    sums = [sum(alone[4:]), sum(alone[:4])]
    assert [logprob for logprob, _ in scorer.score([1, 0])] == close_logprobs(sums, model, 26)


def test_long_sequences_lose_tokens_on_the_left() -> None:
    model, request = random_model("Llama").double(), Request(tuple(range(3, 43)), (50, 51))
    ((logprob, _),) = ContinuationScorer(LoadedModel(model, None), [(request,)], 8, 1).score([0])
    ((expected, _),) = reference_scores(model, [Request(request.context[-7:], (50, 51))])
    assert [logprob] == close_logprobs([expected], model, 9)


def test_batches_are_halved_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests, changes = random_model("Llama").double(), random_requests(30), list[int]()
    budget = Budget(2048, changed=lambda changed: changes.append(changed.tokens))
    subject = LoadedModel(model, None, budget=budget)
    scorer = ContinuationScorer(subject, [(request,) for request in requests], 32, 30)
    expected = scorer.score(range(30))
    at = Logits.at

    def limited(self: Logits, ids: torch.Tensor, *more: Any) -> torch.Tensor:
        if ids.numel() > 100:
            raise torch.OutOfMemoryError
        return at(self, ids, *more)

    monkeypatch.setattr(Logits, "at", limited)
    scores = scorer.score(range(30))
    assert [logprob for logprob, _ in scores] == close_logprobs([logprob for logprob, _ in expected], model, 26)
    assert changes == [64]
    assert budget.tokens == 64
    assert budget.scaled(30) == 1


def test_what_never_fits_is_an_error_and_leaves_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    budget = Budget(2048, changed=lambda _: pytest.fail("the budget has changed"))
    subject = LoadedModel(random_model("Llama"), None, budget=budget)
    scorer = ContinuationScorer(subject, [(request,) for request in random_requests(30)], 32, 30)
    monkeypatch.setattr(Logits, "at", full)
    with pytest.raises(torch.OutOfMemoryError):
        scorer.score(range(30))
    assert budget.tokens == 2048


@pytest.mark.parametrize("tried", [False, True])
def test_a_budget_is_tried_on_the_largest_batches(tried: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [(30, 1), (29, 1), (4, 3), (3, 3), (5, 1)]
    queries = [(Request((3,) * context, (4,) * continuation),) for context, continuation in lengths]
    subject = LoadedModel(random_model("Llama"), None, budget=Budget(32, tried))
    scorer = ContinuationScorer(subject, queries, 32, 4)
    calls, at = list[tuple[int, int]](), Logits.at

    def recorded(self: Logits, ids: torch.Tensor, positions: torch.Tensor, *more: Any) -> torch.Tensor:
        calls.append((ids.numel(), len(positions)))
        return at(self, ids, positions, *more)

    monkeypatch.setattr(Logits, "at", recorded)
    scorer.try_budget()
    assert set(calls) == (set() if tried else {(30, 1), (18, 7)})

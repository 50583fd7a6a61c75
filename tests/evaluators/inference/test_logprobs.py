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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_margins_of_tokens_say_which_is_greedy_ties_included(dtype: torch.dtype) -> None:
    model = random_model("Llama").to(dtype)
    queries = [(Request((3, 7, 9), continuation),) for continuation in ((0,), (5,), (0, 0), (0, 4), (1,))]
    scorer = ContinuationScorer(LoadedModel(model, None), queries, 32, 4)
    answers, sure = scorer.score_with_sureness(range(5), token_margins=True)
    assert answers == scorer.score(range(5))
    assert all(abs(each.margin) > 1e-6 for each in sure)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # all tokens are equally likely, and the first of them is taken
    answers, sure = scorer.score_with_sureness(range(5), token_margins=True)
    assert [greedy for _, greedy in answers] == [True, False, True, False, False]
    assert [each.margin > 0 for each in sure] == [True, False, True, False, False]
    assert all(0 < abs(each.margin) < 1e-200 for each in sure)


def test_the_largest_token_of_a_shared_row_is_compared_with_the_next() -> None:
    """Several continuations of one context read the same row of logits."""
    model = random_model("Llama").double()
    queries = [(Request((3, 7, 9), (token,)),) for token in range(60)]
    scorer = ContinuationScorer(LoadedModel(model, None), queries, 32, 8)
    scorer.pack(int(model.config.hidden_size))
    _, sure = scorer.score_with_sureness(range(60), token_margins=True)
    with torch.no_grad():
        row = model(torch.tensor([[3, 7, 9]])).logits[0, -1].log_softmax(-1).tolist()
    margins = [row[token] - max(row[:token] + row[token + 1 :]) for token in range(60)]
    assert [each.margin for each in sure] == close_logprobs(margins, model, 4)
    assert [each.logprob for each in sure] == close_logprobs(row[:60], model, 4)

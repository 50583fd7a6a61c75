"""Logits at chosen positions, whatever the model's code around its output layer."""

from typing import Any

import pytest
import torch

from mergesearch.evaluators import LoadedModel
from mergesearch.evaluators.inference.logits import Logits
from mergesearch.evaluators.inference.logprobs import ContinuationScorer

from .helpers import close_logprobs, random_model, random_requests, reference_scores


class MixingHead(torch.nn.Module):
    """An output layer that mixes positions, so that it must get all of them."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(hidden.cumsum(1))
        return logits


def model_with_mixing_head() -> Any:
    model = random_model("Llama")
    model.lm_head = MixingHead(model.lm_head)
    return model


@pytest.mark.parametrize(
    ("make", "can_select"),
    [
        (lambda: random_model("Llama"), True),
        (lambda: random_model("Gemma2", final_logit_softcapping=2.0, query_pre_attn_scalar=8), True),
        (lambda: random_model("Cohere", logit_scale=0.3), True),
        (lambda: random_model("GPTNeoX"), True),
        (model_with_mixing_head, False),
    ],
)
def test_scores_are_those_of_each_request_alone(make: Any, can_select: bool) -> None:
    model, requests = make().double(), random_requests(30)
    scorer = ContinuationScorer(LoadedModel(model, None), [(request,) for request in requests], 64, 4)
    scores, expected = scorer.score(range(30)), reference_scores(model, requests)
    assert [logprob for logprob, _ in scores] == close_logprobs([logprob for logprob, _ in expected], model, 26)
    assert [is_greedy for _, is_greedy in scores] == [is_greedy for _, is_greedy in expected]
    assert scorer.logits.can_select is can_select


def test_weights_that_are_not_finite_decide_nothing() -> None:
    model = random_model("Llama")
    weights = model.lm_head.weight.clone()
    logits = Logits(model)
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
        assert logits.at(ids, torch.tensor([1])).isnan().all()
        assert logits.can_select is None
        model.lm_head.weight.copy_(weights)
        logits.at(ids, torch.tensor([1]))
        assert logits.can_select is True

"""Batches and logits: every token scored once, whatever the model's code around its output layer."""

import random
from typing import Any

import pytest
import torch

from mergesearch.evaluators import Budget, LoadedModel
from mergesearch.evaluators.inference.logits import Logits
from mergesearch.evaluators.inference.logprobs import Limits, Request, Scorer, plan

CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}


def made(name: str, **more: Any) -> Any:
    import transformers

    config = getattr(transformers, f"{name}Config")(**{**SMALL, **more})
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def requests(count: int) -> list[Request]:
    draw = random.Random(0)
    return [
        Request(tuple(draw.choices(range(3, 60), k=a)), tuple(draw.choices(range(3, 60), k=b)))
        for a, b in ((draw.randint(1, 20), draw.randint(1, 6)) for _ in range(count))
    ]


def expected(model: Any, request: Request) -> tuple[float, bool]:
    """One request alone, in plain words."""
    ids = torch.tensor([request.context + request.continuation])
    with torch.no_grad():
        logprobs = model(ids).logits[0, len(request.context) - 1 : -1].log_softmax(-1)
    target = torch.tensor(request.continuation)
    return float(logprobs.gather(1, target[:, None]).sum()), bool((logprobs.argmax(-1) == target).all())


class TransposedHead(torch.nn.Module):
    """An output layer that mixes positions up: its logits must not be gathered."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        shift: torch.Tensor = self.layer(hidden.cumsum(1))
        return shift


def mixing() -> Any:
    model = made("Llama")
    model.lm_head = TransposedHead(model.lm_head)
    return model


@pytest.mark.parametrize(
    ("model", "gathers"),
    [
        (lambda: made("Llama"), True),
        (lambda: made("Gemma2", final_logit_softcapping=2.0, query_pre_attn_scalar=8), True),
        (lambda: made("Cohere", logit_scale=0.3), True),
        (lambda: made("GPTNeoX"), True),
        (mixing, False),
    ],
)
def test_scores_are_those_of_each_request_alone(model: Any, gathers: bool) -> None:
    network, asked = model(), requests(30)
    scorer = Scorer(LoadedModel(network, None), [(one,) for one in asked], 64, 4)
    found = scorer.score(range(30))
    wanted = [expected(network, one) for one in asked]
    assert [one[0] for one in found] == pytest.approx([one[0] for one in wanted], rel=1e-4)
    assert [one[1] for one in found] == [one[1] for one in wanted]
    assert scorer._logits._gathers is gathers


def test_weights_that_are_not_finite_decide_nothing() -> None:
    model = made("Llama")
    kept = model.lm_head.weight.clone()
    logits = Logits(model)
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
        assert logits.at(ids, torch.tensor([1])).isnan().all()
        assert logits._gathers is None
        model.lm_head.weight.copy_(kept)
        logits.at(ids, torch.tensor([1]))
        assert logits._gathers is True


def test_a_question_of_several_requests_is_their_sum() -> None:
    model, asked = made("Llama"), requests(6)
    scorer = Scorer(LoadedModel(model, None), [asked[:4], asked[4:]], 64, 2)
    alone = [expected(model, one)[0] for one in asked]
    found = [logprob for logprob, _ in scorer.score([1, 0])]
    assert found == pytest.approx([sum(alone[4:]), sum(alone[:4])], rel=1e-5)


def test_long_sequences_lose_tokens_on_the_left() -> None:
    model, request = made("Llama"), Request(tuple(range(3, 43)), (50, 51))
    (found,) = Scorer(LoadedModel(model, None), [(request,)], 8, 1).score([0])
    assert found[0] == pytest.approx(expected(model, Request(request.context[-7:], (50, 51)))[0], rel=1e-5)


def test_batches_keep_their_bounds() -> None:
    made_plan = plan(requests(50), Limits(64, 5, tokens=64), CPU)
    assert sum(len(batch.ids) for batch in made_plan.batches) == 50
    for batch in made_plan.batches:
        assert len(batch.ids) == 1 or (batch.ids.numel() <= 64 and len(batch.scored) <= 16)
        assert len(batch.ids) <= 5


def test_batches_are_halved_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked, told = made("Llama"), requests(30), list[int]()
    budget = Budget(2048, changed=lambda changed: told.append(changed.tokens))
    scorer = Scorer(LoadedModel(model, None, budget=budget), [(one,) for one in asked], 32, 30)
    expected_ = scorer.score(range(30))
    run = Logits.at

    def short(self: Logits, ids: torch.Tensor, *more: Any) -> torch.Tensor:
        if ids.numel() > 100:
            raise torch.OutOfMemoryError
        return run(self, ids, *more)

    monkeypatch.setattr(Logits, "at", short)
    found = scorer.score(range(30))
    assert [one[0] for one in found] == pytest.approx([one[0] for one in expected_], rel=1e-5)
    assert told == [64]
    assert budget.tokens == 64
    assert budget.part(30) == 1


def test_what_never_fits_is_an_error_and_leaves_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    budget = Budget(2048, changed=lambda _: pytest.fail("nothing was found"))
    subject = LoadedModel(made("Llama"), None, budget=budget)
    scorer = Scorer(subject, [(one,) for one in requests(30)], 32, 30)
    monkeypatch.setattr(Logits, "at", full)
    with pytest.raises(torch.OutOfMemoryError):
        scorer.score(range(30))
    assert budget.tokens == 2048


@pytest.mark.parametrize("tried", [False, True])
def test_a_budget_is_tried_on_the_largest_batches(tried: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Request((3,) * length, (4,) * answer) for length, answer in [(30, 1), (29, 1), (4, 3), (3, 3), (5, 1)]]
    subject = LoadedModel(made("Llama"), None, budget=Budget(32, tried))
    scorer = Scorer(subject, [(one,) for one in asked], 32, 4)
    seen, run = list[tuple[int, int]](), Logits.at

    def noted(self: Logits, ids: torch.Tensor, rows: torch.Tensor, *more: Any) -> torch.Tensor:
        seen.append((ids.numel(), len(rows)))
        return run(self, ids, rows, *more)

    monkeypatch.setattr(Logits, "at", noted)
    scorer.try_budget()
    assert set(seen) == (set() if tried else {(30, 1), (18, 7)})


def test_the_same_tokens_are_run_once() -> None:
    asked = [Request((3, 4, 5), (end,)) for end in (6, 7, 8)] + [Request((3, 4), (5, 9))]
    (batch,) = plan(asked, Limits(64, 8, 512), CPU).batches
    assert batch.ids.tolist() == [[3, 4, 5]]
    assert batch.scored.tolist() == [1, 2]

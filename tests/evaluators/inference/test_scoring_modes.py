"""Packed sequences: the same numbers on models that allow packing, and a refusal on others."""

from typing import Any

import pytest
import torch

from mergesearch.errors import UserError
from mergesearch.evaluators import LoadedModel
from mergesearch.evaluators.inference.logprobs import ContinuationScorer
from mergesearch.evaluators.inference.scoring_modes import choose_packing

from .helpers import WIDTH, close_logprobs, questions, random_model, scorer_of_questions


@pytest.mark.parametrize("shots", [0, 40])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["Llama", "Qwen3", "GPTNeoX"])
def test_packed_scores_are_those_of_each_alone(name: str, attention: str, shots: int) -> None:
    model = random_model(name, attn_implementation=attention).double()
    scorer, documents = scorer_of_questions(model, shots)
    queries = [query for document in documents for query in document]
    exact = scorer.score(queries)
    choose_packing(model, "packed", scorer, documents)
    packed = scorer.score(queries)
    assert scorer.packing_width == WIDTH
    expected = [logprob for logprob, _ in exact]
    assert [logprob for logprob, _ in packed] == close_logprobs(expected, model, shots + 35)
    assert [is_greedy for _, is_greedy in packed] == [is_greedy for _, is_greedy in exact]


CANNOT_PACK = {
    "sliding window": lambda: random_model("Mistral", sliding_window=4),
    "ALiBi": lambda: random_model("Bloom", n_layer=1, n_head=2),
    "recurrent": lambda: random_model("Mamba", state_size=4),
}


@pytest.mark.parametrize("kind", CANNOT_PACK)
def test_models_that_cannot_be_packed_are_detected(kind: str) -> None:
    model = CANNOT_PACK[kind]()
    scorer, documents = scorer_of_questions(model)
    (note,) = choose_packing(model, "auto", scorer, documents)
    assert scorer.packing_width is None
    assert note.startswith("mode: sequences are scored without packing: ")
    with pytest.raises(UserError, match="mode: found packed, but this model cannot score packed sequences: "):
        choose_packing(model, "packed", scorer, documents)


def test_models_whose_output_is_not_finite_are_not_packed() -> None:
    model = random_model("Llama")
    scorer, documents = scorer_of_questions(model)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    assert choose_packing(model, "auto", scorer, documents) == [
        "mode: sequences are scored without packing: the model's output is not a number"
    ]
    assert scorer.packing_width is None


@pytest.mark.parametrize(("mode", "width"), [("exact", None), ("auto", WIDTH)])
def test_the_mode_is_used(mode: Any, width: int | None) -> None:
    model = random_model("Llama")
    scorer, documents = scorer_of_questions(model)
    choose_packing(model, mode, scorer, documents)
    assert scorer.packing_width == width


def test_queries_without_common_prefixes_are_not_packed() -> None:
    model = random_model("Llama")
    queries = [(choices[0],) for choices in questions(8)]
    scorer = ContinuationScorer(LoadedModel(model, None), queries, 128, 8)
    choose_packing(model, "auto", scorer, [[n] for n in range(8)])
    assert scorer.packing_width is None

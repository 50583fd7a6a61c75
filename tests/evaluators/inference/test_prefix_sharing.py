"""Rows shared by sequences that begin alike: the same numbers where the model allows it, and a refusal where not."""

import random
from typing import Any

import pytest
import torch

from mergesearch.errors import UserError
from mergesearch.evaluators import LoadedModel
from mergesearch.evaluators.inference.logprobs import Limits, Request, Scorer, plan
from mergesearch.evaluators.inference.prefix_sharing import settle
from mergesearch.evaluators.inference.prefix_tree import fold, layout

from .test_logprobs import made

CPU = torch.device("cpu")
WIDTH = 16


def questions(count: int, shots: int = 0) -> list[list[Request]]:
    """Four choices each, after a context of their own, after ``shots`` tokens that all have in common."""
    draw = random.Random(1)
    common = tuple(draw.choices(range(3, 60), k=shots))
    return [_question(draw, common) for _ in range(count)]


def _question(draw: random.Random, common: tuple[int, ...]) -> list[Request]:
    context = common + tuple(draw.choices(range(3, 60), k=draw.randint(12, 30)))
    return [Request(context, tuple(draw.choices(range(3, 60), k=draw.randint(1, 5)))) for _ in range(4)]


def scorer(model: Any, shots: int = 0) -> tuple[Scorer, list[list[int]]]:
    asked = questions(8, shots)
    documents = [list(range(4 * n, 4 * n + 4)) for n in range(8)]
    return Scorer(LoadedModel(model, None), [(one,) for group in asked for one in group], 128, 8), documents


def test_a_row_is_the_tree_of_its_sequences() -> None:
    (row,) = fold([(1, 2, 3), (1, 2, 4, 5), (1, 6)], [1, 2, 1], width=10_000)
    assert row.tokens == [1, 2, 3, 4, 5, 6]
    assert row.depths == [0, 1, 2, 2, 3, 1]
    assert row.ends == [6, 5, 3, 5, 5, 6]
    assert row.paths == {0: [2], 1: [3, 4], 2: [5]}


def test_tokens_see_their_ancestors_alone() -> None:
    (row,) = fold([(1, 2, 3), (1, 2, 4, 5), (1, 6)], [1, 2, 1], width=10_000)
    seen = layout([row], 7, CPU).mask(torch.float32)[0, 0] == 0
    ancestors = {0: [0], 1: [0, 1], 2: [0, 1, 2], 3: [0, 1, 3], 4: [0, 1, 3, 4], 5: [0, 5], 6: [6]}
    assert {node: seen[node].nonzero().flatten().tolist() for node in range(7)} == ancestors


@pytest.mark.parametrize("seed", range(5))
def test_every_sequence_is_a_path_of_its_row(seed: int) -> None:
    draw = random.Random(seed)
    asked = list({tuple(draw.choices(range(3), k=draw.randint(1, 9))) for _ in range(40)})
    rows = fold(asked, [1] * len(asked), width=64)
    found = {}
    for row in rows:
        for number, (last,) in row.paths.items():
            path = [node for node in range(last + 1) if node <= last < row.ends[node]]
            assert [row.depths[node] for node in path] == list(range(len(path)))
            found[number] = tuple(row.tokens[node] for node in path)
    assert found == dict(enumerate(asked))


def test_sequences_of_nothing_in_common_keep_to_themselves() -> None:
    assert len(fold([(1, 2), (3, 4), (5, 6)], [1, 1, 1], width=64)) == 3


def test_common_examples_go_through_the_model_once() -> None:
    asked = [one for group in questions(6, shots=40) for one in group]
    packed, alone = (plan(asked, Limits(128, 8, 16_384), CPU, width) for width in (WIDTH * 64, None))
    tokens = [sum(batch.ids.numel() for batch in each.batches) for each in (packed, alone)]
    assert 4 * tokens[0] < tokens[1]


@pytest.mark.parametrize("shots", [0, 40])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["Llama", "Qwen3", "GPTNeoX"])
def test_packed_scores_are_those_of_each_alone(name: str, attention: str, shots: int) -> None:
    model = made(name, attn_implementation=attention)
    asked, documents = scorer(model, shots)
    numbers = [n for group in documents for n in group]
    exact = asked.score(numbers)
    settle(model, "packed", asked, documents)
    packed = asked.score(numbers)
    assert asked._width == WIDTH
    assert [one[0] for one in packed] == pytest.approx([one[0] for one in exact], abs=1e-4)
    assert [one[1] for one in packed] == [one[1] for one in exact]


UNFIT = {
    "sliding window": lambda: made("Mistral", sliding_window=4),
    "ALiBi": lambda: made("Bloom", n_layer=1, n_head=2),
    "recurrent": lambda: made("Mamba", state_size=4),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_models_that_cannot_be_packed_are_found_out(kind: str) -> None:
    model = UNFIT[kind]()
    asked, documents = scorer(model)
    (note,) = settle(model, "auto", asked, documents)
    assert asked._width is None
    assert note.startswith("questions are scored one by one, not packed: ")
    with pytest.raises(UserError, match="mode: questions cannot be packed on this model: "):
        settle(model, "packed", asked, documents)


def test_weights_that_are_not_finite_speak_against_it() -> None:
    model = made("Llama")
    asked, documents = scorer(model)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    assert settle(model, "auto", asked, documents) == [
        "questions are scored one by one, not packed: its output is not a number"
    ]
    assert asked._width is None


@pytest.mark.parametrize(("mode", "width"), [("exact", None), ("auto", WIDTH)])
def test_the_mode_is_kept(mode: Any, width: int | None) -> None:
    model = made("Llama")
    asked, documents = scorer(model)
    settle(model, mode, asked, documents)
    assert asked._width == width


def test_nothing_shared_nothing_packed() -> None:
    model = made("Llama")
    alone = Scorer(LoadedModel(model, None), [(group[0],) for group in questions(8)], 128, 8)
    settle(model, "auto", alone, [[n] for n in range(8)])
    assert alone._width is None

"""Decoding with rows that join and leave: each completion is what the model generates alone."""

import random
from typing import Any

import pytest
import torch

from mergesearch.evaluators.inference import kv_cache
from mergesearch.evaluators.inference.kv_cache import Completion, Decoder, concatenate

from .helpers import random_model


def test_a_model_with_a_sliding_window_cannot_concatenate() -> None:
    assert Decoder(random_model("Llama")).can_concatenate
    assert not Decoder(random_model("Mistral", sliding_window=4)).can_concatenate


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "GPTNeoX"])
def test_rows_that_join_and_leave_generate_what_each_does_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_cache, "EXTRA_TOKENS", 3)
    model, rng = random_model(name).double(), random.Random(7)
    common = rng.choices(range(3, 60), k=6)
    completions = [Completion(common + rng.choices(range(3, 60), k=k), 20, ()) for k in (9, 7, 7, 4, 2, 1)]
    with torch.no_grad():
        decoder = Decoder(model)
        prefix = decoder.prefix(common)
        batch = concatenate([decoder.start(completions[:2], prefix), decoder.start(completions[2:4])])
        for _ in range(5):
            batch = decoder.step(batch)
        batch.keep([1, 3])
        batch = concatenate([batch, decoder.start(completions[4:], prefix)])
        for _ in range(4):
            batch = decoder.step(batch)
        batch.keep([3])
        assert batch.length == 7 + 5
        assert [each.tokens for each in completions] == [greedy_tokens(model, each) for each in completions]
    assert [len(each.tokens) for each in completions] == [6, 10, 6, 10, 5, 5]


def greedy_tokens(model: Any, completion: Completion) -> list[int]:
    """As many tokens as the completion has, with plain transformers."""
    tokens = list(completion.prompt)
    for _ in completion.tokens:
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(completion.prompt) :]

"""Greedy generation: the texts of ``HFLM.generate_until``, and which settings are left to HFLM."""

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from mergesearch.evaluators import Budget, LoadedModel
from mergesearch.evaluators.contract import token_budget
from mergesearch.evaluators.inference.generation import GreedyGenerator
from mergesearch.evaluators.inference.kv_cache import Completion
from mergesearch.evaluators.lm_eval.hflm import wrap
from mergesearch.evaluators.tasks.ensemble import average
from mergesearch.steps import metered, step, units

from ..helpers import random_sentences, sentence


@pytest.fixture
def subject(wide: LoadedModel) -> LoadedModel:
    """In float64, where no token depends on the shapes of batches."""
    return wide


def texts_of_hflm(hflm: Any, prompts: list[str], settings: dict[str, Any]) -> list[str]:
    from lm_eval.api.instance import Instance

    instances = [Instance("generate_until", {}, (prompt, dict(settings)), 0) for prompt in prompts]
    texts: list[str] = hflm.generate_until(instances, disable_tqdm=True)
    return texts


def completions_of(generator: GreedyGenerator, prompts: list[str], settings: dict[str, Any]) -> list[Completion]:
    completions = [generator.completion(prompt, settings) for prompt in prompts]
    assert None not in completions
    return [completion for completion in completions if completion is not None]


@pytest.mark.parametrize(
    "settings",
    [
        {"until": [], "max_gen_toks": 12, "do_sample": False},
        {"until": ["cat", " s", "the moon"], "max_gen_toks": 24},
        {"until": "a", "max_gen_toks": 90, "temperature": 0.0},
    ],
)
def test_texts_are_those_of_hflm(settings: dict[str, Any], subject: LoadedModel) -> None:
    hflm, prompts = wrap(subject, 4), random_sentences(10)
    generator = GreedyGenerator(hflm)
    assert generator.is_usable is None
    completions, expected = completions_of(generator, prompts, settings), texts_of_hflm(hflm, prompts, settings)
    for separate_batches in (False, True):
        generator.separate_batches = separate_batches
        generator.generate(completions, 3, Budget(2048))
        assert [generator.text(completion) for completion in completions] == expected
    assert any(len(each.tokens) < each.max_tokens for each in completions) or not settings["until"]


def test_a_common_prefix_goes_through_the_model_once(subject: LoadedModel) -> None:
    hflm, common = wrap(subject, 4), sentence(random.Random(4), 20)
    prompts = [f"{common} {' '.join(text.split()[:6])}" for text in random_sentences(9)]
    settings = {"until": ["cat"], "max_gen_toks": 20}
    generator = GreedyGenerator(hflm)
    completions = completions_of(generator, prompts, settings)
    calls = recorded_calls(subject.model, lambda: generator.generate(completions, 4, Budget(2048)))
    assert [generator.text(each) for each in completions] == texts_of_hflm(hflm, prompts, settings)
    prompt_tokens = sum(rows * length for rows, length in calls if length > 1)
    assert prompt_tokens < sum(len(each.prompt) for each in completions) / 2


def test_waiting_prompts_take_the_rows_of_finished_texts(subject: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_budget, "CACHE_BYTES", 0)
    hflm, prompts = wrap(subject, 4), random_sentences(24)
    settings = {"until": [" s"], "max_gen_toks": 40}
    generator = GreedyGenerator(hflm)
    completions = completions_of(generator, prompts, settings)
    budget = Budget(100)  # 800 tokens in the cache
    calls = recorded_calls(subject.model, lambda: generator.generate(completions, 4, budget))
    assert [generator.text(each) for each in completions] == texts_of_hflm(hflm, prompts, settings)
    rows = [rows for rows, length in calls if length == 1]
    assert max(rows) <= max(800 // (len(completions[0].prompt) + 40), 8)
    assert any(after > before for before, after in pairwise(rows))


def recorded_calls(model: Any, action: Callable[[], object]) -> list[tuple[int, int]]:
    """(rows, length) of every call of the model."""
    calls: list[tuple[int, int]] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: calls.append(tuple(inputs[0].shape)))
    action()
    handle.remove()
    return calls


def test_rows_are_halved_when_memory_does_not_suffice(subject: LoadedModel) -> None:
    hflm, prompts = wrap(subject, 4), random_sentences(12)
    settings = {"until": [" s"], "max_gen_toks": 10}
    generator, changes = GreedyGenerator(hflm), list[int]()
    completions = completions_of(generator, prompts, settings)

    def full(_: Any, inputs: Any) -> None:
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError

    handle = subject.model.register_forward_pre_hook(full)
    generator.generate(completions, 8, Budget(2048, changed=lambda changed: changes.append(changed.tokens)))
    handle.remove()
    assert [generator.text(each) for each in completions] == texts_of_hflm(hflm, prompts, settings)
    assert len(changes) == 1


@pytest.mark.parametrize("more", [{"do_sample": True, "temperature": 0.7}, {"num_beams": 2}, {"max_gen_toks": 999}])
def test_other_settings_are_left_to_hflm(more: dict[str, Any], subject: LoadedModel) -> None:
    generator = GreedyGenerator(wrap(subject, 4))
    assert generator.completion("the cat", {"until": [], "max_gen_toks": 4, **more}) is None


def test_settings_of_the_model_are_left_to_hflm(subject: LoadedModel) -> None:
    subject.model.generation_config.repetition_penalty = 1.3
    assert GreedyGenerator(wrap(subject, 4)).is_usable is False


def test_a_model_without_a_cache_is_left_to_hflm(subject: LoadedModel) -> None:
    ensemble = average([subject.model, subject.model], subject.tokenizer)
    assert GreedyGenerator(wrap(ensemble, 4)).is_usable is False


@pytest.mark.parametrize("separate_batches", [False, True])
def test_says_how_far_it_is(separate_batches: bool, subject: LoadedModel) -> None:
    generator = GreedyGenerator(wrap(subject, 4))
    generator.separate_batches = separate_batches
    short, long = ({"until": [], "max_gen_toks": count} for count in (6, 12))
    completions = [
        *completions_of(generator, random_sentences(6), short),
        *completions_of(generator, random_sentences(6), long),
    ]
    seen: list[float] = []
    with metered() as meter, step("scoring", 12, "items"), units(12):
        handle = subject.model.register_forward_hook(lambda *_: seen.append(meter.steps[-1].done))
        try:
            generator.generate(completions, 3, Budget(2048))
        finally:
            handle.remove()
        assert meter.steps[-1].done == 12
    assert seen == sorted(seen)
    assert sum(0 < done < 6 for done in seen) > 2
    assert sum(6 < done < 12 for done in seen) > 2

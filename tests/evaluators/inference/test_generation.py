"""Our generation says what ``HFLM.generate_until`` says, and leaves to it what it cannot say itself."""

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.evaluators import Budget, LoadedModel, Shared
from mergesearch.evaluators.inference import generation as _generation
from mergesearch.evaluators.inference import kv_cache as _decoding
from mergesearch.evaluators.inference.generation import Generator
from mergesearch.evaluators.inference.kv_cache import Decoder, Text, joined
from mergesearch.evaluators.lm_eval.hflm import wrap
from mergesearch.evaluators.lm_eval.lm_eval import LmEval, LmEvalOptions
from mergesearch.evaluators.tasks.ensemble import average

from ..conftest import GENERATE, sentence, write_task
from .test_logprobs import made


def prompts(count: int) -> list[str]:
    draw = random.Random(3)
    return [sentence(draw, draw.randint(1, 40)) for _ in range(count)]


def reference(wrapped: Any, asked: list[str], settings: dict[str, Any]) -> list[str]:
    from lm_eval.api.instance import Instance

    made = [Instance("generate_until", {}, (one, dict(settings)), 0) for one in asked]
    texts: list[str] = wrapped.generate_until(made, disable_tqdm=True)
    return texts


@pytest.mark.parametrize(
    "settings",
    [
        {"until": [], "max_gen_toks": 12, "do_sample": False},
        {"until": ["cat", " s", "the moon"], "max_gen_toks": 24},
        {"until": "a", "max_gen_toks": 90, "temperature": 0.0},
    ],
)
def test_texts_are_those_of_hflm(settings: dict[str, Any], subject: LoadedModel) -> None:
    wrapped, asked = wrap(subject, 4), prompts(10)
    generator = Generator(wrapped)
    assert generator.usable is None
    texts = [generator.text(one, settings) for one in asked]
    assert all(text is not None for text in texts)
    found = [text for text in texts if text is not None]
    generator.answer(found, 3, Budget(2048))
    expected = reference(wrapped, asked, settings)
    assert [generator.spoken(text) for text in found] == expected
    generator.alone = True
    generator.answer(found, 3, Budget(2048))
    assert [generator.spoken(text) for text in found] == expected
    assert any(len(text.said) < text.most for text in found) or not settings["until"]


def test_a_common_beginning_goes_through_the_model_once(subject: LoadedModel) -> None:
    wrapped, common = wrap(subject, 4), sentence(random.Random(4), 20)
    asked = [f"{common} {' '.join(one.split()[:6])}" for one in prompts(9)]
    settings = {"until": ["cat"], "max_gen_toks": 20}
    generator = Generator(wrapped)
    found = [text for one in asked if (text := generator.text(one, settings))]
    seen = tokens_seen(subject.model, lambda: generator.answer(found, 4, Budget(2048)))
    assert [generator.spoken(text) for text in found] == reference(wrapped, asked, settings)
    begun = sum(rows * length for rows, length in seen if length > 1)
    assert begun < sum(len(text.prompt) for text in found) / 2


def test_texts_take_the_place_of_those_that_have_ended(subject: LoadedModel) -> None:
    wrapped, asked = wrap(subject, 4), prompts(24)
    settings = {"until": [" s"], "max_gen_toks": 40}
    generator = Generator(wrapped)
    found = [text for one in asked if (text := generator.text(one, settings))]
    budget = Budget(100)  # 800 tokens are kept
    seen = tokens_seen(subject.model, lambda: generator.answer(found, 4, budget))
    assert [generator.spoken(text) for text in found] == reference(wrapped, asked, settings)
    rows = [rows for rows, length in seen if length == 1]
    assert max(rows) <= max(800 // (len(found[0].prompt) + 40), 8)
    assert any(after > before for before, after in pairwise(rows))


def tokens_seen(model: Any, action: Callable[[], object]) -> list[tuple[int, int]]:
    """(rows, length) of every call of the model."""
    seen: list[tuple[int, int]] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    action()
    handle.remove()
    return seen


def test_memory_that_does_not_suffice_halves_the_rows(subject: LoadedModel) -> None:
    wrapped, asked = wrap(subject, 4), prompts(12)
    settings = {"until": [" s"], "max_gen_toks": 10}
    generator, told = Generator(wrapped), list[int]()
    found = [text for one in asked if (text := generator.text(one, settings))]

    def full(_: Any, inputs: Any) -> None:
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError

    handle = subject.model.register_forward_pre_hook(full)
    generator.answer(found, 8, Budget(2048, changed=lambda changed: told.append(changed.tokens)))
    handle.remove()
    assert [generator.spoken(text) for text in found] == reference(wrapped, asked, settings)
    assert len(told) == 1


def test_a_model_that_keeps_a_window_of_keys_goes_batch_by_batch() -> None:
    assert Decoder(made("Llama")).joins
    assert not Decoder(made("Mistral", sliding_window=4)).joins


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "GPTNeoX"])
def test_rows_that_join_and_leave_say_what_each_says_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_decoding, "ROOM", 3)
    model, draw = made(name).double(), random.Random(7)
    common = draw.choices(range(3, 60), k=6)
    texts = [Text(common + draw.choices(range(3, 60), k=k), 20, ()) for k in (9, 7, 7, 4, 2, 1)]
    with torch.no_grad():
        decoder = Decoder(model)
        prefix = decoder.prefix(common)
        rows = joined([decoder.begin(texts[:2], prefix), decoder.begin(texts[2:4])])
        for _ in range(5):
            rows = decoder.step(rows)
        rows.keep([1, 3])
        rows = joined([rows, decoder.begin(texts[4:], prefix)])
        for _ in range(4):
            rows = decoder.step(rows)
        rows.keep([3])
        assert rows.length == 7 + 5
        assert [text.said for text in texts] == [greedy(model, text) for text in texts]
    assert [len(text.said) for text in texts] == [6, 10, 6, 10, 5, 5]


def greedy(model: Any, text: Text) -> list[int]:
    tokens = list(text.prompt)
    for _ in text.said:
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(text.prompt) :]


@pytest.mark.parametrize("more", [{"do_sample": True, "temperature": 0.7}, {"num_beams": 2}, {"max_gen_toks": 999}])
def test_other_settings_are_left_to_hflm(more: dict[str, Any], subject: LoadedModel) -> None:
    assert Generator(wrap(subject, 4)).text("the cat", {"until": [], "max_gen_toks": 4, **more}) is None


def test_a_models_own_settings_are_left_to_hflm(subject: LoadedModel) -> None:
    subject.model.generation_config.repetition_penalty = 1.3
    assert Generator(wrap(subject, 4)).usable is False


def test_a_model_that_keeps_no_cache_is_left_to_hflm(subject: LoadedModel) -> None:
    ensemble = average([subject.model, subject.model], subject.tokenizer)
    assert Generator(wrap(ensemble, 4)).usable is False


def test_texts_that_differ_side_by_side_are_said_batch_by_batch(
    tasks: Path, subject: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    join = _generation.joined
    monkeypatch.setattr(_generation, "joined", lambda parts: _muddled(join(parts)))
    evaluator = LmEval(LmEvalOptions(task="toy_gen", metric="exact_match,whole"), Shared(include_path=tasks))
    assert evaluator.prepare(subject) == ["texts are generated batch by batch, which is slower: the texts differ"]
    assert evaluator._requests._generator.alone


def _muddled(rows: Any) -> Any:
    rows.tokens = rows.tokens.flip(0)
    return rows


def test_exact_texts_are_said_batch_by_batch(tasks: Path, subject: LoadedModel) -> None:
    shared = Shared(include_path=tasks, mode="exact")
    evaluator = LmEval(LmEvalOptions(task="toy_gen", metric="exact_match,whole"), shared)
    assert evaluator.prepare(subject) == []
    assert evaluator._requests._generator.alone
    assert evaluator._requests._generator.usable


def test_texts_that_differ_are_left_to_hflm(tasks: Path, subject: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Generator, "spoken", lambda _self, _text: "something else")
    evaluator = LmEval(LmEvalOptions(task="toy_gen", metric="exact_match,whole"), Shared(include_path=tasks))
    notes = evaluator.prepare(subject)
    assert notes == ["texts are generated by lm-eval's own code, which is slower: the texts differ"]
    assert evaluator.score(subject, evaluator.items).sum() > 0


def test_sampled_texts_repeat_from_candidate_to_candidate(tmp_path: Path, subject: LoadedModel) -> None:
    settings = GENERATE.replace("do_sample: false", "do_sample: true, temperature: 1.0") + "repeats: 3\n"
    write_task(tmp_path, "mine", [{"question": one, "answer": "a"} for one in prompts(4)], settings)
    evaluator = LmEval(LmEvalOptions(task="mine", metric="exact_match,whole"), Shared(include_path=tmp_path))
    said = []
    for _ in range(2):
        evaluator.score(subject, evaluator.items)
        said.append([one.resps for group in evaluator._built["mine"] for one in group])
    assert said[0] == said[1]
    assert len({text for texts in said[0] for text in texts}) > 4

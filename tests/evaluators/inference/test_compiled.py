"""Scoring with the layers compiled: the same numbers, compiled once whatever the weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from mergesearch.evaluators import LoadedModel, Shared
from mergesearch.evaluators.inference import logits as _logits
from mergesearch.evaluators.inference import prefix_sharing as _packing
from mergesearch.evaluators.inference.prefix_sharing import settle, settle_compiled
from mergesearch.evaluators.lm_eval.lm_eval import LmEval, LmEvalOptions
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte

from .test_logprobs import made
from .test_prefix_sharing import scorer

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Compiles on the CPU too, without making other code of it, and counts."""
    counts = CompileCounterWithBackend("eager")
    monkeypatch.setattr(_logits, "BACKEND", counts)
    monkeypatch.setattr(_packing, "COMPILED", {"cpu"})
    torch._dynamo.reset()
    yield counts
    torch._dynamo.reset()


@pytest.mark.parametrize(("name", "mode"), [("Llama", "exact"), ("GPTNeoX", "packed")])
def test_new_weights_are_not_compiled_anew(counter: Any, name: str, mode: Any) -> None:
    model = made(name)
    (compiled, documents), (plain, _) = scorer(model), scorer(model)
    numbers = [n for group in documents for n in group]
    for one in (compiled, plain):
        settle(model, mode, one, documents)
    assert settle_compiled(model, True, compiled, documents) == []
    compiled.score(numbers)
    graphs = counter.frame_count
    assert 0 < graphs <= 6
    for seed in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
        found, expected = compiled.score(numbers), plain.score(numbers)
        assert [one[0] for one in found] == pytest.approx([one[0] for one in expected], abs=1e-4)
        assert [one[1] for one in found] == [one[1] for one in expected]
    assert counter.frame_count == graphs
    assert "forward" not in vars(model.base_model)


def test_other_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packing, "COMPILED", {"cpu"})
    monkeypatch.setattr(torch, "compile", lambda forward, **_: lambda *args, **more: _doubled(forward(*args, **more)))
    model = made("Llama")
    asked, documents = scorer(model)
    before = asked.score([0, 1])
    (note,) = settle_compiled(model, True, asked, documents)
    assert note.startswith("the model is not compiled: log-probabilities differ by up to ")
    assert asked.score([0, 1]) == before


def _doubled(output: Any) -> Any:
    output.last_hidden_state = 2 * output.last_hidden_state
    return output


def test_on_a_cpu_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    model = made("Llama")
    asked, documents = scorer(model)
    assert settle_compiled(model, True, asked, documents) == []


def test_evaluators_compile_where_that_is_asked_for(counter: Any, tasks: Path, subject: LoadedModel) -> None:
    (tasks / "prose.txt").write_text("the cat sat on the mat and the dog ran up the hill")
    shared, plain = (Shared(include_path=tasks, compile=on) for on in (True, False))
    prose = BitsPerByte.Options(task="prose", files=[str(tasks / "prose.txt")])
    for kind, options in ((BitsPerByte, prose), (LmEval, LmEvalOptions(task="toy_mc"))):
        counter.clear()
        one, other = kind(options, shared), kind(options, plain)
        assert list(one.prepare(subject)) == list(other.prepare(subject))
        found, expected = (each.score(subject, each.items) for each in (one, other))
        assert torch.allclose(found, expected, rtol=1e-5)
        assert counter.frame_count > 0

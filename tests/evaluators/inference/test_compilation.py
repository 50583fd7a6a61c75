"""Scoring with compiled layers: the same numbers, and no compilation for new weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from mergesearch.evaluators import LoadedModel, Shared
from mergesearch.evaluators.inference import logits, scoring_modes
from mergesearch.evaluators.inference.scoring_modes import choose_compilation, choose_packing
from mergesearch.evaluators.lm_eval.lm_eval import LmEval, LmEvalOptions
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte

from ...tolerances import assert_close, path_length
from .helpers import close_logprobs, random_model, scorer_of_questions

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Compiles on the CPU too, to the same code, and counts the compilations."""
    counts = CompileCounterWithBackend("eager")
    monkeypatch.setattr(logits, "COMPILE_BACKEND", counts)
    monkeypatch.setattr(scoring_modes, "COMPILED_DEVICES", {"cpu"})
    torch._dynamo.reset()
    yield counts
    torch._dynamo.reset()


@pytest.mark.parametrize(("name", "mode"), [("Llama", "exact"), ("GPTNeoX", "packed")])
def test_new_weights_are_not_compiled_again(counter: Any, name: str, mode: Any) -> None:
    model = random_model(name).double()
    (compiled, documents), (plain, _) = scorer_of_questions(model), scorer_of_questions(model)
    queries = [query for document in documents for query in document]
    for scorer in (compiled, plain):
        choose_packing(model, mode, scorer, documents)
    assert choose_compilation(model, True, compiled, documents) == []
    compiled.score(queries)
    graphs = counter.frame_count
    assert 0 < graphs <= 6
    for seed in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
        scores, expected = compiled.score(queries), plain.score(queries)
        assert [logprob for logprob, _ in scores] == close_logprobs([logprob for logprob, _ in expected], model, 35)
        assert [is_greedy for _, is_greedy in scores] == [is_greedy for _, is_greedy in expected]
    assert counter.frame_count == graphs
    assert "forward" not in vars(model.base_model)


def test_compiled_code_with_other_numbers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring_modes, "COMPILED_DEVICES", {"cpu"})
    monkeypatch.setattr(torch, "compile", lambda forward, **_: lambda *args, **more: _doubled(forward(*args, **more)))
    model = random_model("Llama")
    scorer, documents = scorer_of_questions(model)
    before = scorer.score([0, 1])
    (note,) = choose_compilation(model, True, scorer, documents)
    assert note.startswith("compile: the model is scored without torch.compile: log-probabilities differ")
    assert scorer.score([0, 1]) == before


def _doubled(output: Any) -> Any:
    output.last_hidden_state = 2 * output.last_hidden_state
    return output


def test_on_a_cpu_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    model = random_model("Llama")
    scorer, documents = scorer_of_questions(model)
    assert choose_compilation(model, True, scorer, documents) == []


def test_evaluators_compile_if_the_config_says_so(counter: Any, tasks: Path, wide: LoadedModel) -> None:
    (tasks / "prose.txt").write_text("the cat sat on the mat and the dog ran up the hill")
    compiled, plain = (Shared(include_path=tasks, compile=on) for on in (True, False))
    prose = BitsPerByte.Options(task="prose", files=[str(tasks / "prose.txt")])
    for kind, options in ((BitsPerByte, prose), (LmEval, LmEvalOptions(task="toy_mc"))):
        counter.clear()
        evaluator, reference = kind(options, compiled), kind(options, plain)
        assert list(evaluator.prepare(wide)) == list(reference.prepare(wide))
        scores, expected = (each.score(wide, each.items) for each in (evaluator, reference))
        assert_close(scores, expected, path_length(wide.model, 128))
        assert counter.frame_count > 0

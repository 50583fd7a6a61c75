"""The ensemble's outputs are the mean of its members' probabilities, and every evaluator of logits takes it."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mergesearch.evaluators import LoadedModel, Shared, open_evaluator
from mergesearch.evaluators.lm_eval.lm_eval import LmEval
from mergesearch.evaluators.tasks.classification import Classification
from mergesearch.evaluators.tasks.ensemble import average
from mergesearch.evaluators.tasks.perplexity import Perplexity

from ...tolerances import assert_close, close, tolerance
from ..helpers import LABELS, WORDS, write_rows


@pytest.fixture
def subject(wide: LoadedModel) -> LoadedModel:
    """In float64. Only the mean is rounded, in float32."""
    return wide


def mean_operations(model: Any) -> int:
    """Operations of a mean of probabilities: a sum over the outputs, and a dozen for logits, exp, log and the mean."""
    outputs = model.get_output_embeddings() or model.classifier
    return int(outputs.weight.shape[0]) + 12


def changed(model: Any, seed: int) -> Any:
    other, draw = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return other


def members(subject: LoadedModel) -> list[Any]:
    return [subject.model, changed(subject.model, 1), changed(subject.model, 2)]


def mean_logs(models: list[Any], **inputs: torch.Tensor) -> np.ndarray[Any, Any]:
    """In float64, from each member's own logits."""
    with torch.no_grad():
        logits = np.stack([model(**inputs).logits.double().numpy() for model in models])
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(np.log((shifted / shifted.sum(-1, keepdims=True)).mean(0)))


def test_probabilities_are_the_mean(subject: LoadedModel) -> None:
    models, ids = members(subject), torch.tensor([[5, 9, 30, 7], [8, 8, 1, 2]])
    ensemble = average(models, subject.tokenizer)
    with torch.no_grad():
        logits = ensemble.model(ids).logits.numpy()
    expected = mean_logs(models, input_ids=ids)
    bound = tolerance(mean_operations(subject.model), torch.float32, np.abs(expected).max())
    assert np.abs(logits - expected).max() <= bound


def test_of_equal_members_it_is_the_member(subject: LoadedModel, tasks: Path) -> None:
    ensemble = average([subject.model, copy.deepcopy(subject.model)], subject.tokenizer)
    for task, metric in (("toy_mc", "acc"), ("toy_word", "acc"), ("toy_text", "bits_per_byte")):
        one = LmEval(LmEval.Options.model_validate({"task": task, "metric": metric}), Shared(include_path=tasks))
        two = LmEval(LmEval.Options.model_validate({"task": task, "metric": metric}), Shared(include_path=tasks))
        expected = one.score(subject, one.items)
        scores = two.score(ensemble, two.items)
        assert_close(scores, expected, mean_operations(subject.model), dtype=torch.float32)
        if one.has_margins:
            (_, expected), (_, margins) = (
                each.score_with_margins(model, each.items) for each, model in ((one, subject), (two, ensemble))
            )
            assert_close(margins, expected, mean_operations(subject.model), dtype=torch.float32)


def test_perplexity_is_that_of_the_mixture(subject: LoadedModel, tmp_path: Path) -> None:
    models, text = members(subject), "the cat sat and ran"
    (tmp_path / "a.txt").write_text(text)
    options = {"task": "t", "files": [str(tmp_path / "a.txt")], "metric": "byte_perplexity"}
    evaluator = Perplexity(Perplexity.Options.model_validate(options), Shared())
    ids = torch.tensor([[1, *subject.tokenizer(text).input_ids]])
    logs = mean_logs(models, input_ids=ids[:, :-1])[0]
    nats = -logs[np.arange(len(logs)), ids[0, 1:].numpy()].sum()
    value = evaluator.value(evaluator.items, evaluator.score(average(models, subject.tokenizer), evaluator.items))
    assert value == close(np.exp(nats / len(text)), mean_operations(subject.model), torch.float32)


def clear_arg_max(logs: np.ndarray[Any, Any], model: Any) -> int:
    """The index of the largest, which rounding of the mean cannot change."""
    second, first = np.sort(logs)[-2:]
    assert first - second > tolerance(mean_operations(model), torch.float32, np.abs(logs).max())
    return int(logs.argmax())


def test_generation_draws_on_the_mixture(subject: LoadedModel, tasks: Path) -> None:
    """Greedy tokens, one by one, of texts that are padded on the left."""
    models = members(subject)
    ensemble = average(models, subject.tokenizer)
    texts = [WORDS[3], " ".join(WORDS[:9])]
    ids = [subject.tokenizer(text, return_tensors="pt").input_ids for text in texts]
    length = max(one.shape[1] for one in ids)
    batch = torch.cat([torch.nn.functional.pad(one, (length - one.shape[1], 0), value=2) for one in ids])
    mask = torch.cat([torch.nn.functional.pad(torch.ones_like(one), (length - one.shape[1], 0)) for one in ids])
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 2, "use_cache": True}
    generated = ensemble.model.generate(batch, attention_mask=mask, **options)[:, length:]
    for row, one in zip(generated.tolist(), ids, strict=True):
        for token in row:
            if token == 2:
                break
            assert token == clear_arg_max(mean_logs(models, input_ids=one)[0, -1], subject.model)
            one = torch.cat([one, torch.tensor([[token]])], dim=1)  # noqa: PLW2901
    evaluator = open_evaluator(
        "lm_eval",
        LmEval.Options.model_validate({"task": "toy_gen", "metric": "exact_match,whole"}),
        Shared(include_path=tasks),
    )
    assert len(evaluator.score(ensemble, evaluator.items)) == len(evaluator.items)


def test_labels_are_those_of_the_mean_probability(classifier: LoadedModel, tmp_path: Path) -> None:
    models = members(classifier)
    texts = [" ".join(WORDS[a : a + 4]) for a in range(10)]
    rows = [{"text": text, "label": LABELS[n % 3]} for n, text in enumerate(texts)]
    data = str(write_rows(tmp_path / "rows.jsonl", rows))
    options = {"task": "t", "data": data, "metric": "mcc"}
    evaluator = Classification(Classification.Options.model_validate(options), Shared())
    predicted = evaluator.score(average(models, classifier.tokenizer), evaluator.items)[:, 0]
    logs = [mean_logs(models, **classifier.tokenizer(text, return_tensors="pt"))[0] for text in texts]
    expected = [clear_arg_max(each, classifier.model) for each in logs]
    assert predicted.tolist() == expected

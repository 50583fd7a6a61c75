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

from ..conftest import LABELS, WORDS, write_rows


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
    together = average(models, subject.tokenizer)
    with torch.no_grad():
        found = together.model(ids).logits.numpy()
    np.testing.assert_allclose(found, mean_logs(models, input_ids=ids), atol=1e-5)


def test_of_equal_members_it_is_the_member(subject: LoadedModel, tasks: Path) -> None:
    together = average([subject.model, copy.deepcopy(subject.model)], subject.tokenizer)
    for task, metric in (("toy_mc", "acc"), ("toy_word", "acc"), ("toy_text", "bits_per_byte")):
        one = LmEval(LmEval.Options.model_validate({"task": task, "metric": metric}), Shared(include_path=tasks))
        two = LmEval(LmEval.Options.model_validate({"task": task, "metric": metric}), Shared(include_path=tasks))
        expected = one.score(subject, one.items)
        torch.testing.assert_close(two.score(together, two.items), expected, rtol=1e-4, atol=1e-5)


def test_perplexity_is_that_of_the_mixture(subject: LoadedModel, tmp_path: Path) -> None:
    models, text = members(subject), "the cat sat and ran"
    (tmp_path / "a.txt").write_text(text)
    options = {"task": "t", "files": [str(tmp_path / "a.txt")], "metric": "byte_perplexity"}
    evaluator = Perplexity(Perplexity.Options.model_validate(options), Shared())
    ids = torch.tensor([[1, *subject.tokenizer(text).input_ids]])
    logs = mean_logs(models, input_ids=ids[:, :-1])[0]
    nats = -logs[np.arange(len(logs)), ids[0, 1:].numpy()].sum()
    value = evaluator.value(evaluator.items, evaluator.score(average(models, subject.tokenizer), evaluator.items))
    assert value == pytest.approx(np.exp(nats / len(text)), rel=1e-4)


def test_generation_draws_on_the_mixture(subject: LoadedModel, tasks: Path) -> None:
    """Greedy tokens, one by one, of texts that are padded on the left."""
    models = members(subject)
    together = average(models, subject.tokenizer)
    texts = [WORDS[3], " ".join(WORDS[:9])]
    ids = [subject.tokenizer(text, return_tensors="pt").input_ids for text in texts]
    length = max(one.shape[1] for one in ids)
    batch = torch.cat([torch.nn.functional.pad(one, (length - one.shape[1], 0), value=2) for one in ids])
    mask = torch.cat([torch.nn.functional.pad(torch.ones_like(one), (length - one.shape[1], 0)) for one in ids])
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 2, "use_cache": True}
    found = together.model.generate(batch, attention_mask=mask, **options)[:, length:]
    for row, one in zip(found.tolist(), ids, strict=True):
        for token in row:
            if token == 2:
                break
            assert token == int(mean_logs(models, input_ids=one)[0, -1].argmax())
            one = torch.cat([one, torch.tensor([[token]])], dim=1)  # noqa: PLW2901
    evaluator = open_evaluator(
        "lm_eval",
        LmEval.Options.model_validate({"task": "toy_gen", "metric": "exact_match,whole"}),
        Shared(include_path=tasks),
    )
    assert len(evaluator.score(together, evaluator.items)) == len(evaluator.items)


def test_labels_are_those_of_the_mean_probability(classifier: LoadedModel, tmp_path: Path) -> None:
    models = members(classifier)
    texts = [" ".join(WORDS[a : a + 4]) for a in range(10)]
    rows = [{"text": text, "label": LABELS[n % 3]} for n, text in enumerate(texts)]
    data = str(write_rows(tmp_path / "rows.jsonl", rows))
    options = {"task": "t", "data": data, "metric": "mcc"}
    evaluator = Classification(Classification.Options.model_validate(options), Shared())
    found = evaluator.score(average(models, classifier.tokenizer), evaluator.items)[:, 0]
    expected = [mean_logs(models, **classifier.tokenizer(text, return_tensors="pt"))[0].argmax() for text in texts]
    assert found.tolist() == expected

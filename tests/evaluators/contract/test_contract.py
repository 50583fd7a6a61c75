"""What every evaluator keeps to, whichever it is."""

import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mergesearch.evaluators import (
    EVALUATORS,
    Evaluator,
    LoadedModel,
    Shared,
    aggregate,
    answers_of,
    documents_of,
    open_evaluator,
    split_items,
)
from mergesearch.evaluators.contract.documents import Describes

from ...tolerances import assert_close, close, path_length
from ..helpers import LABELS, saver, sentence, write_rows

FUNCTION = """
def judge(model, tokenizer, items):
    first = float(next(model.parameters()).flatten()[0])
    return {item: first + len(item) for item in items}

judge.items = {"a": "one text", "bb": "another", "ccc": "a third", "dddd": "a fourth"}
"""
COMMAND = """
import json, pathlib, struct, sys
file, names = pathlib.Path(sys.argv[1], "model.safetensors"), pathlib.Path(sys.argv[2])
data = file.read_bytes()
start = 8 + int.from_bytes(data[:8], "little")
(first,) = struct.unpack("<f", data[start:start + 4])
print(json.dumps({name: first + len(name) for name in names.read_text().split()}))
"""


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, dict[str, Any]]:
    draw = random.Random(5)
    for number in range(4):
        text = " ".join(["sun", "moon", "cat ü"] * (4 + 30 * number))
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    texts = [sentence(draw, draw.randint(2, 60)) for _ in range(24)]
    labelled = [{"text": text, "label": draw.choice(LABELS)} for text in texts]
    pairs = [{"sentence1": text, "sentence2": sentence(draw, 9), "score": draw.random()} for text in texts]
    (tmp_path / "judge.py").write_text(FUNCTION)
    (tmp_path / "judge_command.py").write_text(COMMAND)
    command = [sys.executable, "-I", str(tmp_path / "judge_command.py"), "{model}", "{items}"]
    rows = {"classes": str(write_rows(tmp_path / "classes.jsonl", labelled))}
    rows["pairs"] = str(write_rows(tmp_path / "pairs.jsonl", pairs))
    return {
        "lm_eval": {"task": "toy_mc", "metric": "acc_norm"},
        "bits_per_byte": {"task": "texts", "files": [f"{tmp_path}/*.txt"]},
        "perplexity": {"task": "texts", "data": rows["classes"]},
        "classification": {"task": "classes", "data": rows["classes"], "metric": "f1_macro"},
        "embedding": {"task": "pairs", "data": rows["pairs"]},
        "function": {"task": "judged", "function": f"{tmp_path / 'judge.py'}:judge"},
        "command": {"task": "judged", "command": command, "items": ["a", "bb", "ccc", "dddd"]},
    }


@pytest.fixture(params=EVALUATORS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def evaluator(name: str, asked: dict[str, dict[str, Any]], tasks: Path) -> Evaluator:
    options = EVALUATORS[name].Options.model_validate(asked[name])
    return open_evaluator(name, options, Shared(include_path=tasks, batch_size=6))


@pytest.fixture
def subject(name: str, request: pytest.FixtureRequest) -> LoadedModel:
    """A model of the kind that the evaluator is for."""
    model: LoadedModel = request.getfixturevalue("classifier" if name == "classification" else "causal")
    return model


def test_items_are_distinct_and_of_the_task(evaluator: Evaluator) -> None:
    assert len({item.id for item in evaluator.items}) == len(evaluator.items) > 0
    assert {item.task for item in evaluator.items} == {evaluator.task}
    assert all(item.weight > 0 for item in evaluator.items)


def test_one_float_per_item(evaluator: Evaluator, subject: LoadedModel) -> None:
    scores = evaluator.score(subject, evaluator.items)
    assert scores.dtype == torch.float64
    assert scores.dim() in (1, 2)
    assert len(scores) == len(evaluator.items)
    assert scores.device.type == "cpu"
    assert scores.isfinite().all()


def test_no_items_no_scores(evaluator: Evaluator, subject: LoadedModel) -> None:
    assert len(evaluator.score(subject, [])) == 0


def test_order_and_subset_do_not_matter(evaluator: Evaluator, subject: LoadedModel) -> None:
    whole = dict(zip(evaluator.items, evaluator.score(subject, evaluator.items), strict=True))
    shuffled = random.Random(0).sample(list(evaluator.items), len(evaluator.items))
    assert torch.equal(evaluator.score(subject, shuffled), torch.stack([whole[item] for item in shuffled]))
    half = shuffled[: len(shuffled) // 2]
    expected = torch.stack([whole[item] for item in half])
    # Batches of other shapes are rounded differently, in the model's float32.
    assert_close(evaluator.score(subject, half), expected, path_length(subject.model, 128), dtype=torch.float32)


def test_new_weights_in_the_same_model_count(evaluator: Evaluator, subject: LoadedModel) -> None:
    before = evaluator.score(subject, evaluator.items)
    weights = {name: value.clone() for name, value in subject.model.state_dict().items()}
    with torch.no_grad():
        for parameter in subject.model.parameters():
            parameter.copy_(parameter.flip(0))
    changed = evaluator.score(subject, evaluator.items)
    assert not torch.equal(before, changed)
    subject.model.load_state_dict(weights)
    assert torch.equal(before, evaluator.score(subject, evaluator.items))


def test_another_model_object_is_noticed(evaluator: Evaluator, subject: LoadedModel) -> None:
    import copy

    before = evaluator.score(subject, evaluator.items)
    model = copy.deepcopy(subject.model)
    other = LoadedModel(model, subject.tokenizer, saver(model))
    with torch.no_grad():
        for parameter in subject.model.parameters():
            parameter.zero_()
    assert torch.equal(before, evaluator.score(other, evaluator.items))


def test_not_a_number_names_the_item(evaluator: Evaluator, subject: LoadedModel) -> None:
    with torch.no_grad():
        next(subject.model.parameters()).fill_(float("nan"))
    place = f"task {evaluator.task!r}, item {evaluator.items[1].id}:"
    with pytest.raises(FloatingPointError, match=re.escape(place)):
        evaluator.score(subject, evaluator.items[1:2])


def test_leaves_no_trace(evaluator: Evaluator, subject: LoadedModel, capfd: pytest.CaptureFixture[str]) -> None:
    subject.tokenizer.model_max_length = 16  # transformers warns of longer texts
    settings = (subject.tokenizer.pad_token, subject.tokenizer.padding_side)
    states = random.getstate(), torch.random.get_rng_state()
    capfd.readouterr()
    evaluator.score(subject, evaluator.items)
    assert (random.getstate(), torch.equal(torch.random.get_rng_state(), states[1])) == (states[0], True)
    assert (subject.tokenizer.pad_token, subject.tokenizer.padding_side) == settings
    assert capfd.readouterr() == ("", "")


def test_weights_stay_where_they_are(evaluator: Evaluator, subject: LoadedModel) -> None:
    """A merge writes into the parameters of the model, which must stay the same tensors."""
    before = {name: value.data_ptr() for name, value in subject.model.named_parameters()}
    evaluator.score(subject, evaluator.items)
    assert {name: value.data_ptr() for name, value in subject.model.named_parameters()} == before


def test_unknown_option_is_refused(name: str, asked: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(ValidationError, match="typo"):
        EVALUATORS[name].Options.model_validate({**asked[name], "typo": 1})


def test_items_can_be_split(evaluator: Evaluator, subject: LoadedModel) -> None:
    search, test = split_items(evaluator.items, 0.5, seed=0)
    assert sorted(item.id for item in search + test) == sorted(item.id for item in evaluator.items)
    assert isinstance(evaluator.value(test, evaluator.score(subject, test)), float)


def test_contributions_have_the_value_as_their_mean(evaluator: Evaluator, subject: LoadedModel) -> None:
    for items in (evaluator.items, evaluator.items[:3], evaluator.items[:1]):
        scores = evaluator.score(subject, items)
        parts = evaluator.contributions(items, scores)
        assert parts.shape == (len(items),)
        value = evaluator.value(items, scores)
        # Pseudo-values are differences of the value times the number of items.
        assert aggregate(items, parts) == close(value, 3 * len(items), magnitude=len(items) * max(1.0, abs(value)))


def test_documents_and_answers_are_for_people(evaluator: Evaluator, subject: LoadedModel) -> None:
    documents = documents_of(evaluator, evaluator.items)  # before there is a model
    assert isinstance(evaluator, Describes) or all(item.text for item in evaluator.items)
    scores = evaluator.score(subject, evaluator.items)
    answers = answers_of(evaluator, evaluator.items)
    assert len(answers) == len(documents) == len(evaluator.items)
    for document, answer in zip(documents, answers, strict=True):
        assert document.question
        assert isinstance(answer, str)
        if document.choices:
            assert document.right in document.choices
            assert answer in document.choices
    if any(document.choices for document in documents):
        is_right = [document.right == answer for document, answer in zip(documents, answers, strict=True)]
        columns = scores.reshape(len(scores), -1)
        assert is_right == (columns[:, 0] == columns[:, 1] if columns.shape[1] == 2 else columns[:, 0] == 1).tolist()
        assert 0 < sum(is_right) < len(is_right)
    half = evaluator.items[1::2]
    assert documents_of(evaluator, half) == documents[1::2]
    evaluator.score(subject, half)
    assert answers_of(evaluator, half) == answers[1::2]


def test_prepared_beforehand_says_no_more_than_texts(evaluator: Evaluator, subject: LoadedModel) -> None:
    notes = evaluator.prepare(subject)
    assert all(isinstance(note, str) for note in notes)


def test_an_evaluator_made_anew_values_recorded_scores(
    name: str, evaluator: Evaluator, asked: dict[str, dict[str, Any]], subject: LoadedModel, tasks: Path
) -> None:
    """A run that goes on has the scores of its earlier trials, and no model yet."""
    scores = evaluator.score(subject, evaluator.items)
    options = EVALUATORS[name].Options.model_validate(asked[name])
    again = open_evaluator(name, options, Shared(include_path=tasks, batch_size=6))
    assert again.value(again.items, scores) == evaluator.value(evaluator.items, scores)
    assert torch.equal(again.contributions(again.items, scores), evaluator.contributions(evaluator.items, scores))

"""What every evaluator keeps to, whichever it is."""

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mergesearch.evaluators import EVALUATORS, Evaluator, LoadedModel, Shared, aggregate, open_evaluator, split_items


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, dict[str, Any]]:
    for number in range(4):
        text = " ".join(["sun", "moon", "cat ü"] * (4 + 30 * number))
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    return {
        "lm_eval": {"task": "toy_mc", "metric": "acc_norm"},
        "bits_per_byte": {"task": "texts", "files": [f"{tmp_path}/*.txt"]},
    }


@pytest.fixture(params=EVALUATORS)
def evaluator(request: pytest.FixtureRequest, asked: dict[str, dict[str, Any]], tasks: Path) -> Evaluator:
    options = EVALUATORS[request.param].Options.model_validate(asked[request.param])
    return open_evaluator(options, Shared(include_path=tasks, batch_size=6))


def test_items_are_distinct_and_of_the_task(evaluator: Evaluator) -> None:
    assert len({item.id for item in evaluator.items}) == len(evaluator.items) > 0
    assert {item.task for item in evaluator.items} == {evaluator.task}
    assert all(item.weight > 0 for item in evaluator.items)


def test_one_float_per_item(evaluator: Evaluator, subject: LoadedModel) -> None:
    scores = evaluator.score(subject, evaluator.items)
    assert scores.dtype == torch.float64
    assert scores.shape == (len(evaluator.items),)
    assert scores.device.type == "cpu"
    assert scores.isfinite().all()


def test_no_items_no_scores(evaluator: Evaluator, subject: LoadedModel) -> None:
    assert evaluator.score(subject, []).shape == (0,)


def test_order_and_subset_do_not_matter(evaluator: Evaluator, subject: LoadedModel) -> None:
    whole = dict(zip(evaluator.items, evaluator.score(subject, evaluator.items).tolist(), strict=True))
    shuffled = random.Random(0).sample(list(evaluator.items), len(evaluator.items))
    assert evaluator.score(subject, shuffled).tolist() == [whole[item] for item in shuffled]
    some = shuffled[: len(shuffled) // 2]
    assert evaluator.score(subject, some).tolist() == pytest.approx([whole[item] for item in some], rel=1e-6)


def test_new_weights_in_the_same_model_count(evaluator: Evaluator, subject: LoadedModel) -> None:
    before = evaluator.score(subject, evaluator.items)
    kept = {name: value.clone() for name, value in subject.model.state_dict().items()}
    with torch.no_grad():
        for parameter in subject.model.parameters():
            parameter.copy_(parameter.flip(0))
    changed = evaluator.score(subject, evaluator.items)
    assert not torch.equal(before, changed)
    subject.model.load_state_dict(kept)
    assert torch.equal(before, evaluator.score(subject, evaluator.items))


def test_another_model_object_is_noticed(evaluator: Evaluator, subject: LoadedModel) -> None:
    import copy

    before = evaluator.score(subject, evaluator.items)
    other = LoadedModel(copy.deepcopy(subject.model), subject.tokenizer)
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
    """Whoever merges writes into the parameters that it found in the model."""
    before = {name: value.data_ptr() for name, value in subject.model.named_parameters()}
    evaluator.score(subject, evaluator.items)
    assert {name: value.data_ptr() for name, value in subject.model.named_parameters()} == before


def test_unknown_option_is_refused(evaluator: Evaluator, asked: dict[str, dict[str, Any]]) -> None:
    name = next(name for name, kind in EVALUATORS.items() if isinstance(evaluator, kind))
    with pytest.raises(ValidationError, match="typo"):
        EVALUATORS[name].Options.model_validate({**asked[name], "typo": 1})


def test_items_can_be_split(evaluator: Evaluator, subject: LoadedModel) -> None:
    search, test = split_items(evaluator.items, 0.5, seed=0)
    assert sorted(item.id for item in search + test) == sorted(item.id for item in evaluator.items)
    assert isinstance(aggregate(test, evaluator.score(subject, test)), float)

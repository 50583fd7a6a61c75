"""Losses of the items' targets against plain transformers, one sequence at a time."""

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.evaluators import Budget, Differentiable, Evaluator, LoadedModel, Shared, has_targets, open_evaluator
from mergesearch.evaluators.lm_eval.lm_eval import LmEval
from mergesearch.evaluators.lm_eval.subtask import Subtask
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.evaluators.tasks.perplexity import PerplexityOptions

from ...tolerances import assert_close, close, path_length
from ..lm_eval_tasks import MULTIPLE_CHOICE, choice_docs, write_task


@pytest.fixture
def subject(wide: LoadedModel) -> LoadedModel:
    """In float64, so that two ways to compute a loss agree closely."""
    return wide


def evaluator_of(tasks: Path, task: str, metric: str = "acc", batch_size: int = 6) -> Any:
    options = LmEval.Options.model_validate({"task": task, "metric": metric})
    return open_evaluator("lm_eval", options, Shared(include_path=tasks, batch_size=batch_size))


def total(evaluator: Evaluator, subject: LoadedModel, kind: Any = "targets", scale: float = 1.0) -> float:
    assert isinstance(evaluator, Differentiable)
    assert has_targets(evaluator)
    targets = evaluator.targets(subject, evaluator.items)
    assert targets.has_gold
    return sum(loss.item() for loss in targets.losses(kind, scale))


def logprobs(subject: LoadedModel, context: str, answer: str) -> torch.Tensor:
    """[answer's tokens, vocabulary], what predicts each of them, and which it is; contexts lose what is too long."""
    start = subject.tokenizer(context).input_ids
    ids = torch.tensor(subject.tokenizer(context + answer).input_ids)
    continuation = ids[len(start) :]
    fed = ids[-1 - int(subject.model.config.max_position_embeddings) : -1]
    with torch.no_grad():
        predicted = subject.model(fed[None]).logits[0].double().log_softmax(-1)
    return predicted[-len(continuation) :], continuation  # type: ignore[return-value]


def answers(evaluator: Any, subject: LoadedModel) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    groups = evaluator.subtasks[0].instances(None)
    return [[logprobs(subject, *one.args) for one in group] for group in groups]  # type: ignore[misc]


@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
@pytest.mark.parametrize("kind", ["targets", "entropy"])
def test_choices(tasks: Path, subject: LoadedModel, metric: str, kind: str) -> None:
    evaluator = evaluator_of(tasks, "toy_mc", metric)
    expected, subtask = [], evaluator.subtasks[0]
    for doc, group in zip(subtask.docs, answers(evaluator, subject), strict=True):
        sums = torch.stack([rows.gather(1, ids[:, None]).sum() for rows, ids in group])
        choices = subtask._task.doc_to_choice(doc)
        lengths = torch.tensor([float(len(choice)) for choice in choices])
        logits = sums * lengths.mean() / lengths if metric == "acc_norm" else sums
        chosen = logits.log_softmax(0)
        gold = subtask._task.doc_to_target(doc)
        expected.append(-chosen[gold] if kind == "targets" else -(chosen.exp() * chosen).sum())
    mean = float(torch.stack(expected).mean())
    assert total(evaluator, subject, kind) == close(mean, path_length(subject.model, 128))


@pytest.mark.parametrize("kind", ["targets", "entropy"])
def test_one_answer(tasks: Path, subject: LoadedModel, kind: str) -> None:
    evaluator = evaluator_of(tasks, "toy_word")
    expected = [
        (-rows.gather(1, ids[:, None]).mean() if kind == "targets" else -(rows.exp() * rows).sum(-1).mean())
        for ((rows, ids),) in answers(evaluator, subject)
    ]
    mean = float(torch.stack(expected).mean())
    assert total(evaluator, subject, kind) == close(mean, path_length(subject.model, 128))


@pytest.mark.parametrize("scale", [0.5, 20.0])
def test_graded_choices(tasks: Path, subject: LoadedModel, scale: float) -> None:
    evaluator = evaluator_of(tasks, "toy_mc")
    expected, subtask = [], evaluator.subtasks[0]
    for doc, group in zip(subtask.docs, answers(evaluator, subject), strict=True):
        sums = [float(rows.gather(1, ids[:, None]).sum()) for rows, ids in group]
        right = sums.pop(subtask._task.doc_to_target(doc))
        expected.append(1 - 1 / (1 + math.exp(-(right - max(sums)) / scale)))
    mean = sum(expected) / len(expected)
    assert total(evaluator, subject, "graded", scale) == close(mean, path_length(subject.model, 128), magnitude=200)


def test_graded_texts_by_their_least_sure_token(tasks: Path, subject: LoadedModel) -> None:
    evaluator = evaluator_of(tasks, "toy_word")
    expected = []
    for ((rows, ids),) in answers(evaluator, subject):
        pairs = zip(rows, ids.tolist(), strict=True)
        margins = [float(row[n]) - float(torch.cat([row[:n], row[n + 1 :]]).max()) for row, n in pairs]
        expected.append(1 - 1 / (1 + math.exp(-min(margins) / 2.0)))
    mean = sum(expected) / len(expected)
    for size in (1, 6, 64):
        found = total(evaluator_of(tasks, "toy_word", batch_size=size), subject, "graded", 2.0)
        assert found == close(mean, path_length(subject.model, 128), magnitude=200)


def test_texts_cost_their_bits_per_byte(tasks: Path, subject: LoadedModel, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("sun moon cat " * (5 + 40 * number))
    options = BitsPerByte.Options.model_validate({"task": "texts", "files": [f"{tmp_path}/*.txt"]})
    for evaluator in (
        open_evaluator("bits_per_byte", options, Shared()),
        evaluator_of(tasks, "toy_text", "bits_per_byte"),
    ):
        value = evaluator.value(evaluator.items, evaluator.score(subject, evaluator.items))
        assert total(evaluator, subject) == close(value, path_length(subject.model, 128))


@pytest.mark.parametrize("metric", ["word_perplexity", "byte_perplexity"])
def test_texts_cost_the_logarithm_of_their_perplexity(
    tasks: Path, subject: LoadedModel, tmp_path: Path, metric: Any
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("sun moon cat " * (5 + 40 * number))
    options = PerplexityOptions(task="texts", files=[f"{tmp_path}/*.txt"], metric=metric)
    for evaluator in (open_evaluator("perplexity", options, Shared()), evaluator_of(tasks, "toy_text", metric)):
        value = evaluator.value(evaluator.items, evaluator.score(subject, evaluator.items))
        assert total(evaluator, subject) == close(math.log(value), path_length(subject.model, 128))


GROUP = "group: both\ntask: [one, two]\naggregate_metric_list:\n  - {metric: acc, weight_by_size: %s}\n"


@pytest.mark.parametrize("by_size", [True, False])
def test_subtasks_cost_as_they_count_in_the_value(tmp_path: Path, subject: LoadedModel, by_size: bool) -> None:
    draw = random.Random(4)
    for name, count in (("one", 5), ("two", 9)):
        write_task(tmp_path, name, choice_docs(draw, count), MULTIPLE_CHOICE)
    (tmp_path / "both.yaml").write_text(GROUP % str(by_size).lower())
    one, two = (total(evaluator_of(tmp_path, name), subject) for name in ("one", "two"))
    assert one != two
    expected = (5 * one + 9 * two) / 14 if by_size else (one + two) / 2
    assert total(evaluator_of(tmp_path, "both"), subject) == close(expected, path_length(subject.model, 128))


def test_packed_questions_have_the_same_targets(tasks: Path, subject: LoadedModel) -> None:
    """And the same gradients, of every parameter."""
    found = []
    for mode in ("exact", "packed"):
        options = LmEval.Options.model_validate({"task": "toy_mc", "metric": "acc"})
        evaluator: Any = open_evaluator("lm_eval", options, Shared(include_path=tasks, mode=mode))
        evaluator.prepare(subject)
        assert (evaluator.runner_for(subject).scorer.packing_width is None) == (mode == "exact")
        found.append((total(evaluator, subject), gradients(evaluator, subject)))
    (exact, one), (packed, other) = found
    operations = path_length(subject.model, 128)
    assert packed == close(exact, operations)
    for name, gradient in one.items():
        assert_close(other[name], gradient, 2 * operations, dtype=torch.float32)  # that of the model's norms


def gradients(evaluator: Any, subject: LoadedModel) -> dict[str, torch.Tensor]:
    subject.model.requires_grad_(True)
    subject.model.zero_grad()
    for loss in evaluator.targets(subject, evaluator.items).losses("targets"):
        loss.backward()
    return {name: p.grad.clone() for name, p in subject.model.named_parameters() if p.grad is not None}


def test_batches_do_not_matter(tasks: Path, subject: LoadedModel) -> None:
    one, many = (total(evaluator_of(tasks, "toy_mc", batch_size=size), subject) for size in (1, 64))
    assert one == close(many, path_length(subject.model, 128))


def test_gradients_are_those_of_the_whole(tasks: Path, subject: LoadedModel) -> None:
    """Loss by loss, backward gives what it gives of their sum, in batches of any size."""
    whole, parts = evaluator_of(tasks, "toy_mc"), evaluator_of(tasks, "toy_mc")
    subject.model.requires_grad_(True)
    weight = subject.model.lm_head.weight
    weight.grad = None
    losses = list(parts.targets(replace(subject, budget=Budget(64)), whole.items).losses("targets"))
    assert len(losses) > 3
    for loss in losses:
        loss.backward()
    gradient, weight.grad = weight.grad.clone(), None
    sum(whole.targets(subject, whole.items).losses("targets")).backward()
    assert_close(gradient, weight.grad, 2 * path_length(subject.model, 128))


def test_generated_texts_cost_their_first_correct_one(tasks: Path, subject: LoadedModel) -> None:
    """As if the model had generated it after the prompt."""
    evaluator = evaluator_of(tasks, "toy_gen", "exact_match,whole")
    subtask, expected = evaluator.subtasks[0], []
    for number, (asked,) in enumerate(subtask.instances(None)):
        rows, ids = logprobs(subject, asked.args[0], subtask.gold_texts(number)[0])
        expected.append(-rows.gather(1, ids[:, None]).mean())
    mean = float(torch.stack(expected).mean())
    assert total(evaluator, subject) == close(mean, path_length(subject.model, 128))


def test_generated_texts_of_which_no_correct_one_is_known_have_no_targets(tasks: Path) -> None:
    assert not has_targets(evaluator_of(tasks, "toy_bleu", "bleu"))


def test_items_without_a_text_that_can_be_scored_cost_nothing(
    tasks: Path, subject: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluator_of(tasks, "toy_gen", "exact_match,whole")
    found = [sum(loss.item() for loss in whole.targets(subject, [item]).losses("graded")) for item in whole.items]
    evaluator = evaluator_of(tasks, "toy_gen", "exact_match,whole")
    texts = type(evaluator.subtasks[0]).gold_texts
    monkeypatch.setattr(Subtask, "gold_texts", lambda self, n: texts(self, n) if n > 2 else [])
    expected, operations = sum(found[3:]) / len(found), path_length(subject.model, 128)
    assert total(evaluator, subject, "graded") == close(expected, operations, magnitude=400)
    targets = evaluator.targets(subject, evaluator.items[:3])
    assert list(targets.losses("graded")) == []

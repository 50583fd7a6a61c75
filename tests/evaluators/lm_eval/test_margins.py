"""Margins of lm-eval's tasks where there is more to them than a definition: texts, bfloat16, shared prefixes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.evaluators import LoadedModel, Shared
from mergesearch.evaluators.lm_eval.lm_eval import LmEval, LmEvalOptions

from ...tolerances import assert_close, path_length
from ..lm_eval_tasks import GENERATE, LISTS, MULTIPLE_CHOICE, write_task


def opened(folder: Path, task: str, metric: str = "acc", **shared: Any) -> LmEval:
    options = LmEvalOptions(task=task, metric=metric)
    return LmEval(options, Shared(**{"include_path": folder, "batch_size": 6, **shared}))


def least_margin(subject: LoadedModel, prompt: str, text: str) -> float:
    """The least margin of a token of the text after the prompt, by plain transformers."""
    start, ids = subject.tokenizer(prompt).input_ids, subject.tokenizer(prompt + text).input_ids
    with torch.no_grad():
        rows = subject.model(torch.tensor([ids[:-1]])).logits[0, len(start) - 1 :].double().log_softmax(-1)
    margins = []
    for row, token in zip(rows, ids[len(start) :], strict=True):
        others = [float(value) for n, value in enumerate(row) if n != token]
        margins.append(float(row[token]) - max(others))
    return min(margins)


@pytest.mark.parametrize(("task", "metric"), [("toy_gen", "exact_match,whole"), ("toy_lists", "exact_match")])
def test_a_generated_text_has_the_margin_of_its_best_correct_answer(
    tasks: Path, wide: LoadedModel, task: str, metric: str
) -> None:
    """toy_lists compares texts as they are: an answer counts only where no space comes between."""
    evaluator = opened(tasks, task, metric)
    scores, margins = evaluator.score_with_margins(wide, evaluator.items)
    expected = []
    for doc in evaluator.subtasks[0].docs:
        prompt = f"Q: {doc['question']} A:"
        answers = doc["answers"] if task == "toy_lists" else [f" {doc['answer']}"]
        expected.append(max(least_margin(wide, prompt, answer) for answer in answers))
    assert_close(margins, torch.tensor(expected, dtype=torch.float64), path_length(wide.model, 128), 200.0)
    assert 0 < scores.sum() < len(scores)
    assert (margins[scores == 0] < 0).all(), "what is not generated is not greedy"


def test_an_answer_that_the_metric_never_counts_is_graded_by_its_score(tmp_path: Path, wide: LoadedModel) -> None:
    docs = [{"question": "cat", "answer": answer} for answer in ("the 7", "sun", "7 hills")]
    write_task(tmp_path, "letters", docs, GENERATE)
    evaluator = opened(tmp_path, "letters", "exact_match,letters")
    scores, margins = evaluator.score_with_margins(wide, evaluator.items)
    assert margins.isfinite().tolist() == [False, True, False]
    assert margins[0] == (math.inf if scores[0] else -math.inf)
    assert evaluator.grades(evaluator.items, margins, 1.0)[0] == scores[0]


def test_of_many_correct_answers_the_first_are_scored(tmp_path: Path, wide: LoadedModel) -> None:
    names = ["sun", "sun", "moon", "cat", "dog", "hill", "mat"]
    write_task(tmp_path, "many", [{"question": "cat", "answers": names}, {"question": "dog", "answers": ["a"]}], LISTS)
    evaluator = opened(tmp_path, "many", "exact_match")
    assert evaluator.subtasks[0].gold_texts(0) == ["sun", "moon", "cat", "dog"]
    _, margins = evaluator.score_with_margins(wide, evaluator.items)
    expected = max(least_margin(wide, "Q: cat A:", text) for text in names[:5])
    assert_close(margins[:1], torch.tensor([expected], dtype=torch.float64), path_length(wide.model, 128), 200.0)


def test_texts_of_which_no_answer_counts_have_no_margins(tmp_path: Path) -> None:
    write_task(tmp_path, "digits", [{"question": "cat", "answer": "77"}], GENERATE)
    assert not opened(tmp_path, "digits", "exact_match,letters").has_margins
    assert opened(tmp_path, "digits", "exact_match,whole").has_margins


@pytest.mark.parametrize("task", ["toy_mc", "toy_word"])
def test_bfloat16_ties_are_graded_in_float32(tasks: Path, causal: LoadedModel, task: str) -> None:
    causal.model.to(torch.bfloat16)
    evaluator = opened(tasks, task)
    scores, margins = evaluator.score_with_margins(causal, evaluator.items)
    assert torch.equal(scores, evaluator.score(causal, evaluator.items))
    assert (margins.abs() > 1e-6).all()
    assert not torch.equal(margins.bfloat16().double(), margins)
    if task == "toy_mc":
        groups = evaluator.instances["toy_mc"]
        logprobs = [sorted(instance.resps[0][0] for instance in group)[-2:] for group in groups]
        assert any(first == second for first, second in logprobs), "the metric's own numbers tie"


def test_shared_prefixes_change_no_margin(tasks: Path, wide: LoadedModel) -> None:
    found = []
    for mode in ("exact", "packed"):
        evaluator = opened(tasks, "toy_yes", "mcc", mode=mode)
        found.append(evaluator.score_with_margins(wide, evaluator.items)[1].nan_to_num(0.0))
    assert_close(found[0], found[1], path_length(wide.model, 128), 200.0)


def test_a_batch_that_does_not_fit_is_scored_in_smaller_ones(
    tasks: Path, wide: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = opened(tasks, "toy_word")
    _, expected = evaluator.score_with_margins(wide, evaluator.items)
    calls: list[int] = []
    again = opened(tasks, "toy_word")
    again.prepare(wide)
    scorer = again.runner_for(wide).scorer
    at = scorer.logits.at
    monkeypatch.setattr(scorer.logits, "at", lambda ids, *rest: failing_once(calls, at, ids, *rest))
    _, margins = again.score_with_margins(wide, again.items)
    assert_close(margins, expected, path_length(wide.model, 128), 200.0)


def failing_once(calls: list[int], at: Any, ids: torch.Tensor, *rest: Any) -> Any:
    calls.append(len(ids))
    if len(calls) == 1:
        raise torch.OutOfMemoryError
    return at(ids, *rest)


OWN = """
import numpy as np

def judge(doc, results):
    likely = [logprob for logprob, _ in results]
    shares = np.exp(likely) / np.exp(likely).sum()
    lengths = [len(choice) for choice in doc["choices"]]
    right = lambda values: float(np.argmax(values) in doc["right"])
    share = sum(shares[n] for n in doc["right"])
    return {"acc": right(likely), "acc_norm": right(np.array(likely) / lengths), "share": share, "bias": 1.0}
"""


@pytest.mark.usefixtures("trusted")
def test_code_of_a_task_is_asked_what_is_right(tmp_path: Path, wide: LoadedModel) -> None:
    """The task's own target is another one, as in AGIEval."""
    docs = [{"question": f"cat {n}", "choices": ["the sun", "hill", "a mat"], "gold": 0} for n in range(9)]
    docs = [{**doc, "right": [n % 3, (n + n % 2) % 3]} for n, doc in enumerate(docs)]
    (tmp_path / "own.py").write_text(OWN)
    lines = "".join(
        f"  - {{metric: {metric}, aggregation: mean, higher_is_better: true}}\n" for metric in ("share", "bias")
    )
    write_task(tmp_path, "judged", docs, MULTIPLE_CHOICE + lines + "process_results: !function own.judge\n")
    for metric in ("acc", "acc_norm"):
        evaluator = opened(tmp_path, "judged", metric)
        assert evaluator.has_margins
        scores, margins = evaluator.score_with_margins(wide, evaluator.items)
        assert torch.equal((margins > 0).double(), scores)
        assert 0 < scores.mean() < 1
    assert not opened(tmp_path, "judged", "share").has_margins
    assert not opened(tmp_path, "judged", "bias").has_margins

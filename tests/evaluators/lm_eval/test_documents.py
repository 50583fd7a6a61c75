"""Documents and answers of lm-eval's tasks, as people read them."""

from pathlib import Path
from typing import Any

import pytest

from mergesearch.evaluators import LoadedModel, answers_of, documents_of

from .helpers import open_lm_eval


@pytest.mark.parametrize(
    "options",
    [
        {"task": "toy_mc", "metric": "acc_norm"},
        {"task": "toy_yes"},
        {"task": "toy_wino"},
        {"task": "toy_shots", "num_fewshot": 2},
        {"task": "toy_gen", "metric": "exact_match,whole"},
    ],
    ids=lambda options: options["task"],
)
def test_the_answer_is_the_right_one_where_the_metric_says_so(
    options: dict[str, Any], tasks: Path, wide: LoadedModel
) -> None:
    evaluator = open_lm_eval(tasks, **options)
    scores = evaluator.score(wide, evaluator.items).tolist()
    found = zip(documents_of(evaluator, evaluator.items), answers_of(evaluator, evaluator.items), scores, strict=True)
    distinct = [each for each in found if len(set(each[0].choices)) == len(each[0].choices)]
    is_right = [float(document.right.strip() == answer.strip()) for document, answer, _ in distinct]
    assert is_right == [score for *_, score in distinct]
    assert 0 < sum(is_right) < len(is_right)


def test_questions_have_no_examples_before_them(tasks: Path) -> None:
    evaluator = open_lm_eval(tasks, task="toy_shots", num_fewshot=2)
    documents = documents_of(evaluator, evaluator.items)
    assert all(document.question.count("Q:") <= 1 for document in documents)
    assert evaluator.subtasks[0].docs[3]["question"] in documents[3].question


def test_partial_evaluation_chooses_between_contexts(tasks: Path) -> None:
    document = documents_of(evaluator := open_lm_eval(tasks, task="toy_wino"), evaluator.items[:1])[0]
    doc = evaluator.subtasks[0].docs[0]
    assert document.question == doc["end"]
    assert document.choices == [f"the {doc[key]} {doc['middle']}" for key in ("one", "two")]


def test_texts_and_words(tasks: Path, wide: LoadedModel) -> None:
    word = open_lm_eval(tasks, task="toy_word")
    doc = word.subtasks[0].docs[0]
    found = documents_of(word, word.items[:1])[0]
    assert (found.question, found.right) == (doc["context"], doc["word"])
    word.score(wide, word.items[:1])
    assert answers_of(word, word.items[:1]) == [""]
    text = open_lm_eval(tasks, task="toy_text", metric="bits_per_byte")
    assert documents_of(text, text.items[:1])[0].question == text.subtasks[0].docs[0]["page"]


def test_a_task_whose_code_fails_shows_its_document(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = open_lm_eval(tasks, task="toy_mc")
    monkeypatch.setattr(type(evaluator.subtasks[0]._answers), "document", lambda *_: 1 / 0)
    document = documents_of(evaluator, evaluator.items[:1])[0]
    assert evaluator.subtasks[0].docs[0]["question"] in document.question

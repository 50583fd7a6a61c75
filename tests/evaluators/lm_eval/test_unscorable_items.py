"""Items that no model can be scored on: found before anything is scored, and named."""

from pathlib import Path
from typing import Any

import pytest

from mergesearch.errors import UserError
from mergesearch.evaluators import LoadedModel

from ...tolerances import close
from ..lm_eval_tasks import GENERATE, MULTIPLE_CHOICE, TEXT, WORD, write_task
from .helpers import open_lm_eval

BLANK = "\n \n\n"


def raising(tmp_path: Path, subject: LoadedModel, docs: list[dict[str, Any]], settings: str, **options: Any) -> str:
    write_task(tmp_path, "mine", docs, settings)
    evaluator = open_lm_eval(tmp_path, task="mine", **options)
    with pytest.raises(UserError) as error:
        evaluator.prepare(subject)
    return str(error.value)


def word_docs(*contexts: str) -> list[dict[str, Any]]:
    return [{"context": context, "word": " cat"} for context in contexts]


def test_a_context_of_blank_lines(tmp_path: Path, subject: LoadedModel) -> None:
    said = raising(tmp_path, subject, word_docs("the", BLANK, "a", " "), WORD)
    assert said.startswith("task 'mine', item 1: what stands before the answer ' cat' is ")
    assert "task 'mine', item 3" in said
    assert "item 0" not in said


def test_a_choice_without_a_question_is_scored_after_the_prefix_token(tmp_path: Path, subject: LoadedModel) -> None:
    write_task(tmp_path, "mine", word_docs("", "the"), WORD)
    evaluator = open_lm_eval(tmp_path, task="mine")
    evaluator.prepare(subject)
    assert evaluator.score(subject, evaluator.items).shape == (2,)


@pytest.mark.parametrize("question", ["", BLANK, "\t"])
def test_blank_questions_with_a_template_are_scored(tmp_path: Path, subject: LoadedModel, question: str) -> None:
    docs = [{"question": question, "choices": ["a", "b"], "gold": 0}]
    write_task(tmp_path, "mine", docs, MULTIPLE_CHOICE)
    evaluator = open_lm_eval(tmp_path, task="mine")
    evaluator.prepare(subject)
    assert evaluator.score(subject, evaluator.items).isfinite().all()


@pytest.mark.parametrize("answer", ["", "\u200b"])
def test_an_answer_without_tokens(tmp_path: Path, subject: LoadedModel, answer: str) -> None:
    from tokenizers import normalizers

    subject.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    choices = [["a", "b"], ["a", answer], [answer, "a"]]
    docs = [{"question": "q"[:n], "choices": each, "gold": 0} for n, each in zip((1, 1, 0), choices, strict=True)]
    settings = MULTIPLE_CHOICE.replace("output_type", 'target_delimiter: ""\noutput_type')
    settings = settings.replace('"Q: {{question}} A:"', '"{{question}}"')
    said = raising(tmp_path, subject, docs, settings)
    assert said.startswith("task 'mine', item 1: ")
    assert "task 'mine', item 2" in said


def test_an_empty_choice_of_the_first_document(tmp_path: Path) -> None:
    write_task(tmp_path, "mine", [{"question": "q", "choices": ["a", ""], "gold": 0}], MULTIPLE_CHOICE)
    with pytest.raises(UserError, match="expects no empty text in the answer or the choices of its first document"):
        open_lm_eval(tmp_path, task="mine")


def test_a_prompt_without_tokens(tmp_path: Path, subject: LoadedModel) -> None:
    docs = [{"question": "q", "answer": "a"}, {"question": "", "answer": "a"}]
    settings = GENERATE.replace('"Q: {{question}} A:"', '"{{question}}"')
    said = raising(tmp_path, subject, docs, settings, metric="exact_match,whole")
    assert said.startswith("task 'mine', item 1: its prompt '' has no tokens")


@pytest.mark.parametrize("metric", ["bits_per_byte", "word_perplexity", "byte_perplexity"])
def test_an_empty_text_adds_nothing(tmp_path: Path, subject: LoadedModel, metric: str) -> None:
    write_task(tmp_path, "mine", [{"page": page} for page in ("the cat", "", "a dog runs")], TEXT)
    evaluator = open_lm_eval(tmp_path, task="mine", metric=metric)
    evaluator.prepare(subject)
    scores = evaluator.score(subject, evaluator.items)
    contributions = evaluator.contributions(evaluator.items, scores)
    assert contributions.isfinite().all()
    if metric != "word_perplexity":  # whose unit counts an empty text as one word
        assert contributions[1] == 0
        full = evaluator.items[::2]
        assert evaluator.contributions(full, scores[::2]).tolist() == contributions[::2].tolist()
        assert evaluator.value(evaluator.items, scores) == close(evaluator.value(full, scores[::2]), 10)

"""Perplexities of texts: lm-eval's numbers for a task of the same texts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mergesearch.errors import UserError
from mergesearch.evaluators import LoadedModel, Shared
from mergesearch.evaluators.tasks.perplexity import Perplexity

from ...tolerances import close, path_length
from ..helpers import write_rows


def opened(shared: Shared | None = None, **options: Any) -> Perplexity:
    return Perplexity(Perplexity.Options.model_validate({"task": "texts", **options}), shared or Shared())


@pytest.fixture
def pages(tasks: Path, tmp_path: Path) -> Path:
    """The texts of toy_text as files."""
    for number, line in enumerate((tasks / "toy_text.jsonl").read_text().splitlines()):
        (tmp_path / f"{number}.txt").write_text(json.loads(line)["page"], encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("metric", ["word_perplexity", "byte_perplexity", "bits_per_byte"])
def test_equals_lm_eval(tasks: Path, printed: dict[str, Any], wide: LoadedModel, pages: Path, metric: str) -> None:
    expected = close(printed["toy_text"][f"{metric},none"], path_length(wide.model, 128))
    files = opened(files=[f"{pages}/*.txt"], metric=metric)
    rows = opened(data=str(tasks / "toy_text.jsonl"), text="page", metric=metric)
    for evaluator in (files, rows):
        assert evaluator.value(evaluator.items, evaluator.score(wide, evaluator.items)) == expected
        assert not evaluator.metric.higher_is_better


def test_an_items_score_is_its_own_perplexitys_logarithm(subject: LoadedModel, pages: Path) -> None:
    evaluator = opened(files=[f"{pages}/*.txt"])
    scores = evaluator.score(subject, evaluator.items)
    alone = [evaluator.value([item], scores[n : n + 1]) for n, item in enumerate(evaluator.items)]
    assert alone == close(scores.exp().tolist(), 8)


def test_overflow_fails_the_candidate(pages: Path) -> None:
    evaluator = opened(files=[f"{pages}/*.txt"])
    scores = torch.full((3,), 800.0, dtype=torch.float64)
    with pytest.raises(FloatingPointError, match=r"word_perplexity is exp\(800\), which overflows"):
        evaluator.value(evaluator.items, scores)


def test_max_length_of_all_tasks_holds(subject: LoadedModel, pages: Path) -> None:
    shared = opened(Shared(max_length=9), files=[f"{pages}/*.txt"])
    own = opened(files=[f"{pages}/*.txt"], max_length=9)
    assert torch.equal(shared.score(subject, shared.items), own.score(subject, own.items))
    with pytest.raises(UserError, match="max_length: 999 is more than the model's context of 128"):
        opened(Shared(max_length=999), files=[f"{pages}/*.txt"]).prepare(subject)


def test_wrong_sources(tmp_path: Path) -> None:
    for options in ({}, {"files": ["a"], "data": "b"}):
        with pytest.raises(ValidationError, match=r"found (both|neither) files (and|nor) data, expected one"):
            opened(**options)
    data = write_rows(tmp_path / "rows.jsonl", [{"text": "a"}, {"text": ""}])
    with pytest.raises(UserError, match="row 1: field 'text' is empty"):
        opened(data=str(data))


def test_encoders_are_refused(classifier: LoadedModel, pages: Path) -> None:
    with pytest.raises(UserError, match="needs a causal language model, found BertForSequenceClassification"):
        opened(files=[f"{pages}/*.txt"]).prepare(classifier)


def test_a_model_without_a_tokenizer(causal: LoadedModel, pages: Path) -> None:
    """lm-eval would look for one itself, and transformers makes empty tokenizers for some models."""
    evaluator = opened(files=[str(pages / "*.txt")])
    with pytest.raises(UserError, match="the model's folder has no tokenizer, which this task needs"):
        evaluator.prepare(LoadedModel(causal.model, None))

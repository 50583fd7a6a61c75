"""Embeddings: correlations as scipy computes them, pooling as transformers' own hidden states give it."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from mergesearch.errors import UserError
from mergesearch.evaluators import LoadedModel, Shared
from mergesearch.evaluators.tasks.embedding import Embedding

from ..conftest import sentence, write_rows

DRAW = random.Random(4)
ROWS = [
    {"sentence1": sentence(DRAW, DRAW.randint(1, 12)), "sentence2": sentence(DRAW, 6), "score": DRAW.randint(0, 5)}
    for _ in range(30)
]


def opened(data: Path, **options: Any) -> Embedding:
    made = Embedding.Options.model_validate({"task": "pairs", "data": str(data), **options})
    return Embedding(made, Shared(batch_size=7))


def pooled(subject: LoadedModel, text: str, pooling: str) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        encoded = subject.tokenizer(text, return_tensors="pt")
        hidden = subject.model(**encoded, output_hidden_states=True).hidden_states[-1][0].double().numpy()
    return np.asarray({"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling])


@pytest.mark.parametrize("kind", ["classifier", "causal"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_equals_scipy_on_hidden_states(request: pytest.FixtureRequest, tmp_path: Path, kind: str, pooling: str) -> None:
    subject = request.getfixturevalue(kind)
    cosines = []
    for row in ROWS:
        one, two = (pooled(subject, str(row[field]), pooling) for field in ("sentence1", "sentence2"))
        cosines.append(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
    gold = [row["score"] for row in ROWS]
    for metric, reference in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        evaluator = opened(write_rows(tmp_path / "rows.jsonl", ROWS), pooling=pooling, metric=metric)
        scores = evaluator.score(subject, evaluator.items)
        np.testing.assert_allclose(scores[:, 0], cosines, atol=1e-6)
        # By rank, rounding may change places: scipy gets our own cosines.
        assert evaluator.value(evaluator.items, scores) == pytest.approx(reference(scores[:, 0], gold)[0], abs=1e-12)


def made_scores(count: int, levels: int) -> torch.Tensor:
    """Correlated columns with many ties."""
    draw = np.random.default_rng(levels)
    x = draw.normal(size=count)
    return torch.from_numpy(np.stack([np.round(x, 1), np.round((x + draw.normal(size=count)) * levels)], axis=1))


@pytest.fixture
def evaluator_of(tmp_path: Path) -> Any:
    def made(count: int, metric: str) -> Embedding:
        rows = [{"sentence1": "a", "sentence2": "b", "score": n} for n in range(count)]
        return opened(write_rows(tmp_path / "rows.jsonl", rows), metric=metric)

    return made


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_left_out_correlations_are_scipys(evaluator_of: Any, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergesearch.evaluators.tasks.embedding.CHUNK", 200)
    evaluator, scores = evaluator_of(50, metric), made_scores(50, 1)
    reference = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[metric]
    expected = [reference(*np.delete(scores.numpy(), n, axis=0).T)[0] for n in range(50)]
    assert evaluator.leave_one_out(evaluator.items, scores).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_contributions_spread_as_the_correlation_does(evaluator_of: Any, metric: str) -> None:
    """Against the direct bootstrap of scipy's value."""
    count, draw = 200, np.random.default_rng(0)
    evaluator, scores = evaluator_of(count, metric), made_scores(count, 2)
    reference = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[metric]
    direct = np.std([reference(*scores.numpy()[draw.integers(count, size=count)].T)[0] for _ in range(800)])
    found = float(evaluator.contributions(evaluator.items, scores).std()) / count**0.5
    assert found == pytest.approx(direct, rel=0.12)


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_no_variation_is_no_correlation(evaluator_of: Any, metric: str) -> None:
    evaluator, scores = evaluator_of(10, metric), made_scores(10, 2)
    scores[:, 0] = 0.9
    assert evaluator.value(evaluator.items, scores) == 0.0
    assert evaluator.contributions(evaluator.items, scores).tolist() == pytest.approx([0.0] * 10, abs=1e-9)


def test_wrong_data(tmp_path: Path) -> None:
    for value, message in (("high", "row 0: 'score' is 'high', expected a number"), (float("nan"), "'score' is nan")):
        with pytest.raises(UserError, match=f"score: .*{message}"):
            opened(write_rows(tmp_path / "rows.jsonl", [{**ROWS[0], "score": value}, *ROWS]))
    with pytest.raises(UserError, match=r"score: .*all pairs have the score 3"):
        opened(write_rows(tmp_path / "rows.jsonl", [{**row, "score": 3} for row in ROWS]))

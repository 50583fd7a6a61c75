"""Embeddings: correlations as scipy computes them, pooling as transformers' own hidden states give it."""

import json
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

from ...tolerances import close, path_length
from ..helpers import sentence, write_rows

DRAW = random.Random(4)
ROWS = [
    {"sentence1": sentence(DRAW, DRAW.randint(1, 12)), "sentence2": sentence(DRAW, 6), "score": DRAW.randint(0, 5)}
    for _ in range(30)
]


def opened(data: Path, **options: Any) -> Embedding:
    parsed = Embedding.Options.model_validate({"task": "pairs", "data": str(data), **options})
    return Embedding(parsed, Shared(batch_size=7))


def pooled(subject: LoadedModel, text: str, pooling: str) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        encoded = subject.tokenizer(text, return_tensors="pt")
        hidden = subject.model(**encoded, output_hidden_states=True).hidden_states[-1][0].double().numpy()
    return np.asarray({"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling])


@pytest.mark.parametrize("kind", ["classifier", "causal"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_equals_scipy_on_hidden_states(request: pytest.FixtureRequest, tmp_path: Path, kind: str, pooling: str) -> None:
    subject = request.getfixturevalue(kind)
    subject.model.double()
    cosines = []
    for row in ROWS:
        one, two = (pooled(subject, str(row[field]), pooling) for field in ("sentence1", "sentence2"))
        cosines.append(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
    gold = [row["score"] for row in ROWS]
    for metric, reference in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        evaluator = opened(write_rows(tmp_path / "rows.jsonl", ROWS), pooling=pooling, metric=metric)
        scores = evaluator.score(subject, evaluator.items)
        assert scores[:, 0].tolist() == close(cosines, path_length(subject.model, 16))
        # By rank, rounding may change places: scipy gets our own cosines.
        expected = close_correlation(reference(scores[:, 0], gold)[0], scores)
        assert evaluator.value(evaluator.items, scores) == expected


def close_correlation(expected: Any, scores: torch.Tensor) -> Any:
    """Sums over the items, of the scores minus their mean."""
    cancelled = float((scores.abs().amax(0) / scores.std(0)).max())
    return close(expected, 3 * len(scores), magnitude=cancelled)


def made_scores(count: int, levels: int) -> torch.Tensor:
    """Correlated columns with many ties."""
    draw = np.random.default_rng(levels)
    x = draw.normal(size=count)
    return torch.from_numpy(np.stack([np.round(x, 1), np.round((x + draw.normal(size=count)) * levels)], axis=1))


@pytest.fixture
def evaluator_of(tmp_path: Path) -> Any:
    def make(count: int, metric: str) -> Embedding:
        rows = [{"sentence1": "a", "sentence2": "b", "score": n} for n in range(count)]
        return opened(write_rows(tmp_path / "rows.jsonl", rows), metric=metric)

    return make


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_left_out_correlations_are_scipys(evaluator_of: Any, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergesearch.evaluators.tasks.embedding.MAX_RANKS", 200)
    evaluator, scores = evaluator_of(50, metric), made_scores(50, 1)
    reference = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[metric]
    expected = [reference(*np.delete(scores.numpy(), n, axis=0).T)[0] for n in range(50)]
    assert evaluator.leave_one_out(evaluator.items, scores).tolist() == close_correlation(expected, scores)


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_contributions_spread_as_the_correlation_does(evaluator_of: Any, metric: str) -> None:
    """Against the direct bootstrap of scipy's value."""
    count, draw = 200, np.random.default_rng(0)
    evaluator, scores = evaluator_of(count, metric), made_scores(count, 2)
    reference = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[metric]
    direct = np.std([reference(*scores.numpy()[draw.integers(count, size=count)].T)[0] for _ in range(800)])
    spread = float(evaluator.contributions(evaluator.items, scores).std()) / count**0.5
    # The direct one is accurate to 1 / √(2 · 800) = 2.5 %, and 200 items add a few more.
    assert spread == pytest.approx(direct, rel=0.12)


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_no_variation_is_no_correlation(evaluator_of: Any, metric: str) -> None:
    evaluator, scores = evaluator_of(10, metric), made_scores(10, 2)
    scores[:, 0] = 0.9
    assert evaluator.value(evaluator.items, scores) == 0.0
    assert evaluator.contributions(evaluator.items, scores).tolist() == [0.0] * 10


def test_wrong_data(tmp_path: Path) -> None:
    for value, message in (
        ("high", "row 0: field 'score' is 'high', expected a finite number"),
        (float("nan"), "field 'score' is nan"),
    ):
        with pytest.raises(UserError, match=f"score: .*{message}"):
            opened(write_rows(tmp_path / "rows.jsonl", [{**ROWS[0], "score": value}, *ROWS]))
    with pytest.raises(UserError, match=r"score: .*field 'score' is 3 in all rows"):
        opened(write_rows(tmp_path / "rows.jsonl", [{**row, "score": 3} for row in ROWS]))


POOLINGS: list[tuple[Any, str]] = [
    ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
    ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
    ({"pooling_mode_lasttoken": True}, "last"),
    ({"embedding_dimension": 8, "pooling_mode": "cls"}, "cls"),
    ({"pooling_mode": ["lasttoken"]}, "last"),
]


@pytest.mark.parametrize(("content", "expected"), POOLINGS, ids=str)
def test_pooling_is_that_of_the_models_folder(
    content: Any, expected: str, classifier: LoadedModel, tmp_path: Path
) -> None:
    (tmp_path / "model" / "1_Pooling").mkdir(parents=True)
    classifier.model.config.name_or_path = str(tmp_path / "model")  # as from_pretrained sets it
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    by_default, named = opened(data), {name: opened(data, pooling=name) for name in ("mean", "cls", "last")}
    assert torch.equal(scored(by_default, classifier), scored(named["mean"], classifier)), "no such file"
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text(json.dumps(content))
    assert torch.equal(scored(by_default, classifier), scored(named[expected], classifier))
    assert f"pooling: {expected}, as the model's folder says" in by_default.prepare(classifier)
    others = [name for name in named if name != expected]
    assert not any(torch.equal(scored(by_default, classifier), scored(named[name], classifier)) for name in others)


def scored(evaluator: Embedding, subject: LoadedModel) -> torch.Tensor:
    return evaluator.score(subject, evaluator.items)


@pytest.mark.parametrize(
    "content",
    [{"pooling_mode_max_tokens": True}, {"pooling_mode": ["cls", "mean"]}, {"pooling_mode": "weightedmean"}, {}],
)
def test_a_pooling_that_is_not_supported(content: Any, classifier: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "model" / "1_Pooling").mkdir(parents=True)
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text(json.dumps(content))
    classifier.model.config.name_or_path = str(tmp_path / "model")
    evaluator = opened(write_rows(tmp_path / "rows.jsonl", ROWS))
    with pytest.raises(UserError, match=r"1_Pooling/config\.json: found the pooling .*; set pooling"):
        evaluator.prepare(classifier)


def test_texts_without_tokens_are_named_by_their_items(classifier: LoadedModel, tmp_path: Path) -> None:
    rows = [*ROWS[:4], {**ROWS[4], "sentence2": ""}, ROWS[5], {**ROWS[6], "sentence1": ""}]
    classifier.tokenizer.backend_tokenizer.post_processor = None
    evaluator = opened(write_rows(tmp_path / "rows.jsonl", rows))
    with pytest.raises(UserError, match=r"makes no tokens of the text of item 4 \(''\); remove it"):
        evaluator.prepare(classifier)


def test_modules_behind_the_pooling(classifier: LoadedModel, tmp_path: Path) -> None:
    """Without what sentence-transformers applies after the pooling, the embeddings are not the model's."""
    for module in ("1_Pooling", "2_Normalize"):
        (tmp_path / "model" / module).mkdir(parents=True)
    classifier.model.config.name_or_path = str(tmp_path / "model")
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    assert opened(data).prepare(classifier) == ["pooling: cls, as the model's folder says"]
    (tmp_path / "model" / "3_Dense").mkdir()
    with pytest.raises(UserError, match=r"model/3_Dense: the model has a module behind the pooling, .* set pooling"):
        opened(data).prepare(classifier)
    assert opened(data, pooling="cls").prepare(classifier) == [
        f"{tmp_path}/model/3_Dense: not applied; the embeddings are those of the pooling"
    ]

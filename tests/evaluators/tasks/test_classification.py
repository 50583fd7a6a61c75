"""Classification: metrics by their formulas in float64, labels by name and number, and what can be wrong with data."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mergesearch.errors import UserError
from mergesearch.evaluators import LoadedModel, Shared
from mergesearch.evaluators.tasks.classification import Classification

from ...tolerances import close, path_length, tolerance
from ..helpers import LABELS, sentence, write_rows

DRAW = random.Random(3)
ROWS = [{"text": sentence(DRAW, DRAW.randint(1, 30)), "label": DRAW.choice(LABELS)} for _ in range(40)]


def opened(data: Path, shared: Shared | None = None, **options: Any) -> Classification:
    parsed = Classification.Options.model_validate({"task": "classes", "data": str(data), **options})
    return Classification(parsed, shared or Shared(batch_size=7))


def predicted_by(subject: LoadedModel, rows: list[dict[str, Any]], *fields: str) -> list[int]:
    """The model's labels, one text at a time and without our code."""
    with torch.no_grad():
        encoded = [subject.tokenizer(*(row[f] for f in fields), return_tensors="pt", truncation=True) for row in rows]
        logits = torch.cat([subject.model(**one).logits for one in encoded])
    first, second = logits.topk(2).values.T
    bound = tolerance(path_length(subject.model, 40), torch.float32, float(logits.abs().max()))
    assert (first - second).min() > bound, "no label depends on rounding"
    predicted: list[int] = logits.argmax(-1).tolist()
    return predicted


# scikit-learn's definitions, by counting.


def f1_of(predicted: list[int], gold: list[int], label: int) -> float:
    right = sum(s == g == label for s, g in zip(predicted, gold, strict=True))
    both = predicted.count(label) + gold.count(label)
    return 2 * right / both if both else 0.0


def f1_macro(predicted: list[int], gold: list[int]) -> float:
    labels = {*predicted, *gold}
    return sum(f1_of(predicted, gold, label) for label in labels) / len(labels)


def f1_weighted(predicted: list[int], gold: list[int]) -> float:
    return sum(gold.count(label) * f1_of(predicted, gold, label) for label in set(gold)) / len(gold)


def mcc(predicted: list[int], gold: list[int]) -> float:
    """The correlation of all pairs' one-hot vectors (Gorodkin 2004, equation 1)."""
    x, y = (np.eye(5)[labels] - np.eye(5)[labels].mean(0) for labels in (predicted, gold))
    below = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / below) if below > 1e-9 else 0.0


def accuracy(predicted: list[int], gold: list[int]) -> float:
    return sum(s == g for s, g in zip(predicted, gold, strict=True)) / len(gold)


METRICS: dict[str, Callable[[list[int], list[int]], float]] = {
    "accuracy": accuracy,
    "f1_macro": f1_macro,
    "f1_weighted": f1_weighted,
    "mcc": mcc,
}


def close_to(expected: Any, items: Sequence[Any]) -> Any:
    """Metrics are at most 1: sums over the items, of products of counts."""
    return close(expected, 3 * len(items) + 8, magnitude=1.0)


@pytest.mark.parametrize("metric", METRICS)
def test_value_is_the_formulas(classifier: LoadedModel, tmp_path: Path, metric: str) -> None:
    evaluator = opened(write_rows(tmp_path / "rows.jsonl", ROWS), metric=metric)
    scores = evaluator.score(classifier, evaluator.items)
    predicted, gold = predicted_by(classifier, ROWS, "text"), [LABELS.index(row["label"]) for row in ROWS]
    assert len(set(predicted)) > 1
    for chosen in (range(40), range(5, 30), range(3)):
        items = [evaluator.items[n] for n in chosen]
        expected = METRICS[metric]([predicted[n] for n in chosen], [gold[n] for n in chosen])
        assert evaluator.value(items, scores[list(chosen)]) == close_to(expected, items)


@pytest.mark.parametrize("metric", [*METRICS, "f1"])
def test_left_out_values_are_those_of_the_others(classifier: LoadedModel, tmp_path: Path, metric: str) -> None:
    options = {"positive": "sky"} if metric == "f1" else {}
    evaluator = opened(write_rows(tmp_path / "rows.jsonl", ROWS[:12]), metric=metric, **options)
    scores = evaluator.score(classifier, evaluator.items)
    if metric == "accuracy":
        assert torch.equal(evaluator.contributions(evaluator.items, scores), scores)
        return
    rests = [[n for n in range(12) if n != left] for left in range(12)]
    expected = [evaluator.value([evaluator.items[n] for n in rest], scores[rest]) for rest in rests]
    assert evaluator.leave_one_out(evaluator.items, scores).tolist() == close_to(expected, evaluator.items)


@pytest.mark.parametrize("positive", LABELS)
def test_f1_of_one_label(classifier: LoadedModel, tmp_path: Path, positive: str) -> None:
    evaluator = opened(write_rows(tmp_path / "rows.jsonl", ROWS), metric="f1", positive=positive)
    predicted, gold = predicted_by(classifier, ROWS, "text"), [LABELS.index(row["label"]) for row in ROWS]
    value = evaluator.value(evaluator.items, evaluator.score(classifier, evaluator.items))
    assert value == close_to(f1_of(predicted, gold, LABELS.index(positive)), evaluator.items)


def test_pairs_of_texts(classifier: LoadedModel, tmp_path: Path) -> None:
    rows = [{**row, "text": row["text"][:40], "other": "the dog ran"} for row in ROWS]
    evaluator = opened(write_rows(tmp_path / "rows.jsonl", rows), text_pair="other", metric="mcc")
    predicted = evaluator.score(classifier, evaluator.items)[:, 0].tolist()
    assert predicted == predicted_by(classifier, rows, "text", "other")
    assert predicted != predicted_by(classifier, rows, "text")


def csv_of(file: Path, rows: list[dict[str, Any]]) -> Path:
    lines = ["text,label", *(f'"{row["text"]}",{row["label"]}' for row in rows)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def saved_as(kind: str, folder: Path, rows: list[dict[str, Any]]) -> tuple[Path, dict[str, str]]:
    import datasets

    if kind == "csv":
        return csv_of(folder / "rows.csv", rows), {}
    if kind == "jsonl":
        return write_rows(folder / "rows.jsonl", rows), {}
    dataset = datasets.Dataset.from_list(rows)
    if kind == "parquet":
        dataset.to_parquet(folder / "rows.parquet")
        return folder / "rows.parquet", {}
    # The data's own numbers are in another order than the model's.
    dataset = dataset.cast_column("label", datasets.ClassLabel(names=[*reversed(LABELS)]))
    if kind == "dataset":
        dataset.save_to_disk(folder / "saved")
        return folder / "saved", {}
    datasets.DatasetDict({"train": dataset.select([0]), "test": dataset}).save_to_disk(folder / "saved")
    return folder / "saved", {"split": "test"}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "dataset", "splits"])
def test_the_same_rows_in_any_form(classifier: LoadedModel, tmp_path: Path, kind: str) -> None:
    data, options = saved_as(kind, tmp_path, ROWS)
    predicted = predicted_by(classifier, ROWS, "text")
    expected = [float(label == LABELS.index(row["label"])) for label, row in zip(predicted, ROWS, strict=True)]
    evaluator = opened(data, **options)
    assert evaluator.score(classifier, evaluator.items).tolist() == expected


def test_labels_by_number(classifier: LoadedModel, tmp_path: Path) -> None:
    numbered = [{**row, "label": LABELS.index(row["label"])} for row in ROWS]
    named = opened(write_rows(tmp_path / "named.jsonl", ROWS))
    for data in (write_rows(tmp_path / "rows.jsonl", numbered), csv_of(tmp_path / "rows.csv", numbered)):
        evaluator = opened(data)
        scores = evaluator.score(classifier, evaluator.items)
        assert torch.equal(scores, named.score(classifier, named.items))


def test_chance_is_one_in_so_many_labels(tmp_path: Path) -> None:
    assert {item.chance for item in opened(write_rows(tmp_path / "rows.jsonl", ROWS)).items} == {1 / 3}


def test_long_texts_are_cut_and_counted(classifier: LoadedModel, tmp_path: Path) -> None:
    rows = [*ROWS[:5], {"text": "cat " * 60, "label": "sky"}]
    evaluator = opened(write_rows(tmp_path / "rows.jsonl", rows))
    assert evaluator.prepare(classifier) == ["1 of 6 texts are cut to 40 tokens"]
    assert len(evaluator.score(classifier, evaluator.items)) == 6
    short = opened(tmp_path / "rows.jsonl", Shared(max_length=5))
    assert short.prepare(classifier)[0].endswith("are cut to 5 tokens")
    with pytest.raises(UserError, match="max_length: 50 is more than the model's context of 40 tokens"):
        opened(tmp_path / "rows.jsonl", Shared(max_length=50)).prepare(classifier)


@pytest.mark.parametrize("padding", [0, None])
def test_classifiers_of_decoders(classifier: LoadedModel, tmp_path: Path, padding: int | None) -> None:
    """With a padding token in batches, without one by one; they look for the last token that is none."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=40,
        num_labels=3,
        pad_token_id=padding,
        initializer_range=0.8,
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(config).eval()
    reader = classifier.tokenizer
    reader.model_input_names = ["input_ids", "attention_mask"]
    numbered = [{**row, "label": LABELS.index(row["label"])} for row in ROWS]
    evaluator = opened(write_rows(tmp_path / "rows.jsonl", numbered), metric="mcc")
    subject = LoadedModel(model, reader)
    predicted = predicted_by(subject, ROWS, "text")
    assert len(set(predicted)) > 1
    assert evaluator.score(subject, evaluator.items)[:, 0].tolist() == predicted


def test_one_text_is_on_one_side_whatever_its_labels(tmp_path: Path) -> None:
    rows = [{"text": "the cat", "label": label} for label in LABELS]
    assert len({item.fingerprint for item in opened(write_rows(tmp_path / "rows.jsonl", rows)).items}) == 1


def test_groups_stay_together(tmp_path: Path) -> None:
    rows = [{**row, "source": n // 4} for n, row in enumerate(ROWS)]
    items = opened(write_rows(tmp_path / "rows.jsonl", rows), Shared(group="source")).items
    assert len({item.fingerprint for item in items}) == 10
    with pytest.raises(UserError, match=r"group: .* has no field 'sources'; did you mean 'source'"):
        opened(tmp_path / "rows.jsonl", Shared(group="sources"))


WRONG_DATA: dict[str, tuple[str, str, str]] = {
    "empty": ("rows.jsonl", "", "has no rows"),
    "only a header": ("rows.csv", "text,label\n", "has no rows"),
    "not JSON": ("rows.jsonl", '{"text": "a", "label": 0}\n{"text": ', r"rows\.jsonl, line 2: is not JSON"),
    "no object": ("rows.jsonl", '["a", 0]\n', r"line 1: found \['a', 0\], expected an object"),
    "too few values": ("rows.csv", "text,label\na,0\nb\n", "line 3: expected 2 values"),
    "too many values": ("rows.csv", "text,label\na,0,1\n", "line 2: expected 2 values"),
    "no such field": ("rows.csv", "txt,label\na,0\n", "text: .*rows.csv has no field 'text'; did you mean 'txt'"),
    "no label": ("rows.jsonl", '{"text": "a"}\n', "label: .* has no field 'label'"),
    "a label missing": (
        "rows.jsonl",
        '{"text": "a", "label": 0}\n{"text": "b"}\n',
        "row 1: field 'label' has no value",
    ),
    "no text": ("rows.jsonl", '{"text": 3, "label": 0}\n', "text: .*row 0: field 'text' is 3, expected a string"),
    "odd label": ("rows.jsonl", '{"text": "a", "label": 0.5}\n', "label: .*row 0: field 'label' is 0.5"),
    "odd kind": ("rows.xls", "x", "expected a folder or a file that ends with .csv"),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_wrong_data(tmp_path: Path, case: str) -> None:
    name, text, message = WRONG_DATA[case]
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        opened(tmp_path / name)


def test_data_that_is_not_there(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(UserError, match=r"data: there is no .*row\.jsonl; did you mean 'rows\.jsonl'"):
        opened(tmp_path / "row.jsonl")
    with pytest.raises(UserError, match="is not a folder that datasets' save_to_disk wrote"):
        opened(tmp_path)
    data, _ = saved_as("splits", tmp_path, ROWS)
    with pytest.raises(UserError, match=r"split: is missing; .* has several splits, name one of: test, train"):
        opened(data)
    with pytest.raises(UserError, match=r"split: .* has no split 'tset'; did you mean 'test'"):
        opened(data, split="tset")
    (tmp_path / "latin.csv").write_bytes(b"text,label\n\xe9,1\n")
    with pytest.raises(UserError, match=r"latin\.csv is not UTF-8"):
        opened(tmp_path / "latin.csv")


def test_labels_that_the_model_has_not(classifier: LoadedModel, tmp_path: Path) -> None:
    for label in ("plant", 3):
        rows = [*ROWS, {"text": "a", "label": label}]
        evaluator = opened(write_rows(tmp_path / "rows.jsonl", rows))
        message = f"label: .*has the label {label!r}, which the model does not have; valid: 'animal', 'place', 'sky'"
        with pytest.raises(UserError, match=message):
            evaluator.prepare(classifier)


def test_f1_needs_a_positive_label(classifier: LoadedModel, tmp_path: Path) -> None:
    evaluator = opened(write_rows(tmp_path / "rows.jsonl", ROWS), metric="f1")
    with pytest.raises(UserError, match="positive: is missing; f1 needs it because the model has 3 labels"):
        evaluator.prepare(classifier)
    with pytest.raises(UserError, match="positive: is only for metric: f1"):
        opened(tmp_path / "rows.jsonl", positive="sky")


def test_models_without_a_head_are_refused(causal: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="LlamaForCausalLM has no classification head"):
        opened(write_rows(tmp_path / "rows.jsonl", ROWS)).prepare(causal)


@pytest.mark.parametrize("predicted", [[0, 0, 0], [0, 1, 1]])
@pytest.mark.parametrize("gold", [[0, 0, 0], [1, 1, 1], [0, 1, 0]])
def test_metrics_of_one_sided_answers(tmp_path: Path, predicted: list[int], gold: list[int]) -> None:
    scores = torch.tensor([predicted, gold], dtype=torch.float64).T
    for metric in ("f1_macro", "f1_weighted", "mcc"):
        evaluator = opened(write_rows(tmp_path / "rows.jsonl", ROWS[:3]), metric=metric)
        assert evaluator.value(evaluator.items, scores) == close_to(METRICS[metric](predicted, gold), evaluator.items)
        assert evaluator.contributions(evaluator.items, scores).isfinite().all()

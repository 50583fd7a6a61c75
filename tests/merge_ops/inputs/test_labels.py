"""Classifiers whose labels are in another order: merged as if all had the first model's order, whatever the head."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file

from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.engine.options import MergeOptions
from mergesearch.merge_ops.recipe.recipe import Recipe

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
NAMES, OTHER = ["x", "y", "z"], ["z", "x", "y"]

HEADS: dict[str, tuple[Callable[[], Any], dict[str, int]]] = {
    "text": (
        lambda: t.BertForSequenceClassification(t.BertConfig(**SMALL, vocab_size=8, num_labels=3)),
        {"classifier.weight": 0, "classifier.bias": 0},
    ),
    "sound, a head of two layers": (
        lambda: t.ASTForAudioClassification(t.ASTConfig(**SMALL, max_length=24, num_mel_bins=16, num_labels=3)),
        {"classifier.dense.weight": 0, "classifier.dense.bias": 0},
    ),
    "objects, a row for none of them": (
        lambda: t.YolosForObjectDetection(t.YolosConfig(**SMALL, image_size=[16, 16], patch_size=8, num_labels=3)),
        {"class_labels_classifier.layers.2.weight": 0, "class_labels_classifier.layers.2.bias": 0},
    ),
    "images, a head by another name": (
        lambda: t.SwiftFormerForImageClassification(
            t.SwiftFormerConfig(image_size=32, depths=[1, 1, 1, 1], embed_dims=[8, 8, 8, 8], num_labels=3)
        ),
        {"head.weight": 0, "head.bias": 0, "dist_head.weight": 0, "dist_head.bias": 0},
    ),
}


def saved(folder: Path, make: Callable[[], Any], names: list[str], axes: dict[str, int]) -> str:
    """One model with its labels in this order."""
    torch.manual_seed(0)
    make().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    assert axes.keys() <= tensors.keys()
    for name, axis in axes.items():
        rows = [NAMES.index(label) for label in names]
        behind = range(len(rows), tensors[name].shape[axis])
        tensors[name] = torch.rand(tensors[name].shape).index_select(axis, torch.tensor([*rows, *behind]))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return with_config(folder, id2label={str(number): label for number, label in enumerate(names)}, label2id=None)


def with_config(folder: Path, **changes: Any) -> str:
    file = folder / "config.json"
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return str(folder)


def mean(models: list[str], out: Path, **more: Any) -> list[str]:
    said: list[str] = []
    entries = [{"model": model, "parameters": {"weight": 0.5}} for model in models]
    merge(
        Recipe.read({"merge_method": "linear", "models": entries, **more}), out, options=MergeOptions(warn=said.append)
    )
    return said


@pytest.mark.parametrize("head", HEADS)
def test_the_mean_of_a_model_and_itself_in_another_order_is_the_model(head: str, tmp_path: Path) -> None:
    make, axes = HEADS[head]
    one, two = (saved(tmp_path / str(n), make, names, axes) for n, names in enumerate((NAMES, OTHER)))
    (warning,) = mean([one, two], tmp_path / "out")
    assert "in another order than those of" in warning
    assert "merged by name" in warning
    found, expected, other = (load_file(Path(f) / "model.safetensors") for f in (tmp_path / "out", one, two))
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert not any(torch.equal(other[name], expected[name]) for name in axes)


@pytest.mark.parametrize("names", [OTHER, ["x", "y", "w"]])
def test_a_head_that_is_not_known(names: list[str], tmp_path: Path) -> None:
    """Of a model that transformers does not know, with a name that says nothing."""
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    for folder, labels in ((one, NAMES), (two, names)):
        Path(folder).mkdir()
        save_file({"top.weight": torch.rand(3, 4)}, Path(folder) / "model.safetensors")
        config = {"model_type": "mine", "id2label": dict(enumerate(labels))}
        (Path(folder) / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"two: .*labels \(id2label\).*on_config_mismatch: warn"):
        mean([one, two], tmp_path / "out")
    (warning,) = mean([one, two], tmp_path / "out", on_config_mismatch="warn")
    assert "merged in their order" in warning


def test_labels_of_a_model_that_has_no_head(tmp_path: Path) -> None:
    for number, names in enumerate((NAMES, OTHER)):
        folder = tmp_path / str(number)
        t.BertModel(t.BertConfig(**SMALL, vocab_size=8)).save_pretrained(folder)
        with_config(folder, id2label=dict(enumerate(names)))
    assert mean([str(tmp_path / "0"), str(tmp_path / "1")], tmp_path / "out") == []


def test_labels_with_gaps_in_their_numbers(tmp_path: Path) -> None:
    make, axes = HEADS["text"]
    one, two, three = (saved(tmp_path / str(n), make, NAMES, axes) for n in range(3))
    with_config(Path(one), id2label={"1": "x", "2": "y", "7": "z"})
    with_config(Path(two), id2label={"1": "y", "2": "x", "7": "z"})
    with_config(Path(three), id2label={"1": "x", "2": "y", "7": "z"})
    with pytest.raises(UserError, match=r"has other labels \(id2label\)"):
        mean([one, two], tmp_path / "out")
    assert mean([one, three], tmp_path / "out") == []

"""What is copied beside the weights: every form of tokenizer, chat templates, processors, sentence-transformers."""

import json
import shutil
from pathlib import Path

import pytest

from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.engine.options import MergeOptions
from mergesearch.merge_ops.recipe.recipe import Recipe

from ..helpers import INPUTS

COPIED = [
    "generation_config.json",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "target_vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
    "tekken.json",
    "qwen.tiktoken",
    "bpe.codes",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "sentence_xlnet_config.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
]
LEFT = [
    "README.md",
    "optimizer.pt",
    "training_args.bin",
    "notes.txt",
    ".gitattributes",
    "onnx/model.onnx",
    "10_epochs/model.pt",
]


def copies(tmp_path: Path, names: list[str]) -> list[str]:
    """Two models that have these files, each with its own name as the content."""
    for model in ("one", "two"):
        shutil.copytree(INPUTS / "base", tmp_path / model)
        for name in names:
            (tmp_path / model / name).parent.mkdir(exist_ok=True)
            (tmp_path / model / name).write_text("{}" if name.endswith(".json") else name)
    return [str(tmp_path / model) for model in ("one", "two")]


def merged(models: list[str], out: Path) -> list[str]:
    """Merges the models and returns the warnings."""
    warnings: list[str] = []
    entries = [{"model": model, "parameters": {"weight": 0.5}} for model in models]
    recipe = Recipe.read({"merge_method": "linear", "models": entries})
    merge(recipe, out, options=MergeOptions(warn=warnings.append))
    return warnings


def test_everything_that_is_loaded_is_copied_and_nothing_else(tmp_path: Path) -> None:
    assert merged(copies(tmp_path, [*COPIED, *LEFT]), tmp_path / "out") == []
    out = tmp_path / "out"
    assert [name for name in COPIED if not (out / name).is_file()] == []
    assert [name for name in LEFT if (out / name).exists() and name != "README.md"] == []
    assert "base" not in (out / "README.md").read_text()[:5]
    assert all((out / name).read_text() in ("{}", name) for name in COPIED if name != "generation_config.json")


@pytest.mark.parametrize("name", ["1_Pooling/config.json", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"])
def test_a_module_of_sentence_transformers_that_differs_is_a_warning(name: str, tmp_path: Path) -> None:
    one, two = copies(tmp_path, [name])
    (Path(two) / name).write_text("another")
    (warning,) = merged([one, two], tmp_path / "out")
    assert f"{name}: differs between {one} and {two}" in warning
    assert (tmp_path / "out" / name).read_text() == (Path(one) / name).read_text()


def test_a_module_that_the_base_lacks_is_a_warning(tmp_path: Path) -> None:
    one, two = copies(tmp_path, ["1_Pooling/config.json"])
    shutil.rmtree(Path(one) / "1_Pooling")
    assert len(merged([one, two], tmp_path / "out")) == 1
    assert not (tmp_path / "out" / "1_Pooling").exists()
    assert merged([two, one], tmp_path / "out2") == [], "a fine-tune without modules was saved by transformers"


def test_an_invalid_generation_config_is_kept(tmp_path: Path) -> None:
    """transformers reads it, and would refuse to write it."""
    content = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}
    models = copies(tmp_path, [])
    for model in models:
        (Path(model) / "generation_config.json").write_text(json.dumps(content))
    merged(models, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == content

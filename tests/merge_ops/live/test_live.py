"""Views into live parameters by checkpoint names, verified on loading."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.live.live import bind, load
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.recipe.recipe import Recipe

from ...tolerances import aligned
from ..helpers import INPUTS, read, recipe_data, same_bytes, save

SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
FUSED: dict[str, tuple[Any, Any]] = {
    "mixtral": (
        transformers.MixtralForCausalLM,
        transformers.MixtralConfig(**SMALL, num_local_experts=3),
    ),
    "qwen3-moe": (
        transformers.Qwen3MoeForCausalLM,
        transformers.Qwen3MoeConfig(**SMALL, moe_intermediate_size=12, num_experts=3, num_experts_per_tok=2),
    ),
}
TOKENS = torch.arange(16).view(2, 8)


@pytest.fixture(autouse=True)
def _no_progress_bars() -> None:
    transformers.utils.logging.disable_progress_bar()


def saved(folder: Path, name: str, seed: int) -> str:
    kind, config = FUSED[name]
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)
    return str(folder)


def copied(source: Path, folder: Path, **config: Any) -> Checkpoint:
    """A copy of a checkpoint with another config."""
    shutil.copytree(source, folder)
    (folder / "config.json").chmod(0o644)
    content = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **config}))
    return Checkpoint(str(folder))


def refused(model: Any, checkpoint: Checkpoint) -> str:
    with pytest.raises(UserError) as caught:
        bind(model, checkpoint)
    return str(caught.value)


@pytest.mark.parametrize("name", ["base", "tied-base", "bf16-base"])
def test_writing_to_a_view_writes_to_the_model(name: str) -> None:
    checkpoint = Checkpoint(str(INPUTS / name))
    model, _ = load(checkpoint, "cpu")
    views = bind(model, checkpoint)
    assert list(views) == list(checkpoint.tensors)
    for value in views.values():
        value.fill_(0.125)
    assert all((parameter == 0.125).all() for parameter in model.parameters())


@pytest.mark.parametrize("name", FUSED)
def test_fused_experts_are_seen_under_their_names_on_disk(name: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(saved(tmp_path / "x", name, 1))
    model, tokenizer = load(checkpoint, "cpu")
    parameters = dict(model.named_parameters())
    experts = [n for n in checkpoint.tensors if ".experts.2." in n]
    assert len(experts) == 6
    assert not set(experts) & set(parameters)
    views = bind(model, checkpoint)
    assert views.keys() == checkpoint.tensors.keys()
    assert tokenizer is None
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.fill_(3)
    assert all((view == 3).all() for view in views.values())


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("method", ["linear", "dare_ties"])
def test_a_fused_model_built_live_is_the_one_on_disk(name: str, method: str, tmp_path: Path) -> None:
    paths = [saved(tmp_path / str(seed), name, seed) for seed in range(3)]
    one = Recipe.read(recipe_data(METHODS[method], paths[0], paths[1:]))
    model: Any = Engine(paths, paths[0]).build(one)
    merge(one, tmp_path / "out")
    written, (again, _) = read(tmp_path / "out"), load(Checkpoint(str(tmp_path / "out")), "cpu")
    assert written.keys() == read(tmp_path / "0").keys()
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(same_bytes(value, theirs[key]) for key, value in ours.items())
    with torch.no_grad():
        assert torch.equal(*(aligned(each)(TOKENS).logits for each in (model, again)))


def test_a_model_is_loaded_for_evaluation_in_its_own_class_and_dtype() -> None:
    model, tokenizer = load(Checkpoint(str(INPUTS / "bf16-base")), "cpu")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert tokenizer("a").input_ids


def test_another_dtype_is_proved_after_the_cast() -> None:
    checkpoint = Checkpoint(str(INPUTS / "base"))
    model, _ = load(checkpoint, "cpu", torch.bfloat16)
    views = bind(model, checkpoint)
    assert {view.dtype for view in views.values()} == {torch.bfloat16}


def test_loading_leaves_progress_bars_as_they_were() -> None:
    for enabled in (False, True):
        if enabled:
            transformers.utils.logging.enable_progress_bar()
        load(Checkpoint(str(INPUTS / "tied-base")), "cpu")
        assert transformers.utils.logging.is_progress_bar_enabled() == enabled


# Errors


def test_weights_that_differ_from_the_file_are_named() -> None:
    checkpoint = Checkpoint(str(INPUTS / "base"))
    model, _ = load(checkpoint, "cpu")
    model.get_parameter("model.norm.weight").view(-1)[3] += 1
    text = refused(model, checkpoint)
    assert text == f"{checkpoint.reference}: the loaded model differs from the file in model.norm.weight"


def test_a_model_of_another_checkpoint_is_refused() -> None:
    model, _ = load(Checkpoint(str(INPUTS / "tied-base")), "cpu")
    assert "the loaded model differs from the file in " in refused(model, Checkpoint(str(INPUTS / "base")))


def test_parameters_that_the_checkpoint_does_not_fill_are_named(tmp_path: Path) -> None:
    """transformers initializes a missing head at random, so that scores would differ on every load."""
    folder = tmp_path / "x"
    shutil.copytree(INPUTS / "base", folder)
    tensors = read(folder)
    del tensors["lm_head.weight"]
    (folder / "model.safetensors").chmod(0o644)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = Checkpoint(str(folder))
    model, _ = load(checkpoint, "cpu")
    assert refused(model, checkpoint).startswith(f"{folder}: has no tensors for the loaded model's lm_head.weight, ")


def test_a_class_that_transformers_has_not(tmp_path: Path) -> None:
    checkpoint = copied(INPUTS / "tied-base", tmp_path / "x", architectures=["MyOwnModel"])
    with pytest.raises(UserError, match="transformers has no model class 'MyOwnModel'"):
        load(checkpoint, "cpu")


def test_a_bare_file_has_no_model(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", {"w": torch.zeros(2)})
    with pytest.raises(UserError, match=r"has no config\.json to make a model by; give a folder"):
        load(Checkpoint(path), "cpu")

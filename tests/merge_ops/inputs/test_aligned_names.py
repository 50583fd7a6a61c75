"""Checkpoints whose files differ in names, in what they store, or in shape."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from safetensors.torch import save_file
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.engine.options import MergeOptions
from mergesearch.merge_ops.recipe.recipe import Recipe

from ...tolerances import assert_close
from ..helpers import INPUTS, OPERATIONS, read, same_bytes, save, tensor
from ..live.families import GPT, KEYS, SMALL, as_live, as_saved, bare, chained, loaded, saved, untied, with_prefix

Tensors = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _no_progress_bars() -> None:
    t.utils.logging.disable_progress_bar()
    t.utils.logging.set_verbosity_error()


def llama(folder: Path, seed: int, layout: Any = as_saved, **options: Any) -> str:
    torch.manual_seed(seed)
    return saved(folder, t.LlamaForCausalLM(t.LlamaConfig(**{**KEYS, **options})), layout)


def gpt2(folder: Path, seed: int, layout: Any = as_saved, **options: Any) -> str:
    torch.manual_seed(seed)
    return saved(folder, t.GPT2LMHeadModel(t.GPT2Config(**{**GPT, **options})), layout)


def recipe(base: str, *models: str, method: str = "task_arithmetic", **more: Any) -> Recipe:
    entries = [{"model": each, "parameters": {"weight": 0.5}} for each in models]
    return Recipe.read({"merge_method": method, "base_model": base, "models": entries, **more})


def refused(out: Path, base: str, *models: str, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        merge(recipe(base, *models, **more), out)
    assert not out.exists()
    return str(caught.value)


def halfway(base: Tensors, other: Tensors) -> Tensors:
    return {name: value + 0.5 * (other[name] - value) for name, value in base.items()}


# Names


def test_plain_checkpoints_are_merged_without_heavy_imports(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mergesearch.merge_ops.engine.engine import merge;"
        "from mergesearch.merge_ops.recipe.recipe import Recipe; one, two, out = sys.argv[1:];"
        "models = [{'model': name, 'parameters': {'weight': 1.0}} for name in (one, two)];"
        "merge(Recipe.read({'merge_method': 'linear', 'models': models}), Path(out));"
        "assert not {'transformers', 'huggingface_hub.hf_api', 'optuna'} & {*sys.modules}"
    )
    paths = [INPUTS / "base", INPUTS / "ft1", tmp_path / "out"]
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True)


def test_only_tensors_that_are_equal_everywhere_may_be_copies(tmp_path: Path) -> None:
    one = torch.arange(1000.0)
    other = one.clone()
    other[0] = 1
    assert not Checkpoint(save(tmp_path / "other", {"a": one, "b": other})).may_have_copies()
    assert Checkpoint(save(tmp_path / "equal", {"a": one, "b": other, "c": one.clone()})).may_have_copies()


@pytest.mark.parametrize("base_has_config", [True, False])
def test_a_single_file_beside_a_folder(base_has_config: bool, tmp_path: Path) -> None:
    folder = Path(gpt2(tmp_path / "folder", 0, bare))
    other = gpt2(tmp_path / "other", 1)
    file = save(tmp_path / "single.safetensors", read(folder if not base_has_config else Path(other)))
    base, one = (str(folder), file) if base_has_config else (file, other)
    merge(recipe(base, one), tmp_path / "out")
    expected = halfway(loaded(folder).state_dict(), loaded(other).state_dict())
    for name, value in read(tmp_path / "out").items():
        assert_close(value, expected[f"transformer.{name}"], OPERATIONS)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_a_prefix_that_transformers_does_not_know(prefix: str, tmp_path: Path) -> None:
    base, other = llama(tmp_path / "base", 0), llama(tmp_path / "other", 1, with_prefix(prefix))
    merge(recipe(base, other), tmp_path / "out")
    theirs = {name.removeprefix(prefix): value for name, value in read(Path(other)).items()}
    for name, value in halfway(read(Path(base)), theirs).items():
        assert_close(read(tmp_path / "out")[name], value, OPERATIONS)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_base_with_a_prefix_that_transformers_does_not_know(prefix: str, tmp_path: Path) -> None:
    """Its tensors are not taken for tensors that its model does not use."""
    base, other = llama(tmp_path / "base", 0, with_prefix(prefix)), llama(tmp_path / "other", 1)
    merge(recipe(base, other), tmp_path / "out")
    theirs = {f"{prefix}{name}": value for name, value in read(Path(other)).items()}
    for name, value in halfway(read(Path(base)), theirs).items():
        assert_close(read(tmp_path / "out")[name], value, OPERATIONS)


def test_slices_of_files_with_other_names_and_more_layers(tmp_path: Path) -> None:
    base, deep = gpt2(tmp_path / "base", 0, bare), gpt2(tmp_path / "deep", 1, n_layer=4)
    sources = [(base, [0, 2]), (deep, [2, 4])]
    slices = [{"sources": [{"model": name, "layer_range": layers}]} for name, layers in sources]
    merge(Recipe.read({"merge_method": "passthrough", "slices": slices}), tmp_path / "out")
    written, theirs = read(tmp_path / "out"), read(Path(deep))
    assert same_bytes(written["h.3.mlp.c_fc.weight"], theirs["transformer.h.3.mlp.c_fc.weight"])
    assert len({name.split(".")[1] for name in written if name.startswith("h.")}) == 4
    assert loaded(tmp_path / "out").config.n_layer == 4


def test_one_parameter_under_two_names_is_the_one_that_transformers_reads(tmp_path: Path) -> None:
    def doubled(_: Any, tensors: Tensors) -> Tensors:
        return {**tensors, "wte.weight": tensors["transformer.wte.weight"] + 1}

    base, other = gpt2(tmp_path / "base", 0), gpt2(tmp_path / "other", 1, doubled)
    merge(recipe(base, other), tmp_path / "out")
    key = "transformer.wte.weight"
    expected = halfway(loaded(base).state_dict(), loaded(other).state_dict())[key]
    assert_close(read(tmp_path / "out")[key], expected, OPERATIONS)


def test_fused_experts_beside_single_ones(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mixtral = t.MixtralForCausalLM(t.MixtralConfig(**KEYS, head_dim=8, num_local_experts=3))
    base, one = saved(tmp_path / "base", mixtral, as_saved), saved(tmp_path / "one", mixtral, as_live)
    text = refused(tmp_path / "out", base, one)
    assert text.startswith(
        f"{one}: has the tensor model.layers.0.mlp.experts.down_proj, which {base} has in parts such as "
    )


def test_a_config_that_does_not_name_the_head(tmp_path: Path) -> None:
    base, one = gpt2(tmp_path / "base", 0, as_live), gpt2(tmp_path / "one", 1, as_live)
    for folder in (base, one):
        config = json.loads((Path(folder) / "config.json").read_text())
        del config["architectures"]
        (Path(folder) / "config.json").write_text(json.dumps(config))
    engine = Engine([base, one], base)
    assert type(engine.model).__name__ == "GPT2Model"
    engine.build(recipe(base, one))
    engine.write(recipe(base, one), tmp_path / "out")
    assert Checkpoint(str(tmp_path / "out")).digest() == engine.digest()
    written = read(tmp_path / "out")
    assert "lm_head.weight" not in written
    name = "transformer.wte.weight"
    assert_close(written[name], halfway(read(Path(base)), read(Path(one)))[name], OPERATIONS)


# Tied weights


def test_an_untied_model_of_the_engine_does_not_untie_a_recipe_of_the_others(tmp_path: Path) -> None:
    tied = {"tie_word_embeddings": True}
    base, one = llama(tmp_path / "base", 0, **tied), llama(tmp_path / "one", 1, as_live, **tied)
    two = llama(tmp_path / "two", 2)
    engine = Engine([base, one, two], base)
    entries = [{"model": one, "parameters": {"weight": 1.0, "density": 0.5}}]
    dare = Recipe.read({"merge_method": "dare_linear", "base_model": base, "models": entries})
    live: Any = engine.build(dare)
    assert torch.equal(live.lm_head.weight, live.model.embed_tokens.weight)
    engine.write(dare, tmp_path / "out")
    merge(dare, tmp_path / "again")
    digests = {Checkpoint(str(tmp_path / name)).digest() for name in ("out", "again")}
    assert digests == {engine.digest()}
    assert "lm_head.weight" not in read(tmp_path / "out")
    live = engine.build(recipe(base, two))
    assert not torch.equal(live.lm_head.weight, live.model.embed_tokens.weight)


def test_the_key_of_the_config_follows_where_it_unties_the_embeddings_alone(tmp_path: Path) -> None:
    base, one = llama(tmp_path / "base", 0, tie_word_embeddings=True), llama(tmp_path / "one", 1)
    merge(recipe(base, one), tmp_path / "out")
    assert not loaded(tmp_path / "out").config.tie_word_embeddings
    torch.manual_seed(0)
    bert = t.BertForMaskedLM(t.BertConfig(**SMALL))
    base = saved(tmp_path / "bert", bert, as_saved)
    one = saved(tmp_path / "untied", bert, untied("cls.predictions.decoder.weight"))
    merge(recipe(base, one), tmp_path / "mixed")
    result = loaded(tmp_path / "mixed")
    assert torch.equal(result.cls.predictions.decoder.bias, result.cls.predictions.bias)
    expected = bert.cls.predictions.decoder.weight.detach() + 0.05
    assert_close(result.cls.predictions.decoder.weight.detach(), expected, OPERATIONS)


def test_copies_in_single_files_stay_copies(tmp_path: Path) -> None:
    def file(seed: int, ties: bool = True) -> str:
        shared = tensor((16, 8), seed)
        tensors = {"shared.weight": shared, "encoder.w": shared.clone(), "decoder.w": shared + (0 if ties else 1)}
        return save(tmp_path / f"{seed}.safetensors", {**tensors, "other.weight": tensor((16, 8), 50 + seed)})

    base, one, two, untied = file(1), file(2), file(3), file(4, ties=False)
    dare = {"method": "dare_linear", "parameters": {"density": 0.5}}
    merge(recipe(base, one, two, **dare), tmp_path / "out")
    written = read(tmp_path / "out")
    assert len(written) == 4
    assert same_bytes(written["encoder.w"], written["shared.weight"])
    assert same_bytes(written["decoder.w"], written["shared.weight"])
    assert not torch.equal(written["shared.weight"], tensor((16, 8), 1))
    merge(recipe(base, one, untied, **dare), tmp_path / "mixed")
    written = read(tmp_path / "mixed")
    assert same_bytes(written["encoder.w"], written["shared.weight"])
    assert not torch.equal(written["decoder.w"], written["shared.weight"])


# What does not match


def test_no_hint_that_leaves_embeddings_unmerged(tmp_path: Path) -> None:
    text = refused(tmp_path / "out", llama(tmp_path / "base", 0), llama(tmp_path / "one", 1, vocab_size=48))
    assert "model.embed_tokens.weight ([40, 16] in " in text
    assert "tokenizer_source" in text
    assert "on_mismatch" not in text


def test_other_heads_may_stay_the_bases(tmp_path: Path) -> None:
    torch.manual_seed(0)
    two, three = (t.BertForSequenceClassification(t.BertConfig(**SMALL, num_labels=count)) for count in (2, 3))
    base, one = saved(tmp_path / "two", two, as_saved), saved(tmp_path / "three", three, as_saved)
    assert "on_mismatch: base" in refused(tmp_path / "out", base, one)
    said: list[str] = []
    merge(recipe(base, one, on_mismatch="base"), tmp_path / "out", options=MergeOptions(warn=said.append))
    assert f"on_mismatch: 2 tensors of {base} not merged: classifier.bias, classifier.weight" in said
    said.clear()
    merge(recipe(base, one, on_mismatch="overlap"), tmp_path / "part", options=MergeOptions(warn=said.append))
    assert f"on_mismatch: 2 tensors of {base} merged in part: classifier.bias, classifier.weight" in said


def test_no_hint_that_leaves_layers_unmerged(tmp_path: Path) -> None:
    """One file has the two matrices of a gate as one."""
    base, one = llama(tmp_path / "base", 0), llama(tmp_path / "one", 1)
    tensors = read(Path(one))
    parts = [tensors.pop(f"model.layers.0.mlp.{part}_proj.weight") for part in ("gate", "up")]
    fused = {**tensors, "model.layers.0.mlp.gate_up_proj.weight": torch.cat(parts)}
    save_file(fused, Path(one) / "model.safetensors", metadata={"format": "pt"})
    text = refused(tmp_path / "out", base, one)
    assert "matrices are missing inside layers" in text
    assert "on_mismatch" not in text


def test_models_that_do_not_belong_together(tmp_path: Path) -> None:
    base, one = llama(tmp_path / "base", 0), llama(tmp_path / "one", 1, hidden_size=32)
    text = refused(tmp_path / "out", base, one)
    assert "these are not fine-tunes of one model" in text
    assert "on_mismatch" not in text
    assert "nothing would be merged" in refused(tmp_path / "out", base, one, on_mismatch="base")
    text = refused(tmp_path / "out", base, llama(tmp_path / "deep", 1, num_hidden_layers=3))
    assert "they have different numbers of layers: choose layers with `slices`" in text
    assert "on_mismatch" not in text


def test_a_pooler_that_nothing_uses_stays_the_bases(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bert = t.BertModel(t.BertConfig(**SMALL))
    base = saved(tmp_path / "base", bert, as_saved)
    one = saved(tmp_path / "one", bert, lambda _, tensors: {n: v + 1 for n, v in tensors.items() if "pooler" not in n})
    said: list[str] = []
    merge(recipe(base, one), tmp_path / "out", options=MergeOptions(warn=said.append))
    assert any("2 tensors that transformers does not need" in line and "pooler.dense.bias" in line for line in said)
    assert same_bytes(read(tmp_path / "out")["pooler.dense.weight"], read(Path(base))["pooler.dense.weight"])
    assert "the result does not have them" not in "".join(said)
    said.clear()
    merge(recipe(one, base), tmp_path / "reverse", options=MergeOptions(warn=said.append))
    assert any("the result does not have them: pooler.dense.bias, pooler.dense.weight" in line for line in said)
    assert not any("pooler" in name for name in read(tmp_path / "reverse"))


def test_a_pooler_that_a_head_uses_is_needed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bert = t.BertForSequenceClassification(t.BertConfig(**SMALL))
    base = saved(tmp_path / "base", bert, as_saved)
    one = saved(tmp_path / "one", bert, lambda _, tensors: {n: v for n, v in tensors.items() if "pooler" not in n})
    assert "bert.pooler.dense.bias ([16] in " in refused(tmp_path / "out", base, one)
    with pytest.raises(UserError, match=r"has no tensors for the loaded model's bert\.pooler\.dense\.bias, "):
        Engine([one], one)


def test_computed_buffers_stay_the_bases_whatever_the_weights_add_up_to(tmp_path: Path) -> None:
    key = "model.layers.0.self_attn.rotary_emb.inv_freq"
    layout = chained(as_saved, lambda _, tensors: {**tensors, key: torch.ones(4) / 3})
    base, one = llama(tmp_path / "base", 0, layout), llama(tmp_path / "one", 1, layout)
    entries = [{"model": each, "parameters": {"weight": 0.9}} for each in (base, one)]
    recipe = Recipe.read({"merge_method": "linear", "models": entries, "parameters": {"normalize": False}})
    merge(recipe, tmp_path / "out")
    assert same_bytes(read(tmp_path / "out")[key], torch.ones(4) / 3)

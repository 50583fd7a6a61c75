"""Results that are assembled from slices, and their configs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.output.result_config import SourceLayer, with_layers
from mergesearch.merge_ops.recipe.recipe import Recipe

from ...tolerances import assert_close
from ..helpers import INPUTS, OPERATIONS, assert_same_as_mergekit, read, same_bytes

ONE, TWO = str(INPUTS / "L4-ft1"), str(INPUTS / "L4-ft2")


def passthrough(*slices: tuple[str, int, int]) -> Recipe:
    written = [{"sources": [{"model": model, "layer_range": [start, end]}]} for model, start, end in slices]
    return Recipe.read({"merge_method": "passthrough", "slices": written})


@pytest.mark.parametrize("name", ["slices-two", "passthrough-slices"])
def test_same_as_mergekit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_as_mergekit(name, tmp_path / "out", monkeypatch)


def test_layers_that_are_repeated_and_interleaved(tmp_path: Path) -> None:
    recipe = passthrough((ONE, 0, 2), (TWO, 1, 3), (ONE, 1, 2), (TWO, 0, 4))
    merge(recipe, tmp_path / "out")
    sources = [(ONE, 0), (ONE, 1), (TWO, 1), (TWO, 2), (ONE, 1), *((TWO, i) for i in range(4))]
    written, inputs = read(tmp_path / "out"), {path: read(Path(path)) for path in (ONE, TWO)}
    layers = {name for name in written if ".layers." in name}
    assert len(layers) == 9 * 9
    for name in layers:
        _, _, index, rest = name.split(".", 3)
        path, layer = sources[int(index)]
        assert same_bytes(written[name], inputs[path][f"model.layers.{layer}.{rest}"])
    # Tensors before the layers come from the first slice, tensors after the layers from the last.
    assert same_bytes(written["model.embed_tokens.weight"], inputs[ONE]["model.embed_tokens.weight"])
    assert same_bytes(written["model.norm.weight"], inputs[TWO]["model.norm.weight"])
    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    assert model.config.num_hidden_layers == len(model.model.layers) == 9


def test_a_layer_merged_with_another_of_the_same_model(tmp_path: Path) -> None:
    entries = [{"model": ONE, "layer_range": [i, i + 1], "parameters": {"weight": 0.5}} for i in (1, 2)]
    merge(Recipe.read({"merge_method": "linear", "slices": [{"sources": entries}]}), tmp_path / "out")
    written, first = read(tmp_path / "out"), read(Path(ONE))
    rest = "mlp.up_proj.weight"
    expected = (first[f"model.layers.1.{rest}"] + first[f"model.layers.2.{rest}"]) / 2
    assert_close(written[f"model.layers.0.{rest}"], expected, OPERATIONS)


def test_models_with_several_stacks_need_modules(tmp_path: Path) -> None:
    path = str(tmp_path / "t5")
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=24, num_layers=3, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(path)
    slices = [{"sources": [{"model": path, "layer_range": list(r)}]} for r in ((0, 2), (1, 3))]
    with pytest.raises(UserError, match=r"several stacks of layers; use modules, with keys .*encoder\.block"):
        merge(Recipe.read({"merge_method": "passthrough", "slices": slices}), tmp_path / "out")
    with pytest.raises(UserError, match=r"modules: found encoder, expected one for each of: "):
        merge(
            Recipe.read({"merge_method": "passthrough", "modules": {"encoder": {"slices": slices}}}), tmp_path / "out"
        )
    modules = {"encoder": {"slices": slices}, "decoder": {"models": [{"model": path}]}}
    merge(Recipe.read({"merge_method": "passthrough", "modules": modules}), tmp_path / "out")
    model, info = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert (model.config.num_layers, model.config.num_decoder_layers) == (4, 3)
    # T5 has relative positions in the first layer of a stack only; slice two begins at layer 1.
    assert not info["missing_keys"]


def names_of(*stacks: str, loose: tuple[str, ...] = ()) -> list[str]:
    return [*loose, *(f"{stack}.{i}.w" for stack in stacks for i in range(2))]


def weights(names: list[str], **modules: float) -> dict[str, Any]:
    """The weight of each tensor of a recipe whose modules have different weights."""
    written = {key: {"models": [{"model": "a"}], "parameters": {"weight": weight}} for key, weight in modules.items()}
    recipe = Recipe.read({"merge_method": "linear", "modules": written})
    return {part.name: part.each["weight"][0] for part in recipe.resolve(names)}


def test_modules_by_a_word_of_their_stack_and_tensors_beside() -> None:
    loose = ("shared.weight", "encoder.final_layer_norm.weight", "decoder.final_layer_norm.weight", "lm_head.weight")
    found = weights(names_of("encoder.block", "decoder.block", loose=loose), encoder=1, decoder=2, shared=3)
    assert found == {
        "encoder.block.0.w": 1,
        "encoder.block.1.w": 1,
        "decoder.block.0.w": 2,
        "decoder.block.1.w": 2,
        "encoder.final_layer_norm.weight": 1,
        "decoder.final_layer_norm.weight": 2,
        "shared.weight": 3,
        "lm_head.weight": 2,
    }


@pytest.mark.parametrize(
    ("text", "vision"),
    [
        ("model.layers", "visual.blocks"),
        ("model.language_model.layers", "model.vision_tower.encoder.layers"),
        ("language_model.model.layers", "vision_tower.vision_model.encoder.layers"),
    ],
)
def test_mergekits_names_of_modules(text: str, vision: str) -> None:
    found = weights(names_of(text, vision), text_decoder=1, vision_tower=2)
    assert [found[name] for name in names_of(text, vision)] == [1, 1, 2, 2]


def test_no_such_module() -> None:
    with pytest.raises(UserError, match=r"modules: 'encoders' is not the name of one stack.*did you mean 'encoder'"):
        weights(names_of("encoder", "decoder"), encoders=1, decoder=2)


def test_tensors_that_are_given_cannot_take_another_depth() -> None:
    engine = Engine([ONE, TWO], ONE)
    with pytest.raises(UserError, match="the recipe has slices: it cannot be built into the live model"):
        engine.coefficients(passthrough((ONE, 0, 2), (TWO, 2, 4)))


def test_slices_of_different_lengths_are_refused(tmp_path: Path) -> None:
    entries = [{"model": path, "layer_range": [0, end]} for path, end in ((ONE, 2), (TWO, 3))]
    recipe = Recipe.read({"merge_method": "linear", "slices": [{"sources": entries}], "parameters": {"weight": 1}})
    with pytest.raises(
        UserError, match=r"slices\[0\]\.sources: the sources have different numbers of layers: .*ft1: 2"
    ):
        merge(recipe, tmp_path / "out")


# Configs


def relayered(**config: Any) -> dict[str, Any]:
    return with_layers(config, "model.layers", 4, [SourceLayer("m", i, 4, config) for i in (0, 1, 1, 3, 2)])


def test_counts_and_lists_follow_the_layers() -> None:
    made = relayered(
        num_hidden_layers=4,
        max_window_layers=4,
        num_attention_heads=4,
        layer_types=["a", "b", "c", "d"],
        mlp_only_layers=[1, 2],
        no_rope_layers=[0, 1, 1, 0],
        eos_token_id=[1, 2, 3, 4],
        architectures=["a", "b", "c", "d"],
    )
    assert made == {
        "num_hidden_layers": 5,
        "max_window_layers": 4,
        "num_attention_heads": 4,
        "layer_types": ["a", "b", "b", "d", "c"],
        "mlp_only_layers": [1, 2, 4],
        "no_rope_layers": [0, 1, 1, 0, 1],
        "eos_token_id": [1, 2, 3, 4],
        "architectures": ["a", "b", "c", "d"],
    }


def test_a_list_of_all_layers() -> None:
    assert relayered(num_hidden_layers=4, mlp_only_layers=[0, 1, 2, 3])["mlp_only_layers"] == [0, 1, 2, 3, 4]


def test_the_config_of_a_part() -> None:
    made = relayered(
        text_config={"num_hidden_layers": 4, "layer_types": list("abcd")},
        vision_config={"num_hidden_layers": 3, "layer_types": list("abc")},
    )
    assert made["text_config"] == {"num_hidden_layers": 5, "layer_types": list("abbdc")}
    assert made["vision_config"] == {"num_hidden_layers": 3, "layer_types": list("abc")}


@pytest.mark.parametrize("key", ["n_layer", "num_layers", "n_layers", "num_hidden_layers"])
def test_every_name_of_the_number_of_layers(key: str) -> None:
    assert relayered(**{key: 4}) == {key: 5}


def test_encoders_and_decoders_are_told_apart() -> None:
    before = {"encoder_layers": 4, "decoder_layers": 4, "num_hidden_layers": 4}
    made = with_layers(before, "model.decoder.layers", 4, [SourceLayer("m", i, 4, before) for i in (0, 1)])
    assert made == {"encoder_layers": 4, "decoder_layers": 2, "num_hidden_layers": 2}


def qwen(folder: Path, kinds: list[str]) -> str:
    """Saves a model with these layer types."""
    torch.manual_seed(len(kinds))
    small = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "head_dim": 8}
    window = {"use_sliding_window": True, "sliding_window": 4, "num_key_value_heads": 1}
    config = transformers.Qwen3Config(**small, **window, num_hidden_layers=len(kinds), layer_types=kinds)
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    return str(folder)


SLIDING, FULL = "sliding_attention", "full_attention"


def test_layers_of_a_model_that_is_taller_than_the_template(tmp_path: Path) -> None:
    """The entries of a layer in lists of the config come from the config of its own model."""
    short, tall = qwen(tmp_path / "short", [FULL, SLIDING]), qwen(tmp_path / "tall", [FULL, FULL, SLIDING, SLIDING])
    merge(passthrough((short, 0, 2), (tall, 1, 4), (short, 0, 1)), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["layer_types"] == [FULL, SLIDING, FULL, SLIDING, SLIDING, FULL]
    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    assert model.config.layer_types == written["layer_types"]
    with torch.no_grad():
        assert model(torch.tensor([[1, 5, 7]])).logits.isfinite().all()


def test_a_layer_that_no_config_tells_of(tmp_path: Path) -> None:
    short, tall = qwen(tmp_path / "short", [FULL, SLIDING]), qwen(tmp_path / "tall", [FULL, FULL, SLIDING])
    file = tmp_path / "tall" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "layer_types": None}))
    with pytest.raises(
        UserError, match=r"tall: config\.json: layer_types: found None, expected one for each of 3 layers"
    ):
        merge(passthrough((short, 0, 2), (tall, 1, 3)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_layer_types_of_a_real_model(tmp_path: Path) -> None:
    kinds = [SLIDING, FULL, FULL]
    qwen(tmp_path / "x", kinds)
    merge(passthrough((str(tmp_path / "x"), 0, 3), (str(tmp_path / "x"), 0, 2)), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["layer_types"] == [*kinds, *kinds[:2]]
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert len(model.model.layers) == 5

"""LoRA adapters in PEFT's layout, applied on reading. These cases were compared with PEFT 0.21, bit for bit."""

import json
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.live.live import bind, load
from mergesearch.merge_ops.recipe.recipe import Recipe

from ...tolerances import assert_close
from ..helpers import INPUTS, OPERATIONS, read, same_bytes, save, tensor

BASE = str(INPUTS / "base")
QUERY, UP, EMBED = "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.embed_tokens"


def adapter(folder: Path, tensors: dict[str, Tensor], **config: Any) -> str:
    folder.mkdir(parents=True)
    written = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    prefixed = {f"base_model.model.{name}": value.contiguous() for name, value in tensors.items()}
    save_file(prefixed, folder / "adapter_model.safetensors")
    return str(folder)


def factors(module: str, rank: int = 4, onto: str = BASE) -> dict[str, Tensor]:
    rows, columns = Checkpoint(onto).tensors[f"{module}.weight"].shape
    return {
        f"{module}.lora_A.weight": tensor((rank, columns), 1, spread=0.1),
        f"{module}.lora_B.weight": tensor((rows, rank), 2, spread=0.1),
    }


def product(parts: dict[str, Tensor], module: str) -> Tensor:
    return parts[f"{module}.lora_B.weight"] @ parts[f"{module}.lora_A.weight"]


def weight(module: str, folder: str = BASE) -> Tensor:
    return read(Path(folder))[f"{module}.weight"]


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2),
        ({"use_rslora": True}, 8 / sqrt(4)),
        ({"lora_alpha": 3}, 3 / 4),
        ({"alpha_pattern": {"layers.1.self_attn.q_proj": 5}}, 5 / 4),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 5}}, 2),
        ({"alpha_pattern": {r"layers\.\d+\.self_attn.*": 6}}, 6 / 4),
    ],
    ids=str,
)
def test_the_product_is_scaled_and_added(config: dict[str, Any], scale: float, tmp_path: Path) -> None:
    parts = factors(QUERY)
    checkpoint = Checkpoint(f"{BASE}+{adapter(tmp_path / 'a', parts, **config)}")
    expected = weight(QUERY) + scale * product(parts, QUERY)
    assert_close(checkpoint.tensor(f"{QUERY}.weight"), expected, OPERATIONS)
    whole = read(Path(BASE))
    others = whole.keys() - {f"{QUERY}.weight"}
    assert list(checkpoint.tensors) == sorted(whole)
    assert all(same_bytes(checkpoint.tensor(name), whole[name]) for name in others)


def test_the_rank_is_that_of_the_tensors(tmp_path: Path) -> None:
    parts = factors(QUERY, rank=2)
    checkpoint = Checkpoint(f"{BASE}+{adapter(tmp_path / 'a', parts, rank_pattern={'q_proj': 2})}")
    expected = weight(QUERY) + 4 * product(parts, QUERY)
    assert_close(checkpoint.tensor(f"{QUERY}.weight"), expected, OPERATIONS)


def test_dora_keeps_each_outputs_magnitude(tmp_path: Path) -> None:
    parts = factors(UP)
    magnitude = tensor((weight(UP).shape[0],), 3).abs() + 0.1
    tensors = {**parts, f"{UP}.lora_magnitude_vector": magnitude}
    checkpoint = Checkpoint(f"{BASE}+{adapter(tmp_path / 'a', tensors, use_dora=True)}")
    changed = weight(UP) + 2 * product(parts, UP)
    expected = changed / changed.norm(dim=1, keepdim=True) * magnitude[:, None]
    assert_close(checkpoint.tensor(f"{UP}.weight"), expected, OPERATIONS + changed.shape[1])


def test_weights_that_are_stored_transposed(tmp_path: Path) -> None:
    onto = save(tmp_path / "x.safetensors", {"h.0.attn.c_attn.weight": tensor((4, 12), 5)})
    parts = {
        "transformer.h.0.attn.c_attn.lora_A.weight": tensor((2, 4), 6),
        "transformer.h.0.attn.c_attn.lora_B.weight": tensor((12, 2), 7),
    }
    checkpoint = Checkpoint(f"{onto}+{adapter(tmp_path / 'a', parts, r=2, fan_in_fan_out=True)}")
    expected = tensor((4, 12), 5) + 4 * product(parts, "transformer.h.0.attn.c_attn").T
    assert_close(checkpoint.tensor("h.0.attn.c_attn.weight"), expected, OPERATIONS)


def test_convolutions(tmp_path: Path) -> None:
    onto = save(tmp_path / "x.safetensors", {"conv.weight": tensor((6, 3, 3, 3), 5)})
    a, b = tensor((2, 3, 3, 3), 6), tensor((6, 2, 1, 1), 7)
    folder = adapter(tmp_path / "a", {"conv.lora_A.weight": a, "conv.lora_B.weight": b}, r=2)
    expected = tensor((6, 3, 3, 3), 5) + 4 * torch.einsum("or,rikl->oikl", b[:, :, 0, 0], a)
    assert_close(Checkpoint(f"{onto}+{folder}").tensor("conv.weight"), expected, OPERATIONS)


def test_embeddings_and_modules_saved_whole(tmp_path: Path) -> None:
    rows, columns = weight(EMBED).shape
    a, b = tensor((4, rows), 1, spread=0.1), tensor((columns, 4), 2, spread=0.1)
    head, norm = tensor((rows, columns), 3), tensor((columns,), 4, torch.bfloat16)
    tensors = {
        f"{EMBED}.lora_embedding_A": a,
        f"{EMBED}.lora_embedding_B": b,
        f"{EMBED}.base_layer.weight": head,
        "lm_head.weight": head.clone(),
        "model.norm.modules_to_save.weight": norm,
    }
    folder = adapter(tmp_path / "a", tensors, modules_to_save=["lm_head", "norm"])
    checkpoint = Checkpoint(f"{BASE}+{folder}")
    assert_close(checkpoint.tensor(f"{EMBED}.weight"), head + 2 * (b @ a).T, OPERATIONS)
    assert same_bytes(checkpoint.tensor("lm_head.weight"), head)
    assert same_bytes(checkpoint.tensor("model.norm.weight"), norm.float())


def test_the_result_has_the_checkpoints_dtype(tmp_path: Path) -> None:
    onto, parts = str(INPUTS / "bf16-base"), factors(QUERY)
    checkpoint = Checkpoint(f"{onto}+{adapter(tmp_path / 'a', parts)}")
    expected = (weight(QUERY, onto).float() + 2 * product(parts, QUERY)).bfloat16()
    assert same_bytes(checkpoint.tensor(f"{QUERY}.weight"), expected)


def test_merged_and_built_live_alike(tmp_path: Path) -> None:
    one = f"{BASE}+{adapter(tmp_path / 'a', factors(QUERY))}"
    two = f"{BASE}+{adapter(tmp_path / 'b', factors(UP))}"
    entries = [{"model": model, "parameters": {"weight": 0.5}} for model in (one, two)]
    recipe = Recipe.read({"merge_method": "task_arithmetic", "base_model": BASE, "models": entries})
    for template in (BASE, one):
        engine = Engine([BASE, one, two], template)
        engine.build(recipe)
        merge(recipe, tmp_path / f"out-{template == BASE}")
        assert engine.digest() == Checkpoint(str(tmp_path / f"out-{template == BASE}")).digest()
    merged, base = read(tmp_path / "out-True"), read(Path(BASE))
    name = f"{QUERY}.weight"
    assert_close(merged[name], (base[name] + Checkpoint(one).tensor(name)) / 2, OPERATIONS)


def test_a_model_is_loaded_with_its_adapter(tmp_path: Path) -> None:
    checkpoint = Checkpoint(f"{BASE}+{adapter(tmp_path / 'a', factors(QUERY))}")
    model, _ = load(checkpoint, "cpu")
    assert torch.equal(model.get_parameter(f"{QUERY}.weight"), checkpoint.tensor(f"{QUERY}.weight"))
    assert bind(model, checkpoint)


def test_a_model_that_the_adapter_reshapes_is_not_loaded(tmp_path: Path) -> None:
    more = {f"{EMBED}.weight": torch.zeros(70, 64), "lm_head.weight": torch.zeros(70, 64)}
    folder = adapter(tmp_path / "a", more, modules_to_save=["embed_tokens", "lm_head"])
    with pytest.raises(UserError, match=r"changes the shape of the model, in lm_head\.weight, model\.embed_tokens"):
        load(Checkpoint(f"{BASE}+{folder}"), "cpu")


@pytest.mark.parametrize(
    ("tensors", "config", "said"),
    [
        ({}, {"peft_type": "LOHA"}, "peft_type: found 'LOHA', expected 'LORA'"),
        ({}, {"layer_replication": [[0, 2]]}, "layer_replication: is not supported; merge the adapter with PEFT first"),
        ({"nowhere.weight": torch.zeros(1)}, {}, "no tensor for the adapter's base_model.model.nowhere.weight"),
        ({f"{QUERY}.lora_A.weight": torch.zeros(4, 64)}, {}, "q_proj.weight: expected lora_A and lora_B, found A"),
    ],
    ids=["kind", "unsupported", "unknown module", "half"],
)
def test_what_cannot_be_read_is_named(
    tensors: dict[str, Tensor], config: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = adapter(tmp_path / "a", tensors, **config)
    with pytest.raises(UserError) as caught:
        _ = Checkpoint(f"{BASE}+{folder}").tensors
    assert str(caught.value).startswith(folder)
    assert said in str(caught.value)


def test_an_adapter_for_another_shape(tmp_path: Path) -> None:
    parts = {f"{QUERY}.lora_A.weight": torch.zeros(4, 3), f"{QUERY}.lora_B.weight": torch.zeros(5, 4)}
    checkpoint = Checkpoint(f"{BASE}+{adapter(tmp_path / 'a', parts)}")
    with pytest.raises(UserError, match=r"q_proj\.weight: found \[5, 3\], expected \[64, 64\]"):
        checkpoint.tensor(f"{QUERY}.weight")


def test_a_folder_that_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not an adapter's folder: it has no adapter_config\.json"):
        _ = Checkpoint(f"{BASE}+{tmp_path}").tensors
    with pytest.raises(UserError, match=r"expected MODEL or MODEL\+ADAPTER"):
        Checkpoint("a+b+c")

"""Adapters that cannot be applied: each is an error that names the adapter, and what is wrong with it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint

from ..helpers import save, tensor
from .adapters import EMBED, PLAIN, PREFIX, UP, Q, a_and_b, adapter, base_of, read_all


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return base_of("plain", tmp_path_factory.mktemp("base"))


def nan(tensors: dict[str, Tensor], value: float = float("nan")) -> dict[str, Tensor]:
    name = next(iter(tensors))
    changed = tensors[name].clone()
    changed[0, 0] = value
    return {**tensors, name: changed}


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "rank 0": ({"r": 0}, "adapter_config.json: r: found 0, expected: Input should be greater than 0"),
    "rank as text": ({"r": "4"}, "adapter_config.json: r: found '4', expected: Input should be a valid integer"),
    "alpha NaN": ({"lora_alpha": float("nan")}, "adapter_config.json: lora_alpha: found nan"),
    "alpha infinite": ({"lora_alpha": float("-inf")}, "adapter_config.json: lora_alpha: found -inf"),
    "alpha in a list": ({"lora_alpha": [8]}, "adapter_config.json: lora_alpha: found [8]"),
    "pattern in a list": ({"alpha_pattern": ["q_proj"]}, "alpha_pattern: found ['q_proj']"),
    "pattern with NaN": ({"alpha_pattern": {"q_proj": float("nan")}}, "alpha_pattern.q_proj: found nan"),
    "pattern with rank 0": ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj: found 0"),
    "no regular expression": ({"alpha_pattern": {"(q_proj": 3}}, "'(q_proj' is not a regular expression"),
    "a long pattern": ({"rank_pattern": {"q" * 2000: 3}}, "found a pattern of 2000 characters, expected 1000 at most"),
    "saved modules in a mapping": ({"modules_to_save": {"lm_head": 1}}, "modules_to_save: found {'lm_head': 1}"),
    "negative rows": ({"trainable_token_indices": [-1]}, "trainable_token_indices"),
    "another rank": ({"r": 8}, f"{PREFIX}{Q}.lora_A.weight: found rank 4, expected 8"),
    "another rank by a pattern": ({"rank_pattern": {"q_proj": 2}}, "lora_A.weight: found rank 4, expected 2"),
    "AdaLoRA": ({"peft_type": "ADALORA"}, "peft_type: found 'ADALORA', expected 'LORA'; merge the adapter with PEFT"),
    "IA3": ({"peft_type": "IA3"}, "peft_type: found 'IA3', expected 'LORA'"),
    "no type": ({"peft_type": None}, "peft_type: found None"),
    "layers copied": ({"layer_replication": [[0, 1]]}, "layer_replication: is not supported; merge the adapter"),
    "activated": ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens: is not supported"),
    "a variant of tomorrow": ({"use_xlora": True}, "use_xlora: is not supported; merge the adapter with PEFT first"),
    "its settings": ({"xlora_config": {"depth": 1}}, "xlora_config: is not supported"),
    "kasa": ({"kasa_config": {"beta": 1}}, "kasa_config: is not supported"),
    "pissa by chance": (
        {"init_lora_weights": "pissa_niter_4"},
        "found 'pissa_niter_4': the adapter is for another",
    ),
    "corda": ({"init_lora_weights": "corda"}, "init_lora_weights: found 'corda': the adapter is for another base"),
    "loftq": ({"init_lora_weights": "loftq"}, "path_initial_model_for_weight_conversion"),
    "lora-ga": ({"init_lora_weights": "lora_ga"}, "init_lora_weights: found 'lora_ga'"),
    "an unknown beginning": ({"init_lora_weights": "best"}, "init_lora_weights: found 'best'"),
}
TENSORS: dict[str, tuple[dict[str, Tensor], dict[str, Any], str]] = {
    "nothing": ({}, {}, "adapter_model.safetensors has no tensors"),
    "NaN": (nan(PLAIN), {}, f"{PREFIX}{Q}.lora_A.weight has values that are NaN or infinite"),
    "infinite": (nan(PLAIN, float("inf")), {}, "lora_A.weight has values that are NaN or infinite"),
    "A alone": ({f"{Q}.lora_A.weight": tensor((4, 16), 1)}, {}, f"{Q}.weight: expected lora_A and lora_B, found A"),
    "ranks that differ": (a_and_b(Q, (4, 16), (16, 2)), {}, "found lora_A [4, 16] and lora_B [16, 2], expected [rank"),
    "vectors": (a_and_b(Q, (4,), (4,)), {}, "found lora_A [4] and lora_B [4], expected [rank"),
    "rank 0": (a_and_b(Q, (0, 16), (16, 0)), {}, "found rank 0, expected 4"),
    "transposed": (a_and_b(UP, (4, 24), (16, 4)), {}, f"{UP}.weight: found [16, 24], expected [24, 16]"),
    "factors of an embedding for a layer": (
        {f"{Q}.lora_embedding_A": tensor((4, 16), 1), f"{Q}.lora_embedding_B": tensor((16, 4), 2)},
        {},
        "found the factors of another kind of layer",
    ),
    "unknown module": (
        a_and_b("model.layers.7.q_proj"),
        {},
        "has no tensor for the adapter's base_model.model.model.layers.7",
    ),
    "unknown module, known base": (
        a_and_b("transformer.h.0.attn"),
        {"base_model_name_or_path": "acme/other"},
        "it was trained on acme/other",
    ),
    "unknown tensor": ({**PLAIN, "extra.thing": tensor((2, 2), 1)}, {}, f"the adapter's {PREFIX}extra.thing"),
    "a bias without the layer's": ({**PLAIN, f"{Q}.lora_B.bias": tensor((16,), 3)}, {"lora_bias": True}, "lora_B.bias"),
    "magnitudes of another number": (
        {**PLAIN, f"{Q}.lora_magnitude_vector": tensor((5,), 3)},
        {"use_dora": True},
        "found [5] magnitudes, expected 16",
    ),
    "a norm of another size": (
        {"model.norm.weight": tensor((8,), 3)},
        {"modules_to_save": ["norm"]},
        "found [8], expected [16]",
    ),
    "an embedding of another width": (
        {f"{EMBED}.weight": tensor((40, 8), 3)},
        {"modules_to_save": ["embed_tokens"]},
        "found [40, 8], expected [40, 16]",
    ),
    "half a vocabulary": (
        {f"{EMBED}.weight": tensor((44, 16), 3)},
        {"modules_to_save": ["embed_tokens"]},
        "resizes the vocabulary, and not all of it: lm_head.weight has 40 rows, model.embed_tokens.weight has 44 rows",
    ),
    "more tokens than rows": (
        {f"{EMBED}.token_adapter.trainable_tokens_delta": tensor((3, 16), 3)},
        {"trainable_token_indices": [1, 2]},
        "found [3, 16], expected [2, 16]",
    ),
    "tokens beyond the embedding": (
        {f"{EMBED}.token_adapter.trainable_tokens_delta": tensor((2, 16), 3)},
        {"trainable_token_indices": [1, 40]},
        "trainable_token_indices: found 40, the embedding has 40 rows",
    ),
    "rows without indices": (
        {f"{EMBED}.token_adapter.trainable_tokens_delta": tensor((2, 16), 3)},
        {},
        f"trainable_token_indices has no entry for {EMBED}",
    ),
    "no magnitudes": (PLAIN, {"use_dora": True}, f"use_dora: found true, and no lora_magnitude_vector for {Q}"),
    "magnitudes unsaid": (
        {**PLAIN, f"{Q}.lora_magnitude_vector": tensor((16,), 3)},
        {},
        f"use_dora: found false, and {PREFIX}{Q}.lora_magnitude_vector",
    ),
    "saved and not there": (
        PLAIN,
        {"modules_to_save": ["norm"]},
        "modules_to_save: found 'norm', and the file has none",
    ),
    "a kernel's beginning": (a_and_b(Q, (4, 16, 1), (16, 4, 1)), {}, "found lora_A [4, 16, 1]"),
    "saved with an adapter's name": ({f"{Q}.lora_A.default.weight": tensor((4, 16), 1)}, {}, "lora_A.default.weight"),
}


def problem(base: str, folder: str) -> str:
    with pytest.raises(UserError) as caught:
        read_all(f"{base}+{folder}")
    return str(caught.value)


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(name: str, base: str, tmp_path: Path) -> None:
    config, said = CONFIGS[name]
    message = problem(base, adapter(tmp_path / "a", PLAIN, **config))
    assert message.startswith(f"{tmp_path}/a: ")
    assert said in message


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(name: str, base: str, tmp_path: Path) -> None:
    tensors, config, said = TENSORS[name]
    message = problem(base, adapter(tmp_path / "a", tensors, **config))
    assert str(tmp_path / "a") in message
    assert said in message


def test_patterns_that_never_end(base: str, tmp_path: Path) -> None:
    slow = r"(\w|\w\w|\w+|\.|\w\.)*[A-Z]"
    folder = adapter(tmp_path / "a", a_and_b(Q), alpha_pattern={slow: 3})
    assert "took more than 0.5 s; write a pattern without nested repetitions" in problem(base, folder)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["adapter_model.bin"], "expected adapter_model.safetensors, found: adapter_config.json, adapter_model.bin"),
        (["adapter_model-00001-of-00002.safetensors"], "expected adapter_model.safetensors, found"),
        ([], "expected adapter_model.safetensors, found: adapter_config.json"),
    ],
    ids=["pickle", "shards", "nothing"],
)
def test_files(files: list[str], said: str, base: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", PLAIN)
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    for name in files:
        (tmp_path / "a" / name).write_bytes(b"x")
    assert said in problem(base, folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"peft_type": "LORA"', "\x00", '"LORA"', "[" * 100_000])
def test_configs_that_are_no_mapping(text: str, base: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", PLAIN)
    (tmp_path / "a" / "adapter_config.json").write_text(text)
    assert problem(base, folder).startswith(f"{folder}: adapter_config.json: ")


def test_a_folder_with_several_adapters(base: str, tmp_path: Path) -> None:
    for name in ("code", "chat"):
        adapter(tmp_path / "all" / name, PLAIN)
    assert "it has adapters in chat, code: write one of these folders" in problem(base, str(tmp_path / "all"))
    assert Checkpoint(f"{base}+{tmp_path}/all/code").tensors


def test_an_adapter_in_place_of_a_model(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", PLAIN)
    with pytest.raises(UserError, match=r"is an adapter, not a model; write MODEL\+.*/a, where MODEL is the model"):
        _ = Checkpoint(folder).tensors
    with pytest.raises(UserError, match="is an adapter, not a model"):
        _ = Checkpoint(f"{folder}/adapter_model.safetensors").tensors
    for kind in ("LORA", "IA3"):
        other = adapter(tmp_path / kind, PLAIN, base_model_name_or_path="acme/base", peft_type=kind)
        (tmp_path / kind / "adapter_model.safetensors").rename(tmp_path / kind / "adapter_model.bin")
        with pytest.raises(UserError, match=r"is an adapter, not a model; write "):
            _ = Checkpoint(other).tensors


def test_a_folder_that_is_both(base: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", PLAIN, base_model_name_or_path="acme/base")
    for file in Path(base).iterdir():
        (tmp_path / "a" / file.name).write_bytes(file.read_bytes())
    expected = r"has both a model and an adapter .* remove adapter_config\.json if .* write acme/base\+.*/a$"
    with pytest.raises(UserError, match=expected):
        _ = Checkpoint(folder).tensors
    assert Checkpoint(f"{base}+{folder}").tensors


def test_an_adapter_for_none_of_its_targets(base: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", a_and_b(Q), target_modules=["k_proj"])
    assert "no tensors for target_modules ['k_proj']; it has base_model.model." in problem(base, folder)


def test_a_model_that_peft_has_wrapped(tmp_path: Path) -> None:
    names = [f"layers.{layer}.{name}.base_layer.weight" for layer in range(4) for name in ("q_proj", "v_proj")]
    tensors = {name: tensor((4, 4), 1) for name in names} | {"layers.0.q_proj.lora_A.default.weight": tensor((2, 4), 1)}
    onto = save(tmp_path / "x.safetensors", tensors)
    with pytest.raises(
        UserError, match=r"has an adapter among its weights, such as layers\.0\.q_proj\.lora_A\.default"
    ):
        _ = Checkpoint(onto).tensors


def test_square_matrices_without_a_config(tmp_path: Path) -> None:
    square, wide = tensor((16, 16), 5), tensor((16, 48), 6)
    onto = save(tmp_path / "x.safetensors", {"h.proj.weight": square, "h.attn.weight": wide})
    parts = {**a_and_b("t.h.proj"), **a_and_b("t.h.attn", b=(48, 4))}
    folder = adapter(tmp_path / "said", parts, fan_in_fan_out=True)
    delta = 2 * parts["t.h.proj.lora_B.weight"] @ parts["t.h.proj.lora_A.weight"]
    torch.testing.assert_close(Checkpoint(f"{onto}+{folder}").tensor("h.proj.weight"), square + delta.T)
    said = problem(onto, adapter(tmp_path / "unsaid", parts))
    assert "fan_in_fan_out: found false, which other layers contradict, and the matrix is square" in said
    alone = adapter(tmp_path / "alone", a_and_b("t.h.proj"))
    torch.testing.assert_close(Checkpoint(f"{onto}+{alone}").tensor("h.proj.weight"), square + delta)


def test_prefixes_without_a_config(tmp_path: Path) -> None:
    tensors = {f"{side}.layers.0.q.weight": tensor((16, 16), i) for i, side in enumerate(("text", "vision"))}
    onto = save(tmp_path / "x.safetensors", {**tensors, "norm.weight": tensor((16,), 7)})
    assert "no tensor for the adapter's" in problem(onto, adapter(tmp_path / "a", a_and_b("layers.0.q")))
    assert "no tensor for the adapter's" in problem(onto, adapter(tmp_path / "b", a_and_b("text.layers.0.norm")))
    found = Checkpoint(f"{onto}+{adapter(tmp_path / 'c', a_and_b('model.text.layers.0.q'))}")
    assert not torch.equal(found.tensor("text.layers.0.q.weight"), tensors["text.layers.0.q.weight"])
    assert torch.equal(found.tensor("vision.layers.0.q.weight"), tensors["vision.layers.0.q.weight"])


def test_both_ends_that_differ_and_stay_tied(tmp_path: Path) -> None:
    base = base_of("tied", tmp_path / "base")
    ends = {f"{name}.weight": tensor((40, 16), i) for i, name in enumerate((EMBED, "lm_head"))}
    config = {"modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}
    said = problem(base, adapter(tmp_path / "a", ends, **config))
    assert "differ, and both are model.embed_tokens.weight of the model, which ties them" in said


def test_old_files_with_a_copy_of_the_base(base: str, tmp_path: Path) -> None:
    saved, original = tensor((16,), 3), tensor((16,), 4)
    names = ("modules_to_save", "original_module")
    parts = {f"model.norm.{name}.weight": value for name, value in zip(names, (saved, original), strict=True)}
    checkpoint = Checkpoint(f"{base}+{adapter(tmp_path / 'a', parts, modules_to_save=['norm'])}")
    assert torch.equal(checkpoint.tensor("model.norm.weight"), saved)


def test_experts_that_are_stored_in_another_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where transformers interleaves rows: what is stored is no part of the parameter in memory."""
    base = base_of("experts", tmp_path / "base")
    experts = "model.layers.0.mlp.experts"
    given = adapter(
        tmp_path / "adapter", a_and_b(experts, (8, 24), (16, 8)), target_parameters=["experts.down_proj"], r=4
    )
    assert read_all(f"{base}+{given}")
    names = [f"{experts}.{expert}.w2.weight" for expert in range(2)]
    monkeypatch.setattr(
        "mergesearch.merge_ops.checkpoint.adapters.names._saved_views",
        lambda _, __, fused: {name: fused[n].clone() for n, name in enumerate(names)},
    )
    with pytest.raises(UserError, match=r"experts\.down_proj is stored in another order than in memory; merge the"):
        read_all(f"{base}+{given}")


@pytest.mark.parametrize(
    "ends", [("lora_down.weight", "lora_up.weight"), ("hada_w1_a", "hada_w1_b"), ("lokr_w1", "lokr_w2_a")]
)
def test_factors_of_other_libraries_are_no_model(ends: tuple[str, str], tmp_path: Path) -> None:
    file = save(tmp_path / "a.safetensors", {f"lora_unet_x.{end}": tensor((4, 4), n) for n, end in enumerate(ends)})
    with pytest.raises(UserError, match="is an adapter, not a model"):
        _ = Checkpoint(file).tensors

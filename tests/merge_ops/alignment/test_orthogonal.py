"""Rotations of the residual stream: the same function, and rotated copies are given back."""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
import transformers as t
from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.alignment.activations import output_products
from mergesearch.merge_ops.alignment.models import symmetries
from mergesearch.merge_ops.alignment.orthogonal import OrthogonalAlignment
from mergesearch.merge_ops.alignment.spec import AxisGroups
from mergesearch.merge_ops.live.calibration_data import Batch

from ..live.families import KEYS

CONFIGS = {
    "llama": t.LlamaConfig(**KEYS, tie_word_embeddings=False),
    "qwen2": t.Qwen2Config(**KEYS, tie_word_embeddings=False),
    "gemma": t.GemmaConfig(**KEYS, head_dim=8, tie_word_embeddings=False),
}
BATCH = Batch({"input_ids": torch.randint(40, (4, 9), generator=torch.Generator().manual_seed(5))})


@pytest.fixture(autouse=True)
def _norms_in_their_own_dtype() -> Iterator[None]:
    """transformers computes norms in float32, whatever the model's dtype."""

    def forward(norm: Any, x: Tensor) -> Tensor:
        offset = 1.0 if "Gemma" in type(norm).__name__ else 0.0
        eps: float = getattr(norm, "variance_epsilon", None) or norm.eps
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (norm.weight + offset)

    kinds = [t.models.llama.modeling_llama.LlamaRMSNorm, t.models.qwen2.modeling_qwen2.Qwen2RMSNorm]
    kinds.append(t.models.gemma.modeling_gemma.GemmaRMSNorm)
    patches = [mock.patch.object(kind, "forward", forward) for kind in kinds]
    for patch in patches:
        patch.start()
    yield
    for patch in patches:
        patch.stop()


def new_model(config: Any, seed: int) -> Any:
    """A float64 model all of whose weights are random, norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    model = t.AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval().requires_grad_(False)
    for parameter in model.parameters():
        scale, centre = (0.2, 1.0) if parameter.dim() == 1 else (0.3, 0.0)
        parameter.copy_(centre + scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def spec_of(config: Any) -> AxisGroups:
    name = t.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]
    return symmetries({**config.to_dict(), "architectures": [name]})


def loaded(config: Any, tensors: dict[str, Tensor]) -> Any:
    model = new_model(config, 0)
    model.load_state_dict(tensors)
    return model


def outputs(model: Any) -> Tensor:
    result: Tensor = BATCH.run(model).logits
    return result


def rotation(size: int, seed: int) -> Tensor:
    random = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    result: Tensor = torch.linalg.qr(random).Q
    return result


def rotated_llama(model: Any, turn: Tensor) -> Any:
    """The same function in another basis, as written by hand: norms have the weight 1."""
    copy = loaded(model.config, model.state_dict())
    copy.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight @ turn)
    for layer in copy.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
            linear.weight.copy_(linear.weight * layer.input_layernorm.weight @ turn)
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight.copy_(linear.weight * layer.post_attention_layernorm.weight @ turn)
        for linear in (attention.o_proj, mlp.down_proj):
            linear.weight.copy_(turn.T @ linear.weight)
        layer.input_layernorm.weight.fill_(1.0)
        layer.post_attention_layernorm.weight.fill_(1.0)
    copy.lm_head.weight.copy_(copy.lm_head.weight * copy.model.norm.weight @ turn)
    copy.model.norm.weight.fill_(1.0)
    return copy


def fitted(spec: AxisGroups, model: Any, anchor: Any, products: Any) -> dict[str, Tensor]:
    found = OrthogonalAlignment(spec, model, "b", BATCH)
    move = found.move(anchor.state_dict(), model.state_dict(), products)
    return {name: move(name) for name in model.state_dict()}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("by", ["weights", "activations"])
def test_same_function(kind: str, by: str) -> None:
    config = CONFIGS[kind]
    anchor, model, spec = new_model(config, 1), new_model(config, 2), spec_of(config)
    products = output_products(spec.outputs, anchor, model, [BATCH]) if by == "activations" else None
    aligned = fitted(spec, model, anchor, products)
    assert (outputs(loaded(config, aligned)) - outputs(model)).abs().max() < 1e-9 * outputs(model).abs().max()
    moved = (aligned["model.embed_tokens.weight"] - model.state_dict()["model.embed_tokens.weight"]).abs().max()
    assert moved > 0.1
    norm = "model.layers.0.input_layernorm.weight"
    assert torch.equal(aligned[norm], anchor.state_dict()[norm])


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_a_rotated_copy_is_given_back(by: str) -> None:
    config = CONFIGS["llama"]
    anchor, spec = new_model(config, 1), spec_of(config)
    copy = rotated_llama(anchor, rotation(16, 3))
    assert (outputs(copy) - outputs(anchor)).abs().max() < 1e-9
    tokens = {"input_ids": torch.randint(40, (16, 9), generator=torch.Generator().manual_seed(6))}
    products = output_products(spec.outputs, anchor, copy, [Batch(tokens)]) if by == "activations" else None
    aligned = fitted(spec, copy, anchor, products)
    for name, tensor in anchor.state_dict().items():
        assert (aligned[name] - tensor).abs().max() < 1e-9, name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (t.LlamaConfig(**KEYS, tie_word_embeddings=True), r"lm_head.weight is tied to the embedding"),
        (
            t.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32),
            r"transformer.h.0.ln_1 is LayerNorm, which is no RMS norm",
        ),
        (
            t.MixtralConfig(**KEYS, num_local_experts=2, tie_word_embeddings=False),
            r"post_attention_layernorm.weight.* is not read by linear layers",
        ),
        (
            t.Gemma2Config(**KEYS, head_dim=8, tie_word_embeddings=False),
            r"post_attention_layernorm.weight.* is not read by linear layers",
        ),
    ],
)
def test_models_that_cannot_be_rotated(config: Any, message: str) -> None:
    model: nn.Module = new_model(config, 1).float()
    with pytest.raises(UserError, match=rf"^b: align: orthogonal: .*{message}"):
        OrthogonalAlignment(spec_of(config), model, "b", BATCH)


def test_other_vocabularies_are_refused() -> None:
    anchor = new_model(t.LlamaConfig(**{**KEYS, "vocab_size": 44}, tie_word_embeddings=False), 1)
    model, spec = new_model(CONFIGS["llama"], 2), spec_of(CONFIGS["llama"])
    with pytest.raises(UserError, match=r"^b: align: orthogonal: .*embed_tokens.weight.*: found other shapes"):
        fitted(spec, model, anchor, None)

"""The quantised double of a live model: what transformers loads, quantised, from the written candidate."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.merge_ops.live import quantized as module
from mergesearch.merge_ops.recipe.recipe import Recipe


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        for name in ("one", "two"):
            LlamaForCausalLM(config).save_pretrained(tmp_path / name)
    return [str(tmp_path / name) for name in ("one", "two")]


def soup(models: list[str], weight: float) -> Recipe:
    weights = [weight, 1 - weight]
    entries = [{"model": m, "parameters": {"weight": w}} for m, w in zip(models, weights, strict=True)]
    return Recipe.read({"merge_method": "linear", "models": entries})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", [4, 8])
def test_follows_the_live_model(models: list[str], tmp_path: Path, bits: int) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    engine, ids = Engine(models, models[0]), torch.tensor([[1, 5, 9, 2]])
    double: Any = module.quantized(engine.model, bits, lambda: engine.built)
    settings = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    seen = []
    for weight in (0.3, 0.8):
        engine.build(soup(models, weight))
        engine.save(tmp_path / f"{weight}")
        loaded = AutoModelForCausalLM.from_pretrained(
            tmp_path / f"{weight}", quantization_config=settings, device_map={"": "cpu"}
        )
        with torch.no_grad():
            found, expected, full = (model(ids).logits for model in (double, loaded, engine.model))
        assert torch.equal(found, expected)
        assert not torch.equal(found, full)
        seen.append(found)
    assert not torch.equal(*seen)


def test_where_there_is_no_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="quantization: needs bitsandbytes, which is not installed"):
        module.quantized(None, 4, object)

"""Recipes of slices in live models of their own depth: the live model equals the written one."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.recipe.recipe import Recipe

from ...tolerances import aligned, assert_close, path_length, tolerance
from ..helpers import INPUTS, loaded, read, same_bytes

BASE, ONE, TWO = (str(INPUTS / name) for name in ("L4-base", "L4-ft1", "L4-base"))
TOKENS = torch.arange(24).view(2, 12) % 64
Run = tuple[str, int, int]


def stack(*runs: Run, scales: tuple[float, ...] = (), **keys: Any) -> Recipe:
    slices = []
    for number, (model, start, end) in enumerate(runs):
        source: dict[str, Any] = {"model": model, "layer_range": [start, end]}
        if scales:
            parts = [{"filter": part, "value": scales[number]} for part in ("o_proj", "down_proj")]
            source["parameters"] = {"scale": [*parts, {"value": 1.0}]}
        slices.append({"sources": [source]})
    return Recipe.read({"merge_method": "passthrough", "base_model": BASE, "slices": slices, **keys})


SAME_DEPTH = stack((ONE, 0, 1), (TWO, 1, 3))
DEEPER = stack((ONE, 0, 2), (TWO, 0, 3))
SHALLOWER = stack((TWO, 1, 2))
WHOLE = Recipe.read(
    {"merge_method": "linear", "models": [{"model": m, "parameters": {"weight": 1}} for m in (BASE, ONE)]}
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine([BASE, ONE], BASE)


def exact(model: Any) -> Any:
    """A copy that hardly rounds: in float64, with norms that have no epsilon."""
    wide = copy.deepcopy(model).double()
    for module in wide.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 0.0
    return wide


def logits(model: Any, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        answer: torch.Tensor = aligned(model)(TOKENS, **options).logits
        return answer


@pytest.mark.parametrize("recipe", [SAME_DEPTH, DEEPER, SHALLOWER])
def test_the_live_model_is_what_is_written_and_loaded(recipe: Recipe, engine: Engine, tmp_path: Path) -> None:
    model = engine.build(recipe)
    assert model is engine.model
    engine.write(recipe, tmp_path / "out")
    merge(recipe, tmp_path / "again")
    assert Checkpoint(str(tmp_path / "out")).digest() == engine.digest() == Checkpoint(str(tmp_path / "again")).digest()
    found = loaded(tmp_path / "out")
    assert torch.equal(logits(model), logits(found))
    assert (
        found.config.to_dict().items()
        >= {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}.items()
    )  # type: ignore[operator, union-attr]


def test_layers_are_those_of_the_models_and_count_from_zero(engine: Engine) -> None:
    model: Any = engine.build(DEEPER)
    for place, (reference, layer) in enumerate([(ONE, 0), (ONE, 1), (TWO, 0), (TWO, 1), (TWO, 2)]):
        source = read(Path(reference))[f"model.layers.{layer}.mlp.up_proj.weight"]
        assert same_bytes(model.model.layers[place].mlp.up_proj.weight, source)
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3, 4]
    assert model.config.num_hidden_layers == 5
    # Generation token by token with the key-value cache gives the same logits.
    cache, steps, wide = None, [], exact(model)
    for token in TOKENS[0]:
        with torch.no_grad():
            answer = wide(token.view(1, 1), past_key_values=cache, use_cache=True)
        cache = answer.past_key_values
        steps.append(answer.logits[0, -1])
    assert_close(torch.stack(steps), logits(wide)[0], path_length(wide, len(TOKENS[0])))


def test_all_depths_are_one_model_and_take_turns(engine: Engine) -> None:
    first = engine.build(DEEPER)
    answers, layers = logits(first), list(first.parameters())
    assert engine.build(stack((TWO, 0, 3), (ONE, 1, 3))) is first
    assert next(first.parameters()) is layers[0], "candidates of one depth are built into the same tensors"
    whole = engine.build(WHOLE)
    assert whole is not first
    expected = logits(whole)
    assert engine.build(SHALLOWER) is first, "so that evaluators are ready for it"
    assert len(list(first.parameters())) < len(layers)
    assert all(parameter.numel() == 0 for parameter in layers), "the memory of the deeper one is free"
    assert torch.equal(logits(engine.build(DEEPER)), answers)
    assert torch.equal(logits(engine.build(WHOLE)), expected)


def test_a_stack_that_is_a_model_answers_as_it_does(engine: Engine) -> None:
    found = logits(engine.build(stack((ONE, 0, 4))))
    assert torch.equal(found, logits(loaded(Path(ONE))))


def test_a_factor_at_a_seam_is_one_over_it_in_what_is_written_above(engine: Engine) -> None:
    """Hooks that multiply the hidden state at two seams give the logits of the scaled weights."""
    runs, factors = [(ONE, 0, 2), (TWO, 0, 3), (ONE, 1, 3)], (1.7, 0.6)
    plain = exact(engine.build(stack(*runs)))
    without = logits(plain)
    for place, factor in zip((2, 5), factors, strict=True):
        plain.model.layers[place].register_forward_pre_hook(
            lambda _, arguments, factor=factor: (arguments[0] * factor, *arguments[1:])
        )
    expected = logits(plain)
    scales = (1.0, 1 / factors[0], 1 / (factors[0] * factors[1]))
    scaled = exact(engine.build(stack(*runs, scales=scales)))
    # Two matrices of every layer were scaled in float32; all else is computed in float64.
    rounding = tolerance(2 * len(scaled.model.layers), torch.float32, float(expected.abs().max()))
    assert (logits(scaled) - expected).abs().max() <= rounding
    assert (without - expected).abs().max() > 1000 * rounding


SMALL = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
KINDS = {
    "mixtral": lambda t: t.MixtralForCausalLM(
        t.MixtralConfig(**SMALL, num_key_value_heads=1, head_dim=8, num_local_experts=3)
    ),
    "tied qwen3": lambda t: t.Qwen3ForCausalLM(
        t.Qwen3Config(**SMALL, num_key_value_heads=1, head_dim=8, tie_word_embeddings=True)
    ),
    "gemma3": lambda t: t.Gemma3ForCausalLM(
        t.Gemma3TextConfig(
            **SMALL,
            num_key_value_heads=1,
            head_dim=8,
            sliding_window=4,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
    ),
    "gpt2": lambda t: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=32, n_embd=16, n_layer=3, n_head=2, n_positions=32)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_architectures(kind: str, tmp_path: Path) -> None:
    """Fused experts, tied embeddings, several layer types, other names: the live model equals the written one."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        KINDS[kind](transformers).save_pretrained(tmp_path / name)
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    engine = Engine([one, two], one)
    for runs in ([(one, 0, 2), (two, 1, 3), (two, 0, 1)], [(two, 1, 3)]):
        slices = [{"sources": [{"model": model, "layer_range": [start, end]}]} for model, start, end in runs]
        recipe = Recipe.read({"merge_method": "passthrough", "base_model": one, "slices": slices})
        model = engine.build(recipe)
        out = tmp_path / f"out{len(runs)}"
        engine.write(recipe, out)
        assert Checkpoint(str(out)).digest() == engine.digest()
        tokens = torch.arange(16).view(2, 8)
        with torch.no_grad():
            live, written = (aligned(each)(tokens).logits for each in (model, loaded(out)))
            assert torch.equal(live, written)

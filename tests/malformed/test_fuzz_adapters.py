"""Adapters with values of other types in the config, and tensors of other names and shapes."""

import random
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from ..merge_ops.checkpoint.adapters import BASES, EMBED, PLAIN, UP, Q, a_and_b, adapter, base_of, read_all
from .command import outcome
from .fuzzing import at_once

VALUES: list[Any] = [None, 0, -1, 10**30, 1.5, float("nan"), "", "pissa", [], [1], ["q_proj"], ["embed_tokens"]]
VALUES += [["experts.down_proj"], {}, {"q_proj": 1}, True, [[]]]
KEYS = ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "modules_to_save", "target_parameters", "peft_type"]
KEYS += ["trainable_token_indices", "init_lora_weights", "use_rslora", "fan_in_fan_out", "ensure_weight_tying"]
MODULES = [Q, UP, EMBED, "lm_head", "model.norm", "", "model", f"{Q}.base_layer", "model.layers.0"]
MODULES += ["model.layers.0.mlp.experts"]
ENDS = ["lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_B.bias", "weight", "lora_magnitude_vector"]
ENDS += ["token_adapter.trainable_tokens_delta", "base_layer.weight", "modules_to_save.weight", "lora_A"]


def check(kind: str, seed: int, folder: Path, count: int) -> None:
    base, dice = base_of(kind, folder / "base"), random.Random(f"{kind} {seed}")
    outcome(lambda: read_all(f"{base}+{adapter(folder / 'plain', PLAIN)}"), 60)  # imports what it needs
    for number in range(count):
        shapes = [tuple(dice.choice([0, 1, 2, 4, 16, 24, 40]) for _ in range(dice.randrange(4))) for _ in range(4)]
        tensors = {f"{dice.choice(MODULES)}.{dice.choice(ENDS)}": torch.randn(shape) for shape in shapes}
        tensors |= dice.choice([{}, PLAIN, a_and_b(UP, b=(24, 4))])
        config = {key: dice.choice(VALUES) for key in dice.sample(KEYS, dice.randrange(3))}
        given = adapter(folder / str(number), tensors, **config)
        at_once(lambda reference=f"{base}+{given}": read_all(reference))  # type: ignore[misc]


@pytest.mark.parametrize("kind", BASES)
def test_some_adapters(kind: str, tmp_path: Path) -> None:
    check(kind, 100, tmp_path, 20)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), [*product(BASES, range(7))])
def test_many_adapters(kind: str, seed: int, tmp_path: Path) -> None:
    check(kind, seed, tmp_path, 500)

"""Matching: a permuted copy is given back, and models trained apart come nearer."""

from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from mergesearch.merge_ops.alignment.matching import match, weight_sources
from mergesearch.merge_ops.alignment.trace import derive

from . import families
from .test_symmetries import family, shuffled


@pytest.mark.parametrize("name", [*families.CONFIGS, *families.PLAIN])
@pytest.mark.parametrize("seed", [0, 1])
def test_permuted_copy_is_given_back(name: str, seed: int) -> None:
    model, spec, _ = family(name)
    anchor = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    copy = spec.apply(shuffled(spec, seed), anchor)
    matched = match(spec, weight_sources(spec, anchor, copy), seed)
    back = spec.apply(matched.permutations, copy)
    assert [key for key in anchor if not torch.equal(anchor[key], back[key])] == []
    assert matched.after == pytest.approx(1)
    assert matched.before < 0.99


def hidden_layer(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"0.weight": (6, 4), "0.bias": (6,), "2.weight": (3, 6), "2.bias": (3,)}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def test_one_group_gets_the_best_of_all_orders() -> None:
    spec = derive(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), [torch.zeros(2, 4)])
    anchor, model = hidden_layer(0), hidden_layer(1)
    (group,) = spec.groups

    def likeness(order: tuple[int, ...]) -> float:
        moved = spec.apply({group: torch.tensor(order)}, model)
        return sum(float((anchor[name] * moved[name]).sum()) for name in spec.tensors)

    found = match(spec, weight_sources(spec, anchor, model))
    best = max(permutations(range(6)), key=likeness)
    assert tuple(found.permutations[group].tolist()) == best
    assert found.after > found.before


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "MixtralForCausalLM", "ResNetForImageClassification"])
def test_models_apart_come_nearer_and_compute_the_same(name: str) -> None:
    model, spec, inputs = family(name)
    anchor = families.transformers_model(name, seed=1).state_dict()
    before = families.output(model, inputs)
    matched = match(spec, weight_sources(spec, anchor, model.state_dict()))
    assert matched.after > matched.before + 0.05
    model.load_state_dict(spec.apply(matched.permutations, model.state_dict()))
    torch.testing.assert_close(families.output(model, inputs), before, rtol=0, atol=1e-9)

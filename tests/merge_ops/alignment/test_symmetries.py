"""Symmetries derived from models: every permutation of the groups leaves the function as it is."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mergesearch.merge_ops.alignment.models import symmetries
from mergesearch.merge_ops.alignment.spec import AxisGroups
from mergesearch.merge_ops.alignment.trace import derive

from . import families


def shuffled(spec: AxisGroups, seed: int = 0) -> dict[str, Tensor]:
    """Random permutations of all groups, none of which leaves everything in its place."""
    generator = torch.Generator().manual_seed(seed)
    random = {name: torch.rand(own.shape, generator=generator).argsort(-1) for name, own in spec.identity().items()}
    return {name: own.roll(1, -1) if torch.equal(own, spec.identity()[name]) else own for name, own in random.items()}


def family(name: str) -> tuple[Any, AxisGroups, dict[str, Tensor] | list[Tensor]]:
    """A model with its groups, and inputs."""
    if name in families.PLAIN:
        kind, shape = families.PLAIN[name]
        module = families.randomized(kind())
        example = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return module, derive(module, [torch.zeros(shape, dtype=torch.float64)]), [example]
    model = families.transformers_model(name)
    return model, symmetries(model.config.to_dict()), families.inputs(model)


@pytest.mark.parametrize("name", [*families.CONFIGS, *families.PLAIN])
def test_permuted_model_computes_the_same(name: str) -> None:
    model, spec, inputs = family(name)
    before, tensors = families.output(model, inputs), {k: v.clone() for k, v in model.state_dict().items()}
    permuted = spec.apply(shuffled(spec), tensors)
    changed = {name for name, tensor in permuted.items() if not torch.equal(tensor, tensors[name])}
    assert changed >= spec.tensors.keys()
    model.load_state_dict(permuted)
    torch.testing.assert_close(families.output(model, inputs), before, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("LlamaForCausalLM", {24: 1, 40: 2, 3: 2, 2: 2, 4: 2}),
        ("MixtralForCausalLM", {24: 1, 40: 2, 5: 2, 2: 2, 3: 2, 4: 2}),
        ("GPT2LMHeadModel", {24: 1, 96: 2, 3: 2, 8: 4}),
        ("BertForSequenceClassification", {24: 2, 40: 2, 6: 2, 4: 4}),
        ("T5ForConditionalGeneration", {24: 1, 40: 4, 3: 3, 6: 12}),
        ("ViTForImageClassification", {24: 1, 40: 2, 6: 2, 4: 4}),
        ("ResNetForImageClassification", {8: 1, 16: 1, 20: 1, 4: 4, 5: 2}),
        ("mlp", {11: 1, 9: 1}),
        ("cnn", {8: 1, 6: 1}),
    ],
)
def test_every_symmetry_is_found(name: str, sizes: dict[int, int]) -> None:
    _, spec, _ = family(name)
    found = [group.size for group in spec.groups.values()]
    assert {size: found.count(size) for size in found} == sizes
    assert spec.notes == ()

"""Matching: a permuted copy is given back, and models trained apart come nearer."""

import pytest
import torch

from mergesearch.merge_ops.alignment.matching import match, weight_sources

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

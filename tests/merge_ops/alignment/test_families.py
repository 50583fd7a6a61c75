"""Symmetries of many families of transformers: permuted models compute the same."""

from typing import Any

import pytest
import torch

from mergesearch.merge_ops.alignment.models import symmetries

from ..live.families import FAMILIES
from . import families
from .test_symmetries import shuffled


def eager(model: Any) -> Any:
    """The model with operations that work in float64."""
    for part in model.modules():
        if hasattr(part, "config"):
            part.config._attn_implementation = part.config._experts_implementation = "eager"
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_permuted_model_computes_the_same(name: str) -> None:
    model = eager(families.randomized(FAMILIES[name].make()))
    model.config.architectures = [type(model).__name__]
    spec = symmetries(model.config.to_dict())
    ask = {key: own.double() if own.is_floating_point() else own for key, own in FAMILIES[name].ask.items()}
    before, tensors = families.output(model, ask), {key: own.clone() for key, own in model.state_dict().items()}
    model.load_state_dict(spec.apply(shuffled(spec), tensors))
    assert spec.groups or spec.notes
    torch.testing.assert_close(families.output(model, ask), before, rtol=1e-9, atol=1e-9)

"""Activation matching: correlations as numpy computes them, and permuted copies."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mergesearch.merge_ops.alignment.activations import activation_sources, output_products
from mergesearch.merge_ops.alignment.matching import match
from mergesearch.merge_ops.alignment.spec import AxisGroups
from mergesearch.merge_ops.alignment.trace import derive
from mergesearch.merge_ops.live.calibration_data import Batch

from ...tolerances import tolerance


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(24, 7), nn.Tanh(), nn.Linear(7, 3)).double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def spec() -> AxisGroups:
    return derive(network(0), [torch.zeros(2, 1, 4, 4, dtype=torch.float64)])


@pytest.fixture(scope="module")
def batch() -> Batch:
    images = torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Batch({"input": images}, positional=True)


def layer_outputs(model: Any, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the convolution's channels and of the hidden layer's units."""
    channels = model[0](images)
    hidden = model[:6](images)
    return channels.permute(0, 2, 3, 1).reshape(-1, 6).numpy(), hidden.numpy()


def test_correlations_are_those_of_numpy(spec: AxisGroups, batch: Batch) -> None:
    anchor, model = network(0), network(1)
    found = output_products(spec.outputs, anchor, model, batch.parts(7))
    images = batch.tensors["input"]
    for name, one, two in zip("05", layer_outputs(anchor, images), layer_outputs(model, images), strict=True):
        (products,) = (own for (module, _), own in found.items() if module == name)
        units = one.shape[1]
        expected = np.corrcoef(one, two, rowvar=False)[:units, units:]
        np.testing.assert_allclose(products.correlations.numpy(), expected, atol=tolerance(100 * len(one)), rtol=0)
        cosines = one.T @ two / (np.linalg.norm(one) * np.linalg.norm(two))
        np.testing.assert_allclose(products.cosines.numpy(), cosines, atol=tolerance(100 * len(one)), rtol=0)


def test_a_permuted_copy_is_given_back(spec: AxisGroups, batch: Batch) -> None:
    anchor = network(0)
    generator = torch.Generator().manual_seed(3)
    shuffled = {name: torch.randperm(group.size, generator=generator) for name, group in spec.groups.items()}
    copy = network(1)
    copy.load_state_dict(spec.apply(shuffled, anchor.state_dict()))
    sources = activation_sources(spec, output_products(spec.outputs, anchor, copy, [batch]))
    found = spec.apply(match(spec, sources).permutations, copy.state_dict())
    assert all(torch.equal(found[name], tensor) for name, tensor in anchor.state_dict().items())


def test_constant_units_correlate_with_none(spec: AxisGroups, batch: Batch) -> None:
    model = network(0)
    model[5].weight[2] = 0.0
    found = output_products(spec.outputs, model, model, [batch])
    (products,) = (own for (module, _), own in found.items() if module == "5")
    assert products.correlations[2].abs().max() == 0.0
    assert products.correlations.isfinite().all()

"""What every evaluator with losses keeps to, on the cases of the evaluators with margins."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mergesearch.evaluators import Budget, LoadedModel, LossKind, has_targets

from ...tolerances import close, path_length
from ..helpers import widen_norms
from .test_graded_contract import Case, case, evaluator, folder, opened_case, subject

__all__ = ["case", "evaluator", "folder", "subject"]

KINDS: tuple[LossKind, ...] = ("targets", "entropy", "graded")
STEP = 1e-4
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


def loss_of(evaluator: Any, subject: LoadedModel, kind: LossKind, count: int) -> Tensor:
    assert has_targets(evaluator)
    targets = evaluator.targets(subject, evaluator.items[:count])
    assert targets.has_gold
    total: Tensor = sum(targets.losses(kind, 0.7))
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(evaluator: Any, subject: LoadedModel, kind: LossKind) -> None:
    """By five points, along a line of weights, in float64."""
    widen_norms(subject.model)
    draw = torch.Generator().manual_seed(3)
    weights = list(subject.model.parameters())
    line = [torch.randn(weight.shape, generator=draw).double() * 0.02 for weight in weights]
    before = [weight.detach().clone() for weight in weights]

    def loss_at(step: float) -> float:
        with torch.no_grad():
            for weight, start, way in zip(weights, before, line, strict=True):
                weight.copy_(start + step * way)
            return loss_of(evaluator, subject, kind, 5).item()

    expected = sum(part * loss_at(times * STEP) for times, part in STENCIL) / STEP
    loss_at(0.0)
    loss = loss_of(evaluator, subject, kind, 5)
    slopes = torch.autograd.grad(loss, weights, allow_unused=True)
    found = sum(float((slope * way).sum()) for slope, way in zip(slopes, line, strict=True) if slope is not None)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_do_not_matter(case: Case, evaluator: Any, subject: LoadedModel, folder: Path, kind: LossKind) -> None:
    small = replace(subject, budget=Budget(64))  # an evaluator keeps that of its first model
    with torch.no_grad():
        many = list(opened_case(case, folder).targets(small, evaluator.items).losses(kind, 0.7))
        whole = loss_of(evaluator, subject, kind, len(evaluator.items))
    assert len(many) > 1
    assert sum(many).item() == close(whole.item(), path_length(subject.model, 128), magnitude=400)

"""One tensor to merge, a candidate's numbers for it, and what references share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One tensor to merge, and a candidate's numbers for it.

    ``based``: whether the base is given, where a method can do without; ``shown`` is what each model showed of the
    tensor when it ran over a text; ``others`` are the other tensors of the base and the first model, in pairs.
    """

    base: Tensor
    models: list[Tensor]
    shared: dict[str, Any] = field(default_factory=dict)
    each: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    keys: tuple[int, ...] = ()
    based: bool = True
    shown: tuple[Tensor | None, ...] = ()
    others: tuple[tuple[Tensor, Tensor], ...] = ()

    @property
    def task_vectors(self) -> list[Tensor]:
        return [model.double() - self.base.double() for model in self.models]

    @property
    def origin(self) -> Tensor:
        """Where an optional base is: zero where there is none."""
        return self.base.double() if self.based else torch.zeros_like(self.base, dtype=torch.float64)


def weighted_sum(tensors: list[Tensor], weights: tuple[float, ...]) -> Tensor:
    total: Tensor = torch.stack([w * t.double() for w, t in zip(weights, tensors, strict=True)]).sum(0)
    return total


def divisor(case: Case) -> float:
    total = float(np.sum(case.each["weight"]))
    return total if case.shared["normalize"] and abs(total) > 1e-8 else 1.0

"""Reinforced Agent Merging Plus, per tensor: what one model alone changed is strengthened.

Yuan et al., arXiv:2601.13572, in mergekit's tensor-local form: as ``ram``, with what model i alone changed (|δ_i| > ε)
multiplied by ``1 + r · min(α, ρ_i)``, where ρ_i is the number of its shared changes in this tensor over that of its
own.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import Elementwise
from mergesearch.merge_ops.methods import ram
from mergesearch.merge_ops.methods._base import Method, Parameter, Statistics, Values

if TYPE_CHECKING:
    from torch import Tensor


def decide(statistics: Statistics, values: Values) -> Elementwise:
    epsilon, r, alpha = (values.number(name) for name in ("epsilon", "r", "alpha"))
    counts = statistics.derived("changes", partial(_changes, epsilon), settings=epsilon)
    ratios = [shared / alone if alone else (alpha if shared else 0.0) for shared, alone in counts]
    return Elementwise(partial(ram.merged, epsilon, [1 + r * min(alpha, ratio) for ratio in ratios]))


def _changes(epsilon: float, base: "Tensor | None", models: "Sequence[Tensor]") -> list[tuple[int, int]]:
    """How many changes each model shares, and how many are its own."""
    from mergesearch.merge_ops.kernels.blocks import blocks

    shared, alone = [0] * len(models), [0] * len(models)
    for _, (origin, *pieces) in blocks([base, *models] if base is not None else models):
        changed = [(piece - origin).abs() > epsilon for piece in pieces]
        count = sum(part.int() for part in changed)
        for i, part in enumerate(changed):
            shared[i] += int((part & (count > 1)).sum())
            alone[i] += int((part & (count == 1)).sum())
    return list(zip(shared, alone, strict=True))


METHOD = Method(
    name="ramplus_tl",
    summary="ram, with what one model alone changed strengthened",
    paper="Yuan et al., Behavior knowledge merge in reinforced agentic models, https://arxiv.org/abs/2601.13572",
    formula="θ = θ_b + Σ_i (1 + r min(α, ρ_i)) δ_i where alone, the average where shared",
    base="required",
    parameters=(
        ram.EPSILON,
        Parameter("r", "how much stronger, by the share of shared changes", default=0.1, low=0.0, search=(0.0, 1.0)),
        Parameter("alpha", "the most that the share counts", default=0.2, low=0.0, search=(0.0, 1.0)),
    ),
    decide=decide,
)

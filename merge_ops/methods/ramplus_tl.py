"""Reinforced Agent Merging Plus, tensor by tensor: strengthens changes of a single model.

Yuan et al., arXiv:2601.13572, in mergekit's tensor-local form: ``ram`` with changes of model i alone (|δ_i| > ε)
multiplied by ``1 + r · min(α, ρ_i)``. ρ_i is the number of changes in this tensor that the model shares with others,
divided by the number of those that it does not.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import Elementwise
from mergesearch.merge_ops.methods import ram
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics

if TYPE_CHECKING:
    from torch import Tensor


def decide(statistics: Statistics, values: ParameterValues) -> Elementwise:
    epsilon, r, alpha = (values.number(name) for name in ("epsilon", "r", "alpha"))
    counts = statistics.derived("changes", partial(_changes, epsilon), settings=epsilon)
    ratios = [shared / single if single else (alpha if shared else 0.0) for shared, single in counts]
    return ram.plan_of(epsilon, [1 + r * min(alpha, ratio) for ratio in ratios])


def _changes(epsilon: float, base: "Tensor | None", models: "Sequence[Tensor]") -> list[tuple[int, int]]:
    """Returns, for each model, the number of changes that others share and of those that they do not."""
    from mergesearch.merge_ops.kernels.selection import changes

    assert base is not None
    return changes(base, models, epsilon)


METHOD = Method(
    name="ramplus_tl",
    summary="ram, with what one model alone changed strengthened",
    paper="Yuan et al., Behavior knowledge merge in reinforced agentic models, https://arxiv.org/abs/2601.13572",
    formula="θ = θ_b + Σ_i (1 + r min(α, ρ_i)) δ_i where alone, the average where shared",
    base="required",
    parameters=(
        ram.EPSILON,
        Parameter("r", "the strengthening for a ratio of one", default=0.1, low=0.0, search=(0.0, 1.0)),
        Parameter("alpha", "the largest ratio that counts", default=0.2, low=0.0, search=(0.0, 1.0)),
    ),
    decide=decide,
)

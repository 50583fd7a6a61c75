"""RegMean: the linear layers that come nearest to every model's outputs on its own inputs.

Jin et al., "Dataless knowledge fusion by merging weights of language models", arXiv:2212.09849. G_i = X_iᵀX_i is the
Gram matrix of a linear layer's inputs in model i on the ``calibration`` text, with its off-diagonal entries multiplied
by α. With one row of W_i per output:

``W = (Σ W_i G_i) (Σ G_i)⁻¹``

All other tensors get the plain average. A millionth of the mean diagonal is added to each G_i, so that inputs that the
text never excites are averaged. Every model runs on the text once, in float32, and its G_i are cached. The result
depends only on α and is cached until α changes.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import Elementwise, Form, LinearCombination, Plan
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics
from mergesearch.merge_ops.methods._parameters import CALIBRATION, CALIBRATION_TOKENS

if TYPE_CHECKING:
    from torch import Tensor

RIDGE = 1e-6


def decide(statistics: Statistics, values: ParameterValues) -> Plan:
    text, tokens = values.text("calibration"), int(values.number("calibration_tokens"))
    each = [statistics.calibrated("inputs", model, text, tokens) for model in range(statistics.count)]
    grams = [gram for gram in each if gram is not None]
    if len(grams) < len(each) or len(statistics.shape) != 2:
        return LinearCombination((1 / statistics.count,) * statistics.count)
    alpha = values.number("alpha")
    solved = statistics.derived("regression", partial(_solve, grams, alpha), settings=(alpha, text, tokens))
    return Elementwise(
        lambda _, models, start: solved[start : start + models[0].numel()].to(models[0]),
        Form("tables", weights=(1.0,), tables=(solved,)),
    )


def _solve(grams: "Sequence[Tensor]", alpha: float, _: "Tensor | None", models: "Sequence[Tensor]") -> "Tensor":
    from mergesearch.merge_ops.kernels.blocks import wide_dtype
    from mergesearch.merge_ops.kernels.threads import run_for
    from mergesearch.merge_ops.methods._regression import softened, solve

    row_per_output = grams[0].dim() == 2
    soft = [softened(gram if row_per_output else gram[0], alpha, RIDGE) for gram in grams]
    weights = [model.double() if row_per_output else model.double().t() for model in models]
    (solved,) = run_for(models[0].numel(), lambda: solve(weights, soft))
    return (solved if row_per_output else solved.t()).reshape(-1).to(wide_dtype(models))


def statistics_bytes(shape: tuple[int, ...], models: int) -> int:
    """The solution, and every model's Gram matrix of the inputs, in float32."""
    return 4 * (prod(shape) + models * shape[-1] ** 2) if len(shape) == 2 else 0


METHOD = Method(
    name="regmean",
    summary="linear layers that come nearest to every model's outputs on a text",
    paper="Jin et al., Dataless knowledge fusion (RegMean), https://arxiv.org/abs/2212.09849",
    formula="θ = (Σ θ_i G_i) (Σ G_i)⁻¹, G_i = X_iᵀX_i",
    base="input",
    parameters=(
        CALIBRATION,
        CALIBRATION_TOKENS,
        Parameter(
            "alpha",
            "a factor on the Gram matrices' off-diagonal entries",
            default=0.9,
            low=0.0,
            high=1.0,
            search=(0.1, 1.0),
        ),
    ),
    decide=decide,
    statistics_bytes=statistics_bytes,
    heavy=True,
    min_models=2,
)

"""One model as it is, or scaled: ``θ = s θ_1``.

Mostly for recipes whose slices repeat or reorder layers. A scale of zero on a block's output projections, set by a
filter, makes the block the identity.
"""

from mergesearch.merge_ops.kernels.plans import LinearCombination
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics


def decide(_: Statistics, values: ParameterValues) -> LinearCombination:
    return LinearCombination(values.numbers("scale"))


METHOD = Method(
    name="passthrough",
    summary="one model as it is, or scaled",
    paper="none: it copies",
    formula="θ = s θ_1, s = scale",
    base="input",
    parameters=(Parameter("scale", "a factor on the tensor", default=1.0, per_model=True, search=(0.0, 1.0)),),
    decide=decide,
    copied=lambda values, *_: 0 if values.numbers("scale") == (1.0,) else None,
    max_models=1,
)

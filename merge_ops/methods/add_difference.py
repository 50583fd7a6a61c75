"""Add difference: adds to A what B learned from C.

This is "add difference" of Stable Diffusion's merging tools, and the addition of task arithmetic (Ilharco et al.,
arXiv:2212.04089) to another model than the base: ``θ = θ_A + α (θ_B − θ_C)``. A and B are the recipe's first and second
model, C is its base_model.
"""

from mergesearch.merge_ops.kernels.plans import LinearCombination
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics
from mergesearch.merge_ops.methods._parameters import ends


def decide(_: Statistics, values: ParameterValues) -> LinearCombination:
    """``θ_C + 1·(θ_A − θ_C) + α (θ_B − θ_C)``."""
    return LinearCombination((1.0, values.number("alpha")), base=1.0, task_vectors=True)


METHOD = Method(
    name="add_difference",
    summary="the first model plus what the second learned from base_model",
    paper="Ilharco et al., Editing models with task arithmetic, https://arxiv.org/abs/2212.04089",
    formula="θ = θ_A + α (θ_B − θ_C), θ_A = the first model, θ_B = the second, θ_C = base_model",
    base="required",
    parameters=(Parameter("alpha", "how much of the difference is added", default=1.0, search=(0.0, 1.5)),),
    decide=decide,
    copied=ends("alpha", 0),
    min_models=2,
    max_models=2,
    symmetric=False,
)

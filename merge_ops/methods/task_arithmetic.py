"""Sum of task vectors.

Ilharco et al., "Editing models with task arithmetic", arXiv:2212.04089, section 2: ``θ = θ_b + λ Σ_i w_i (θ_i − θ_b)``.
A negative weight negates a task (forgetting), and a sum of them makes an analogy.
"""

from mergesearch.merge_ops.kernels.plans import LinearCombination
from mergesearch.merge_ops.methods._base import Method, Statistics, Values
from mergesearch.merge_ops.methods._shared import INT8_MASK, LAMBDA, WEIGHT, divided, normalize


def decide(_: Statistics, values: Values) -> LinearCombination:
    weights, factor = divided(values.numbers("weight"), values.switch("normalize")), values.number("lambda")
    return LinearCombination(tuple(w * factor for w in weights), base=1.0, task_vectors=True)


METHOD = Method(
    name="task_arithmetic",
    summary="the base plus weighted task vectors",
    paper="Ilharco et al., Editing models with task arithmetic, https://arxiv.org/abs/2212.04089",
    formula="θ = θ_b + λ Σ w_i (θ_i − θ_b)",
    base="required",
    parameters=(WEIGHT, LAMBDA, normalize(False), INT8_MASK),
    decide=decide,
)

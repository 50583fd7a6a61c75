"""Weighted average of models.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time", arXiv:2203.05482: ``θ = Σ_i w_i θ_i / Σ_i w_i``.
"""

from dataclasses import replace

from mergesearch.merge_ops.kernels.plans import LinearCombination
from mergesearch.merge_ops.methods._base import Method, ParameterValues, Statistics
from mergesearch.merge_ops.methods._parameters import WEIGHT, normalize, normalized, sole_model


def decide(_: Statistics, values: ParameterValues) -> LinearCombination:
    return LinearCombination(normalized(values.numbers("weight"), values.switch("normalize")))


METHOD = Method(
    name="linear",
    summary="weighted average of models",
    paper="Wortsman et al., Model soups, https://arxiv.org/abs/2203.05482",
    formula="θ = Σ w_i θ_i / Σ w_i",
    base="input",
    parameters=(replace(WEIGHT, search=(0.0, 1.0)), normalize(True)),
    decide=decide,
    copied=lambda values, *_: sole_model(values.numbers("weight"), values.switch("normalize")),
)

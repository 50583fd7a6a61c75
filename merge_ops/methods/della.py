"""DELLA: drops that spare large changes, with TIES' sign election.

Deep et al., "DELLA-Merging: reducing interference in model merging through magnitude-based sampling", arXiv:2406.11617.
In each row of a task vector the element of rank r among n (1 the smallest) is kept with

``p = density − ε + 2ε (r − 1) / (n − 1)``

and divided by p (``rescale: l1`` is mergekit's form, which keeps the L1 norm instead); then signs are elected and those
that agree averaged, as in ``ties``.

Unlike mergekit: in a row of one element, p is the density (there it is not a number); and where density ± ε leaves
[0, 1], p is clipped (there it is an error).
"""

from math import prod

from mergesearch.merge_ops.kernels.plans import SignConsensus, Sparsity
from mergesearch.merge_ops.methods._base import Method, Parameter, Statistics, Values
from mergesearch.merge_ops.methods._shared import (
    DENSITY,
    INT8_MASK,
    LAMBDA,
    SEED,
    SIGN,
    WEIGHT,
    normalize,
    rescale,
    vote,
)

EPSILON = Parameter(
    "epsilon",
    "half the spread of the probabilities around the density",
    default=0.15,
    per_model=True,
    low=0.0,
    high=1.0,
    search=(0.05, 0.2),
)


def decide(statistics: Statistics, values: Values) -> SignConsensus:
    return SignConsensus(
        weights=values.numbers("weight"),
        sparsity=drops(statistics, values),
        elect=True,
        normalize=values.switch("normalize"),
        lambda_=values.number("lambda"),
        vote=vote(values),
    )


def drops(statistics: Statistics, values: Values) -> tuple[Sparsity, ...]:
    """What remains of each task vector."""
    from mergesearch.merge_ops.methods._ranked import ranked_drop

    rescaled = values.shared["rescale"]
    numbers = zip(values.numbers("density"), values.numbers("epsilon"), values.random_keys(), strict=True)
    return tuple(ranked_drop(statistics, model, each, rescaled) for model, each in enumerate(numbers))


def kept(shape: tuple[int, ...], models: int) -> int:
    """The rank of every element in its row."""
    return 2 * models * prod(shape)


METHOD = Method(
    name="della",
    summary="task vectors thinned at random, small changes first, summed where they agree in sign",
    paper="Deep et al., DELLA-Merging, https://arxiv.org/abs/2406.11617",
    formula="θ = θ_b + λ Σ_{i∈A} w_i m_i δ_i / p_i / Σ_{i∈A} w_i, m_i ~ Bernoulli(p_i), "
    "p_i = density − ε + 2ε (r − 1) / (n − 1)",
    base="required",
    parameters=(WEIGHT, DENSITY, EPSILON, LAMBDA, normalize(True), rescale("inverse"), SIGN, SEED, INT8_MASK),
    decide=decide,
    kept=kept,
)

"""Sums of task vectors: a table of how they are made sparse and how they are added up.

Each row is a method, as in mergekit's registry: a sparsification with or without TIES' sign consensus. With
δ_i = θ_i − θ_b, the sparse task vectors δ'_i and the weights w_i:

* without consensus: ``θ = θ_b + λ Σ_i w_i δ'_i``
* with consensus: ``θ = θ_b + λ Σ_{i∈A} w_i δ'_i``, where A holds the models whose ``w_i δ'_i`` has the elected sign of
  the element: that of ``Σ_j w_j δ'_j``, or with ``sign: count`` the sign that most models have

``normalize`` divides by ``Σ_i w_i``, or by ``Σ_{i∈A} w_i`` with consensus. As in mergekit, a sum of zero elects +.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mergesearch.merge_ops.kernels.plans import LinearCombination, SignConsensus, Sparsity, Vote
from mergesearch.merge_ops.methods._base import (
    Method,
    Parameter,
    ParameterValues,
    Statistics,
    StatisticsBytes,
    no_bytes,
)
from mergesearch.merge_ops.methods._parameters import (
    INT8_MASK,
    LAMBDA,
    WEIGHT,
    base_without,
    normalize,
    normalized,
)
from mergesearch.merge_ops.methods._sparsify import (
    DENSITY,
    EPSILON,
    GAMMA,
    SCOPE,
    SEED,
    dropped,
    dropped_by_rank,
    rank_bytes,
    ranking_bytes,
    rescale,
    trimmed,
    without_extremes,
)

SIGN = Parameter(
    "sign",
    "each element's sign is elected by the models' weighted mass, or by their count",
    kind="choice",
    default="mass",
    choices=("mass", "count"),
)


@dataclass(frozen=True)
class Sparsification:
    """How task vectors are made sparse.

    Attributes:
        sparsify: from statistics and parameters to the sparsity of each model.
        per_model: its parameters with a value for each model.
        shared: its other parameters.
        statistics_bytes: the size of its statistics.
    """

    sparsify: Callable[[Statistics, ParameterValues], tuple[Sparsity, ...]]
    per_model: tuple[Parameter, ...]
    shared: tuple[Parameter, ...]
    statistics_bytes: StatisticsBytes = no_bytes


TRIM = Sparsification(trimmed, (DENSITY,), (rescale("none"), SCOPE), ranking_bytes)
TRIM_BOTH_ENDS = Sparsification(without_extremes, (DENSITY, GAMMA), (rescale("none"), SCOPE), ranking_bytes)
DROP = Sparsification(dropped, (DENSITY,), (rescale("inverse"), SEED))
DROP_BY_RANK = Sparsification(dropped_by_rank, (DENSITY, EPSILON), (rescale("inverse"), SEED), rank_bytes)


@dataclass(frozen=True)
class SparseSum:
    """One row of the table. ``normalize`` is the default of the parameter of that name."""

    name: str
    summary: str
    paper: str
    formula: str
    sparsification: Sparsification | None = None
    consensus: bool = False
    normalize: bool = False

    def method(self) -> Method:
        """Returns the row as a method."""
        sparsification = self.sparsification
        return Method(
            name=self.name,
            summary=self.summary,
            paper=self.paper,
            formula=self.formula,
            base="required",
            parameters=self._parameters(),
            decide=self._decide if sparsification else _sum_of_task_vectors,
            statistics_bytes=sparsification.statistics_bytes if sparsification else no_bytes,
            copied=base_without("weight", "lambda", *(("density",) if sparsification else ())),
        )

    def _parameters(self) -> tuple[Parameter, ...]:
        per_model, shared = (
            (self.sparsification.per_model, self.sparsification.shared) if self.sparsification else ((), ())
        )
        sign = (SIGN,) if self.consensus else ()
        return WEIGHT, *per_model, LAMBDA, normalize(self.normalize), *shared, *sign, INT8_MASK

    def _decide(self, statistics: Statistics, values: ParameterValues) -> SignConsensus:
        assert self.sparsification is not None
        weights, divide = values.numbers("weight"), values.switch("normalize")
        sparsity, factor = self.sparsification.sparsify(statistics, values), values.number("lambda")
        if not self.consensus:
            return SignConsensus(normalized(weights, divide), sparsity, lambda_=factor)
        vote: Vote = "count" if values.text("sign") == "count" else "mass"
        return SignConsensus(weights, sparsity, elect=True, normalize=divide, lambda_=factor, vote=vote)


def _sum_of_task_vectors(_: Statistics, values: ParameterValues) -> LinearCombination:
    weights, factor = normalized(values.numbers("weight"), values.switch("normalize")), values.number("lambda")
    return LinearCombination(tuple(w * factor for w in weights), base=1.0, task_vectors=True)


TASK_ARITHMETIC = SparseSum(
    name="task_arithmetic",
    summary="the base plus weighted task vectors",
    paper="Ilharco et al., Editing models with task arithmetic, https://arxiv.org/abs/2212.04089",
    formula="θ = θ_b + λ Σ w_i (θ_i − θ_b)",
)
"""Ilharco et al., "Editing models with task arithmetic", arXiv:2212.04089, section 2.

A negative weight negates a task (forgetting). Sums of positive and negative weights are analogies.
"""

TIES = SparseSum(
    name="ties",
    summary="trimmed task vectors, summed where they agree in sign",
    paper="Yadav et al., TIES-Merging, https://arxiv.org/abs/2306.01708",
    formula="θ = θ_b + λ Σ_{i∈A} w_i δ'_i / Σ_{i∈A} w_i",
    sparsification=TRIM,
    consensus=True,
    normalize=True,
)
"""Yadav et al., "TIES-Merging: resolving interference when merging models", arXiv:2306.01708, algorithm 1.

Trims each task vector, elects a sign for each element, and averages the models that agree with it. As in mergekit, each
tensor is trimmed by itself. The paper's code trims over the whole model, which is ``scope: global``.
"""

DARE_LINEAR = SparseSum(
    name="dare_linear",
    summary="randomly thinned and rescaled task vectors, summed",
    paper="Yu et al., Language models are super mario (DARE), https://arxiv.org/abs/2311.03099",
    formula="θ = θ_b + λ Σ w_i m_i δ_i / p_i, m_i ~ Bernoulli(p_i), p_i = density",
    sparsification=DROP,
)
"""Yu et al., "Language models are super mario", arXiv:2311.03099: ``δ'_i = m_i δ_i / p_i, m_i ~ Bernoulli(p_i)``.

``rescale: l1`` is mergekit's form, which restores the L1 norm instead of dividing by p_i.
"""

DARE_TIES = SparseSum(
    name="dare_ties",
    summary="randomly thinned and rescaled task vectors, summed where they agree in sign",
    paper="Yu et al., Language models are super mario (DARE), https://arxiv.org/abs/2311.03099",
    formula="θ = θ_b + λ Σ_{i∈A} w_i m_i δ_i / p_i, m_i ~ Bernoulli(p_i), p_i = density",
    sparsification=DROP,
    consensus=True,
)
"""The drops of Yu et al., arXiv:2311.03099, with the sign consensus of Yadav et al., arXiv:2306.01708."""

DELLA_LINEAR = SparseSum(
    name="della_linear",
    summary="task vectors thinned at random, small changes first, summed",
    paper="Deep et al., DELLA-Merging, https://arxiv.org/abs/2406.11617",
    formula="θ = θ_b + λ Σ w_i m_i δ_i / p_i, m_i ~ Bernoulli(p_i), p_i = density − ε + 2ε (r − 1) / (n − 1)",
    sparsification=DROP_BY_RANK,
)
"""The drops of ``della``, without its sign consensus."""

DELLA = SparseSum(
    name="della",
    summary="task vectors thinned at random, small changes first, summed where they agree in sign",
    paper="Deep et al., DELLA-Merging, https://arxiv.org/abs/2406.11617",
    formula="θ = θ_b + λ Σ_{i∈A} w_i m_i δ_i / p_i / Σ_{i∈A} w_i, m_i ~ Bernoulli(p_i), "
    "p_i = density − ε + 2ε (r − 1) / (n − 1)",
    sparsification=DROP_BY_RANK,
    consensus=True,
    normalize=True,
)
"""Deep et al., "DELLA-Merging: reducing interference in model merging through magnitude-based sampling",
arXiv:2406.11617.

In each row of a task vector, the element of rank r among n (1 is the smallest) is kept with the probability
``p = density − ε + 2ε (r − 1) / (n − 1)`` and divided by p. ``rescale: l1`` is mergekit's form, which restores the L1
norm instead. Unlike in mergekit, p is the density in a row of one element (mergekit: not a number), and p is clipped to
[0, 1] (mergekit: an error).
"""

BREADCRUMBS = SparseSum(
    name="breadcrumbs",
    summary="task vectors without their largest and smallest changes, summed",
    paper="Davari and Belilovsky, Model Breadcrumbs, https://arxiv.org/abs/2312.06795",
    formula="θ = θ_b + λ Σ w_i m_i δ_i, m_i = [threshold_i ≤ |δ_i| ≤ ceiling_i]",
    sparsification=TRIM_BOTH_ENDS,
)
"""Davari and Belilovsky, "Model Breadcrumbs: scaling multi-task model merging with sparse masks", arXiv:2312.06795.

In mergekit's form, m_i drops the γ n largest magnitudes, then the smallest until density · n are left. The paper's β is
``gamma``, its γ is ``1 − density − gamma``. If density + gamma exceeds 1, fewer of the largest are dropped. A density
above zero keeps at least one element, a density of one keeps all.
"""

BREADCRUMBS_TIES = SparseSum(
    name="breadcrumbs_ties",
    summary="task vectors without their largest and smallest changes, summed where they agree in sign",
    paper="Davari and Belilovsky, Model Breadcrumbs, https://arxiv.org/abs/2312.06795",
    formula="θ = θ_b + λ Σ_{i∈A} w_i m_i δ_i, m_i = [threshold_i ≤ |δ_i| ≤ ceiling_i]",
    sparsification=TRIM_BOTH_ENDS,
    consensus=True,
)
"""The trimming of ``breadcrumbs``, with the sign consensus of Yadav et al., arXiv:2306.01708."""

ROWS = (TASK_ARITHMETIC, TIES, DARE_LINEAR, DARE_TIES, DELLA_LINEAR, DELLA, BREADCRUMBS, BREADCRUMBS_TIES)
METHODS = tuple(row.method() for row in ROWS)

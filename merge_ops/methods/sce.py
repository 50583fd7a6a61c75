"""SCE: selects the elements on which models differ most, weights models by energy, erases the minority sign.

Wan et al., "FuseChat: knowledge fusion of chat models", arXiv:2408.07990. Of the elements whose variance over the
models is not zero, the fraction ``select_topk`` with the largest variance is kept (δ'). Then

``η_i = Σ δ'_i² / Σ_j Σ δ'_j²,  θ = θ_b + Σ_{i∈A} η_i δ'_i / Σ_{i∈A} η_i,  A = {i : sign(δ'_i) = sign(Σ_j δ'_j)}``

A ``select_topk`` above zero keeps at least one element, where mergekit may keep none. Elements whose variance equals
the smallest one are all kept. As in mergekit, all η_i are equal if the mean squares sum to less than 1e-6. This is not
in the paper, and it holds for most fine-tunes at small learning rates. ``smallest_energy: 0`` gives the paper's form.
"""

from functools import partial
from math import inf
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import SignConsensus, Sparsity
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics
from mergesearch.merge_ops.methods._parameters import INT8_MASK, base_without
from mergesearch.merge_ops.methods._sparsify import ranking_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

SMALLEST = 5e-324
"""The smallest number above zero."""


def decide(statistics: Statistics, values: ParameterValues) -> SignConsensus:
    threshold, count = _least_spread(statistics, values.number("select_topk")), statistics.count
    energies = statistics.derived("energies", partial(_energies, threshold), settings=threshold)
    total = sum(energies)
    small = total <= values.number("smallest_energy") * max(1, statistics.size)
    weights = (1 / count,) * count if small else tuple(energy / total for energy in energies)
    return SignConsensus(
        weights=weights,
        sparsity=(Sparsity(),) * count,
        elect=True,
        normalize=True,
        vote="change",
        least_spread=threshold,
    )


def _least_spread(statistics: Statistics, fraction: float) -> float:
    """Returns the smallest spread among the largest ``fraction`` of those above zero."""
    if fraction >= 1:
        return 0.0
    varied = statistics.spreads().count_from(SMALLEST) if fraction > 0 else 0
    return statistics.spreads().largest(max(1, int(fraction * varied))) if varied else inf


def _energies(least: float, base: "Tensor | None", models: "Sequence[Tensor]") -> tuple[float, ...]:
    from mergesearch.merge_ops.kernels.numbers import Numbers
    from mergesearch.merge_ops.kernels.selection import energies

    assert base is not None
    return energies(Numbers("spread", base, models), least) if least < inf else (0.0,) * len(models)


def statistics_bytes(shape: tuple[int, ...], _: int) -> int:
    """The counts of the spreads."""
    return ranking_bytes(shape, 1)


METHOD = Method(
    name="sce",
    summary="the changes on which models differ most, weighted by energy, where they agree in sign",
    paper="Wan et al., FuseChat, https://arxiv.org/abs/2408.07990",
    formula="θ = θ_b + Σ_{i∈A} η_i δ'_i / Σ_{i∈A} η_i, η_i = Σ δ'_i² / Σ_j Σ δ'_j²",
    base="required",
    parameters=(
        Parameter(
            "select_topk",
            "the fraction of the elements that is kept",
            default=1.0,
            low=0.0,
            high=1.0,
            search=(0.1, 1.0),
        ),
        Parameter("smallest_energy", "the mean square below which all models weigh the same", default=1e-6, low=0.0),
        INT8_MASK,
    ),
    decide=decide,
    corners="select_topk above zero keeps at least one element, where mergekit may keep none. Elements whose "
    "variance equals the smallest one that is kept are kept, too.",
    copied=base_without("select_topk"),
    statistics_bytes=statistics_bytes,
)

"""Factors at the seams of a layer stack: ``scale`` in ``slices: {search: ...}``.

A seam is where a layer follows another layer than in its own model. There Akiba et al. (arXiv:2403.13187, section 3.2)
scale the layer's input by a factor W_ij. A saved model has no such parameter. But where layers normalise their input
first (RMSNorm or LayerNorm), f(c·h) = f(h), so c·h + Σ f_k(h_k) = c · (h + Σ f_k(h_k) / c): multiplying everything that
the layers above the seam write to the residual stream by 1/c gives the same model, but for the normalisations' epsilon.
``Seams`` does that, with filters on the tensors that write to the residual stream. There is one factor for each pair of
models, for seams from the one to the other, and one for each model, for seams within it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, product
from typing import Any

from optuna.distributions import FloatDistribution

from mergesearch.errors import UserError
from mergesearch.merge_ops.methods import Scalar
from mergesearch.search.space.checks import check_keys
from mergesearch.search.space.dimension import Dimension, Range
from mergesearch.search.space.paths import model_labels
from mergesearch.search.space.ranges import AUTO, read_range
from mergesearch.search.space.stack_encoding import LayerRun
from mergesearch.text import quoted

WRITERS = ("o_proj", "down_proj")
"""The tensors that write to the residual stream in Llama, Mistral, Qwen, Gemma and similar models."""
AUTO_RANGE = FloatDistribution(0.5, 2.0, log=True)
SEAM_KEYS = ("search", "tensors", "log", "step")


@dataclass(frozen=True)
class Seams:
    """``dimensions``: the factor of each pair of models; ``writers``: texts in the names of the scaled tensors."""

    dimensions: Sequence[Dimension] = ()
    writers: Sequence[str] = ()

    def start(self) -> dict[str, Scalar]:
        """The factors nearest to 1."""
        return {dimension.name: dimension.nearest(1.0) for dimension in self.dimensions}

    def scales(self, runs: Sequence[LayerRun], values: Mapping[str, Scalar]) -> list[float]:
        """The number that each run's written tensors are multiplied by: 1 over the factors of all seams below it."""
        if not self.dimensions:
            return [1.0] * len(runs)
        factors = [float(values[seam_name(below.model, above.model)]) for below, above in pairwise(runs)]
        return list(accumulate(factors, lambda scale, factor: scale / factor, initial=1.0))

    def parameters(self, scale: float) -> dict[str, Any]:
        """The parameters of a source with that scale: ``passthrough``'s own, by filters."""
        if scale == 1.0:
            return {}
        return {"scale": [*({"filter": writer, "value": scale} for writer in self.writers), {"value": 1.0}]}


def seam_name(below: int, above: int) -> str:
    """The name of the factor of seams from model ``below`` to model ``above``."""
    return f"seam.{below}.{above}"


def read_seams(spec: Mapping[str, Any], models: Sequence[str], where: str) -> Seams:
    """``scale: {search: auto}`` or ``scale: {search: [low, high]}``; no seams where the key is missing."""
    if "scale" not in spec:
        return Seams()
    scale, at = spec["scale"], f"{where}.scale"
    if not isinstance(scale, dict) or "search" not in scale:
        raise UserError(f"{at}: found {quoted(scale)}, expected {{search: [low, high]}} or {{search: auto}}")
    check_keys(scale, SEAM_KEYS, at)
    tensors = scale.get("tensors", list(WRITERS))
    if not isinstance(tensors, list) or not tensors or not all(isinstance(name, str) for name in tensors):
        raise UserError(f"{at}.tensors: found {quoted(tensors)}, expected a list of texts in names of tensors")
    distribution = AUTO_RANGE if scale["search"] == AUTO else _read_factors(scale, at)
    labels = list(model_labels(models).values())
    dimensions = [
        Dimension(seam_name(i, j), distribution, (), "scale", f"factor at seams from {labels[i]} to {labels[j]}")
        for i, j in product(range(len(models)), repeat=2)
    ]
    return Seams(dimensions, tensors)


def _read_factors(scale: Mapping[str, Any], where: str) -> Range:
    if not isinstance(scale["search"], list) or len(scale["search"]) != 2:
        raise UserError(f"{where}.search: found {quoted(scale['search'])}, expected [low, high] or auto")
    factors = read_range(scale, where)
    if factors.low <= 0:
        raise UserError(
            f"{where}.search: found a range that starts at {factors.low:g}, expected one that starts above 0"
        )
    return factors

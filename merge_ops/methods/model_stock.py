"""Model Stock: between the base and the average, depending on the angles between the task vectors.

Jang et al., "Model Stock: all we need is just a few fine-tuned models", arXiv:2403.19522, for N models:

``θ = t · Σ θ_i / N + (1 − t) θ_b,  t = N cos ϑ / (1 + (N − 1) cos ϑ)``

cos ϑ is the mean cosine over all pairs of task vectors: of whole tensors or, with ``filter_wise``, of vectors along the
last axis. t stays in [0, 1]: a negative cosine gives 0, where mergekit extrapolates without bound. A zero task vector
has the cosine 0. Other cosines are exact, where mergekit shrinks those with a product of norms below 1e-6.
"""

from itertools import combinations
from typing import TYPE_CHECKING

from mergesearch.merge_ops.kernels.plans import SMALLEST_NORM, Plan
from mergesearch.merge_ops.methods._base import Method, Parameter, ParameterValues, Statistics
from mergesearch.merge_ops.methods._gram import Vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def decide(statistics: Statistics, values: ParameterValues) -> Plan:
    axis = -1 if values.switch("filter_wise") else None
    vectors = Vectors(statistics, axis)
    share = statistics.derived("model stock", lambda *_: _share(vectors), settings=axis)
    return vectors.combination([share] * vectors.count)


def _share(vectors: Vectors) -> "NDArray[np.float64]":
    """Returns t / N: one number, or one for each vector."""
    import numpy as np

    n, gram = vectors.count, vectors.gram()
    norms = np.sqrt(np.stack([gram[i, i] for i in range(n)]))
    pairs = list(combinations(range(n), 2))
    products = np.stack([norms[i] * norms[j] for i, j in pairs])
    dots = np.stack([gram[i, j] for i, j in pairs])
    cosine = np.where(products > SMALLEST_NORM**2, dots / np.maximum(products, SMALLEST_NORM**2), 0).mean(0)
    cosine = np.clip(cosine, 0, 1)
    return np.asarray(cosine / (1 + (n - 1) * cosine))


METHOD = Method(
    name="model_stock",
    summary="the average of the models, drawn towards the base by how much their task vectors differ",
    paper="Jang et al., Model Stock, https://arxiv.org/abs/2403.19522",
    formula="θ = t Σ θ_i / N + (1 − t) θ_b, t = N cos ϑ / (1 + (N − 1) cos ϑ)",
    base="required",
    parameters=(
        Parameter(
            "filter_wise",
            "take the angles of vectors along the last axis instead of whole tensors",
            kind="switch",
            default=False,
            search=(False, True),
        ),
    ),
    decide=decide,
    corners="t stays in [0, 1]: a negative mean cosine gives the base, where mergekit extrapolates. A task vector "
    "of zeros has the cosine 0. Cosines of tiny task vectors are exact, where mergekit shrinks them.",
    min_models=2,
)

"""The usual settings of methods: what people try first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mergesearch.merge_ops.methods import Scalar

USUAL = " (usual)"
"""The end of the name of a method of the space at its usual settings."""


def usual_settings(models: int) -> dict[str, dict[str, Scalar]]:
    """The parameters that the standard recipes are used with, for that many models, by method.

    Task arithmetic 0.4 and TIES (density 0.2, weight 1) are the TIES paper's for an unvalidated merge
    (arXiv:2306.01708, section 5); DARE-TIES with density 0.5 and weights that sum to one are mergekit's example.
    """
    share = 1 / models
    return {
        "linear": {"weight": share},
        "slerp": {"t": 0.5},
        "task_arithmetic": {"weight": 0.4},
        "ties": {"weight": 1.0, "density": 0.2},
        "dare_ties": {"weight": share, "density": 0.5},
        "dare_linear": {"weight": share, "density": 0.5},
    }

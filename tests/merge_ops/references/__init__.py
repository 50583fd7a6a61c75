"""Each method in float64, straight from its paper's formula: sorts, loops and whole tensors, no blocks."""

from collections.abc import Callable

from torch import Tensor

from . import calibrated, elementwise, selection, sparse, spectral, spherical, sums
from .case import Case

__all__ = ["REFERENCES", "Case"]

REFERENCES: dict[str, Callable[[Case], Tensor]] = {
    "linear": sums.linear,
    "slerp": spherical.slerp,
    "nuslerp": spherical.nuslerp,
    "multislerp": spherical.multislerp,
    "karcher": spherical.karcher,
    "model_stock": spherical.model_stock,
    "task_arithmetic": sums.task_arithmetic,
    "ties": sparse.ties,
    "dare_linear": sparse.dare_linear,
    "dare_ties": sparse.dare_ties,
    "della_linear": sparse.della_linear,
    "della": sparse.della,
    "breadcrumbs": sparse.breadcrumbs,
    "breadcrumbs_ties": sparse.breadcrumbs_ties,
    "sce": selection.sce,
    "tsv": spectral.tsv,
    "iso_c": spectral.iso_c,
    "fisher": calibrated.fisher,
    "regmean": calibrated.regmean,
    "arcee_fusion": selection.arcee_fusion,
    "cosine_add": selection.cosine_add,
    "consensus_ta": elementwise.consensus_ta,
    "magmax": elementwise.magmax,
    "ram": elementwise.ram,
    "ramplus_tl": elementwise.ramplus_tl,
    "nearswap": elementwise.nearswap,
    "wise_ft": sums.wise_ft,
    "add_difference": sums.add_difference,
    "train_difference": elementwise.train_difference,
    "passthrough": sums.passthrough,
}

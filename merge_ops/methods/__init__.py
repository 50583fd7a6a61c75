"""The table of merge methods."""

from dataclasses import replace
from functools import cache

from mergesearch.errors import UserError
from mergesearch.merge_ops.methods import (
    add_difference,
    arcee_fusion,
    breadcrumbs,
    breadcrumbs_ties,
    consensus_ta,
    cosine_add,
    dare_linear,
    dare_ties,
    della,
    della_linear,
    fisher,
    iso_c,
    karcher,
    linear,
    magmax,
    model_stock,
    multislerp,
    nearswap,
    nuslerp,
    passthrough,
    ram,
    ramplus_tl,
    regmean,
    sce,
    slerp,
    task_arithmetic,
    ties,
    train_difference,
    tsv,
    wise_ft,
)
from mergesearch.merge_ops.methods._base import Method, Parameter, Scalar, Statistics, Values
from mergesearch.plugins import find

__all__ = ["METHODS", "PARAMETER_NAMES", "Method", "Parameter", "Scalar", "Statistics", "Values", "find_method"]

_MODULES = (
    linear,
    slerp,
    nuslerp,
    multislerp,
    karcher,
    model_stock,
    task_arithmetic,
    ties,
    dare_linear,
    dare_ties,
    della_linear,
    della,
    breadcrumbs,
    breadcrumbs_ties,
    sce,
    consensus_ta,
    magmax,
    ram,
    ramplus_tl,
    tsv,
    iso_c,
    fisher,
    regmean,
    arcee_fusion,
    nearswap,
    cosine_add,
    wise_ft,
    add_difference,
    train_difference,
    passthrough,
)
METHODS: dict[str, Method] = {module.METHOD.name: module.METHOD for module in _MODULES}

PARAMETER_NAMES = frozenset(parameter.name for method in METHODS.values() for parameter in method.parameters)
"""The names of all methods' parameters."""


@cache
def find_method(name: str) -> Method:
    """The method of that name: ours, an entry point of ``mergesearch.merge_methods``, or ``"module:METHOD"``.

    It goes by the name that it was found by, so that recipes with it can be read again. Raises UserError with the
    nearest name where there is none.
    """
    try:
        found = find(name, METHODS, "mergesearch.merge_methods", "method")
    except UserError as error:
        raise UserError(f"merge_method: {error}") from None
    if not isinstance(found, Method):
        raise UserError(f"merge_method: {name} is a {type(found).__name__}, expected a Method")
    return replace(found, name=name)

"""Merge methods: one module for each, and ``sparse_task_vectors`` for those that are rows of one table."""

from dataclasses import replace
from functools import cache

from mergesearch.errors import UserError
from mergesearch.merge_ops.methods import (
    add_difference,
    arcee_fusion,
    consensus_ta,
    cosine_add,
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
    sparse_task_vectors,
    train_difference,
    tsv,
    wise_ft,
)
from mergesearch.merge_ops.methods._base import (
    BASE,
    Method,
    Parameter,
    ParameterValues,
    Quantiles,
    Scalar,
    Statistics,
)
from mergesearch.plugins import find
from mergesearch.trust import require_trust

__all__ = [
    "BASE",
    "FILE_PARAMETERS",
    "METHODS",
    "PARAMETER_NAMES",
    "Method",
    "Parameter",
    "ParameterValues",
    "Quantiles",
    "Scalar",
    "Statistics",
    "find_method",
]

_METHODS = (
    linear.METHOD,
    slerp.METHOD,
    nuslerp.METHOD,
    multislerp.METHOD,
    karcher.METHOD,
    model_stock.METHOD,
    *sparse_task_vectors.METHODS,
    sce.METHOD,
    consensus_ta.METHOD,
    magmax.METHOD,
    ram.METHOD,
    ramplus_tl.METHOD,
    tsv.METHOD,
    iso_c.METHOD,
    fisher.METHOD,
    regmean.METHOD,
    arcee_fusion.METHOD,
    nearswap.METHOD,
    cosine_add.METHOD,
    wise_ft.METHOD,
    add_difference.METHOD,
    train_difference.METHOD,
    passthrough.METHOD,
)
METHODS: dict[str, Method] = {method.name: method for method in _METHODS}

PARAMETER_NAMES = frozenset(parameter.name for method in METHODS.values() for parameter in method.parameters)
"""The names of the parameters of all methods."""
FILE_PARAMETERS = frozenset(p.name for method in METHODS.values() for p in method.parameters if p.kind == "file")
"""The names of those that are paths of text files."""


@cache
def find_method(name: str) -> Method:
    """Returns the method of that name.

    The method is one of METHODS, an entry point of ``mergesearch.merge_methods``, or ``"module:METHOD"``, which needs
    ``trust_code``. Its ``name`` is the name that it was found by, so that recipes with it can be read again. Raises
    UserError with the nearest name if there is no such method, or its code is not trusted.
    """
    if ":" in name:
        require_trust(name, "merge_method")
    try:
        method = find(name, METHODS, "mergesearch.merge_methods", "method")
    except UserError as error:
        raise UserError(f"merge_method: {error}") from None
    if not isinstance(method, Method):
        raise UserError(f"merge_method: {name} is a {type(method).__name__}, expected a Method")
    return replace(method, name=name)

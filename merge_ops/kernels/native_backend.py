"""The kernels of ``kernels.c``: compiled once by the system's C compiler, run on as many threads as torch uses.

If there is no compiler, ``library()`` is None and ``torch_backend`` serves, with the same bits.
"""

import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.merge_ops.kernels.compile_cache import compiled
from mergesearch.merge_ops.kernels.plans import (
    Elementwise,
    Form,
    FormName,
    LinearCombination,
    Pass,
    Plan,
    SignConsensus,
    Sparsity,
    Vote,
    grains,
)
from mergesearch.merge_ops.kernels.threads import SPAN, run_on_threads

SOURCES = [
    Path(__file__).with_name(name) for name in ("kernels.c", "selection.c", "elementwise.h", "passes.h", "tensors.h")
]
# Contraction would round a·b + c once where torch rounds twice.
FLAGS = ("-O3", "-fno-strict-aliasing", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC")
MACHINE_FLAGS = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ("-mcpu=native",), ())
"""Flags for this machine's processor, the fastest first. Compilers refuse those that they do not know."""
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
VOTES: dict[Vote, int] = {"mass": 0, "count": 1, "change": 2}
FORMS: dict[type, int] = {LinearCombination: 0, SignConsensus: 1}
FUNCTIONS: tuple[FormName, ...] = (
    "tables",
    "vectors",
    "largest",
    "shared",
    "consensus",
    "near",
    "difference",
    "fisher",
    "important",
)
"""The forms of elementwise.h, in its order."""

# The structs of passes.h.
TENSOR = np.dtype([("data", "u8"), ("dtype", "i4")], align=True)
TERM = np.dtype(
    [(name, "f4") for name in ("weight", "threshold", "ceiling", "factor")]
    + [(name, "u8") for name in ("key", "places", "kept", "factors")]
    + [("grains", "i4")],
    align=True,
)
PASS = np.dtype(
    [(name, "i8") for name in ("size", "first_span", "k", "tables", "inner", "length")]
    + [(name, "u8") for name in ("terms", "models", "factors", "overflow")]
    + [("base", TENSOR), ("out", TENSOR)]
    + [(name, "i4") for name in ("form", "task_vectors", "elect", "normalize", "vote")]
    + [(name, "f4") for name in ("base_coefficient", "lambda", "rounding", "least_spread")]
    + [("numbers", "f4", 2)],
    align=True,
)
Struct = tuple[Any, ...]
NO_TENSOR = (0, 0)


def serves(tensor_pass: Pass) -> bool:
    """Returns whether the compiled kernels take the plan and the tensors, which must be contiguous."""
    plan = tensor_pass.plan
    if isinstance(plan, Elementwise) and (plan.form is None or not _reads_form(plan.form)):
        return False
    return reads([*tensor_pass.inputs, tensor_pass.out])


def _reads_form(form: Form) -> bool:
    return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (*form.tables, *form.factors))


def reads(tensors: Sequence[Tensor]) -> bool:
    """Returns whether the compiled kernels take these tensors, which must be contiguous."""
    return all(t.dtype in DTYPES and t.device.type == "cpu" for t in tensors) and library() is not None


def combine(passes: Sequence[Pass]) -> list[bool]:
    """Writes the output of every pass, by one call of the compiled kernels for each thread.

    All tensors must be contiguous. Raises ValueError if a plan and its pass differ in the number of models.

    Returns:
        For each pass, whether its output is finite for certain.
    """
    kernels, structs = library(), _Structs(passes)
    assert kernels is not None
    next_span = ctypes.c_int64(0)

    def work() -> None:
        if kernels.combine(structs.passes.ctypes.data, len(passes), SPAN, ctypes.byref(next_span)):
            raise MemoryError

    run_on_threads(work, structs.spans)
    return [not overflow for overflow in structs.overflows]


class _Structs:
    """Passes as arrays of the structs of kernels.c, which point into each other."""

    def __init__(self, passes: Sequence[Pass]) -> None:
        with np.errstate(over="ignore"):  # a threshold may exceed float32
            terms = [_terms_of(p) for p in passes]
            self.terms = np.array([term for each in terms for term in each], TERM)
            self.passes = np.array([_pass(p) for p in passes], PASS)
        models, factors = [[*p.models, *_tables(p.plan)] for p in passes], [_factors(p.plan) for p in passes]
        self.models = np.array([_tensor(model) for each in models for model in each], TENSOR)
        self.factors = np.array([pointer for each in factors for pointer in each], np.uint64)
        self.passes["terms"] = _addresses(self.terms, [len(each) for each in terms])
        self.passes["models"] = _addresses(self.models, [len(each) for each in models])
        self.passes["factors"] = _addresses(self.factors, [len(each) for each in factors])
        self.overflows = np.zeros(len(passes), np.int32)
        self.passes["overflow"] = _addresses(self.overflows, [1] * len(passes))
        spans = -(-self.passes["size"] // SPAN)
        self.passes["first_span"] = np.cumsum(spans) - spans
        self.spans = int(spans.sum())


def _addresses(structs: NDArray[Any], counts: Sequence[int]) -> NDArray[np.int64]:
    """Returns the address of the first struct of each group, for consecutive groups of ``counts`` structs."""
    ends = np.cumsum(counts, dtype=np.int64)
    return np.asarray(structs.ctypes.data + (ends - counts) * structs.itemsize)


def _tensor(tensor: Tensor) -> Struct:
    return tensor.data_ptr(), DTYPES[tensor.dtype]


def _pass(tensor_pass: Pass) -> Struct:
    """Returns the struct of a pass with zeros for its first span and its pointers."""
    base = NO_TENSOR if tensor_pass.base is None else _tensor(tensor_pass.base)
    out, plan = tensor_pass.out, tensor_pass.plan
    vectors = plan.form.vectors if isinstance(plan, Elementwise) and plan.form else (1, 1)
    return (
        out.numel(),
        0,
        len(tensor_pass.models),
        len(_tables(plan)),
        *vectors,
        *(0, 0, 0, 0),
        base,
        _tensor(out),
        *_plan(plan),
    )


def _plan(plan: Plan) -> Struct:
    if isinstance(plan, LinearCombination):
        return FORMS[LinearCombination], plan.task_vectors, 0, 0, 0, plan.base, 0.0, 0.0, 0.0, (0.0, 0.0)
    if isinstance(plan, SignConsensus):
        election = plan.elect, plan.normalize, VOTES[plan.vote]
        return FORMS[SignConsensus], 0, *election, 0.0, plan.lambda_, plan.rounding, plan.least_spread, (0.0, 0.0)
    assert plan.form
    numbers = (*plan.form.numbers, 0.0, 0.0)[:2]
    return len(FORMS) + FUNCTIONS.index(plan.form.name), plan.form.task_vectors, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, numbers


def _tables(plan: Plan) -> Sequence[Tensor]:
    return plan.form.tables if isinstance(plan, Elementwise) and plan.form else ()


def _factors(plan: Plan) -> Sequence[int]:
    """Returns the addresses of the factors of each model and of the base, with zero for none."""
    factors = plan.form.factors if isinstance(plan, Elementwise) and plan.form else ()
    return [*(each.data_ptr() for each in factors), 0]


def _terms_of(tensor_pass: Pass) -> list[Struct]:
    """Returns one struct for each model, or for each weight of a form."""
    plan = tensor_pass.plan
    if isinstance(plan, Elementwise):
        assert plan.form
        scales = plan.form.scales or (0.0,) * len(plan.form.weights)
        pairs = zip(plan.form.weights, scales, strict=True)
        return [(weight, 0.0, 0.0, scale, 0, 0, 0, 0, 0) for weight, scale in pairs]
    return [term for term, _ in zip(_terms(plan), tensor_pass.models, strict=True)]


def _terms(plan: LinearCombination | SignConsensus) -> Iterator[Struct]:
    """Returns one struct for each model."""
    if isinstance(plan, LinearCombination):
        return ((c, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0) for c in plan.coefficients)
    return (_sparse_term(sparsity, weight) for sparsity, weight in zip(plan.sparsity, plan.weights, strict=True))


def _sparse_term(sparsity: Sparsity, weight: float) -> Struct:
    factor, key = sparsity.scale * weight, sparsity.key & (1 << 64) - 1
    ranked = sparsity.ranked
    tables = (ranked.places, ranked.kept, ranked.factors) if ranked else ()
    pointers = [table.data_ptr() for table in tables] or [0, 0, 0]
    return weight, sparsity.threshold, sparsity.ceiling, factor, key, *pointers, grains(sparsity.keep)


class CTensor(ctypes.Structure):
    """``struct tensor`` of tensors.h, for calls that take it by value."""

    _fields_ = (("data", ctypes.c_void_p), ("dtype", ctypes.c_int32))

    @classmethod
    def of(cls, tensor: Tensor | None) -> "CTensor":
        return cls(*(NO_TENSOR if tensor is None else _tensor(tensor)))


@cache
def library() -> ctypes.CDLL | None:
    """Returns the compiled kernels, or None if there is no C compiler or MERGESEARCH_NATIVE is 0."""
    compiler = _compiler()
    if compiler is None or os.environ.get("MERGESEARCH_NATIVE") == "0":
        return None
    for flags in MACHINE_FLAGS:
        try:
            return _declared(ctypes.CDLL(str(compiled([*compiler, *FLAGS, *flags], *SOURCES))))
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def _compiler() -> list[str] | None:
    if "CC" in os.environ:
        return shlex.split(os.environ["CC"])
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def _declared(kernels: ctypes.CDLL) -> ctypes.CDLL:
    size = ctypes.c_int64
    kernels.combine.argtypes = (ctypes.c_void_p, size, size, ctypes.POINTER(ctypes.c_int64))
    kernels.combine.restype = ctypes.c_int
    return kernels

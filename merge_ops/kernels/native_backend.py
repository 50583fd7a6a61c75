"""``kernels.c`` on the CPU: compiled once by the system's C compiler, run on as many threads as torch.

Where there is no compiler, ``library`` is None and the kernels of ``kernels_torch`` serve, with the same results.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.files import atomic_path
from mergesearch.merge_ops.kernels.plans import LinearCombination, Pass, Plan, SignConsensus, Sparsity, Vote, grains
from mergesearch.merge_ops.kernels.threads import SPAN, spread, together

SOURCE = Path(__file__).with_name("kernels.c")
# Contraction would round a·b + c once where torch rounds twice.
FLAGS = ("-O3", "-fno-strict-aliasing", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC")
MACHINES = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ("-mcpu=native",), ())
"""Flags for this machine's processor, the fastest first; not every compiler knows them."""
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
VOTES: dict[Vote, int] = {"mass": 0, "count": 1, "change": 2}
FORMS: dict[type, int] = {LinearCombination: 0, SignConsensus: 1}


TENSOR = np.dtype([("data", "u8"), ("dtype", "i4")], align=True)
TERM = np.dtype(
    [(name, "f4") for name in ("weight", "threshold", "ceiling", "factor")]
    + [(name, "u8") for name in ("key", "places", "kept", "factors")]
    + [("grains", "i4")],
    align=True,
)
PLAN = np.dtype(
    [(name, "i4") for name in ("form", "task_vectors", "elect", "normalize", "vote")]
    + [(name, "f4") for name in ("base", "lambda", "rounding", "least_spread")]
    + [("terms", "u8"), ("out", TENSOR)],
    align=True,
)
WORK = np.dtype(
    [(name, "i8") for name in ("size", "first_span", "plans", "k")]
    + [("plan", "u8"), ("models", "u8"), ("base", TENSOR)],
    align=True,
)
"""The structs of kernels.c."""
Table = NDArray[Any]
Row = tuple[Any, ...]
NONE = (0, 0)


def serves(one: Pass) -> bool:
    """Whether the compiled kernels know this pass's plans and (contiguous) tensors."""
    return all(type(plan) in FORMS for plan in one.plans) and reads([*one.inputs, *one.outs])


def reads(tensors: Sequence[Tensor]) -> bool:
    """Whether the compiled kernels take these (contiguous) tensors."""
    return all(t.dtype in DTYPES and t.device.type == "cpu" for t in tensors) and library() is not None


def combine(passes: Sequence[Pass]) -> None:
    """Writes each plan's tensor to its ``out``; all contiguous. One call for each thread, however many tensors."""
    found, tables = library(), _Tables(passes)
    assert found is not None
    following = ctypes.c_int64(0)

    def work() -> None:
        if found.combine(tables.works.ctypes.data, len(passes), SPAN, ctypes.byref(following)):
            raise MemoryError

    together(work, tables.spans)


class _Tables:
    """Passes as kernels.c reads them, in tables that point into each other."""

    def __init__(self, passes: Sequence[Pass]) -> None:
        plans = [plan for one in passes for plan in one.plans]
        outs = [out for one in passes for out in one.outs]
        with np.errstate(over="ignore"):  # a threshold may be beyond float32
            self.terms = _table(TERM, [row for plan in plans for row in _term_rows(plan)])
            rows = [(*_plan_row(plan), 0, _tensor_row(out)) for plan, out in zip(plans, outs, strict=True)]
        self.plans = _table(PLAN, rows)
        self.plans["terms"] = _places(self.terms, [_count(plan) for plan in plans])
        self.models = _table(TENSOR, [_tensor_row(model) for one in passes for model in one.models])
        self.works = _table(WORK, [_work_row(one) for one in passes])
        self.works["plan"] = _places(self.plans, self.works["plans"])
        self.works["models"] = _places(self.models, self.works["k"])
        spans = -(-self.works["size"] // SPAN)
        self.works["first_span"] = np.cumsum(spans) - spans
        self.spans = int(spans.sum())


def _table(dtype: "np.dtype[Any]", rows: Sequence[Row]) -> Table:
    return np.array(rows, dtype)


def _places(table: Table, counts: Any) -> NDArray[np.int64]:
    """Where in memory the first of so many rows lies, then the first of the following, and so on."""
    ends = np.cumsum(counts)
    return np.asarray(table.ctypes.data + (ends - counts) * table.itemsize)


def _tensor_row(tensor: Tensor) -> Row:
    return tensor.data_ptr(), DTYPES[tensor.dtype]


def _work_row(one: Pass) -> Row:
    base = NONE if one.base is None else _tensor_row(one.base)
    return one.outs[0].numel(), 0, len(one.plans), len(one.models), 0, 0, base


def _plan_row(plan: Plan) -> Row:
    """All but what it points to."""
    if isinstance(plan, LinearCombination):
        return FORMS[LinearCombination], plan.task_vectors, 0, 0, 0, plan.base, 0.0, 0.0, 0.0
    assert isinstance(plan, SignConsensus)
    election = plan.elect, plan.normalize, VOTES[plan.vote]
    return FORMS[SignConsensus], 0, *election, 0.0, plan.lambda_, plan.rounding, plan.least_spread


def _count(plan: Plan) -> int:
    return len(plan.coefficients if isinstance(plan, LinearCombination) else cast(SignConsensus, plan).weights)


def _term_rows(plan: Plan) -> Iterator[Row]:
    if isinstance(plan, LinearCombination):
        return ((c, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0) for c in plan.coefficients)
    assert isinstance(plan, SignConsensus)
    return (_sparsity_row(sparsity, weight) for sparsity, weight in zip(plan.sparsity, plan.weights, strict=True))


def _sparsity_row(sparsity: Sparsity, weight: float) -> Row:
    factor, key = sparsity.scale * weight, sparsity.key & (1 << 64) - 1
    ranked = sparsity.ranked
    tables = (ranked.places, ranked.kept, ranked.factors) if ranked else ()
    pointers = [table.data_ptr() for table in tables] or [0, 0, 0]
    return weight, sparsity.threshold, sparsity.ceiling, factor, key, *pointers, grains(sparsity.keep)


class _Tensor(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("dtype", ctypes.c_int32))


def gram(tensors: Sequence[Tensor], base: Tensor | None) -> list[list[list[float]]]:
    """The inner products of flat tensors, in a matrix for each span; only the upper halves are filled."""
    found, size, count = library(), tensors[0].numel(), len(tensors)
    assert found is not None
    c_base = _Tensor() if base is None else _tensor(base)
    c_tensors = (_Tensor * count)(*map(_tensor, tensors))
    sums = np.zeros((max(1, -(-size // SPAN)), count, count))

    def work(start: int, end: int) -> None:
        if found.gram(c_base, c_tensors, count, start, end, sums[start // SPAN].ctypes.data):
            raise MemoryError

    spread(size, work)
    return sums.tolist()


def _tensor(tensor: Tensor) -> _Tensor:
    return _Tensor(tensor.data_ptr(), DTYPES[tensor.dtype])


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they cannot be had, or where MERGESEARCH_NATIVE=0 forbids them."""
    compiler = _compiler()
    if compiler is None or os.environ.get("MERGESEARCH_NATIVE") == "0":
        return None
    for machine in MACHINES:
        try:
            return _declared(ctypes.CDLL(str(_compiled([*compiler, *FLAGS, *machine]))))
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def _compiler() -> list[str] | None:
    if "CC" in os.environ:
        return shlex.split(os.environ["CC"])
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def _compiled(command: list[str]) -> Path:
    file = _folder() / f"kernels-{_digest(command)}.so"
    if not file.exists():
        # Several processes may compile at once: the last rename wins, and all are the same.
        with atomic_path(file) as built:
            subprocess.run([*command, str(SOURCE), "-o", str(built), "-lm"], check=True, capture_output=True)
    return file


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergesearch"


def _digest(command: list[str]) -> str:
    """Of all that the compiled file depends on: hosts of several kinds may share a home folder."""
    info = Path("/proc/cpuinfo")
    flags = [line for line in info.read_text().splitlines() if "flags" in line.lower()][:1] if info.exists() else []
    parts = [SOURCE.read_text(encoding="utf-8"), *command, platform.machine(), platform.processor(), *flags]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    size, tensors = ctypes.c_int64, ctypes.POINTER(_Tensor)
    found.combine.argtypes = (ctypes.c_void_p, size, size, ctypes.POINTER(ctypes.c_int64))
    found.combine.restype = ctypes.c_int
    found.gram.argtypes = (_Tensor, tensors, size, size, size, ctypes.c_void_p)
    found.gram.restype = ctypes.c_int
    return found

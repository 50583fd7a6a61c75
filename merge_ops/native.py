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
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mergesearch.files import atomic_path
from mergesearch.merge_ops.plans import LinearCombination, Plan, SignConsensus, Sparsity, grains
from mergesearch.merge_ops.threads import SPAN, spread

SOURCE = Path(__file__).with_name("kernels.c")
# Contraction would round a·b + c once where torch rounds twice.
FLAGS = ("-O3", "-fno-strict-aliasing", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC")
MACHINES = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ("-mcpu=native",), ())
"""Flags for this machine's processor, the fastest first; not every compiler knows them."""
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
FORMS: dict[type, int] = {LinearCombination: 0, SignConsensus: 1}


class _Tensor(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("dtype", ctypes.c_int32))


class _Sparsity(ctypes.Structure):
    _fields_ = (
        ("threshold", ctypes.c_float),
        ("ceiling", ctypes.c_float),
        ("factor", ctypes.c_float),
        ("grains", ctypes.c_int32),
        ("key", ctypes.c_uint64),
    )


class _Plan(ctypes.Structure):
    _fields_ = (
        ("form", ctypes.c_int32),
        ("task_vectors", ctypes.c_int32),
        ("elect", ctypes.c_int32),
        ("normalize", ctypes.c_int32),
        ("base", ctypes.c_float),
        ("lambda_", ctypes.c_float),
        ("rounding", ctypes.c_float),
        ("weights", ctypes.POINTER(ctypes.c_float)),
        ("sparsity", ctypes.POINTER(_Sparsity)),
        ("out", _Tensor),
    )


def serves(plans: Sequence[Plan], tensors: Sequence[Tensor]) -> bool:
    """Whether the compiled kernels know these plans and (contiguous) tensors."""
    return all(type(plan) in FORMS for plan in plans) and reads(tensors)


def reads(tensors: Sequence[Tensor]) -> bool:
    """Whether the compiled kernels take these (contiguous) tensors."""
    return all(t.dtype in DTYPES and t.device.type == "cpu" for t in tensors) and library() is not None


def combine(plans: Sequence[Plan], base: Tensor | None, models: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
    """Writes each plan's tensor to its ``out``; all flat and contiguous."""
    found = library()
    assert found is not None
    c_plans = (_Plan * len(plans))(*(_plan(plan, out) for plan, out in zip(plans, outs, strict=True)))
    c_models = (_Tensor * len(models))(*map(_tensor, models))
    c_base = _pointer(base)

    def work(start: int, end: int) -> None:
        if found.combine(c_plans, len(plans), c_base, c_models, len(models), start, end):
            raise MemoryError

    spread(outs[0].numel(), work)


def gram(tensors: Sequence[Tensor], base: Tensor | None) -> list[list[list[float]]]:
    """The inner products of flat tensors, in a matrix for each span; only the upper halves are filled."""
    found, size, count = library(), tensors[0].numel(), len(tensors)
    assert found is not None
    c_base, c_tensors = _pointer(base), (_Tensor * count)(*map(_tensor, tensors))
    sums = np.zeros((max(1, -(-size // SPAN)), count, count))

    def work(start: int, end: int) -> None:
        if found.gram(c_base, c_tensors, count, start, end, sums[start // SPAN].ctypes.data):
            raise MemoryError

    spread(size, work)
    return sums.tolist()


def _pointer(tensor: Tensor | None) -> _Tensor:
    return _Tensor(None, 0) if tensor is None else _tensor(tensor)


def _tensor(tensor: Tensor) -> _Tensor:
    return _Tensor(tensor.data_ptr(), DTYPES[tensor.dtype])


def _plan(plan: Plan, out: Tensor) -> _Plan:
    if isinstance(plan, LinearCombination):
        return _Plan(
            form=FORMS[LinearCombination],
            task_vectors=plan.task_vectors,
            base=plan.base,
            weights=_floats(plan.coefficients),
            out=_tensor(out),
        )
    assert isinstance(plan, SignConsensus)
    return _Plan(
        form=FORMS[SignConsensus],
        elect=plan.elect,
        normalize=plan.normalize,
        lambda_=plan.lambda_,
        rounding=plan.rounding,
        weights=_floats(plan.weights),
        sparsity=(_Sparsity * len(plan.weights))(*map(_sparsity, plan.sparsity, plan.weights)),
        out=_tensor(out),
    )


def _floats(values: Sequence[float]) -> "ctypes.Array[ctypes.c_float]":
    return (ctypes.c_float * len(values))(*values)


def _sparsity(sparsity: Sparsity, weight: float) -> _Sparsity:
    factor, key = sparsity.scale * weight, sparsity.key & (1 << 64) - 1
    return _Sparsity(sparsity.threshold, sparsity.ceiling, factor, grains(sparsity.keep), key)


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
    size, plans, tensors = ctypes.c_int64, ctypes.POINTER(_Plan), ctypes.POINTER(_Tensor)
    found.combine.argtypes = (plans, size, _Tensor, tensors, size, size, size)
    found.combine.restype = ctypes.c_int
    found.gram.argtypes = (_Tensor, tensors, size, size, size, ctypes.c_void_p)
    found.gram.restype = ctypes.c_int
    return found

"""Seconds of the computations that some merge methods cannot do without: factorisations, and runs on a text.

Factorisations are done by LAPACK, several at once on threads of their own, or one after the other on all threads: the
faster way counts. Each shape is measured on a few matrices, and counts as often as it occurs.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from memory_copies import on_one_thread, timed
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from mergesearch.merge_ops.live.calibration_data import SEQUENCE_LENGTH

Shapes = Mapping[str, tuple[int, ...]]
ROUNDS = 2
"""How many matrices of a shape each thread factorises."""


@dataclass(frozen=True)
class Work:
    """What is computed on: the fine-tunes' folders, their tensors' shapes, and the recipe's parameters."""

    models: list[str]
    shapes: Shapes
    parameters: Mapping[str, Any]


def matrices(shapes: Shapes) -> Shapes:
    """The tensors that are matrices."""
    return {name: shape for name, shape in shapes.items() if len(shape) == 2}


def linear_layers(shapes: Shapes) -> Shapes:
    """The matrices that are no embedding."""
    return {name: shape for name, shape in matrices(shapes).items() if "embed" not in name}


def spectra(method: str) -> Callable[[Work], float]:
    """The decompositions of a method: for ``iso_c`` the sum of the task matrices, for ``tsv`` each of them.

    ``tsv`` also decorrelates the left and the right singular vectors that it keeps, side by side.
    """

    def seconds(work: Work) -> float:
        count, shapes = len(work.models), list(matrices(work.shapes).values())
        kept: list[tuple[int, ...]] = [(side, min(shape) // count * count) for shape in shapes for side in shape]
        return _decompositions(Counter(shapes if method == "iso_c" else shapes * count + kept))

    return seconds


def solve(work: Work) -> float:
    """RegMean's solutions: a symmetric system for each linear layer."""
    shapes = Counter(linear_layers(work.shapes).values())
    return sum(_solution(rows, columns) * count for (rows, columns), count in shapes.items())


def run_forward(work: Work) -> float:
    """A forward pass of every model on the text."""
    return sum(_run(path, work.parameters, backward=False) for path in work.models)


def run_backward(work: Work) -> float:
    """A forward and a backward pass of every model on the text."""
    return sum(_run(path, work.parameters, backward=True) for path in work.models)


def _decompositions(shapes: Counter[tuple[int, ...]]) -> float:
    """Of each matrix by the faster way: its singular values in float32, or its Gram matrix's spectrum in float64.

    The second has as many exact digits as the first.
    """
    return sum(_decomposition(max(shape), min(shape)) * count for shape, count in shapes.items())


def _decomposition(rows: int, columns: int) -> float:
    matrix = torch.randn(rows, columns)
    wide = matrix.double()
    ways: list[Callable[[], Any]] = [
        lambda: torch.linalg.svd(matrix, full_matrices=False),
        lambda: torch.linalg.eigh(wide.t() @ wide),
    ]
    return min(map(_fastest, ways))


def _fastest(job: Callable[[], Any]) -> float:
    """Seconds of a job when many are done: several at once, each on one thread, or one at a time on all."""
    threads = torch.get_num_threads()

    def at_once() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(job) for _ in range(ROUNDS * threads)]:
                future.result()

    job()
    return min(timed(lambda: on_one_thread(at_once)) / (ROUNDS * threads), *(timed(job) for _ in range(ROUNDS)))


def _solution(rows: int, columns: int) -> float:
    inputs = torch.randn(2 * columns, columns, dtype=torch.float64)
    system, right = inputs.t() @ inputs, torch.randn(columns, rows, dtype=torch.float64)
    return _fastest(lambda: torch.cholesky_solve(right, torch.linalg.cholesky(system)))


def _run(path: str, parameters: Mapping[str, Any], backward: bool) -> float:
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    text = Path(parameters["calibration"]).read_text()
    ids = AutoTokenizer.from_pretrained(path)(text)["input_ids"][: parameters["calibration_tokens"]]
    batch = torch.tensor(ids).view(-1, SEQUENCE_LENGTH)

    def run() -> None:
        with torch.set_grad_enabled(backward):
            loss = model(input_ids=batch, labels=batch).loss
        if backward:
            loss.backward()

    return timed(run)

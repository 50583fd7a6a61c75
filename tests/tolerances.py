"""How far apart two results of one formula may lie: as far as rounding can take them, on whatever machine.

An operation in floating point rounds on its own: fl(a op b) = (a op b)(1 + δ), where |δ| ≤ u and u is half of the
dtype's eps. After n such operations a sum, or an inner product, is off by at most γ_n Σ|terms|, γ_n = n u / (1 − n u),
whatever the order: with vectors of any width, on any number of threads, with products that are rounded before they are
added or not (Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, 2002, sections 2.2, 3.1 and 4.2). So
two such results are no more than 2 γ_n Σ|terms| apart. A tolerance here is that bound: it holds on every processor, and
is still far below what a wrong formula makes of the same numbers.

What is not a sum counts by its own bound: a function such as exp or log as two operations (it is good to about one unit
in the last place), what is well conditioned as many as it makes in sequence. Comparisons stay exact where nothing is
rounded (powers of two, small integers), and where both sides run the same code on the same shapes in one process, with
as many threads and on tensors that are ``aligned`` alike: with MKL a matrix product's last bits depend on all of these.
"""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor


def tolerance(operations: int, dtype: torch.dtype = torch.float64, magnitude: float = 1.0) -> float:
    """How far apart two results may lie.

    operations: those in sequence between the inputs and a result; of a sum its terms. dtype: what is rounded to.
    magnitude: Σ|terms|; the result's own size, where nothing cancels out.
    """
    share = operations * torch.finfo(dtype).eps / 2
    assert share < 0.5, "after so many operations nothing is left of the number"
    return 2 * share / (1 - share) * magnitude


def close(expected: Any, operations: int, dtype: torch.dtype = torch.float64, magnitude: float | None = None) -> Any:
    """What equals a number, or each of several, up to ``tolerance``; their magnitude, by default, is the largest's."""
    size = float(np.abs(expected).max()) if magnitude is None else magnitude
    return pytest.approx(expected, rel=0, abs=tolerance(operations, dtype, size))


def assert_close(
    found: Tensor,
    expected: Tensor,
    operations: int,
    magnitude: float | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """The same for tensors; what was rounded to is by default their own dtype."""
    size = float(expected.abs().max()) if magnitude is None else magnitude
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance(operations, dtype or expected.dtype, size))


def path_length(model: Any, tokens: int) -> int:
    """The operations in sequence between the tokens and the log-probabilities of a transformer, at most.

    The fan-ins of all its matrices, in each layer a sum over the tokens, in the end one over the vocabulary. Layers
    may amplify what was rounded before them; that rounding errors cancel out, and so grow with the root of their number
    only (Higham, section 2.8), leaves more room than that takes.
    """
    matrices = sum(weight.shape[-1] for weight in model.parameters() if weight.dim() > 1)
    return int(matrices + model.config.num_hidden_layers * tokens + model.config.vocab_size)


def aligned(model: Any) -> Any:
    """A copy with all parameters where torch puts new ones; those of a file lie in memory as they lie in the file."""
    copied = copy.deepcopy(model)
    for parameter in copied.parameters():
        parameter.data = parameter.data.clone()
    return copied

"""Orthogonal matching pursuit against a naive one in float64, and what it finds again exactly."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.merge_ops.inputs import matching_pursuit as module
from mergesearch.merge_ops.inputs.matching_pursuit import matching_pursuit

from ...tolerances import assert_close

Matrix = NDArray[np.float64]


def naive(vector: Matrix, dictionary: Matrix, k: int) -> tuple[list[int], Matrix]:
    """One vector, by least squares from scratch in each step."""
    atoms: list[int] = []
    rest, found = vector, np.zeros(0)
    for _ in range(k):
        correlations = np.abs(dictionary @ rest) / np.linalg.norm(dictionary, axis=1)
        correlations[atoms] = -1
        atoms.append(int(correlations.argmax()))
        found = np.linalg.lstsq(dictionary[atoms].T, vector, rcond=None)[0]
        rest = vector - found @ dictionary[atoms]
    return atoms, found


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("coarse", [torch.float32, torch.bfloat16])
def test_as_a_naive_one_in_float64(coarse: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_coarse_dtype", lambda: coarse)
    monkeypatch.setattr(module, "NUMBERS", 7 * 150)  # in several parts
    lengths = 0.1 + drawn(2, 150, 1).abs()
    vectors, dictionary = drawn(0, 20, 24), drawn(1, 150, 24) * lengths
    found = matching_pursuit(vectors, dictionary, 6)
    for n, vector in enumerate(vectors):
        atoms, coefficients = naive(vector.numpy(), dictionary.numpy(), 6)
        assert found.atoms[n].tolist() == atoms
        scale = float(np.abs(coefficients).max())
        assert_close(found.coefficients[n], torch.as_tensor(coefficients), 1, scale, torch.float32)


def test_a_sparse_combination_is_found_again() -> None:
    """Rows that are nearly orthogonal: the atoms are those of the combination, and nothing else is taken."""
    dictionary = torch.linalg.qr(drawn(0, 40, 40))[0] + 0.01 * drawn(1, 40, 40)
    atoms = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(n))[:3] for n in range(10)])
    factors = 1 + drawn(2, 10, 3).abs()
    vectors = (dictionary[atoms] * factors[:, :, None]).sum(1)
    found = matching_pursuit(vectors, dictionary, 8)
    dense, wanted = torch.zeros(10, 40, dtype=torch.float64), torch.zeros(10, 40, dtype=torch.float64)
    dense.scatter_add_(1, found.atoms, found.coefficients)
    wanted.scatter_(1, atoms, factors)
    assert_close(dense, wanted, 1, float(factors.max()), torch.float32)
    assert int((found.coefficients != 0).sum()) == 30
    other = drawn(3, 40, 5)
    assert_close(found.combined(other), wanted @ other, 1, 20.0, torch.float32)


def test_the_first_of_equal_atoms_is_taken_and_none_of_length_zero() -> None:
    dictionary = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    found = matching_pursuit(torch.tensor([[4.0, 0.0], [0.0, 0.0], [2.0, 6.0]]), dictionary, 5)
    assert found.atoms.shape == (3, 2)
    dense = torch.zeros(3, 4, dtype=torch.float64).scatter_add_(1, found.atoms, found.coefficients)
    assert dense.tolist() == [[0, 2, 0, 0], [0, 0, 0, 0], [0, 1, 0, 2]]


def test_nothing_to_approximate() -> None:
    found = matching_pursuit(torch.zeros(0, 3), torch.ones(2, 3), 2)
    assert found.combined(torch.ones(2, 4)).shape == (0, 4)

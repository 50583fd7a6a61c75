"""Orthogonal matching pursuit: vectors as sparse combinations of the rows of a dictionary, many at once.

Pati, Rezaiifar and Krishnaprasad, "Orthogonal matching pursuit: recursive function approximation with applications to
wavelet decomposition", 1993. With the residual r_0 = x, step t takes the atom

    i_t = argmax_j |<d_j, r_{t-1}>| / ||d_j||

and the residual r_t = x - sum_{s <= t} c_s d_{i_s}, whose coefficients c minimise ||r_t||.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NUMBERS = 1 << 24
"""How many correlations are in memory at a time."""
CHECKED = 8
"""So many of the best atoms by their rounded correlations are compared in float64."""
NOTHING = 1e-10
"""What is left of a vector is nothing below this share of its length."""


class Sparse(NamedTuple):
    """Combinations: for each of n vectors the indices of at most k atoms, [n, k] int64, and their coefficients.

    The coefficients are [n, k] float64 with the precision of float32, and 0 for atoms that are not needed. So they are
    the same on all machines, though sums may be rounded otherwise on each.
    """

    atoms: Tensor
    coefficients: Tensor

    def combined(self, rows: Tensor) -> Tensor:
        """Returns the same combinations of other rows: [n, width] float64, from [atoms, width]."""
        total = torch.zeros(len(self.atoms), rows.shape[1], dtype=torch.float64)
        for atoms, factors in zip(self.atoms.unbind(1), self.coefficients.unbind(1), strict=True):
            total += rows[atoms].double() * factors[:, None]
        return total


def matching_pursuit(vectors: Tensor, dictionary: Tensor, k: int) -> Sparse:
    """Approximates each vector by at most k rows of a dictionary.

    A vector takes fewer where nothing is left of it. Atoms of length 0 are not taken.

    Args:
        vectors: [n, width], floats.
        dictionary: [atoms, width], floats; at least one row.
        k: how many atoms a vector takes at most.
    """
    k = min(k, *dictionary.shape)
    exact = dictionary.double()
    lengths = exact.norm(dim=1, keepdim=True)
    exact = torch.where(lengths > 0, exact / lengths, 0.0)
    coarse = exact.to(_coarse_dtype())
    step = max(1, NUMBERS // max(len(dictionary), 2 * k * dictionary.shape[1]))
    parts = [_pursued(vectors[at : at + step].double(), exact, coarse, k) for at in range(0, len(vectors), step)]
    atoms = torch.cat([part.atoms for part in parts]) if parts else torch.zeros(0, k, dtype=torch.long)
    found = torch.cat([part.coefficients for part in parts]) if parts else torch.zeros(0, k, dtype=torch.float64)
    scale = torch.where(lengths > 0, 1 / lengths, 0.0)[:, 0]
    return Sparse(atoms, (found * scale[atoms]).float().double())


def _coarse_dtype() -> torch.dtype:
    """Returns the dtype in which the processor multiplies matrices fastest. The best atoms are compared in float64."""
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def _pursued(vectors: Tensor, exact: Tensor, coarse: Tensor, k: int) -> Sparse:
    """``matching_pursuit`` of [n, width] float64 vectors with atoms of length 1, or 0.

    The atoms are made orthogonal one by one, d_t = sum_s upper[s, t] q_s, so that x = sum_t (q_t · x) q_t + r.
    """
    count, width = vectors.shape
    basis = torch.zeros(count, k, width, dtype=torch.float64)
    upper = torch.eye(k, dtype=torch.float64).repeat(count, 1, 1)
    shares = torch.zeros(count, k, dtype=torch.float64)
    atoms = torch.zeros(count, k, dtype=torch.long)
    smallest = NOTHING * vectors.norm(dim=1)
    rest = vectors.clone()
    for t in range(k):
        atoms[:, t] = _best_atoms(rest, exact, coarse, atoms[:, :t])
        atom = exact[atoms[:, t]]
        onto = torch.bmm(basis[:, :t], atom[:, :, None])
        new = atom - (basis[:, :t] * onto).sum(1)
        new -= (basis[:, :t] * torch.bmm(basis[:, :t], new[:, :, None])).sum(1)  # once more, for what was rounded
        length = new.norm(dim=1)
        taken = (length > NOTHING) & (rest.norm(dim=1) > smallest)
        basis[:, t] = torch.where(taken[:, None], new / length[:, None].clamp_min(NOTHING), 0.0)
        upper[:, :t, t] = torch.where(taken[:, None], onto[:, :, 0], 0.0)
        upper[:, t, t] = torch.where(taken, length, 1.0)
        shares[:, t] = (basis[:, t] * rest).sum(1)
        rest -= shares[:, t, None] * basis[:, t]
    coefficients = torch.linalg.solve_triangular(upper, shares[:, :, None], upper=True)[:, :, 0]
    return Sparse(atoms, coefficients)


def _best_atoms(rest: Tensor, exact: Tensor, coarse: Tensor, taken: Tensor) -> Tensor:
    """Returns the atom of the greatest correlation with each residual that is not ``taken``; the first of equals."""
    directions = rest / rest.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    correlations = (directions.to(coarse.dtype) @ coarse.T).abs_().scatter_(1, taken, -1.0)
    # In their order, so that the first of equal ones is the same everywhere.
    best = correlations.topk(min(CHECKED, len(coarse)), dim=1).indices.sort(dim=1).values
    checked = torch.bmm(exact[best], rest[:, :, None])[:, :, 0].abs_()
    checked.masked_fill_((best[:, :, None] == taken[:, None, :]).any(2), -1.0)
    return torch.take_along_dim(best, checked.argmax(dim=1, keepdim=True), 1)[:, 0]

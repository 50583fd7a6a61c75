"""Methods that need only inner products: of whole tensors, or of rows or columns as vectors of their own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mergesearch.merge_ops.kernels.plans import LinearCombination, Plan
from mergesearch.merge_ops.methods._base import Statistics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Vectors:
    """The models of one tensor as vectors: task vectors where there is a base, whole or along ``axis``."""

    def __init__(self, statistics: Statistics, axis: int | None = None) -> None:
        self._statistics = statistics
        self._axis = axis if len(statistics.shape) > 1 else None
        self.count = statistics.count

    def dot(self, a: int, b: int) -> "NDArray[np.float64]":
        """``⟨x_a, x_b⟩``: one number, or one for each vector along the axis."""
        import numpy as np

        known = self._statistics
        if self._axis is not None:
            return known.row_dots(a, b, self._axis, known.has_base)
        return np.asarray(known.task_dot(a, b) if known.has_base else known.dot(a, b))

    def gram(self) -> "NDArray[np.float64]":
        """``⟨x_i, x_j⟩`` in the first two dimensions."""
        import numpy as np

        models = range(self.count)
        return np.stack([np.stack([self.dot(i, j) for j in models]) for i in models])

    def combination(self, coefficients: Sequence[Any]) -> Plan:
        """``Σ c_i x_i``, plus the base where there is one; a coefficient is a number, or one for each vector."""
        based = self._statistics.has_base
        if self._axis is None:
            return LinearCombination(tuple(map(float, coefficients)), base=float(based), task_vectors=based)
        from mergesearch.merge_ops.kernels.rowwise import combination

        return combination(list(coefficients), self._statistics.shape, self._axis, task_vectors=based)

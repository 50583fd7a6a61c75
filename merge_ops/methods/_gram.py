"""Access to inner products, for methods that need nothing else: of whole tensors, or of vectors along one axis."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mergesearch.merge_ops.kernels.plans import LinearCombination, Plan
from mergesearch.merge_ops.methods._base import Statistics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Vectors:
    """The models' tensors as vectors x_i: task vectors if there is a base, flat or along ``axis``."""

    def __init__(self, statistics: Statistics, axis: int | None = None) -> None:
        self._statistics = statistics
        self._axis = axis if len(statistics.shape) > 1 else None
        self.count = statistics.count

    def dot(self, a: int, b: int) -> "NDArray[np.float64]":
        """Returns ``⟨x_a, x_b⟩``: one number, or one for each vector along the axis."""
        import numpy as np

        statistics = self._statistics
        if self._axis is not None:
            return statistics.row_dots(a, b, self._axis, statistics.has_base)
        return np.asarray(statistics.task_dot(a, b) if statistics.has_base else statistics.dot(a, b))

    def gram(self) -> "NDArray[np.float64]":
        """Returns ``⟨x_i, x_j⟩`` in the first two dimensions."""
        import numpy as np

        models = range(self.count)
        return np.stack([np.stack([self.dot(i, j) for j in models]) for i in models])

    def combination(self, coefficients: Sequence[Any]) -> Plan:
        """Returns the plan of ``Σ c_i x_i``, plus the base if there is one.

        Each coefficient is one number, or one for each vector along the axis.
        """
        has_base = self._statistics.has_base
        if self._axis is None:
            return LinearCombination(tuple(map(float, coefficients)), base=float(has_base), task_vectors=has_base)
        from mergesearch.merge_ops.kernels.rowwise import combination

        return combination(list(coefficients), self._statistics.shape, self._axis, task_vectors=has_base)

"""Statistics of whole models: what no tensor alone can say. Computed when first asked for, kept for the run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from torch import Tensor

Value = TypeVar("Value")
Pairs = Iterable[tuple[Tensor, Tensor]]
Calibrate = Callable[[str, str, str, int], Mapping[str, Tensor]]


class Magnitudes(Protocol):
    """What ``methods.Quantiles`` promises."""

    size: int
    total: float

    def largest(self, rank: int) -> float: ...

    def sum_from(self, threshold: float) -> float: ...

    def count_from(self, threshold: float) -> int: ...


@dataclass
class WholeModels:
    """Answers for whole checkpoints, which go by the names that recipes give them.

    ``pairs`` gives every float tensor that a base and a model both have in one shape, from their names.
    ``calibrate`` runs a model: its kind of statistic, the model's name, the text file and how many tokens of it.
    """

    pairs: Callable[[str, str], Pairs]
    calibrate: Calibrate
    _kept: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def everywhere(self, what: str, base: str, model: str, compute: Callable[[Pairs], Value]) -> Value:
        """What ``compute`` makes of all pairs of the base's and the model's tensors, kept under ``what``."""
        return cast(Value, self._once((what, base, model), lambda: compute(self.pairs(base, model))))

    def calibrated(self, kind: str, model: str, text: str, tokens: int) -> Mapping[str, Tensor]:
        """The statistic of each tensor by name; tensors that show nothing are not there."""
        key = ("calibrated", kind, model, text, tokens)
        found: Mapping[str, Tensor] = self._once(key, lambda: self.calibrate(kind, model, text, tokens))
        return found

    def _once(self, key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]


class JointQuantiles:
    """Several tables as one: a rank is found by bisection over float32's bit patterns, which order as magnitudes do."""

    def __init__(self, tables: Sequence[Magnitudes]) -> None:
        self._tables = tables
        self._found: dict[int, float] = {}
        self.size = sum(table.size for table in tables)
        self.total = sum(table.total for table in tables)

    def largest(self, rank: int) -> float:
        if rank not in self._found:
            self._found[rank] = self._search(rank)
        return self._found[rank]

    def _search(self, rank: int) -> float:
        """The largest number that at least ``rank`` magnitudes reach."""
        low, high = 0, _bits(np.inf)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.count_from(_number(middle)) >= rank else (low, middle)
        return _number(low)

    def sum_from(self, threshold: float) -> float:
        return sum(table.sum_from(threshold) for table in self._tables)

    def count_from(self, threshold: float) -> int:
        return sum(table.count_from(threshold) for table in self._tables)


def _bits(number: float) -> int:
    return int(np.float32(number).view(np.uint32))


def _number(bits: int) -> float:
    return float(np.uint32(bits).view(np.float32))

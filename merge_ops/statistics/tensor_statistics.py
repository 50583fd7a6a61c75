"""Statistics of one tensor's inputs, computed once and kept: every candidate then costs one pass over memory."""

from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.merge_ops.inputs.aligned_names import Input
from mergesearch.merge_ops.kernels.rowwise import row_dots
from mergesearch.merge_ops.methods._base import BASE, TABLE_SIZE, Quantiles
from mergesearch.merge_ops.statistics.gram import gram
from mergesearch.merge_ops.statistics.model_statistics import JointQuantiles, Pairs, WholeModels

Cache = MutableMapping[tuple[Any, ...], Any]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Source:
    """One input of a tensor: which checkpoint, and the data."""

    checkpoint: str
    data: Tensor


class TensorStatistics:
    """The ``Statistics`` of the method contract. ``cache`` is shared by all tensors and candidates of a run.

    ``whole`` answers what one tensor cannot say; methods that need it fail without.
    """

    def __init__(
        self,
        name: str,
        base: Source | None,
        models: Sequence[Source],
        cache: Cache,
        whole: WholeModels | None = None,
    ) -> None:
        self._name = name
        self._base = base
        self._models = models
        self._cache = cache
        self._whole = whole
        self.size = models[0].data.numel()
        self.shape = tuple(models[0].data.shape)
        self.count = len(models)
        self.has_base = base is not None

    def dot(self, a: int, b: int) -> float:
        return self._inner(None, a, b)

    def magnitudes(self, model: int) -> "QuantileTable":
        base, source = self._input(BASE), self._models[model]
        key = ("magnitudes", self._name, base.checkpoint, source.checkpoint)
        return self._kept(key, lambda: QuantileTable.of(source.data, base.data))

    def task_dot(self, a: int, b: int) -> float:
        return self._inner(self._input(BASE), a, b)

    def row_dots(self, a: int, b: int, axis: int, task_vectors: bool) -> NDArray[np.float64]:
        base = self._input(BASE) if task_vectors else None
        one, two = sorted((self._input(a), self._input(b)), key=lambda source: source.checkpoint)
        key = ("row dots", self._name, base and base.checkpoint, one.checkpoint, two.checkpoint, axis)
        return self._kept(key, lambda: row_dots(one.data, two.data, base.data if base else None, axis))

    def model_magnitudes(self, model: int) -> Quantiles:
        return self.everywhere("magnitudes", model, _joint_magnitudes)

    def everywhere(self, what: str, model: int, compute: Callable[[Pairs], Value]) -> Value:
        base, source = self._input(BASE), self._models[model]
        return self._everything.everywhere(what, base.checkpoint, source.checkpoint, compute)

    def calibrated(self, kind: str, model: int, text: str, tokens: int) -> Tensor | None:
        found = self._everything.calibrated(kind, self._models[model].checkpoint, text, tokens)
        return found.get(self._name)

    def derived(
        self,
        what: str,
        compute: Callable[[Tensor | None, Sequence[Tensor]], Value],
        models: Sequence[int] | None = None,
        settings: Hashable = (),
    ) -> Value:
        sources = self._models if models is None else [self._models[i] for i in models]
        base, names = self._base, tuple(source.checkpoint for source in sources)
        key = ("derived", what, self._name, base and base.checkpoint, names)
        if key not in self._cache or self._cache[key][0] != settings:
            value = compute(base.data if base else None, [source.data for source in sources])
            self._cache[key] = (settings, value)
        return cast(Value, self._cache[key][1])

    def _inner(self, base: Source | None, a: int, b: int) -> float:
        """All inner products are computed when the first is asked for: it is the same pass over memory."""
        key, one, two = ("dot", self._name, base and base.checkpoint), self._input(a), self._input(b)
        if (*key, one.checkpoint, two.checkpoint) not in self._cache:
            inputs = [*self._models, *([self._base] if self._base and not base else [])]
            products = gram([source.data for source in inputs], base.data if base else None)
            for source, row in zip(inputs, products, strict=True):
                for other, value in zip(inputs, row, strict=True):
                    self._cache[*key, source.checkpoint, other.checkpoint] = value
        return cast(float, self._cache[*key, one.checkpoint, two.checkpoint])

    @property
    def _everything(self) -> WholeModels:
        assert self._whole is not None, "made without a view of whole models"
        return self._whole

    def _input(self, index: int) -> Source:
        return cast(Source, self._base) if index == BASE else self._models[index]

    def _kept(self, key: tuple[Any, ...], compute: Callable[[], Value]) -> Value:
        if key not in self._cache:
            self._cache[key] = compute()
        return cast(Value, self._cache[key])


def whole_models(inputs: Mapping[str, Input], read: Callable[[str, str], Tensor], device: str) -> WholeModels:
    """What is asked of whole models, from open checkpoints; ``read`` gives a checkpoint's tensor by aligned name."""

    def pairs(base: str, model: str) -> Iterator[tuple[Tensor, Tensor]]:
        others = inputs[model].tensors
        for name, info in inputs[base].tensors.items():
            if name in others and others[name].shape == info.shape and info.dtype.is_floating_point:
                yield read(base, name), read(model, name)

    def calibrate(kind: str, model: str, text: str, tokens: int) -> Mapping[str, Tensor]:
        from mergesearch.merge_ops.statistics.calibration import calibrated

        found = calibrated(kind, inputs[model].checkpoint, text, tokens, device)
        return {name: found[own] for name, own in inputs[model].own.items() if own in found}

    return WholeModels(pairs, calibrate)


def _joint_magnitudes(pairs: Pairs) -> JointQuantiles:
    return JointQuantiles([QuantileTable.of(model, base) for base, model in pairs])


class QuantileTable:
    """The sorted magnitudes of a task vector: all of them up to TABLE_SIZE, else as many evenly spaced ranks.

    Each entry is exact for its rank. In a larger tensor a rank is answered with the nearest entry's: at most
    ``n / (2 · TABLE_SIZE)`` places away, so a density is met to 0.0008 %.
    """

    def __init__(self, descending: Tensor) -> None:
        self.size = descending.numel()
        count = min(self.size, TABLE_SIZE)
        self._ranks = np.linspace(1, self.size, count).round().astype(np.int64)
        places, values = self._ranks - 1, descending.numpy()
        self._values = values[places]
        starts = np.concatenate([[0], places[:-1] + 1])
        self._sums = np.add.reduceat(values, starts, dtype=np.float64).cumsum() if count else np.zeros(0)
        self.total = float(self._sums[-1]) if count else 0.0

    @classmethod
    def of(cls, model: Tensor, base: Tensor) -> "QuantileTable":
        wide = torch.promote_types(torch.promote_types(model.dtype, base.dtype), torch.float32)
        return cls(_descending((model.to(wide) - base.to(wide)).abs_().reshape(-1)))

    def largest(self, rank: int) -> float:
        right = int(np.searchsorted(self._ranks, rank))
        left = max(right - 1, 0)
        nearest = right if self._ranks[right] - rank <= rank - self._ranks[left] else left
        return float(self._values[nearest])

    def count_from(self, threshold: float) -> int:
        count = self._values.size - int(np.searchsorted(self._values[::-1], threshold))
        return int(self._ranks[count - 1]) if count else 0

    def sum_from(self, threshold: float) -> float:
        count = self._values.size - int(np.searchsorted(self._values[::-1], threshold))
        return float(self._sums[count - 1]) if count else 0.0


def _descending(values: Tensor) -> Tensor:
    if values.device.type != "cpu":
        return values.sort(descending=True).values.cpu()
    # numpy sorts with the processor's vectors, torch does not: 8 against 190 ns an element.
    ascending = values.numpy()
    ascending.sort()
    return torch.from_numpy(ascending[::-1].copy())

"""Statistics of one tensor's inputs. Computed on first access and cached for the run."""

from collections.abc import Callable, Hashable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.merge_ops.kernels.numbers import Numbers
from mergesearch.merge_ops.kernels.ranking import Ranges, Ranking
from mergesearch.merge_ops.kernels.rowwise import row_grams
from mergesearch.merge_ops.methods import BASE, Quantiles
from mergesearch.merge_ops.statistics.gram import gram
from mergesearch.merge_ops.statistics.model_statistics import ModelStatistics, Pairs

Cache = MutableMapping[tuple[Any, ...], Any]
T = TypeVar("T")


@dataclass(frozen=True)
class InputTensor:
    """One input of a tensor. ``source`` identifies it in the cache: the checkpoint's reference, for most tensors."""

    source: str
    data: Tensor


class TensorStatistics:
    """The ``Statistics`` of the method contract.

    Args:
        name: the tensor's name.
        base: the base's tensor, if there is a base.
        models: the models' tensors.
        cache: shared by all tensors and candidates of a run.
        whole: statistics of whole models. Methods that need them fail without.
    """

    def __init__(
        self,
        name: str,
        base: InputTensor | None,
        models: Sequence[InputTensor],
        cache: Cache,
        whole: ModelStatistics | None = None,
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

    def task_dot(self, a: int, b: int) -> float:
        return self._inner(self._input(BASE), a, b)

    def row_dots(self, a: int, b: int, axis: int, task_vectors: bool) -> NDArray[np.float64]:
        base = self._input(BASE) if task_vectors else None
        key = ("row dots", self._name, base and base.source, axis)
        found = self._product(key, base, a, b, lambda tensors, origin: row_grams(tensors, origin, axis))
        return cast(NDArray[np.float64], found)

    def magnitudes(self, model: int) -> Quantiles:
        base, entry = self._input(BASE), self._models[model]
        key = ("magnitudes", self._name, base.source, entry.source)
        return self._ranking(key, Numbers("magnitude", base.data, [entry.data]))

    def spreads(self) -> Quantiles:
        key = ("spreads", self._name, self._input(BASE).source, *(entry.source for entry in self._models))
        return self._ranking(key, Numbers("spread", self._input(BASE).data, [entry.data for entry in self._models]))

    def model_magnitudes(self, model: int) -> Quantiles:
        return self._models_as_wholes.magnitudes(self._input(BASE).source, self._models[model].source)

    def _ranking(self, key: tuple[Any, ...], numbers: Numbers) -> Quantiles:
        return Ranking(lambda: [numbers], self._cached(key, Ranges), numbers.size)

    def derived(
        self,
        name: str,
        compute: Callable[[Tensor | None, Sequence[Tensor]], T],
        models: Sequence[int] | None = None,
        settings: Hashable = (),
    ) -> T:
        entries = self._models if models is None else [self._models[i] for i in models]
        base, sources = self._base, tuple(entry.source for entry in entries)
        key = ("derived", name, self._name, base and base.source, sources)
        if key not in self._cache or self._cache[key][0] != settings:
            value = compute(base.data if base else None, [entry.data for entry in entries])
            self._cache[key] = (settings, value)
        return cast(T, self._cache[key][1])

    def model_derived(self, name: str, model: int, compute: Callable[[Pairs], T]) -> T:
        return self._models_as_wholes.derived(name, self._input(BASE).source, self._models[model].source, compute)

    def calibrated(self, kind: str, model: int, text: str, tokens: int) -> Tensor | None:
        statistics = self._models_as_wholes.calibrated(kind, self._models[model].source, text, tokens)
        return statistics.get(self._name)

    def _inner(self, base: InputTensor | None, a: int, b: int) -> float:
        return cast(float, self._product(("dot", self._name, base and base.source), base, a, b, gram))

    def _product(
        self,
        key: tuple[Any, ...],
        base: InputTensor | None,
        a: int,
        b: int,
        compute: Callable[[Sequence[Tensor], Tensor | None], Any],
    ) -> Any:
        """Computes the products of all inputs on the first access, because that is the same pass over memory."""
        first, second = self._input(a), self._input(b)
        if (*key, first.source, second.source) not in self._cache:
            inputs = [*self._models, *([self._base] if self._base and not base else [])]
            products = compute([entry.data for entry in inputs], base.data if base else None)
            for row_input, row in zip(inputs, products, strict=True):
                for column_input, value in zip(inputs, row, strict=True):
                    self._cache[*key, row_input.source, column_input.source] = value
        return self._cache[*key, first.source, second.source]

    @property
    def _models_as_wholes(self) -> ModelStatistics:
        assert self._whole is not None, "created without statistics of whole models"
        return self._whole

    def _input(self, index: int) -> InputTensor:
        return cast(InputTensor, self._base) if index == BASE else self._models[index]

    def _cached(self, key: tuple[Any, ...], compute: Callable[[], T]) -> T:
        if key not in self._cache:
            self._cache[key] = compute()
        return cast(T, self._cache[key])

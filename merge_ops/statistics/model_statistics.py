"""Statistics of whole models, which no single tensor determines. Computed on first access and cached for the run."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from torch import Tensor

from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint
from mergesearch.merge_ops.kernels.numbers import Numbers
from mergesearch.merge_ops.kernels.ranking import Ranges, Ranking

T = TypeVar("T")
Pairs = Iterable[tuple[Tensor, Tensor]]
Calibrate = Callable[[str, str, str, int], Mapping[str, Tensor]]


@dataclass
class ModelStatistics:
    """Cached statistics of checkpoints, which are named by their references in recipes.

    Attributes:
        pairs: from the references of a base and a model to their tensors: every float tensor that both have in one
            shape.
        calibrate: from the kind of statistic, a model's reference, a text file and a number of tokens to the statistic
            of each tensor by name.
    """

    pairs: Callable[[str, str], Pairs]
    calibrate: Calibrate
    _cache: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def derived(self, name: str, base: str, model: str, compute: Callable[[Pairs], T]) -> T:
        """Returns ``compute`` of all pairs of the base's and the model's tensors, cached under ``name``."""
        return cast(T, self._cached((name, base, model), lambda: compute(self.pairs(base, model))))

    def magnitudes(self, base: str, model: str) -> Ranking:
        """Returns the magnitudes of the model's task vectors in all tensors."""
        ranges = cast(Ranges, self._cached(("magnitudes", base, model), Ranges))
        return Ranking(lambda: (Numbers("magnitude", b, [x]) for b, x in self.pairs(base, model)), ranges)

    def calibrated(self, kind: str, model: str, text: str, tokens: int) -> Mapping[str, Tensor]:
        """Returns the statistic of each tensor that has one, by name."""
        key = ("calibrated", kind, model, text, tokens)
        return cast(Mapping[str, Tensor], self._cached(key, lambda: self.calibrate(kind, model, text, tokens)))

    def _cached(self, key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        if key not in self._cache:
            self._cache[key] = compute()
        return self._cache[key]


def model_statistics(
    inputs: Mapping[str, AlignedCheckpoint], read: Callable[[str, str], Tensor], device: str
) -> ModelStatistics:
    """Returns the statistics of open checkpoints.

    Args:
        inputs: the checkpoints by reference.
        read: from a reference and an aligned name to the tensor.
        device: the device on which models run for calibration.
    """

    def pairs(base: str, model: str) -> Iterator[tuple[Tensor, Tensor]]:
        others = inputs[model].tensors
        for name, info in inputs[base].tensors.items():
            if name in others and others[name].shape == info.shape and info.dtype.is_floating_point:
                yield read(base, name), read(model, name)

    def calibrate(kind: str, model: str, text: str, tokens: int) -> Mapping[str, Tensor]:
        from mergesearch.merge_ops.statistics.calibration import calibrated

        statistics = calibrated(kind, inputs[model].checkpoint, text, tokens, device)
        return {name: statistics[own] for name, own in inputs[model].own_names.items() if own in statistics}

    return ModelStatistics(pairs, calibrate)

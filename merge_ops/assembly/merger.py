"""Open checkpoints under one set of names, with what is cached for all candidates of a run."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from mergesearch.errors import Problems, UserError
from mergesearch.merge_ops.alignment.references import aligned_paths, plain_references
from mergesearch.merge_ops.assembly.candidate_cache import CandidateCache
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.quantization import check_plain
from mergesearch.merge_ops.checkpoint.tensor_files import StoredBytes
from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint, align
from mergesearch.merge_ops.inputs.labels import LabelOrders, label_orders
from mergesearch.merge_ops.inputs.memory import MemoryPlan, StreamPlan, plan_memory
from mergesearch.merge_ops.inputs.read_ahead import ReadAhead
from mergesearch.merge_ops.inputs.tensor_cache import Key, TensorCache
from mergesearch.merge_ops.inputs.vocabulary_copies import vocabulary_copies
from mergesearch.merge_ops.kernels.finite import is_finite, not_finite
from mergesearch.merge_ops.live.dequantized import dequantized_paths
from mergesearch.merge_ops.methods import Method
from mergesearch.merge_ops.recipe.vocabulary_config import TokenizerConfig
from mergesearch.merge_ops.statistics.model_statistics import model_statistics
from mergesearch.merge_ops.statistics.tensor_statistics import Cache


@dataclass(frozen=True)
class MemoryReserve:
    """What the memory plan leaves room for.

    Attributes:
        methods: the methods whose statistics are kept.
        gradients: whether gradients by the weights are kept.
        standalone: the references of models that get a live model of their own beside the first, one at a time.
    """

    methods: Sequence[Method] = ()
    gradients: bool = False
    standalone: Collection[str] = ()


class Merger:
    """Open checkpoints under the names of the first one.

    Args:
        references: the references of the checkpoints.
        resident: read each tensor once and keep it, as well as statistics. Otherwise both are dropped after use.
        device: the device on which tensors are merged.
        named_paths: as for ``Checkpoint``.
        reserve: what the memory plan leaves room for.
        allow_nan: merge tensors that have NaN or infinite values. By default reading them is an error.
        dequantize: let transformers dequantize checkpoints that are quantized.
        tokenizer: the vocabulary in which the checkpoints are merged. None: their own, which must be one.
        base: the base of the recipe, if it has one, of which rows of missing tokens are taken.

    Raises:
        UserError: a checkpoint is quantized, or transformers cannot dequantize it, or a checkpoint cannot be aligned,
            or have this vocabulary.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - how checkpoints are read, and where they are kept
        self,
        references: Sequence[str],
        resident: bool = False,
        device: str = "cpu",
        named_paths: Mapping[str, Path] | None = None,
        reserve: MemoryReserve | None = None,
        allow_nan: bool = False,
        dequantize: bool = False,
        tokenizer: TokenizerConfig | None = None,
        base: str | None = None,
    ) -> None:
        self.allows_nan, self.dequantizes, self.tokenizer = allow_nan, dequantize, tokenizer
        every = list(dict.fromkeys([*references, *(tokenizer.models if tokenizer else ())]))
        paths = dequantized_paths(plain_references(every), named_paths) if dequantize else named_paths
        named_paths = aligned_paths(every, paths)
        self.originals = _opened(references, named_paths)
        """The checkpoints as their owners have them, but dequantized and aligned."""
        self.copies = vocabulary_copies(tokenizer, references, base, named_paths) if tokenizer else None
        self.checkpoints = _opened(references, {**named_paths, **self.copies.paths}) if self.copies else self.originals
        self.inputs = align(list(self.checkpoints.values()))
        self.names = list(self.inputs[references[0]].tensors)
        self.device = device
        self.sizes = {
            reference: sum(info.bytes for info in entry.tensors.values()) for reference, entry in self.inputs.items()
        }
        self.label_orders = label_orders(self.inputs)
        """For each model with another order of labels, the order of each tensor that depends on it."""
        # The functions below do not refer to the merger, so that it is freed as soon as nobody uses it.
        read = partial(_read, self.inputs, self.label_orders, allow_nan)
        self.tensors: TensorCache | None = None
        self.tensor: Callable[[str, str], Tensor] = lambda reference, name: read(reference, name).to(device)
        """Returns a tensor on the device, from a reference and an aligned name."""
        if resident:
            self.tensors = TensorCache(self._plan(reserve or MemoryReserve()), read)
            self.tensor = self.tensors.tensor
        self.statistics: Cache | None = {} if resident else None
        self.model_statistics = model_statistics(self.inputs, self.tensor, device)
        self.cache = CandidateCache()

    def _plan(self, reserve: MemoryReserve) -> MemoryPlan:
        live_model = max(self.sizes.values())
        second = max((self.sizes[reference] for reference in reserve.standalone), default=0)
        statistics, gradients = self._statistics_bytes(reserve.methods), live_model if reserve.gradients else 0
        return plan_memory(self.sizes, live_model + second, self.device, statistics, gradients)

    def _statistics_bytes(self, methods: Sequence[Method]) -> int:
        """Returns the largest size of the methods' statistics: that of a merge of all checkpoints but one."""
        infos, models = next(iter(self.inputs.values())).tensors.values(), max(1, len(self.inputs) - 1)
        floats = [info for info in infos if info.dtype.is_floating_point]
        return sum(method.statistics_bytes(info.shape, models) for method in methods for info in floats)

    def check_values(self) -> None:
        """Reads every tensor. Raises UserError for the first that has NaN or infinite values."""
        for reference, entry in self.inputs.items():
            for name in entry.tensors:
                self.tensor(reference, name)

    @property
    def memory_plan(self) -> MemoryPlan:
        """Where the checkpoints are kept. Only for a resident merger."""
        assert self.tensors is not None
        return self.tensors.plan

    @property
    def stream_plan(self) -> StreamPlan:
        """What is in memory while a merger that is not resident merges."""
        infos = [entry.tensors for entry in self.inputs.values()]
        input_bytes = (sum(tensors[name].bytes for tensors in infos if name in tensors) for name in self.names)
        return StreamPlan(self.sizes, max(input_bytes, default=0))

    @property
    def keeps_all(self) -> bool:
        """Whether every tensor stays on the device after it was read."""
        return self.tensors is not None and self.tensors.plan.location == "device"

    @contextmanager
    def read_ahead(self, groups: Sequence[Sequence[Key]]) -> Iterator[Callable[[], None]]:
        """Reads tensors ahead, on threads, if they are not kept.

        Args:
            groups: the tensors that each tensor of the result reads, in its order.

        Yields:
            A function, to be called before each tensor of the result.
        """
        if self.tensors is not None:
            yield lambda: None
            return
        read = self.tensor
        with ReadAhead(groups, lambda key: self.inputs[key[0]].tensors[key[1]].bytes, read) as ahead:
            self.tensor = ahead.tensor
            try:
                yield ahead.advance
            finally:
                self.tensor = read

    def stored(self, reference: str, name: str) -> StoredBytes | None:
        """Returns the place of a tensor's bytes in a file, or None if it is kept in memory or changed when read."""
        entry = self.inputs[reference]
        is_reordered = name in self.label_orders.get(reference, ())
        return None if self.tensors is not None or is_reordered else entry.stored(name)

    def prefetch(self, entries: Iterable[tuple[str, str]]) -> None:
        """Starts to copy tensors to the device, if they are streamed to it."""
        if self.tensors:
            self.tensors.prefetch(entries)


def _opened(references: Sequence[str], named_paths: Mapping[str, Path]) -> dict[str, Checkpoint]:
    """Opens checkpoints by reference. Raises UserError with the problems of all of them."""

    def opened(reference: str) -> Checkpoint:
        checkpoint = Checkpoint(reference, named_paths)
        check_plain(checkpoint)
        _ = checkpoint.tensors
        return checkpoint

    problems = Problems()
    found = {reference: problems.attempt(opened, reference) for reference in references}
    problems.check()
    return {reference: checkpoint for reference, checkpoint in found.items() if checkpoint}


def _read(
    inputs: Mapping[str, AlignedCheckpoint], orders: LabelOrders, allow_nan: bool, reference: str, name: str
) -> Tensor:
    entry = inputs[reference]
    tensor = entry.tensor(name)
    if order := orders.get(reference, {}).get(name):
        tensor = order.applied(tensor)
    if not (allow_nan or is_finite(tensor)):
        raise UserError(
            f"{reference}: {name} has {not_finite(tensor)}, expected finite numbers; repair the model, or give "
            "`mergesearch merge` the option --allow-nan"
        )
    return tensor

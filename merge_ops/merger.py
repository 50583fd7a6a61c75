"""One recipe over open checkpoints: what it makes, and how each tensor of it is made."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mergesearch.merge_ops.checkpoint import Checkpoint
from mergesearch.merge_ops.combine import combine, combine_many
from mergesearch.merge_ops.inputs import aligned, check_match, is_matched
from mergesearch.merge_ops.memory import Residents, plan_memory
from mergesearch.merge_ops.methods import Values
from mergesearch.merge_ops.plans import Plan
from mergesearch.merge_ops.prepare import Cache, Source, TensorStatistics, whole_models
from mergesearch.merge_ops.random import mask_key
from mergesearch.merge_ops.recipe import Recipe, TensorRecipe
from mergesearch.merge_ops.tensor_files import TensorInfo
from mergesearch.merge_ops.vocabulary import Vocabulary, make_vocabulary


class Merger:
    """Open checkpoints, under one set of names: those of the first.

    With ``resident``, every tensor is read once and kept, as are the statistics that depend only on the inputs;
    without, each is read when it is needed and forgotten. ``places`` says where checkpoints lie that go by other names
    than their path.
    """

    def __init__(
        self,
        references: Sequence[str],
        resident: bool = False,
        device: str = "cpu",
        places: Mapping[str, Path] | None = None,
    ) -> None:
        self.places = places or {}
        self.checkpoints = {reference: Checkpoint(reference, places) for reference in references}
        self.inputs = aligned(list(self.checkpoints.values()))
        self.names = list(self.inputs[references[0]].tensors)
        self.device = device
        self.statistics: Cache | None = {} if resident else None
        self.whole = whole_models(self.inputs, self.tensor, device)
        sizes = {
            reference: sum(info.bytes for info in entry.tensors.values()) for reference, entry in self.inputs.items()
        }
        plan = plan_memory(sizes, max(sizes.values()), device) if resident else None
        self.residents = Residents(plan, self._read) if plan else None

    def tensor(self, reference: str, name: str) -> Tensor:
        """A checkpoint's tensor on the device."""
        if self.residents:
            return self.residents.tensor(reference, name)
        return self._read(reference, name).to(self.device)

    def prefetch(self, entries: Iterable[tuple[str, str]]) -> None:
        """Begins to bring tensors to the device, where they are streamed to it."""
        if self.residents:
            self.residents.prefetch(entries)

    def _read(self, reference: str, name: str) -> Tensor:
        return self.inputs[reference].tensor(name)


@dataclass(frozen=True)
class Job:
    """One tensor of one candidate, decided: what ``combine`` is to be given."""

    plan: Plan
    base: Tensor | None
    models: list[Tensor]

    @property
    def inputs(self) -> list[Tensor]:
        return self.models if self.base is None else [*self.models, self.base]


class Assembly:
    """A recipe's tensors, from a merger that has its checkpoints open.

    Raises UserError where a number or a layer is missing, or where the checkpoints do not match each other and the
    recipe does not say what then.
    """

    def __init__(self, merger: Merger, recipe: Recipe) -> None:
        self.recipe = recipe
        self._merger = merger
        self.template = recipe.references[0]
        inputs = {reference: merger.inputs[reference] for reference in recipe.references}
        self._layouts = {reference: entry.tensors for reference, entry in inputs.items()}
        config = recipe.vocabulary
        self.vocabulary: Vocabulary | None = (
            make_vocabulary(config, inputs, self.template, merger.places) if config else None
        )
        self.template_names = list(self._layouts[self.template])
        self.parts = {part.name: part for part in recipe.resolve(self.template_names, self._layouts)}
        if recipe.on_mismatch is None:
            check_match(list(self.parts.values()), self._layouts, self._info_of, layers=bool(recipe.models))
        self.infos = {name: self._info(part) for name, part in self.parts.items()}
        """Shape and dtype of every tensor of the result."""

    def write_tensor(self, name: str, out: Tensor) -> None:
        """Writes one tensor to ``out``; what is not a float is the base's."""
        part = self.parts[name]
        owner = self._owner(part)
        if not is_matched(part, self._info_of):
            self._write_mismatched(part, out)
        elif not self.infos[name].dtype.is_floating_point:
            out.copy_(self._merger.tensor(*owner))
        else:
            self._combine(part, self._tensors(part), out)

    def _write_mismatched(self, part: TensorRecipe, out: Tensor) -> None:
        """The base's tensor; with ``overlap``, merged in the corner that all inputs have."""
        owner = self._owner(part)
        shapes = [info.shape for info in (self._info_of(*entry) for entry in part.claims) if info]
        whole = len(shapes) == len(part.claims) and len({len(shape) for shape in shapes}) == 1
        out.copy_(self._tensors(part, [owner])[owner])
        if self.recipe.on_mismatch != "overlap" or not whole or not out.is_floating_point():
            return
        tensors = self._tensors(part)
        corner = tuple(slice(min(sizes)) for sizes in zip(*shapes, strict=True))
        self._combine(part, {entry: tensor[corner].contiguous() for entry, tensor in tensors.items()}, out[corner])

    def job(self, name: str) -> Job | None:
        """How a tensor is combined; None where it is not, but copied or merged in part."""
        part = self.parts[name]
        if not is_matched(part, self._info_of) or not self.infos[name].dtype.is_floating_point:
            return None
        return self._job(part, self._tensors(part))

    def _combine(self, part: TensorRecipe, tensors: Mapping[tuple[str, str], Tensor], out: Tensor) -> None:
        job = self._job(part, tensors)
        here = out.device.type == torch.device(self._merger.device).type
        target = out if here else torch.empty_like(out, device=self._merger.device)
        combine(job.plan, job.base, job.models, target)
        if target is not out:
            out.copy_(target)

    def _job(self, part: TensorRecipe, tensors: Mapping[tuple[str, str], Tensor]) -> Job:
        merger = self._merger
        base = tensors[part.base, part.base_source] if part.base and part.base_source else None
        names = _identities(part)
        sources = [Source(n, tensors[entry]) for n, entry in zip(names, part.model_inputs, strict=True)]
        cache: Cache = merger.statistics if merger.statistics is not None else {}
        based = Source(part.base, base) if part.base and base is not None else None
        statistics = TensorStatistics(part.name, based, sources, cache, merger.whole)

        def keys(seed: int) -> tuple[int, ...]:
            return tuple(mask_key(seed, name, part.name) for name in names)

        plan = self.recipe.method.decide(statistics, Values(part.shared, part.each, keys))
        return Job(plan, base, [source.data for source in sources])

    def _tensors(
        self, part: TensorRecipe, entries: Sequence[tuple[str, str]] | None = None
    ) -> dict[tuple[str, str], Tensor]:
        wanted = entries or part.inputs
        named = dict.fromkeys([*part.inputs, *wanted])
        read = {entry: self._merger.tensor(*entry) for entry in named if self._info_of(*entry)}
        if self.vocabulary and part.name in self.vocabulary.names:
            base = part.base or self.recipe.base_model
            fitted = self.vocabulary.aligned({reference: tensor for (reference, _), tensor in read.items()}, base)
            read = {entry: fitted[entry[0]] for entry in read}
        return {entry: read[entry] for entry in wanted if entry in read}

    def _owner(self, part: TensorRecipe) -> tuple[str, str]:
        """The base's tensor, or the first model's where there is no base."""
        ordered = sorted(part.claims, key=lambda entry: entry[0] != (part.base or self.recipe.base_model))
        return next(entry for entry in ordered if self._info_of(*entry))

    def _info_of(self, reference: str, name: str) -> TensorInfo | None:
        """An input's tensor in the result's vocabulary; None where the checkpoint has none of that name."""
        info = self._layouts[reference].get(name)
        return self.vocabulary.info(info) if info and self.vocabulary and name in self.vocabulary.names else info

    def _info(self, part: TensorRecipe) -> TensorInfo:
        owner = self._info_of(*self._owner(part))
        assert owner is not None
        dtype = owner.dtype
        if not dtype.is_floating_point:
            return owner
        for other in (self._info_of(*entry) for entry in part.inputs):
            if other and other.dtype.is_floating_point:
                dtype = torch.promote_types(dtype, other.dtype)
        return TensorInfo(owner.shape, torch_dtype(self.recipe.target_dtype) or dtype)


def write_together(assemblies: Sequence[Assembly], name: str, outs: Sequence[Tensor]) -> None:
    """Writes one tensor of several recipes, each to its ``out``: those of the same inputs in one pass over these."""
    groups: dict[tuple[int, ...], list[tuple[Job, Tensor]]] = {}
    for assembly, out in zip(assemblies, outs, strict=True):
        job = assembly.job(name)
        if job is None:
            assembly.write_tensor(name, out)
        else:
            groups.setdefault(tuple(tensor.data_ptr() for tensor in job.inputs), []).append((job, out))
    for group in groups.values():
        first = group[0][0]
        combine_many([job.plan for job, _ in group], first.base, first.models, [out for _, out in group])


def _identities(part: TensorRecipe) -> list[str]:
    """What each model goes by in statistics and random masks; the same model's layers are told apart."""
    return [
        f"{model}#{source}" if part.models.count(model) > 1 else model
        for model, source in zip(part.models, part.sources, strict=True)
    ]


def torch_dtype(name: str | None) -> torch.dtype | None:
    """``torch.float32`` for ``"float32"``."""
    return None if name is None else getattr(torch, name)

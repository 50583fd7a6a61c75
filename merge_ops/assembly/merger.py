"""One recipe over open checkpoints: what it makes, and how each tensor of it is made."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.inputs.aligned_names import Input, aligned, check_match, is_matched
from mergesearch.merge_ops.inputs.memory import Residents, StreamPlan, plan_memory
from mergesearch.merge_ops.inputs.vocabulary import Vocabulary, make_vocabulary
from mergesearch.merge_ops.kernels.combine import combine
from mergesearch.merge_ops.kernels.masks import fingerprint, mask_key
from mergesearch.merge_ops.kernels.plans import Pass, Plan
from mergesearch.merge_ops.methods import Method, Values, find_method
from mergesearch.merge_ops.recipe.recipe import Recipe, TensorRecipe
from mergesearch.merge_ops.statistics.tensor_statistics import Cache, Source, TensorStatistics, whole_models

Read = Callable[[str, str], Tensor]
Tensors = Mapping[tuple[str, str], Tensor]


@dataclass(frozen=True)
class Uses:
    """What takes memory beside the checkpoints: statistics of ``methods``, and ``gradients`` by the weights."""

    methods: Sequence[Method] = ()
    gradients: bool = False


class Merger:
    """Open checkpoints, under one set of names: those of the first.

    With ``resident``, every tensor is read once and kept, as are the statistics that depend only on the inputs;
    without, each is read when it is needed and forgotten. ``places`` says where checkpoints lie that go by other names
    than their path; the memory plan leaves room for ``uses``.
    """

    def __init__(
        self,
        references: Sequence[str],
        resident: bool = False,
        device: str = "cpu",
        places: Mapping[str, Path] | None = None,
        uses: Uses | None = None,
    ) -> None:
        self.places = places or {}
        self.checkpoints = {reference: Checkpoint(reference, places) for reference in references}
        self.inputs = aligned(list(self.checkpoints.values()))
        self.names = list(self.inputs[references[0]].tensors)
        self.device = device
        self.statistics: Cache | None = {} if resident else None
        self.sizes = sizes = {
            reference: sum(info.bytes for info in entry.tensors.values()) for reference, entry in self.inputs.items()
        }
        read = partial(_read, self.inputs)
        live = max(sizes.values())
        plan = partial(
            plan_memory,
            sizes,
            live,
            device,
            self._statistics(uses.methods if uses else ()),
            live if uses and uses.gradients else 0,
        )
        self.residents = Residents(plan(), read) if resident else None
        self.tensor: Read = self.residents.tensor if self.residents else lambda *key: read(*key).to(device)
        """A checkpoint's tensor on the device, from the checkpoint's name and the tensor's."""
        # From here on nothing refers to the merger itself: it and its tensors go as soon as nobody needs them.
        self.whole = whole_models(self.inputs, self.tensor, device)
        self.facts: dict[tuple[Any, ...], Facts] = {}
        self.matching: set[tuple[Any, ...]] = set()
        self.decidable: dict[tuple[Any, ...], Decidable] = {}

    def _statistics(self, methods: Sequence[Method]) -> int:
        """The most bytes that the methods keep, if all checkpoints but one are merged."""
        infos, models = next(iter(self.inputs.values())).tensors.values(), max(1, len(self.inputs) - 1)
        floats = [info for info in infos if info.dtype.is_floating_point]
        return sum(method.kept(info.shape, models) for method in methods for info in floats)

    @property
    def streaming(self) -> StreamPlan:
        """What is in memory where nothing is kept; as text, a line for the user."""
        infos = [entry.tensors for entry in self.inputs.values()]
        inputs = {name: sum(tensors[name].bytes for tensors in infos if name in tensors) for name in self.names}
        return StreamPlan(self.sizes, max(inputs.values(), default=0))

    @property
    def keeps_all(self) -> bool:
        """Whether every tensor stays where it is combined, once it was read."""
        return self.residents is not None and self.residents.plan.place == "device"

    def prefetch(self, entries: Iterable[tuple[str, str]]) -> None:
        """Begins to bring tensors to the device, where they are streamed to it."""
        if self.residents:
            self.residents.prefetch(entries)


def _read(inputs: Mapping[str, Input], reference: str, name: str) -> Tensor:
    return inputs[reference].tensor(name)


@dataclass(frozen=True)
class Facts:
    """What is known of a tensor before it is read, and whatever its numbers."""

    matched: bool
    owner: tuple[str, str]
    info: TensorInfo


@dataclass(frozen=True)
class Decidable:
    """All that a method needs to decide on a tensor, but the numbers."""

    base: Tensor | None
    models: list[Tensor]
    statistics: TensorStatistics

    @cached_property
    def fingerprints(self) -> list[str]:
        """What the models go by in random masks."""
        return list(map(fingerprint, self.models))


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
        self._check_match()
        self._facts = {name: self._facts_of(part) for name, part in self.parts.items()}
        target = torch_dtype(recipe.target_dtype)
        self.infos = {name: _in_dtype(facts.info, target) for name, facts in self._facts.items()}
        """Shape and dtype of every tensor of the result."""

    def _check_match(self) -> None:
        parts = list(self.parts.values())
        origins = (bool(self.recipe.models), *(part.origin for part in parts))
        if self.recipe.on_mismatch is not None or origins in self._merger.matching:
            return
        check_match(parts, self._layouts, self._info_of, layers=bool(self.recipe.models))
        if self.vocabulary is None:
            self._merger.matching.add(origins)

    def _facts_of(self, part: TensorRecipe) -> Facts:
        if self.vocabulary:
            return self._find_facts(part)
        key = (self.recipe.base_model, part.origin)
        if key not in self._merger.facts:
            self._merger.facts[key] = self._find_facts(part)
        return self._merger.facts[key]

    def _find_facts(self, part: TensorRecipe) -> Facts:
        owner = self._owner(part)
        return Facts(is_matched(part, self._info_of), owner, self._info(part, owner))

    def write_tensor(self, name: str, out: Tensor) -> None:
        """Writes one tensor to ``out``; what is not a float is the base's."""
        part, facts = self.parts[name], self._facts[name]
        if not facts.matched:
            self._write_mismatched(part, out)
        elif not facts.info.dtype.is_floating_point:
            out.copy_(self._merger.tensor(*facts.owner))
        elif not part.models:
            out.copy_(self._tensors(part)[facts.owner])
        else:
            self._combine(part, self._tensors(part), out)

    def _write_mismatched(self, part: TensorRecipe, out: Tensor) -> None:
        """The base's tensor; with ``overlap``, merged in the corner that all inputs have."""
        owner = self._facts[part.name].owner
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
        part, facts = self.parts[name], self._facts[name]
        if not part.models or not facts.matched or not facts.info.dtype.is_floating_point:
            return None
        return self._job(part)

    def _combine(self, part: TensorRecipe, tensors: Tensors, out: Tensor) -> None:
        job = self._job(part, tensors)
        here = out.device.type == torch.device(self._merger.device).type
        target = out if here else torch.empty_like(out, device=self._merger.device)
        combine(job.plan, job.base, job.models, target)
        if target is not out:
            out.copy_(target)

    def _job(self, part: TensorRecipe, tensors: Tensors | None = None) -> Job:
        found = self._decidable(part) if tensors is None else self._from(part, tensors)

        def keys(seed: int) -> tuple[int, ...]:
            return tuple(mask_key(seed, model, part.name) for model in found.fingerprints)

        plan = find_method(part.method).decide(found.statistics, Values(part.shared, part.each, keys))
        return Job(plan, found.base, found.models)

    def _decidable(self, part: TensorRecipe) -> Decidable:
        if self.vocabulary or not self._merger.keeps_all:
            return self._from(part, self._tensors(part))
        known, key = self._merger.decidable, part.origin
        if key not in known:
            known[key] = self._from(part, self._tensors(part))
        return known[key]

    def _from(self, part: TensorRecipe, tensors: Tensors) -> Decidable:
        merger, identities = self._merger, _identities(part)
        base = tensors[part.base, part.base_source] if part.base and part.base_source else None
        models = [tensors[entry] for entry in part.model_inputs]
        sources = [Source(name, model) for name, model in zip(identities, models, strict=True)]
        cache: Cache = merger.statistics if merger.statistics is not None else {}
        based = Source(part.base, base) if part.base and base is not None else None
        return Decidable(base, models, TensorStatistics(part.name, based, sources, cache, merger.whole))

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

    def _info(self, part: TensorRecipe, owner: tuple[str, str]) -> TensorInfo:
        """With the widest dtype of the inputs."""
        own = self._info_of(*owner)
        assert own is not None
        if not own.dtype.is_floating_point:
            return own
        dtypes = [info.dtype for info in (self._info_of(*entry) for entry in part.inputs) if info]
        floats = [dtype for dtype in dtypes if dtype.is_floating_point]
        return TensorInfo(own.shape, reduce(torch.promote_types, floats, own.dtype))


def _in_dtype(info: TensorInfo, dtype: torch.dtype | None) -> TensorInfo:
    return info if dtype in (None, info.dtype) or not info.dtype.is_floating_point else replace(info, dtype=dtype)


def passes(assemblies: Sequence[Assembly], name: str, outs: Sequence[Tensor]) -> list[Pass]:
    """What is left to combine for one tensor of several recipes, each to its ``out``; what is not combined is written.

    Recipes of the same inputs share a pass.
    """
    groups: dict[tuple[int, ...], list[tuple[Job, Tensor]]] = {}
    for assembly, out in zip(assemblies, outs, strict=True):
        job = assembly.job(name)
        if job is None:
            assembly.write_tensor(name, out)
        else:
            groups.setdefault(tuple(tensor.data_ptr() for tensor in job.inputs), []).append((job, out))
    return [_shared_pass(group) for group in groups.values()]


def _shared_pass(group: Sequence[tuple[Job, Tensor]]) -> Pass:
    first = group[0][0]
    return Pass([job.plan for job, _ in group], first.base, first.models, [out for _, out in group])


def _identities(part: TensorRecipe) -> list[str]:
    """What each model goes by in statistics; the same model's layers are told apart."""
    return [
        f"{model}#{source}" if part.models.count(model) > 1 else model
        for model, source in zip(part.models, part.sources, strict=True)
    ]


def torch_dtype(name: str | None) -> torch.dtype | None:
    """``torch.float32`` for ``"float32"``."""
    return None if name is None else getattr(torch, name)

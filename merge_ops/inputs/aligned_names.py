"""Checkpoints under one set of names, so that corresponding tensors have the same name in all of them.

Two files of one model may name its tensors differently, and may store one parameter under one name or under several
(tied weights). Where transformers knows the model, it decides what is what. Elsewhere names are guessed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.architecture import FIRST_NUMBER, Architecture, LiveName, architecture
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.tensor_files import StoredBytes, TensorInfo
from mergesearch.merge_ops.inputs.guessed_names import (
    COMPUTED_BUFFERS,
    OUTPUT_EMBEDDING,
    guessed_ties,
    names_in_template,
)
from mergesearch.merge_ops.inputs.tensor_cache import same_bits
from mergesearch.merge_ops.recipe.layout import layer_of


@dataclass(frozen=True)
class AlignedCheckpoint:
    """A checkpoint under the template's names.

    Attributes:
        checkpoint: the checkpoint.
        own_names: the checkpoint's own name of each tensor.
        untied: the tensors that the checkpoint ties to another tensor and another checkpoint does not, with their
            names in transformers' model.
        optional: the tensors that the checkpoint's model does not use.
        left_out: the checkpoint's own names of tensors that its model does not use and that the template does not have.
        equal: the name of the tensor that each of these equals, where transformers does not know what is tied.
    """

    checkpoint: Checkpoint
    own_names: Mapping[str, str]
    untied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    equal: Mapping[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """The checkpoint's reference."""
        return self.checkpoint.reference

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor by its aligned name, sorted by name."""
        return {name: self.checkpoint.tensors[own] for name, own in sorted(self.own_names.items())}

    @cached_property
    def computed(self) -> frozenset[str]:
        """The buffers that models compute for themselves."""
        return frozenset(filter(COMPUTED_BUFFERS.search, self.own_names))

    def tensor(self, name: str) -> Tensor:
        """Reads one tensor, given by its aligned name, to the CPU."""
        return self.checkpoint.tensor(self.own_names[name])

    def stored(self, name: str) -> StoredBytes | None:
        """Returns the place of the bytes of a tensor, given by its aligned name, or None if reading changes them."""
        return self.checkpoint.stored(self.own_names[name])


def align(checkpoints: Sequence[Checkpoint]) -> dict[str, AlignedCheckpoint]:
    """Returns the checkpoints by reference, under the names of the first one, which is the template.

    Without differences in names and without copies, every tensor is the one of its name, whatever the model: then
    nothing is asked of transformers, whose import takes seconds.
    """
    if not _has_other_names(checkpoints) and not any(checkpoint.may_have_copies() for checkpoint in checkpoints):
        return {c.reference: AlignedCheckpoint(c, {name: name for name in c.tensors}) for c in checkpoints}
    naming = _naming(checkpoints)
    named = [_named(checkpoint, naming) for checkpoint in checkpoints]
    labels = _labels(named)
    aligned = [_aligned(entry, labels, named[0]) for entry in named]
    if isinstance(naming, _GuessedNaming):
        aligned = [replace(entry, equal=_equal_tensors(entry)) for entry in aligned]
    return {entry.reference: entry for entry in aligned}


def _equal_tensors(entry: AlignedCheckpoint) -> dict[str, str]:
    labels = {own: label for label, own in entry.own_names.items()}
    equal: dict[str, str] = {}
    for group in entry.checkpoint.similar_tensors():
        first, *others = [labels[own] for own in group if own in labels] or [""]
        equal |= {name: first for name in others if same_bits(entry.tensor(name), entry.tensor(first))}
    return equal


def _has_other_names(checkpoints: Sequence[Checkpoint]) -> bool:
    return any(checkpoint.tensors.keys() != checkpoints[0].tensors.keys() for checkpoint in checkpoints[1:])


class _Naming(Protocol):
    """Knows one name for each parameter of a model. The names of all its methods are these, unless they are stored."""

    def names(self, checkpoint: Checkpoint) -> dict[str, str]:
        """Returns the name of each stored tensor by its stored name."""

    def ties(self, checkpoint: Checkpoint) -> Iterable[tuple[str, ...]]:
        """Returns groups of names that the checkpoint ties unless it stores different values."""

    def optional(self, checkpoint: Checkpoint) -> Iterable[str]:
        """Returns the stored names of tensors that the checkpoint's model does not use."""


def _naming(checkpoints: Sequence[Checkpoint]) -> _Naming:
    known = next(filter(None, map(architecture, checkpoints)), None)
    if known is None or not _is_read(known.live_names(checkpoints[0].tensors)):
        return _GuessedNaming(checkpoints)
    naming = _TransformersNaming(known, list(checkpoints[0].tensors))
    for checkpoint in checkpoints[1:]:
        _check_fused(known, checkpoints[0], checkpoint, naming)
    return naming


def _check_fused(known: Architecture, template: Checkpoint, other: Checkpoint, naming: "_TransformersNaming") -> None:
    """Raises UserError if one file has tensors one by one that are fused in the other (experts)."""
    names = [set(naming.names(checkpoint).values()) for checkpoint in (template, other)]
    for fused in sorted((names[0] ^ names[1]) & known.shapes.keys()):
        parts = f"{fused.rpartition('.')[0]}."
        single = next(
            (name for name in names[0] ^ names[1] if name.startswith(parts) and name not in known.shapes), None
        )
        if single:
            owner, divided = (template, other) if fused in names[0] else (other, template)
            raise UserError(
                f"{owner.reference}: has the tensor {fused}, which {divided.reference} has in parts such as {single}; "
                "load one of them with transformers and save it again"
            )


class _TransformersNaming:
    """The names in one model of transformers: what it would make of the files of all checkpoints."""

    def __init__(self, common: Architecture, template: Sequence[str]) -> None:
        self._common = common
        self._template = template
        self._known: dict[tuple[str, Architecture], dict[str, LiveName]] = {}

    def names(self, checkpoint: Checkpoint) -> dict[str, str]:
        return {stored: live.name for stored, live in self._live_names(checkpoint, self._common).items()}

    def ties(self, checkpoint: Checkpoint) -> Iterable[tuple[str, ...]]:
        for group in self._own(checkpoint).tied:
            live_names = self._common.live_names(group)
            yield tuple(live_names[name].name for name in group)
        # A file may have a head that its config does not name.
        live = self._live_names(checkpoint, self._own(checkpoint))
        names = self.names(checkpoint)
        heads = [names[own] for own in live if OUTPUT_EMBEDDING.search(own) and not live[own].loaded]
        yield from guessed_ties(checkpoint, list(names.values()), heads)

    def optional(self, checkpoint: Checkpoint) -> Iterable[str]:
        own = self._own(checkpoint)
        for stored, live in self._live_names(checkpoint, own).items():
            if not live.loaded or own.may_be_missing(live.name):
                yield stored

    def _own(self, checkpoint: Checkpoint) -> Architecture:
        return architecture(checkpoint) or self._common

    def _live_names(self, checkpoint: Checkpoint, model: Architecture) -> dict[str, LiveName]:
        key = (checkpoint.reference, model)
        if key not in self._known:
            self._known[key] = _readable_names(list(checkpoint.tensors), model, self._template)
        return self._known[key]


def _readable_names(stored: Sequence[str], model: Architecture, template: Sequence[str]) -> dict[str, LiveName]:
    """Returns the model's names. If transformers cannot read the file (``module.model...``), they are guessed."""
    found = model.live_names(stored)
    if _is_read(found):
        return found
    guessed = names_in_template(stored, template)
    live_names = model.live_names(guessed.values())
    return {own: live_names[name] for own, name in guessed.items()}


def _is_read(names: Mapping[str, LiveName]) -> bool:
    """Returns whether the model takes at least half of the stored tensors."""
    return 2 * sum(live.loaded for live in names.values()) >= len(names)


class _GuessedNaming:
    """The template's names."""

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._template = list(checkpoints[0].tensors)
        names = (name for checkpoint in checkpoints for name in self.names(checkpoint).values())
        self._heads = list(dict.fromkeys(filter(OUTPUT_EMBEDDING.search, names)))

    def names(self, checkpoint: Checkpoint) -> dict[str, str]:
        return names_in_template(list(checkpoint.tensors), self._template)

    def ties(self, checkpoint: Checkpoint) -> Iterable[tuple[str, ...]]:
        return guessed_ties(checkpoint, list(self.names(checkpoint).values()), self._heads)

    def optional(self, checkpoint: Checkpoint) -> Iterable[str]:
        return filter(COMPUTED_BUFFERS.search, checkpoint.tensors)


@dataclass(frozen=True)
class _Named:
    """A checkpoint's tensors by the names of a naming.

    Attributes:
        checkpoint: the checkpoint.
        stored: the stored name of each tensor. Copies of tied tensors are left out.
        sources: the stored name of each tensor, and of the one that takes the place of a tied tensor.
        optional: the names of tensors that the model does not use.
    """

    checkpoint: Checkpoint
    stored: Mapping[str, str]
    sources: Mapping[str, str]
    optional: frozenset[str]


def _named(checkpoint: Checkpoint, naming: _Naming) -> _Named:
    stored: dict[str, str] = {}
    names = naming.names(checkpoint)
    for own, name in names.items():
        stored.setdefault(name, own)
    borrowed = {name: own for group in naming.ties(checkpoint) for name, own in _borrowed(checkpoint, stored, group)}
    optional = frozenset(names[own] for own in naming.optional(checkpoint))
    kept = {name: own for name, own in stored.items() if name not in borrowed}
    return _Named(checkpoint, kept, {**kept, **borrowed}, optional)


def _borrowed(checkpoint: Checkpoint, stored: Mapping[str, str], group: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    """Yields the names of a tied group that share the stored tensor of another name, with that stored name.

    As in transformers, a tensor that is stored and differs is not tied.
    """
    present = [name for name in group if name in stored]
    if not present:
        return
    source = stored[present[0]]
    for name in group:
        if name != present[0] and (
            name not in stored or same_bits(checkpoint.tensor(stored[name]), checkpoint.tensor(source))
        ):
            yield name, source


def _labels(named: Sequence[_Named]) -> dict[str, list[str]]:
    """Returns the tensors of all checkpoints: the label of each, which is the template's stored name, and its names.

    Names that are one tensor in every checkpoint are one tensor here. Names that no checkpoint stores on their own
    belong to no tensor.
    """
    template, names = named[0], dict.fromkeys(name for entry in named for name in entry.sources)
    groups: dict[tuple[str | None, ...], list[str]] = {}
    for name in names:
        groups.setdefault(tuple(entry.sources.get(name) for entry in named), []).append(name)
    owned = [group for group in groups.values() if any(name in entry.stored for entry in named for name in group)]
    labels: dict[str, list[str]] = {}
    for group in owned:
        label = next((template.stored[name] for name in group if name in template.stored), None)
        label = label or _in_style_of(template, group[0])
        labels[label if label not in labels else f"{label} (another tensor)"] = group
    return labels


def _in_style_of(template: _Named, name: str) -> str:
    """Returns the name that the template would store for another layer of its own, else the name."""
    layer, first = layer_of(name), FIRST_NUMBER.sub("0", name, count=1)
    if layer is None or first not in template.stored:
        return name
    return FIRST_NUMBER.sub(str(layer[1]), template.stored[first], count=1)


def _aligned(entry: _Named, labels: Mapping[str, Sequence[str]], template: _Named) -> AlignedCheckpoint:
    present = {label: names for label, names in labels.items() if names[0] in entry.sources}
    optional = {label for label, names in present.items() if entry.optional.intersection(names)}
    unknown = {label for label in optional if labels[label][0] not in template.sources}
    return AlignedCheckpoint(
        entry.checkpoint,
        {label: entry.sources[names[0]] for label, names in present.items() if label not in unknown},
        {label: tuple(names) for label, names in present.items() if not any(name in entry.stored for name in names)},
        frozenset(optional - unknown),
        frozenset(entry.sources[labels[label][0]] for label in unknown),
    )

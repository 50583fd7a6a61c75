"""Tensors that a recipe's checkpoints do not merge on their own: unused ones, and copies of tied ones."""

from collections.abc import Collection, Iterator, Mapping
from math import prod

from mergesearch.errors import listed
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint
from mergesearch.merge_ops.inputs.guessed_names import COMPUTED_BUFFERS
from mergesearch.merge_ops.recipe.resolution import TensorRecipe

Inputs = Mapping[str, AlignedCheckpoint]
"""The recipe's checkpoints by reference."""


def unused_names(inputs: Inputs, template: str) -> frozenset[str]:
    """Returns the tensors that the template's model does not use and that not every checkpoint has."""
    return frozenset(
        name for name in inputs[template].optional if any(name not in entry.own_names for entry in inputs.values())
    )


def layouts_without(inputs: Inputs, names: Collection[str]) -> dict[str, dict[str, TensorInfo]]:
    """Returns the tensors of each checkpoint without those of these names."""
    return {
        reference: {n: info for n, info in entry.tensors.items() if n not in names} if names else entry.tensors
        for reference, entry in inputs.items()
    }


def copies(inputs: Inputs, template: str) -> dict[str, str]:
    """Returns the names that are one stored tensor in all checkpoints, with the name of the tensor that they copy."""
    entries = list(inputs.values())
    candidates = frozenset.intersection(*(frozenset(entry.untied) for entry in entries))
    by_sources: dict[tuple[str | None, ...], list[str]] = {}
    for name in inputs[template].own_names if candidates else ():
        by_sources.setdefault(tuple(entry.own_names.get(name) for entry in entries), []).append(name)
    groups = (sorted(names, key=candidates.__contains__) for names in by_sources.values())
    return {copy: names[0] for names in groups for copy in names[1:]}


def twins(inputs: Inputs, template: str) -> dict[str, str]:
    """Returns the tensors that equal another one in every checkpoint, with the name of the other one."""
    if not all(entry.equal for entry in inputs.values()):
        return {}
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in inputs[template].own_names:
        groups.setdefault(tuple(entry.equal.get(name, name) for entry in inputs.values()), []).append(name)
    return {twin: names[0] for names in groups.values() for twin in names[1:]}


def kept(tensor_recipe: TensorRecipe, template: str) -> TensorRecipe:
    """Returns the recipe of a tensor that stays the template's."""
    name = tensor_recipe.name
    return TensorRecipe(name, template, (), {}, {}, (), name, tensor_recipe.method)


def unused_warnings(inputs: Inputs, template: str, unused: Collection[str]) -> Iterator[str]:
    """Yields what the user should know about tensors that models do not use. Buffers are not worth a word."""
    own = sorted(set(unused) - inputs[template].computed)
    if own:
        yield (
            f"{template}: {_count(own)} that transformers does not need and that not every model has: the result has "
            f"those of {template}: {listed(own)}"
        )
    for reference, entry in inputs.items():
        others = [name for name in entry.left_out if not COMPUTED_BUFFERS.search(name)]
        if others:
            yield (
                f"{reference}: {_count(others)} that transformers does not need and that {template} does not have: the "
                f"result does not have them: {listed(others)}"
            )


def integer_warnings(inputs: Inputs, template: str, names: Collection[str]) -> Iterator[str]:
    """Yields which of these tensors are integers that differ between the checkpoints, by a sample of their bytes.

    They are never merged. Counters and buffers that models compute are not worth a word.
    """
    infos, computed = inputs[template].tensors, inputs[template].computed
    several = [n for n in names if n in infos and n not in computed and prod(infos[n].shape) > 1]
    integers = [name for name in several if not infos[name].dtype.is_floating_point]
    samples = [(entry, entry.checkpoint.samples()) for entry in inputs.values()] if integers else []
    differing = [
        name
        for name in integers
        if len({own[entry.own_names[name]] for entry, own in samples if name in entry.own_names}) > 1
    ]
    if differing:
        yield (
            f"{_count(differing)} of integers, which are not merged and differ between the models: the result has "
            f"those of {template}: {listed(differing)}"
        )


def mismatch_warnings(unmerged: Collection[str], partly: Collection[str], template: str) -> Iterator[str]:
    """Yields what ``on_mismatch`` left unmerged, or merged in part."""
    if unmerged:
        yield f"on_mismatch: {_count(unmerged)} of {template} not merged: {listed(unmerged)}"
    if partly:
        yield f"on_mismatch: {_count(partly)} of {template} merged in part: {listed(partly)}"


def _count(names: Collection[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}"

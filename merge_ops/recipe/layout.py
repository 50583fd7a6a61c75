"""From a recipe's slices to tensors: the layer and checkpoint that each tensor of the result is made from.

Names decide. A tensor belongs to a layer if its name has a number, as in ``model.layers.7.mlp.up_proj.weight``. The
part of the name before the number is the name of the stack of layers. Tensors outside the stacks belong to the first
layers (embeddings) or to the last ones (norms, heads), again by name.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mergesearch.errors import UserError, listed, nearest
from mergesearch.merge_ops.methods import Method

BEFORE_LAYERS = re.compile(
    r"emb(?!ed_out)|wte|wpe|shared|patch|conv|pre_(?!classifier)|_pre\.|class_token|cls_token|time_"
)
AFTER_LAYERS = re.compile(r"unembed|embedding_norm|lm_head|post_")
MERGEKIT_MODULES = {"text_decoder": re.compile(r"text|language|^model\.layers"), "vision_tower": re.compile(r"vis")}
"""mergekit's names of the stacks of vision-language models, with patterns for the stacks' own names."""
Layouts = Mapping[str, Collection[str]]
"""The tensor names of each checkpoint."""


@dataclass(frozen=True)
class GroupInput:
    """One model of a group.

    Attributes:
        model: the checkpoint's reference.
        parameters: the settings of this model alone.
        layers: the first layer and the one after the last. None means all.
        implied: whether the model is the base of the recipe and not listed among the models.
    """

    model: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[int, int] | None = None
    implied: bool = False


@dataclass(frozen=True)
class MergeGroup:
    """Models that are merged with each other: those of one slice, or all of a recipe.

    Attributes:
        inputs: the models, with the base.
        base: the reference of the base.
        parameter_levels: the settings that all inputs share, from the most specific to the most general.
        where: the key of the group in the recipe, for messages.
        method: the merge method.
    """

    inputs: tuple[GroupInput, ...]
    base: str | None
    parameter_levels: tuple[Mapping[str, Any], ...]
    where: str
    method: Method

    @property
    def task_vector_base(self) -> str | None:
        """The reference of the model that task vectors are taken from. None if the method takes none."""
        return None if self.method.base == "input" else self.base

    @property
    def merged_inputs(self) -> list[GroupInput]:
        """The listed inputs, without the base if the method takes task vectors."""
        base = self.task_vector_base
        return [entry for entry in self.inputs if entry.model != base and not entry.implied]


@dataclass(frozen=True)
class ResultTensor:
    """One tensor of the result.

    Attributes:
        name: its name.
        depth: its relative depth in the stack of layers, from 0 to 1.
        group: the models that it is made from.
        sources: its name in the checkpoint of each input of the group.
    """

    name: str
    depth: float
    group: MergeGroup
    sources: tuple[str, ...]


def layer_of(name: str) -> tuple[str, int] | None:
    """Returns the stack (the name up to the first number) and the index of the layer. None outside the stacks."""
    match = re.search(r"(?:^|\.)(\d+)\.", name)
    return (name[: match.start()], int(match[1])) if match else None


def layer_counts(names: Collection[str]) -> dict[str, int]:
    """Returns the number of layers of each stack."""
    counts: dict[str, int] = {}
    for stack, index in filter(None, map(layer_of, names)):
        counts[stack] = max(counts.get(stack, 0), index + 1)
    return counts


def relative_depths(names: Sequence[str]) -> dict[str, float]:
    """Returns each tensor's depth in its stack, from 0 (first layer) to 1 (last). Outside the stacks it is 0."""
    counts = layer_counts(names)
    layers = {name: layer_of(name) for name in names}
    return {name: _depth(layer[1], counts[layer[0]]) if layer else 0.0 for name, layer in layers.items()}


def _depth(index: int, count: int) -> float:
    return index / (count - 1) if count > 1 else 1.0


def unsliced_tensors(group: MergeGroup, names: Sequence[str]) -> Iterator[ResultTensor]:
    """Yields every tensor, made from the tensor of the same name of every input."""
    depths, count = relative_depths(names), len(group.inputs)
    return (ResultTensor(name, depths[name], group, (name,) * count) for name in names)


def sliced_tensors(
    modules: Mapping[str, Sequence[MergeGroup]], names: Sequence[str], layouts: Layouts
) -> list[ResultTensor]:
    """Returns the tensors of a result that is assembled from slices, sorted by name.

    Args:
        modules: the groups of each stack from the first layer to the last, by the stack's name or a word of it. With
            one stack, the key may be anything. A key that is a word of tensors outside the stacks (``shared``) is for
            these.
        names: the template's tensor names.
        layouts: each checkpoint's tensor names.

    Raises:
        UserError: a stack does not exist or has no groups, or a checkpoint does not have a layer.
    """
    outside, stack_names = [name for name in names if layer_of(name) is None], list(layer_counts(names))
    outside_modules = {key: groups for key, groups in modules.items() if _is_outside(key, outside, stack_names)}
    stack_modules = {key: groups for key, groups in modules.items() if key not in outside_modules}
    stacks = _stacks_by_name(stack_modules, stack_names)
    tensors = [_outside_tensor(name, stacks, outside_modules) for name in outside]
    for stack, groups in stacks.items():
        tensors += _stack_tensors(stack, groups, layouts)
    return sorted(tensors, key=lambda tensor: tensor.name)


def _stacks_by_name(
    modules: Mapping[str, Sequence[MergeGroup]], stacks: Sequence[str]
) -> dict[str, Sequence[MergeGroup]]:
    if len(modules) == 1 and len(stacks) == 1:
        return {stacks[0]: next(iter(modules.values()))}
    by_name = {_stack_of_key(key, stacks): groups for key, groups in modules.items()}
    missing = [stack for stack in stacks if stack not in by_name]
    if missing or len(by_name) < len(modules):
        raise UserError(f"modules: found {', '.join(modules)}, expected one for each of: {', '.join(stacks)}")
    return by_name


def _is_outside(key: str, outside: Sequence[str], stacks: Sequence[str]) -> bool:
    return not _matching_stacks(key, stacks) and any(key in name.split(".") for name in outside)


def _matching_stacks(key: str, stacks: Sequence[str]) -> list[str]:
    pattern = MERGEKIT_MODULES.get(key)
    return (
        [stack for stack in stacks if stack == key]
        or [stack for stack in stacks if key in stack.split(".")]
        or [stack for stack in stacks if pattern and pattern.search(stack)]
    )


def _stack_of_key(key: str, stacks: Sequence[str]) -> str:
    matching = _matching_stacks(key, stacks)
    if len(matching) != 1:
        if key == "":
            raise UserError(f"slices: there are several stacks of layers; use modules, with keys {', '.join(stacks)}")
        raise UserError(f"modules: {key!r} is not the name of one stack of layers{nearest(key, stacks)}")
    return matching[0]


def _outside_tensor(
    name: str, stacks: Mapping[str, Sequence[MergeGroup]], outside_modules: Mapping[str, Sequence[MergeGroup]]
) -> ResultTensor:
    own_group = next((groups[0] for key, groups in outside_modules.items() if key in name.split(".")), None)
    if own_group:
        return ResultTensor(name, 0.0, own_group, (name,) * len(own_group.inputs))
    is_first = bool(BEFORE_LAYERS.search(name)) and not AFTER_LAYERS.search(name)
    # Of equally near stacks, a head belongs to the last (T5: the decoder) and an embedding to the first.
    order = list(stacks) if is_first else list(stacks)[::-1]
    groups = stacks[max(order, key=lambda stack: _shared_parts(name, stack))]
    group = groups[0] if is_first else groups[-1]
    return ResultTensor(name, 0.0, group, (name,) * len(group.inputs))


def _shared_parts(name: str, stack: str) -> int:
    """Returns the number of leading parts that two names share."""
    pairs = zip(name.split("."), stack.split("."), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(name.count("."), stack.count(".")) + 1)


def _stack_tensors(stack: str, groups: Sequence[MergeGroup], layouts: Layouts) -> Iterator[ResultTensor]:
    layers = {model: _layer_tensors(names, stack) for model, names in layouts.items()}
    start = 0
    for group in groups:
        ranges = [_layer_range(entry, layers, group.where) for entry in group.inputs]
        count = _common_length(ranges, group)
        for offset in range(count):
            indices = [layer_range[offset] for layer_range in ranges]
            for suffix in _suffixes(group, indices, layers):
                sources = tuple(_name(stack, index, suffix) for index in indices)
                yield ResultTensor(_name(stack, start + offset, suffix), _depth(offset, count), group, sources)
        start += count


def _suffixes(
    group: MergeGroup, indices: Sequence[int], layers: Mapping[str, Mapping[int, Sequence[str]]]
) -> Sequence[str]:
    """Returns the suffixes of the base's layer, or of the first input's layer if there is no base among the inputs."""
    leader = next((i for i, entry in enumerate(group.inputs) if entry.model == group.base), 0)
    return layers[group.inputs[leader].model].get(indices[leader], ())


def _layer_tensors(names: Collection[str], stack: str) -> dict[int, list[str]]:
    """Returns, for each layer of the stack, what follows the number in the names of its tensors."""
    suffixes: dict[int, list[str]] = {}
    for name in names:
        layer = layer_of(name)
        if layer and layer[0] == stack:
            suffixes.setdefault(layer[1], []).append(name[len(_name(stack, layer[1], "")) :])
    return suffixes


def _name(stack: str, index: int, suffix: str) -> str:
    return f"{stack}.{index}.{suffix}" if stack else f"{index}.{suffix}"


def _layer_range(entry: GroupInput, layers: Mapping[str, Mapping[int, Sequence[str]]], where: str) -> range:
    count = 1 + max(layers[entry.model], default=-1)
    start, end = entry.layers or (0, count)
    if not 0 <= start < end <= count:
        raise UserError(f"{where}: layer_range: found [{start}, {end}], {entry.model} has the layers [0, {count}]")
    return range(start, end)


def _common_length(ranges: Sequence[range], group: MergeGroup) -> int:
    counts = {len(layer_range) for layer_range in ranges}
    if len(counts) > 1:
        lengths = listed(f"{entry.model}: {len(r)}" for entry, r in zip(group.inputs, ranges, strict=True))
        raise UserError(f"{group.where}: the sources have different numbers of layers: {lengths}")
    return counts.pop()

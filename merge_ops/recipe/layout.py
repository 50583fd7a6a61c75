"""From a recipe's slices to tensors: which layer of which checkpoint each tensor of the result is made from.

Names decide: a tensor belongs to a layer if its name has a number, as in ``model.layers.7.mlp.up_proj.weight``; what
comes before the number names the stack of layers. Tensors outside the stacks come before the layers (embeddings) or
after them (norms, heads), again by name.
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
MODULES_OF_MERGEKIT = {"text_decoder": re.compile(r"text|language|^model\.layers"), "vision_tower": re.compile(r"vis")}
"""What mergekit calls the stacks of models that see and write, whatever their tensors are called."""
Layouts = Mapping[str, Collection[str]]


@dataclass(frozen=True)
class Entry:
    """One model of a group: its layers from, up to (None: all) and the parameters that are its own.

    ``implied``: the base, which the recipe does not list among the models.
    """

    model: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[int, int] | None = None
    implied: bool = False


@dataclass(frozen=True)
class Group:
    """Models that are merged with each other: one slice's, or all of a recipe's.

    ``settings`` are the parameters that they share, the nearest first; ``where`` names the group in messages.
    """

    entries: tuple[Entry, ...]
    base: str | None
    settings: tuple[Mapping[str, Any], ...]
    where: str
    method: Method


@dataclass(frozen=True)
class Place:
    """One tensor of the result: its depth (0 to 1), its group, and what it is called in each entry's checkpoint."""

    name: str
    depth: float
    group: Group
    sources: tuple[str, ...]


def layer_of(name: str) -> tuple[str, int] | None:
    """The stack (the name up to the first number) and the layer's index; None outside the stacks."""
    match = re.search(r"(?:^|\.)(\d+)\.", name)
    return (name[: match.start()], int(match[1])) if match else None


def heights(names: Collection[str]) -> dict[str, int]:
    """The number of layers of each stack."""
    found: dict[str, int] = {}
    for stack, index in filter(None, map(layer_of, names)):
        found[stack] = max(found.get(stack, 0), index + 1)
    return found


def relative_depths(names: Sequence[str]) -> dict[str, float]:
    """Each tensor's place in its stack of layers, from 0 (first) to 1 (last); 0 outside the stacks, as in mergekit."""
    tall = heights(names)
    places = {name: layer_of(name) for name in names}
    return {name: _depth(place[1], tall[place[0]]) if place else 0.0 for name, place in places.items()}


def _depth(index: int, count: int) -> float:
    return index / (count - 1) if count > 1 else 1.0


def whole_places(group: Group, names: Sequence[str]) -> Iterator[Place]:
    """Every tensor from the same tensor of every model."""
    depths, count = relative_depths(names), len(group.entries)
    return (Place(name, depths[name], group, (name,) * count) for name in names)


def sliced_places(modules: Mapping[str, Sequence[Group]], names: Sequence[str], layouts: Layouts) -> list[Place]:
    """The tensors of a result whose layers are put together anew, in the names' order.

    ``modules`` gives each stack's groups from the first layer to the last, by the stack's name or a word of it; with
    one stack its name does not matter. A key that is a word of tensors outside the stacks alone (``shared``) is for
    these. ``names`` are the template's tensors, ``layouts`` each checkpoint's. Raises UserError for a stack that is not
    there or not given, and for layers that a checkpoint has not.
    """
    loose = [name for name in names if layer_of(name) is None]
    beside = {key: modules[key] for key in modules if _is_beside(key, loose, list(heights(names)))}
    stacks = _match({key: groups for key, groups in modules.items() if key not in beside}, list(heights(names)))
    places = [_loose_place(name, stacks, beside) for name in loose]
    for stack, groups in stacks.items():
        places += _stack_places(stack, groups, layouts)
    return sorted(places, key=lambda place: place.name)


def _match(modules: Mapping[str, Sequence[Group]], stacks: Sequence[str]) -> dict[str, Sequence[Group]]:
    if len(modules) == 1 and len(stacks) == 1:
        return {stacks[0]: next(iter(modules.values()))}
    found = {_find_stack(key, stacks): groups for key, groups in modules.items()}
    missing = [stack for stack in stacks if stack not in found]
    if missing or len(found) < len(modules):
        raise UserError(f"modules: found {', '.join(modules)}, expected one for each of: {', '.join(stacks)}")
    return found


def _is_beside(key: str, loose: Sequence[str], stacks: Sequence[str]) -> bool:
    return not _fitting(key, stacks) and any(key in name.split(".") for name in loose)


def _fitting(key: str, stacks: Sequence[str]) -> list[str]:
    pattern = MODULES_OF_MERGEKIT.get(key)
    return (
        [stack for stack in stacks if stack == key]
        or [stack for stack in stacks if key in stack.split(".")]
        or [stack for stack in stacks if pattern and pattern.search(stack)]
    )


def _find_stack(key: str, stacks: Sequence[str]) -> str:
    fitting = _fitting(key, stacks)
    if len(fitting) != 1:
        if key == "":
            raise UserError(f"slices: there are several stacks of layers; use modules, with keys {', '.join(stacks)}")
        raise UserError(f"modules: {key!r} is not the name of one stack of layers{nearest(key, stacks)}")
    return fitting[0]


def _loose_place(name: str, stacks: Mapping[str, Sequence[Group]], beside: Mapping[str, Sequence[Group]]) -> Place:
    own = next((groups[0] for key, groups in beside.items() if key in name.split(".")), None)
    if own:
        return Place(name, 0.0, own, (name,) * len(own.entries))
    first = _is_first(name)
    # Of equally near stacks, a head belongs to the last (T5's to the decoder), an embedding to the first.
    order = list(stacks) if first else list(stacks)[::-1]
    groups = stacks[max(order, key=lambda stack: _shared_parts(name, stack))]
    group = groups[0] if first else groups[-1]
    return Place(name, 0.0, group, (name,) * len(group.entries))


def _is_first(name: str) -> bool:
    return bool(BEFORE_LAYERS.search(name)) and not AFTER_LAYERS.search(name)


def _shared_parts(name: str, stack: str) -> int:
    pairs = zip(name.split("."), stack.split("."), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(name.count("."), stack.count(".")) + 1)


def _stack_places(stack: str, groups: Sequence[Group], layouts: Layouts) -> Iterator[Place]:
    layers = {model: _layers(names, stack) for model, names in layouts.items()}
    start = 0
    for group in groups:
        ranges = [_range(entry, layers, group.where) for entry in group.entries]
        count = _common_length(ranges, group)
        for offset in range(count):
            yield from _layer_places(stack, start + offset, _depth(offset, count), group, ranges, offset, layers)
        start += count


def _layer_places(  # noqa: PLR0913, PLR0917 - one layer is all of these
    stack: str,
    index: int,
    depth: float,
    group: Group,
    ranges: Sequence[range],
    offset: int,
    layers: Mapping[str, Mapping[int, Sequence[str]]],
) -> Iterator[Place]:
    indices = [layer_range[offset] for layer_range in ranges]
    leader = next((i for i, entry in enumerate(group.entries) if entry.model == group.base), 0)
    for rest in layers[group.entries[leader].model].get(indices[leader], ()):
        yield Place(_named(stack, index, rest), depth, group, tuple(_named(stack, i, rest) for i in indices))


def _layers(names: Collection[str], stack: str) -> dict[int, list[str]]:
    """What follows the number in the names of each layer's tensors."""
    found: dict[int, list[str]] = {}
    for name in names:
        place = layer_of(name)
        if place and place[0] == stack:
            found.setdefault(place[1], []).append(name[len(_named(stack, place[1], "")) :])
    return found


def _named(stack: str, index: int, rest: str) -> str:
    return f"{stack}.{index}.{rest}" if stack else f"{index}.{rest}"


def _range(entry: Entry, layers: Mapping[str, Mapping[int, Sequence[str]]], where: str) -> range:
    count = 1 + max(layers[entry.model], default=-1)
    start, end = entry.layers or (0, count)
    if not 0 <= start < end <= count:
        raise UserError(f"{where}: layer_range: found [{start}, {end}], {entry.model} has the layers [0, {count}]")
    return range(start, end)


def _common_length(ranges: Sequence[range], group: Group) -> int:
    counts = {len(layer_range) for layer_range in ranges}
    if len(counts) > 1:
        found = listed(f"{entry.model}: {len(r)}" for entry, r in zip(group.entries, ranges, strict=True))
        raise UserError(f"{group.where}: the sources differ in their number of layers: {found}")
    return counts.pop()

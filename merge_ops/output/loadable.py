"""Whether transformers loads a result with other layers than its template's as what was merged.

``config.json`` often says by a rule of its own which kind a layer is (each fourth one has experts). A stack that does
not follow the rule would be loaded with layers that are filled at random, or without some of its tensors.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.architecture import FIRST_NUMBER, Architecture, architecture_of
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.recipe.layout import layer_of

Infos = Mapping[str, TensorInfo]
Json = dict[str, Any]


def check_layers(reference: str, config: Json, own: Infos, changed: Json, result: Infos) -> None:
    """Raises UserError if transformers would not load all of a result, whose layers are others than the template's.

    Nothing is asked of transformers where all layers are of one kind, and their number is in the config.

    Args:
        reference: the template, for messages.
        config: its config.
        own: its tensors.
        changed: the config of the result.
        result: the tensors of the result.
    """
    if changed != config and len(_kinds(result)) == len({layer[0] for layer in map(layer_of, result) if layer}):
        return
    known, new = architecture_of(config), architecture_of(changed)
    if known is None:
        return
    if new is None:
        raise UserError(f"slices: transformers cannot make a model of these layers by the config of {reference}")
    usual = {FIRST_NUMBER.sub("0", name, count=1) for name in _unread(known, own)}
    unread = [name for name in _unread(new, result) if FIRST_NUMBER.sub("0", name, count=1) not in usual]
    if unread:
        raise UserError(
            f"slices: by the config of {reference}, the layers of the result are of other kinds than those that they "
            f"come from, so that transformers would not read, or fill at random: {listed(unread)}; choose layers whose "
            "order has the kinds of layers where the model has them"
        )


def _kinds(infos: Infos) -> set[tuple[str, frozenset[tuple[str, tuple[int, ...]]]]]:
    """Returns, for each stack, the sets of tensors that its layers have."""
    layers: dict[tuple[str, int], set[tuple[str, tuple[int, ...]]]] = {}
    for name, info in infos.items():
        if layer := layer_of(name):
            layers.setdefault(layer, set()).add((FIRST_NUMBER.sub("", name, count=1), info.shape))
    return {(stack, frozenset(tensors)) for (stack, _), tensors in layers.items()}


def _unread(model: Architecture, names: Collection[str]) -> Iterator[str]:
    """Yields the tensors that the model does not take, and its parameters that no tensor gives."""
    live = model.live_names(names)
    yield from (own for own, found in live.items() if not found.loaded)
    given = {found.name for found in live.values() if found.loaded}
    tied = {name for group in model.tied if given.intersection(group) for name in group}
    yield from (name for name in model.shapes if name not in given | tied and not model.may_be_missing(name))

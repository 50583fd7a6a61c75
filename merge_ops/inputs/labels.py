"""The labels of classifiers: the rows of their heads by name, in the order of the template."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.architecture import Architecture, architecture, architecture_of
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint
from mergesearch.merge_ops.recipe.layout import layer_of

HEAD = re.compile(
    r"(?:^|\.)(?:\w*classifier|score|logits_proj|classification_head|summary)(?:\.(?:out_proj|linear_out|summary|\d+))?"
    r"\.(?:weight|bias)$"
)
"""The tensors of heads that have a row for each label, by name, where transformers does not know the model."""
COUNTS = ("num_labels", "_num_labels", "label2id")
"""The keys beside ``id2label`` that say how many labels there are."""
UNNAMED = re.compile(r"LABEL_\d+$")


@dataclass(frozen=True)
class RowOrder:
    """Where a tensor has the entry of each of the template's labels.

    Attributes:
        axis: the axis of the labels.
        rows: the entries along it. What is behind the labels, such as the row of "no object", stays behind them.
    """

    axis: int
    rows: tuple[int, ...]

    def applied(self, tensor: Tensor) -> Tensor:
        """Returns the tensor in the order of the template's labels."""
        return tensor.index_select(self.axis, tensor.new_tensor(self.rows).long())


LabelOrders = Mapping[str, Mapping[str, RowOrder]]
"""For each model with another order of labels, the order of each tensor that depends on it, by aligned name."""


def label_orders(inputs: Mapping[str, AlignedCheckpoint]) -> dict[str, dict[str, RowOrder]]:
    """Returns the orders of the models that have the labels of the first one, the template, in another order."""
    template, *others = inputs.values()
    orders = {other.reference: _row_orders(template, other) for other in others}
    return {reference: order for reference, order in orders.items() if order}


def _row_orders(template: AlignedCheckpoint, other: AlignedCheckpoint) -> dict[str, RowOrder]:
    names, own = (label_names(entry.checkpoint) for entry in (template, other))
    if not (names and own and own != names and _is_permutation(own, names)):
        return {}
    rows = [own.index(name) for name in names]
    sizes = {name: (axis, other.tensors[name].shape[axis]) for name, axis in (head_axes(other) or {}).items()}
    return {name: RowOrder(axis, (*rows, *range(len(rows), size))) for name, (axis, size) in sizes.items()}


def _is_permutation(own: Sequence[str], names: Sequence[str]) -> bool:
    return sorted(own) == sorted(names) and len(set(names)) == len(names)


def check_labels(
    template: AlignedCheckpoint, others: Sequence[AlignedCheckpoint], lenient: bool, leaves_heads: bool = False
) -> list[str]:
    """Compares the labels of a merge's classifiers by name.

    Args:
        template: the template.
        others: the other models.
        lenient: whether the recipe says ``on_config_mismatch: warn``.
        leaves_heads: whether heads of other shapes are left out, as the recipe's ``on_mismatch: base`` says.

    Returns:
        A warning for each model whose labels are in another order, have no names, or others.

    Raises:
        UserError: a model has other labels, or it is not known which tensors have a row for each of them, and the
            recipe does not say ``on_config_mismatch: warn``.
    """
    return [warning for other in others if (warning := _label_warning(template, other, lenient, leaves_heads))]


def _label_warning(
    template: AlignedCheckpoint, other: AlignedCheckpoint, lenient: bool, leaves_heads: bool
) -> str | None:
    names, own = (label_names(entry.checkpoint) for entry in (template, other))
    if own == names or not (template.checkpoint.has_config and other.checkpoint.has_config):
        return None
    heads = [head_axes(entry) for entry in (template, other)]
    if {} in heads or (heads == [None, None] and not (names and own)):
        return None
    if own and names and heads[1] and _is_permutation(own, names):
        return (
            f"{other.reference}: its labels (id2label) are in another order than those of {template.reference}; the "
            "rows are merged by name"
        )
    if leaves_heads and heads[1] and all(template.tensors.get(name) != other.tensors[name] for name in heads[1]):
        return f"{other.reference}: has other labels (id2label); its head is left out for that of {template.reference}"
    if names and own and not lenient:
        raise UserError(_refusal(template, other, own, names))
    nameless = template if names is None else other
    what = "has other labels" if names and own else f"{nameless.reference} has no names of labels"
    return f"{other.reference}: {what} (id2label); the rows are merged in their order"


def _refusal(template: AlignedCheckpoint, other: AlignedCheckpoint, own: Sequence[str], names: Sequence[str]) -> str:
    anyway = "`on_config_mismatch: warn` in the recipe merges them row by row"
    if sorted(own) == sorted(names):
        return (
            f"{other.reference}: its labels (id2label) are in another order than those of {template.reference}, and it "
            f"is not known which rows belong to them; give both models one order; {anyway}"
        )
    return (
        f"{other.reference}: has other labels (id2label) than {template.reference}: "
        f"{listed(set(own) - set(names) or own)}; expected {listed(names)}; {anyway}"
    )


def head_axes(entry: AlignedCheckpoint) -> dict[str, int] | None:
    """Returns the axis of the labels of each tensor that has one, by aligned name, or None if they are not known.

    They are the tensors that transformers makes larger in a model with one more label.
    """
    known = architecture(entry.checkpoint)
    axes = _grown(known, entry.checkpoint) if known else None
    if known is None or axes is None:
        return dict.fromkeys(_named_as_heads(entry), 0) or None
    live = known.live_names(entry.own_names.values())
    return {name: axes[live[own].name] for name, own in entry.own_names.items() if live[own].name in axes}


def _grown(known: Architecture, checkpoint: Checkpoint) -> dict[str, int] | None:
    """Returns the axes in which one more label makes a model's parameters larger by one, or None if others change."""
    labels = {str(number): f"LABEL_{number}" for number in range(label_count(checkpoint) + 1)}
    config = {key: value for key, value in checkpoint.config.items() if key not in COUNTS}
    larger = architecture_of({**config, "id2label": labels})
    if larger is None or larger.shapes.keys() != known.shapes.keys():
        return None
    count, axes = len(labels) - 1, {}
    for name, shape in known.shapes.items():
        new = larger.shapes[name]
        axis = next((axis for axis, size in enumerate(shape) if new[axis] != size), None)
        if axis is not None:
            if shape[axis] < count or new != (*shape[:axis], shape[axis] + 1, *shape[axis + 1 :]):
                return None
            axes[name] = axis
    return axes


def _named_as_heads(entry: AlignedCheckpoint) -> list[str]:
    count = label_count(entry.checkpoint) if entry.checkpoint.has_config else 0
    infos = entry.tensors.items() if count else ()
    return [n for n, info in infos if HEAD.search(n) and not layer_of(n) and info.shape[:1] == (count,)]


def label_count(checkpoint: Checkpoint) -> int:
    """Returns the number of labels; 2, as for transformers, where the config does not tell."""
    config = checkpoint.config
    stated = config.get("id2label") or config.get("label2id")
    return len(stated) if stated else int(config.get("num_labels", config.get("_num_labels", 2)))


def label_names(checkpoint: Checkpoint) -> list[str] | None:
    """Returns the labels in the order of the rows, or None where they have no names (LABEL_0, LABEL_1).

    ``id2label`` decides, as in transformers; ``label2id`` where only it has names.
    """
    if not checkpoint.has_config:
        return None
    config = checkpoint.config
    by_id = _by_number(config.get("id2label"), lambda key, value: (key, value))
    by_label = _by_number(config.get("label2id"), lambda key, value: (value, key))
    return next((names for names in (by_id, by_label) if names and not all(map(UNNAMED.match, names))), None)


def _by_number(entries: Any, pair: Any) -> list[str] | None:
    """Returns the names in the order of their numbers, with these where they are not 0, 1, 2, ...; None without any."""
    if not isinstance(entries, dict):
        return None
    try:
        numbered = {int(number): str(name) for number, name in (pair(*entry) for entry in entries.items())}
    except (TypeError, ValueError):
        return None
    if all(map(UNNAMED.match, numbered.values())) or sorted(numbered) == list(range(len(numbered))):
        return [name for _, name in sorted(numbered.items())]
    return [f"{number}: {name}" for number, name in sorted(numbered.items())]

"""The labels of classifiers: the rows of their heads by name, in the order of the template."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint
from mergesearch.merge_ops.recipe.layout import layer_of

HEAD = re.compile(
    r"(?:^|\.)(?:\w*classifier|score|logits_proj|classification_head|summary)(?:\.(?:out_proj|linear_out|summary|\d+))?"
    r"\.(?:weight|bias)$"
)
"""The tensors of heads that have a row for each label, by the names of transformers."""
UNNAMED = re.compile(r"LABEL_\d+$")
LabelOrders = Mapping[str, tuple[int, ...]]
"""For each model with another order of labels, the model's row of each of the template's labels."""


def label_orders(inputs: Mapping[str, AlignedCheckpoint]) -> dict[str, tuple[int, ...]]:
    """Returns the orders of the models that have the labels of the first one, the template, in another order."""
    template, *others = inputs.values()
    names = label_names(template.checkpoint) if head_tensors(template) else None
    orders = {}
    for other in others:
        own = label_names(other.checkpoint) if names and head_tensors(other) else None
        if names and own and own != names and sorted(own) == sorted(names) and len(set(names)) == len(names):
            orders[other.reference] = tuple(own.index(name) for name in names)
    return orders


def check_labels(template: AlignedCheckpoint, others: Sequence[AlignedCheckpoint], lenient: bool) -> list[str]:
    """Compares the labels of a merge's classifiers by name.

    Args:
        template: the template.
        others: the other models.
        lenient: whether the recipe says ``on_config_mismatch: warn``.

    Returns:
        A warning for each model whose labels are in another order, have no names, or others.

    Raises:
        UserError: a model has other labels, and the recipe does not say ``on_config_mismatch: warn``.
    """
    if not head_tensors(template):
        return []
    return [warning for other in others if (warning := _label_warning(template, other, lenient))]


def _label_warning(template: AlignedCheckpoint, other: AlignedCheckpoint, lenient: bool) -> str | None:
    names = label_names(template.checkpoint)
    own = label_names(other.checkpoint) if head_tensors(other) else names
    if own == names:
        return None
    if own and names and sorted(own) == sorted(names):
        return (
            f"{other.reference}: its labels (id2label) are in another order than those of {template.reference}; the "
            "rows are merged by name"
        )
    if names and own and not lenient:
        raise UserError(
            f"{other.reference}: has other labels (id2label) than {template.reference}: "
            f"{listed(set(own) - set(names) or own)}; expected {listed(names)}; "
            "`on_config_mismatch: warn` in the recipe merges them row by row"
        )
    nameless = template if names is None else other
    what = "has other labels" if names and own else f"{nameless.reference} has no names of labels"
    return f"{other.reference}: {what} (id2label); the rows are merged in their order"


def head_tensors(entry: AlignedCheckpoint) -> list[str]:
    """Returns the tensors that have a row for each label of a classifier, by aligned name."""
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
    """Returns the names in the order of their numbers, or None if these are not 0, 1, 2, ..."""
    if not isinstance(entries, dict):
        return None
    try:
        numbered = {int(number): str(name) for number, name in (pair(*entry) for entry in entries.items())}
    except (TypeError, ValueError):
        return None
    return [numbered[n] for n in range(len(numbered))] if sorted(numbered) == list(range(len(numbered))) else None

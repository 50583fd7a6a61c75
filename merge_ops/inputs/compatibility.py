"""Whether the models of a merge belong together, beyond the names and shapes of their tensors."""

from collections.abc import Sequence

from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint
from mergesearch.merge_ops.inputs.chat_templates import template_warnings
from mergesearch.merge_ops.inputs.labels import check_labels
from mergesearch.merge_ops.inputs.model_config import check_configs


def check_compatible(
    models: Sequence[AlignedCheckpoint],
    lenient: bool = False,
    same_depth: bool = True,
    has_template: bool = False,
    leaves_heads: bool = False,
) -> list[str]:
    """Compares what the models compute and what their outputs mean with the first one, the template.

    Args:
        models: the models of a merge.
        lenient: whether the recipe says ``on_config_mismatch: warn``.
        same_depth: whether the result has the template's layers.
        has_template: whether the recipe says which chat template the result has.
        leaves_heads: whether the recipe says ``on_mismatch: base``.

    Returns:
        Warnings for the user, one line each.

    Raises:
        UserError: a merge would be meaningless, and the recipe does not say ``on_config_mismatch: warn``.
    """
    template, *others = models
    checkpoints = [other.checkpoint for other in others]
    warnings = check_configs(template.checkpoint, checkpoints, lenient, same_depth)
    templates = [] if has_template else template_warnings([template.checkpoint, *checkpoints])
    return [*warnings, *check_labels(template, others, lenient, leaves_heads), *templates]

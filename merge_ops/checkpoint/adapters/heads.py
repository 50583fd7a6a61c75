"""The config of a model to which an adapter adds a head, such as a classifier."""

from collections.abc import Mapping

from mergesearch.merge_ops.checkpoint.architecture import architecture_of
from mergesearch.merge_ops.checkpoint.config_sections import Json

MAPPINGS = {
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
}
"""Where transformers names the model classes of each ``task_type`` of PEFT."""


def with_head(config: Json, task: str | None, added: Mapping[str, tuple[int, ...]]) -> Json:
    """Returns the config of the model with the added tensors: its class, and as many labels as the head has.

    The config stays as it is if transformers has no class for the task in which the tensors have these shapes.

    Args:
        config: the base's config.
        task: the adapter's ``task_type``.
        added: the shapes of the tensors that only the adapter has.
    """
    from transformers.models.auto import modeling_auto

    names = getattr(modeling_auto, MAPPINGS.get(str(task), ""), {})
    name = names.get(config.get("model_type"))
    for labels in sorted({shape[0] for shape in added.values()}) if isinstance(name, str) else ():
        headed = {**config, "architectures": [name], **_labels(config, labels)}
        known = architecture_of(headed)
        if known and all(known.shapes.get(key) == shape for key, shape in added.items()):
            return headed
    return config


def _labels(config: Json, count: int) -> Json:
    if len(config.get("id2label") or {}) == count:
        return {}
    names = {str(label): f"LABEL_{label}" for label in range(count)}
    return {"id2label": names, "label2id": {name: int(label) for label, name in names.items()}}

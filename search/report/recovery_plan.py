"""What recovery of the winner would do, and the memory that it takes."""

from math import prod

from mergesearch.merge_ops.after_merge.recovery.distill import TARGET_BYTES
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.inputs.memory import size
from mergesearch.search.problem.problem import Problem
from mergesearch.search.problem.recovery_texts import RecoveryTexts

FLOAT32 = 4
COPIES = {False: 2, True: 5}
"""Models in float32 that distillation keeps: the merged one and a parent; of all weights gradients and averages too."""
WRITERS = 2
"""The layers of a block that surgery corrects, in most architectures."""


def recovery_lines(problem: Problem) -> list[str]:
    """What there is to say of the recovery of the winner; nothing where there is none."""
    texts = problem.recovery
    if texts is None:
        return []
    settings, parents = texts.settings, len(texts.parents)
    tokens = settings.sequences * settings.length * parents
    how = f"{settings.steps} steps" if settings.how == "distill" else f"surgery of rank {settings.rank}"
    what = (
        "" if settings.how == "surgery" else " of all weights" if settings.full else f" of LoRA of rank {settings.rank}"
    )
    return [
        f"recovery of the winner: {how}{what} on up to {tokens:,} tokens of {parents} parents, which run one at a time;"
        f" takes about {size(_bytes(problem, texts, tokens))} beside the checkpoints",
        *texts.notes,
    ]


def _bytes(problem: Problem, texts: RecoveryTexts, tokens: int) -> int:
    checkpoint, settings = problem.checkpoint(problem.template), texts.settings
    model = FLOAT32 * sum(prod(info.shape) for info in checkpoint.tensors.values())
    if settings.how == "surgery":
        return 2 * model + FLOAT32 * tokens * _written(checkpoint)
    widest = max((info.shape[0] for info in checkpoint.tensors.values() if info.shape), default=1)
    return COPIES[settings.full] * model + min(TARGET_BYTES, FLOAT32 * tokens * widest)


def _written(checkpoint: Checkpoint) -> int:
    """The numbers that surgery keeps of each token."""
    config = checkpoint.config.get("text_config") or checkpoint.config
    return WRITERS * int(config.get("hidden_size") or 0) * int(config.get("num_hidden_layers") or 0)

"""Recovery of a merged model in memory."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.after_merge.recovery.distill import distill
from mergesearch.merge_ops.after_merge.recovery.parents import Parents, by_best_parent
from mergesearch.merge_ops.after_merge.recovery.record import RecoveryRecord
from mergesearch.merge_ops.after_merge.recovery.sequences import (
    Batch,
    Sequences,
    batches,
    in_turn,
    padding_of,
    sequences,
)
from mergesearch.merge_ops.after_merge.recovery.surgery import operate
from mergesearch.merge_ops.after_merge.recovery.texts import Passages, digest_of, drawn_passages
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.live.reproducible import reproducible
from mergesearch.merge_ops.recipe.recovery import FOR_ALL, Recovery
from mergesearch.seeds import derive


def recover(
    model: nn.Module, tokenizer: Any, checkpoints: Mapping[str, Checkpoint], settings: Recovery
) -> RecoveryRecord:
    """Recovers a merged model in place, computing in float32. The same bytes each time on the same CPU.

    Args:
        model: a model of transformers; of any float dtype.
        tokenizer: its tokenizer.
        checkpoints: the parents by reference, in the order of the recipe.
        settings: how.

    Raises:
        UserError: a text cannot be read, or a parent has other tokens or outputs.
        FloatingPointError: the loss is not finite.
    """
    _check(model)
    device = str(next(model.parameters()).device)
    passages = drawn_passages(settings, list(checkpoints))
    parents = Parents(checkpoints, tokenizer, device)
    with reproducible():
        rows = _sequences(model, tokenizer, passages, parents, settings)
        drawn = _batches(rows, settings, tokenizer, device)
        student = deepcopy(model).float()
        losses = (distill if settings.how == "distill" else operate)(student, settings, drawn, parents)
    _take_over(model, student)
    return RecoveryRecord(
        settings.model_dump(exclude_defaults=True, exclude_none=True),
        {name: checkpoint.digest() for name, checkpoint in checkpoints.items()},
        digest_of(passages),
        {name: len(each) for name, each in rows.items()},
        sum(each["input_ids"].numel() for part in drawn.values() for each in part),
        losses,
        torch.__version__,
    )


def _check(model: Any) -> None:
    if not hasattr(model, "config"):
        raise UserError("recover: needs a model of transformers")
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(f"recover: {type(model).__name__} has an encoder and a decoder, expected one of them")


def _sequences(
    model: nn.Module, tokenizer: Any, passages: Passages, parents: Parents, settings: Recovery
) -> dict[str, Sequences]:
    """The sequences of each parent. Of one text for all, each goes to the parent that predicts it best."""
    count, length = settings.sequences, settings.length
    if FOR_ALL not in passages:
        return {name: sequences(model, tokenizer, each, length, count) for name, each in passages.items()}
    names = list(parents.checkpoints)
    rows = sequences(model, tokenizer, passages[FOR_ALL], length, count * len(names))
    return by_best_parent(parents, names, rows, padding_of(tokenizer))


def _batches(rows: Mapping[str, Sequences], settings: Recovery, tokenizer: Any, device: str) -> dict[str, list[Batch]]:
    padding, found = padding_of(tokenizer), {}
    for number, (name, each) in enumerate(rows.items()):
        count = len(each) if settings.how == "surgery" else settings.sequences
        drawn = in_turn(each, count, derive(settings.seed, "recover", "batches", number))
        found[name] = batches(drawn, settings.batch_size, padding, device)
    return found


def _take_over(model: nn.Module, student: nn.Module) -> None:
    """Rounds the weights once, to the model's dtypes."""
    changed = student.state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            tensor.detach().copy_(changed[name])

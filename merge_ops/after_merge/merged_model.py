"""A merged model in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mergesearch.merge_ops.assembly.assembly import Assembly


@dataclass(frozen=True)
class MergedModel:
    """What a step after the merge gets.

    Attributes:
        model: the live model, in evaluation mode.
        tokenizer: its tokenizer, or None.
        views: its tensors by the result's names. Writing to one changes the model.
        assembly: how the tensors were made; its recipe has the step.
    """

    model: nn.Module
    tokenizer: Any
    views: Mapping[str, Tensor]
    assembly: Assembly

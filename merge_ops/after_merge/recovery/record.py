"""The record of a recovery, which is written beside the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RecoveryRecord:
    """How a model was recovered.

    Attributes:
        settings: the section ``recover`` of the recipe.
        parents: the SHA-256 of each parent's tensors.
        data: the SHA-256 of the texts' passages.
        sequences: how many different sequences of each parent there were; at most those that were asked for.
        tokens: how many tokens went through the merged model, those that were used again counted again.
        losses: of each step; of surgery, of each group of layers its relative error before its correction.
        torch: the version.
    """

    settings: Mapping[str, Any]
    parents: Mapping[str, str]
    data: str
    sequences: Mapping[str, int]
    tokens: int
    losses: Sequence[float]
    torch: str

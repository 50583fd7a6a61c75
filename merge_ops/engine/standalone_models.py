"""Live models of checkpoints that are other models than the template with other weights."""

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.inputs.aligned_names import align
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.live.built import Builder
from mergesearch.merge_ops.recipe.recipe import Recipe


class LoadedCheckpoint(NamedTuple):
    """A live model with its tokenizer, and views into its parameters by tensor name."""

    model: nn.Module
    tokenizer: Any
    views: dict[str, Tensor]


class StandaloneModels:
    """Loads such checkpoints as their owners have them, one at a time.

    Args:
        merger: the open checkpoints.
        dtype: the dtype of the models' floats.
        references: the references of these checkpoints.
        builder: as for ``Engine``.
    """

    def __init__(
        self, merger: Merger, dtype: torch.dtype, references: Collection[str], builder: Builder | None = None
    ) -> None:
        self._merger = merger
        self._dtype = dtype
        self._references = frozenset(references)
        self._builder = builder
        self._loaded: dict[str, LoadedCheckpoint] = {}

    def has(self, recipe: Recipe) -> bool:
        """Returns whether the recipe is one of these checkpoints, alone."""
        return recipe.only_model in self._references

    def find(self, recipe: Recipe) -> LoadedCheckpoint | None:
        """Returns the recipe's model, or None if it is not one of these. The memory of another one is freed."""
        reference = recipe.only_model
        if reference is None or reference not in self._references:
            self._loaded.clear()
            return None
        if reference not in self._loaded:
            self._loaded.clear()
            self._loaded[reference] = self._load(reference)
        return self._loaded[reference]

    def _load(self, reference: str) -> LoadedCheckpoint:
        checkpoint = self._merger.originals[reference]
        model, tokenizer = live.load(checkpoint, self._merger.device, self._dtype, self._builder)
        return LoadedCheckpoint(model, tokenizer, live.bind_aligned(model, align([checkpoint])[reference]))

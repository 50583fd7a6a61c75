"""A model's logits at chosen positions only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.evaluators.inference.prefix_tree import TreeAttention

COMPILE_BACKEND: Any = "inductor"


def widened(logits: Tensor) -> Tensor:
    """The logits in float32 at least, as losses with gradients are computed."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Logits:
    """Computes logits with a causal language model of transformers, whose weights may change between calls.

    The output layer gets the hidden states of the chosen positions only. The first call tests whether the model's code
    allows that. If not, the logits of all positions are computed, and the chosen ones are selected.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._arguments: dict[str, Any] = {}
        self._parameters = set(inspect.signature(model.forward).parameters)
        if "use_cache" in self._parameters:
            self._arguments["use_cache"] = False
        self.can_select: bool | None = None
        """Whether the output layer gets the chosen positions only. None: not tested yet."""
        self._compiled: Any = None

    def compile(self, on: bool) -> None:
        """Switches ``torch.compile`` of the layers on or off, for calls without gradients.

        Shapes are dynamic, and the weights are inputs of the compiled code. So the code is not compiled again for new
        batches, or for new weights in the same tensors. The output layer is not compiled: it gets selected positions.

        Raises:
            ValueError: The layers cannot be called without the output layer.
        """
        if on and self._model.base_model is self._model:
            raise ValueError("the model's layers cannot be called without its output layer")
        self._compiled = None
        if on:
            forward = self._model.base_model.forward
            self._compiled = torch.compile(forward, backend=COMPILE_BACKEND, dynamic=True)

    @property
    def vocabulary(self) -> int | None:
        """How many numbers the logits of one position are, if the model's config says so."""
        config = self._model.config.get_text_config()
        return getattr(config, "vocab_size", None)

    @cached_property
    def has_stems(self) -> bool:
        """Whether rows can stand behind the keys and values of a stem."""
        from mergesearch.evaluators.inference.kv_cache import caches_all

        return {"past_key_values", "use_cache"} <= self._parameters and caches_all(self._model)

    def stem(self, ids: Tensor) -> Any:
        """The keys and values of a stem, [1, tokens] int64, under the current weights, for ``at``."""
        from mergesearch.evaluators.inference.kv_cache import new_cache, stem_cache

        cache = new_cache(self._model)
        self.at(ids, torch.tensor([ids.shape[1] - 1], device=ids.device), stem=cache)
        return stem_cache(cache)

    def at(self, ids: Tensor, positions: Tensor, attention: TreeAttention | None = None, stem: Any = None) -> Tensor:
        """The logits at some positions.

        Args:
            ids: [rows, length] int64 token ids.
            positions: [positions] int64, indices into the flattened ``ids``.
            attention: For rows that are trees.
            stem: The keys and values of what stands before all rows. None: nothing does.

        Returns:
            [positions, vocabulary] in the model's dtype.
        """
        if self.can_select is None:
            with torch.no_grad():
                self.can_select = self._test_selection(ids)
        if self.can_select:
            return self._selected(ids, positions, attention, stem)
        return self._all(ids, attention, stem)[positions]

    def _all(self, ids: Tensor, attention: TreeAttention | None = None, stem: Any = None) -> Tensor:
        extra = dict(self._arguments)
        if attention:
            extra |= {"attention_mask": attention.mask(self._model.dtype), "position_ids": attention.positions}
        if stem is not None:
            extra |= {"past_key_values": stem, "use_cache": True}
        with nullcontext() if stem is not None else self._compiled_layers():
            try:
                output = self._model(ids, **extra)
            except IndexError:
                self._check_ids(ids)
                raise
        if not hasattr(output, "logits"):
            raise UserError(
                f"{type(self._model).__name__} gives no logits: `architectures` in the model's config.json has to name "
                "a class with an output layer, as LlamaForCausalLM"
            )
        logits: Tensor = output.logits
        return logits.flatten(0, 1)

    def _check_ids(self, ids: Tensor) -> None:
        """Raises UserError where the model has no embedding for a token."""
        rows, highest = self._model.get_input_embeddings().weight.shape[0], int(ids.max())
        if highest >= rows:
            raise UserError(
                f"the tokenizer gives a token the number {highest}, and the model has {rows} embeddings: the "
                "special tokens in tokenizer_config.json have to be those of the model"
            )

    @contextmanager
    def _compiled_layers(self) -> Iterator[None]:
        """The model runs its compiled layers inside this block, if it has any and gradients are off."""
        if self._compiled is None or torch.is_grad_enabled():
            yield
            return
        self._model.base_model.forward = self._compiled
        try:
            yield
        finally:
            del self._model.base_model.forward

    def _selected(
        self, ids: Tensor, positions: Tensor, attention: TreeAttention | None = None, stem: Any = None
    ) -> Tensor:
        with _selecting(self._model.get_output_embeddings(), positions):
            return self._all(ids, attention, stem)

    def _test_selection(self, ids: Tensor) -> bool | None:
        """Whether selected positions have the logits that they have among all. None: the logits are not finite."""
        if getattr(self._model, "get_output_embeddings", lambda: None)() is None:
            return False
        ids = ids[-2:, :8].repeat(2, 1)
        positions = torch.arange(0, ids.numel(), 2, device=ids.device)
        expected, selected = self._all(ids)[positions].float(), self._selected(ids, positions).float()
        if not expected.isfinite().all():
            return None
        tolerance = 32 * torch.finfo(self._model.dtype).eps * float(expected.abs().max())
        return selected.shape == expected.shape and bool((selected - expected).abs().max() <= tolerance)


@contextmanager
def _selecting(layer: torch.nn.Module, positions: Tensor) -> Iterator[None]:
    """Inside this block ``layer`` gets only some positions of its input [rows, length, width], as one sequence.

    The model's own code around the layer still runs, such as scaling or capping of logits.
    """

    def select(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not inputs or inputs[0].dim() != 3:
            return None
        hidden = inputs[0]
        return (hidden.flatten(0, 1)[positions.to(hidden.device)].unsqueeze(0), *inputs[1:])

    handle = layer.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()

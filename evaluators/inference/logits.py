"""A model's logits at chosen positions, without those of all others."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mergesearch.evaluators.inference.prefix_tree import Layout

BACKEND: Any = "inductor"


class Logits:
    """For one causal language model of transformers, whose weights may change between calls.

    The output layer is given the chosen rows alone. Whether the model's code allows that is tried once; where it does
    not, all logits are computed and the rows taken from them.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._arguments: dict[str, Any] = {}
        if "use_cache" in inspect.signature(model.forward).parameters:
            self._arguments["use_cache"] = False
        self._gathers: bool | None = None
        self._compiled: Any = None

    def compile(self, on: bool) -> None:
        """Whether the layers run as torch compiles them from now on, where no gradients are wanted.

        Shapes are symbols and weights are inputs of the compiled code: new batches, and new weights in the same place,
        are not compiled anew. The output layer stays as it is, for the sake of the rows that it is given.
        """
        if on and self._model.base_model is self._model:
            raise ValueError("it has no layers apart from its output layer")
        self._compiled = torch.compile(self._model.base_model.forward, backend=BACKEND, dynamic=True) if on else None

    def at(self, ids: Tensor, rows: Tensor, layout: Layout | None = None) -> Tensor:
        """[rows, vocabulary], in the model's dtype, at the chosen rows of the flattened ``ids`` [batch, length]."""
        if self._gathers is None:
            with torch.no_grad():
                self._gathers = self._try_gathering(ids)
        return self._gathered(ids, rows, layout) if self._gathers else self._full(ids, layout)[rows]

    def _full(self, ids: Tensor, layout: Layout | None = None) -> Tensor:
        more: dict[str, Any] = {}
        if layout:
            more = {"attention_mask": layout.mask(self._model.dtype), "position_ids": layout.positions}
        with self._as_compiled():
            logits: Tensor = self._model(ids, **more, **self._arguments).logits
        return logits.flatten(0, 1)

    @contextmanager
    def _as_compiled(self) -> Iterator[None]:
        """While active, the compiled code stands for the layers: for scoring alone, not for who else calls them."""
        if self._compiled is None or torch.is_grad_enabled():
            yield
            return
        self._model.base_model.forward = self._compiled
        try:
            yield
        finally:
            del self._model.base_model.forward

    def _gathered(self, ids: Tensor, rows: Tensor, layout: Layout | None = None) -> Tensor:
        with _only(self._model.get_output_embeddings(), rows):
            return self._full(ids, layout)

    def _try_gathering(self, ids: Tensor) -> bool | None:
        """Whether rows come out as they do among all others; None where these weights' output is not finite."""
        if getattr(self._model, "get_output_embeddings", lambda: None)() is None:
            return False
        ids = ids[-2:, :8].repeat(2, 1)
        rows = torch.arange(0, ids.numel(), 2, device=ids.device)
        expected, found = self._full(ids)[rows].float(), self._gathered(ids, rows).float()
        if not expected.isfinite().all():
            return None
        margin = 32 * torch.finfo(self._model.dtype).eps * float(expected.abs().max())
        return found.shape == expected.shape and bool((found - expected).abs().max() <= margin)


@contextmanager
def _only(layer: torch.nn.Module, rows: Tensor) -> Iterator[None]:
    """While active, ``layer`` sees the chosen rows of its input [batch, length, width] as one sequence.

    The model's own code around the layer still runs, so that scaled or capped logits stay what they are.
    """

    def choose(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not inputs or inputs[0].dim() != 3:
            return None
        hidden = inputs[0]
        return (hidden.flatten(0, 1)[rows.to(hidden.device)].unsqueeze(0), *inputs[1:])

    handle = layer.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()

"""What a model shows when it runs over a text: gradients and the inputs of its linear layers, by checkpoint name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.live import live

SEQUENCE = 256
"""The most tokens that are in one sequence; each is an example of its own."""
Statistic = Callable[[nn.Module, Mapping[str, Tensor], list[Tensor]], dict[str, Tensor]]


def calibrated(kind: str, checkpoint: Checkpoint, text: str, tokens: int, device: str) -> dict[str, Tensor]:
    """``fisher`` or ``inputs`` of a checkpoint, from the first ``tokens`` tokens of a text file; float32 on ``device``.

    Raises UserError where the file has fewer than two tokens, or the checkpoint no tokenizer.
    """
    statistic: Statistic = {"fisher": _fisher, "inputs": _inputs}[kind]
    model, tokenizer = live.load(checkpoint, device, torch.float32)
    views = live.bind(model, checkpoint)
    return statistic(model, views, _sequences(tokenizer, checkpoint, text, tokens, device))


def _sequences(tokenizer: Any, checkpoint: Checkpoint, text: str, tokens: int, device: str) -> list[Tensor]:
    if tokenizer is None:
        raise UserError(f"{checkpoint.reference}: has no tokenizer, which a calibration text needs")
    known = tokenizer(Path(text).read_text(encoding="utf-8"), verbose=False)["input_ids"][:tokens]
    pieces = [known[start : start + SEQUENCE] for start in range(0, len(known), SEQUENCE)]
    found = [torch.tensor(piece, device=device) for piece in pieces if len(piece) > 1]
    if not found:
        raise UserError(f"calibration: {text} gives {len(known)} tokens, expected at least 2")
    return found


def _fisher(model: nn.Module, views: Mapping[str, Tensor], sequences: list[Tensor]) -> dict[str, Tensor]:
    """The squared gradient of a sequence's mean log-likelihood, averaged over the sequences."""
    model.requires_grad_(True)
    parameters = list(model.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for sequence in sequences:
        gradients = torch.autograd.grad(_loss(model, sequence), parameters, allow_unused=True)
        for square, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                square.addcmul_(gradient, gradient, value=1 / len(sequences))
    # Written over the parameters, they are read back under the checkpoint's names.
    model.requires_grad_(False)
    for parameter, square in zip(parameters, total, strict=True):
        parameter.copy_(square)
    return {name: view.clone() for name, view in views.items() if view.is_floating_point()}


def _loss(model: nn.Module, sequence: Tensor) -> Tensor:
    logits = model(input_ids=sequence[None]).logits[0, :-1]
    return nn.functional.cross_entropy(logits.float(), sequence[1:])


def _inputs(model: nn.Module, views: Mapping[str, Tensor], sequences: list[Tensor]) -> dict[str, Tensor]:
    """``XᵀX / n`` of the inputs of every linear layer, under its weight's name.

    Of shape (1, d, d) where the weight has a row for every input rather than every output (GPT-2's Conv1D).
    """
    from transformers.pytorch_utils import Conv1D

    grams: dict[str, Tensor] = {}
    layers = {f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
    handles = [_watch(layer, name, grams) for name, layer in layers.items()]
    with torch.no_grad():
        for sequence in sequences:
            model(input_ids=sequence[None])
    for handle in handles:
        handle.remove()
    count = sum(sequence.numel() for sequence in sequences)
    shapes = {
        name: (-1, *gram.shape) if isinstance(layers[name], Conv1D) else gram.shape for name, gram in grams.items()
    }
    return {name: gram.view(shapes[name]) / count for name, gram in grams.items() if name in views}


def _watch(module: nn.Module, name: str, grams: dict[str, Tensor]) -> Any:
    def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].reshape(-1, inputs[0].shape[-1])
        grams[name] = grams[name].addmm_(rows.t(), rows) if name in grams else rows.t() @ rows

    return module.register_forward_pre_hook(add)

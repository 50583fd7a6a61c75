"""Statistics of a model that runs on a text: squared gradients, and Gram matrices of the inputs of linear layers."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.live.calibration_data import token_sequences
from mergesearch.merge_ops.live.reproducible import reproducible

Statistic = Callable[[nn.Module, Mapping[str, Tensor], list[Tensor]], dict[str, Tensor]]


def calibrated(kind: str, checkpoint: Checkpoint, text: str, tokens: int, device: str) -> dict[str, Tensor]:
    """Returns a statistic of a checkpoint by tensor name, in float32 on ``device``.

    Args:
        kind: ``fisher`` or ``inputs``, as in ``Statistics.calibrated``.
        checkpoint: the model.
        text: the path of the text file.
        tokens: the number of tokens to read, from the beginning of the file.
        device: the device on which the model runs.

    Raises:
        UserError: the text has fewer than two tokens, or the checkpoint has no tokenizer.
    """
    statistic: Statistic = {"fisher": _fisher, "inputs": _input_grams}[kind]
    model, tokenizer = live.load(checkpoint, device, torch.float32)
    views = live.bind(model, checkpoint)
    sequences = token_sequences(tokenizer, checkpoint.reference, text, tokens)
    with reproducible():
        return statistic(model, views, [sequence.to(device) for sequence in sequences])


def _fisher(model: nn.Module, views: Mapping[str, Tensor], sequences: list[Tensor]) -> dict[str, Tensor]:
    """Returns the squared gradient of a sequence's mean log-likelihood, averaged over the sequences."""
    model.requires_grad_(True)
    parameters = list(model.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for sequence in sequences:
        logits = model(input_ids=sequence[None]).logits[0, :-1]
        loss = nn.functional.cross_entropy(logits.float(), sequence[1:])
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for square, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                square.addcmul_(gradient, gradient, value=1 / len(sequences))
    # The views map parameters to the checkpoint's names: write the squares over the parameters and read them there.
    model.requires_grad_(False)
    for parameter, square in zip(parameters, total, strict=True):
        parameter.copy_(square)
    return {name: view.clone() for name, view in views.items() if view.is_floating_point()}


def _input_grams(model: nn.Module, views: Mapping[str, Tensor], sequences: list[Tensor]) -> dict[str, Tensor]:
    """Returns ``XᵀX / n`` of the inputs of every linear layer, by the checkpoint's name of its weight.

    Weights that are tied to an embedding have none.

    The shape is (1, d, d) for layers whose weight has a row for every input rather than every output (GPT-2's Conv1D).
    """
    from transformers.pytorch_utils import Conv1D

    grams: dict[str, Tensor] = {}
    layers = _linear_layers(model, views)
    hooks = [_add_gram_hook(layer, name, grams) for name, layer in layers.items()]
    with torch.no_grad():
        for sequence in sequences:
            model(input_ids=sequence[None])
    for hook in hooks:
        hook.remove()
    count = sum(sequence.numel() for sequence in sequences)
    shapes = {
        name: (-1, *gram.shape) if isinstance(layers[name], Conv1D) else gram.shape for name, gram in grams.items()
    }
    return {name: gram.view(shapes[name]) / count for name, gram in grams.items()}


def _linear_layers(model: nn.Module, views: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """Returns the linear layers by the checkpoint's names of their weights, without those tied to an embedding."""
    from transformers.pytorch_utils import Conv1D

    tied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    names = {view.data_ptr(): name for name, view in views.items()}
    return {
        names[layer.weight.data_ptr()]: layer
        for layer in model.modules()
        if isinstance(layer, nn.Linear | Conv1D) and layer.weight.data_ptr() in names and id(layer.weight) not in tied
    }


def _add_gram_hook(module: nn.Module, name: str, grams: dict[str, Tensor]) -> Any:
    def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].reshape(-1, inputs[0].shape[-1])
        grams[name] = grams[name].addmm_(rows.t(), rows) if name in grams else rows.t() @ rows

    return module.register_forward_pre_hook(add)

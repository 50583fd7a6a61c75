"""REPAIR: the units of a merged model get the mean and the deviation that they have in the models.

Jordan et al., "REPAIR: REnormalizing Permuted Activations for Interpolation Repair", arXiv:2211.08403. In a merge of
models that were trained apart, activations vary less than in each of them, more so with every layer. With the mean
``μ_i`` and the standard deviation ``σ_i`` of a unit's output in model i on the data, and the model's share ``α_i`` of
the merge, the merged unit ``y`` with mean ``m`` and deviation ``s`` becomes

``y' = (y − m) · Σ α_i σ_i / s + Σ α_i μ_i``

which is folded into the layer's weight and bias. Without a bias, the unit is scaled to the mean of the models' root
mean squares. Layers are corrected in the order in which the model computes them, each on the outputs of those before
it. A model with batch norm gets new statistics of its batch norms instead, as in the paper.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.after_merge.merged_model import MergedModel
from mergesearch.merge_ops.assembly.assembly import Assembly
from mergesearch.merge_ops.assembly.coefficient_gradients import weights_of
from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.live.built import Builder
from mergesearch.merge_ops.live.calibration_data import Batch, calibration_batch
from mergesearch.merge_ops.recipe.after_merge import Repair

Moments = Tensor
"""The mean, the standard deviation and the root mean square of each unit's output, float32 [3, units]."""
BatchNorm = nn.modules.batchnorm._BatchNorm
_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class Repairer:
    """Repairs merged models. What the parents compute on the data is kept.

    Args:
        merger: the open checkpoints.
        builder: makes models, instead of transformers.
    """

    def __init__(self, merger: Merger, builder: Builder | None = None) -> None:
        self._merger = merger
        self._builder = builder
        self._parents: dict[tuple[str, str, int], dict[str, Moments]] = {}

    def repair(self, merged: MergedModel, settings: Repair) -> None:
        """Corrects the merged model in place.

        Raises:
            UserError: the data is not for these models, or the model has neither batch norm nor layers to correct.
        """
        model, recipe = merged.model, merged.assembly.recipe
        batch = calibration_batch(model, merged.tokenizer, recipe.references[0], settings.data, settings.tokens)
        if norms := [module for module in model.modules() if isinstance(module, BatchNorm) and _tracks(module)]:
            _renew_statistics(model, norms, batch)
            return
        layers = _layers(model, merged.views)
        if not layers:
            raise UserError("repair: the model has neither batch norm nor layers with weights of their own")
        goals = {name: self._goal(merged.assembly, name, settings) for name in layers}
        _visit(model, layers, batch, lambda name, layer, rows: _correct(layer, rows, goals[name]))

    def _goal(self, assembly: Assembly, name: str, settings: Repair) -> Moments | None:
        """Returns the mean of the parents' moments by their shares of the tensor.

        None if a parent has none, or if the tensor stays the base's.
        """
        if not assembly.layout.tensor_recipes[name].models:
            return None
        shares = _shares(assembly, name)
        found = [(share, self._moments(model, settings).get(source)) for (model, source), share in shares.items()]
        known = [(share, moments) for share, moments in found if moments is not None]
        if not known or len(known) < len(found):
            return None
        return torch.stack([share * moments for share, moments in known]).sum(0)

    def _moments(self, reference: str, settings: Repair) -> dict[str, Moments]:
        key = (reference, settings.data, settings.tokens)
        if key not in self._parents:
            self._parents[key] = self._measure(reference, settings)
        return self._parents[key]

    def _measure(self, reference: str, settings: Repair) -> dict[str, Moments]:
        """Returns the moments of a checkpoint's layers by the aligned names of their weights."""
        entry = self._merger.inputs[reference]
        model, tokenizer = live.load(entry.checkpoint, self._merger.device, torch.float32, self._builder)
        own = live.bind(model, entry.checkpoint)
        views = {name: own[stored] for name, stored in entry.own_names.items() if stored in own}
        batch = calibration_batch(model, tokenizer, reference, settings.data, settings.tokens)
        moments: dict[str, Moments] = {}

        def keep(name: str, _: nn.Module, rows: Tensor) -> None:
            moments[name] = _moments(rows)

        _visit(model, _layers(model, views), batch, keep)
        return moments


def _shares(assembly: Assembly, name: str) -> dict[tuple[str, str], float]:
    """Returns each input's share of a tensor, by reference and name.

    They are the weights of the merge where it is a weighted mean without negative weights; else models have equal ones.
    """
    weights = weights_of(assembly, name)
    if weights is not None and all(weight >= 0 for weight in weights.values()) and sum(weights.values()) > 0:
        total = sum(weights.values())
        return {key: weight / total for key, weight in weights.items() if weight}
    models = assembly.layout.tensor_recipes[name].model_inputs
    return {key: models.count(key) / len(models) for key in models}


def _tracks(norm: Any) -> bool:
    return norm.running_mean is not None


def _layers(model: nn.Module, views: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """Returns the layers that are corrected by the names of their weights: those that are not tied to embeddings.

    The output layer of a language model is none of them.
    """
    from transformers.pytorch_utils import Conv1D

    names = {view.data_ptr(): name for name, view in views.items()}
    embeddings = {module.weight.data_ptr() for module in model.modules() if isinstance(module, nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        names[module.weight.data_ptr()]: module
        for module in model.modules()
        if isinstance(module, nn.Linear | Conv1D | _Convolution)
        and module is not head
        and module.weight.data_ptr() in names.keys() - embeddings
    }


class _AllVisited(Exception):  # noqa: N818 - not an error: it ends a pass
    pass


def _visit(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batch: Batch,
    visitor: Callable[[str, nn.Module, Tensor], Tensor | None],
) -> None:
    """Runs the model, and calls the visitor with each layer's name, the layer and its outputs [rows, units].

    What it returns takes the place of the outputs. A layer counts the first time; after the last one the pass ends.
    """
    waiting = set(layers)

    def hook_of(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def hook(layer: nn.Module, _: Any, output: Tensor) -> Tensor | None:
            if name not in waiting:
                return None
            waiting.discard(name)
            axis = 1 if isinstance(layer, _Convolution) else -1
            moved = output.movedim(axis, -1)
            rows = visitor(name, layer, moved.reshape(-1, moved.shape[-1]))
            if not waiting:
                raise _AllVisited
            return None if rows is None else rows.view(moved.shape).movedim(-1, axis)

        return hook

    with _hooks([layer.register_forward_hook(hook_of(name)) for name, layer in layers.items()]):
        try:
            batch.run(model)
        except _AllVisited:
            return


@contextmanager
def _hooks(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _moments(rows: Tensor) -> Moments:
    mean, deviation = rows.float().mean(0), rows.float().var(0, unbiased=False).sqrt()
    return torch.stack([mean, deviation, torch.hypot(mean, deviation)])


def _correct(layer: Any, rows: Tensor, goal: Moments | None) -> Tensor | None:
    """Changes the layer's weight and bias; returns what its outputs become. Constant units keep their scale."""
    if goal is None:
        return None
    found = _moments(rows)
    of = 2 if layer.bias is None else 1
    scale = torch.where(found[of] > 0, goal[of] / found[of], 1.0)
    shift = None if layer.bias is None else goal[0] - found[0] * scale
    is_transposed = not isinstance(layer, nn.Linear | _Convolution)
    shape = (1, -1) if is_transposed else (-1, *(1,) * (layer.weight.dim() - 1))
    with torch.no_grad():
        layer.weight.copy_(layer.weight.float() * scale.view(shape))
        if shift is None:
            return (rows.float() * scale).to(rows.dtype)
        layer.bias.copy_(layer.bias.float() * scale + shift)
        return (rows.float() * scale + shift).to(rows.dtype)


def _renew_statistics(model: nn.Module, norms: list[Any], batch: Batch) -> None:
    """Gives batch norms the mean and the variance of their inputs, the first before the later ones."""

    def hook(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].movedim(1, -1).reshape(-1, inputs[0].shape[1]).float()
        norm.running_mean.copy_(rows.mean(0))
        norm.running_var.copy_(rows.var(0))

    with _hooks([norm.register_forward_pre_hook(hook) for norm in norms]):
        batch.run(model)

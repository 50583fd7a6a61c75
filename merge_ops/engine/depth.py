"""A live model for recipes of slices, whose depth may differ from the template's."""

import json
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.merge_ops.assembly.assembly import Assembly
from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.output.folder import changed_config, layered_config


class VariableDepthModel:
    """A live model that is created again when the config of a candidate differs from the previous one's.

    It stays the same Python object with other layers, so that whatever was prepared for the model need not be prepared
    again.

    Args:
        merger: the open checkpoints.
        template: the live model whose generation config is used.
        dtype: the dtype of the floats.
    """

    def __init__(self, merger: Merger, template: nn.Module, dtype: torch.dtype) -> None:
        self._merger = merger
        self._template = template
        self._dtype = dtype
        self._config_key = ""
        self._model: nn.Module | None = None
        self._views: dict[str, Tensor] = {}

    def build(self, assembly: Assembly) -> tuple[nn.Module, dict[str, Tensor]]:
        """Returns the assembly's model and its tensors by name. The previous model is overwritten."""
        model, views = self._prepare(assembly)
        for name, view in views.items():
            assembly.write_tensor(name, view)
        return model, views

    def _prepare(self, assembly: Assembly) -> tuple[nn.Module, dict[str, Tensor]]:
        checkpoint = self._merger.checkpoints[assembly.layout.template]
        layered = layered_config(assembly, self._merger) or checkpoint.config
        config = changed_config(layered, assembly, self._merger)
        key = json.dumps(config, sort_keys=True)
        if self._model is None or key != self._config_key:
            self._release_memory()
            self._model = _replaced(self._model, self._create(checkpoint, config, assembly))
            self._config_key = key
            self._views = live.bind_names(self._model, list(assembly.infos), checkpoint.reference)
        return self._model, self._views

    def _create(self, checkpoint: Checkpoint, config: dict[str, Any], assembly: Assembly) -> nn.Module:
        tensors = {
            name: torch.empty(info.shape, dtype=self._dtype if info.dtype.is_floating_point else info.dtype)
            for name, info in assembly.infos.items()
        }
        model = live.from_config(checkpoint, config, tensors, self._merger.device, self._dtype)
        model.generation_config = self._template.generation_config
        return model

    def _release_memory(self) -> None:
        """Frees the memory of the parameters before the new model allocates its own."""
        for parameter in self._model.parameters() if self._model else ():
            parameter.data = parameter.data.new_empty(0)
        self._config_key, self._views = "", {}


def _replaced(model: nn.Module | None, new: nn.Module) -> nn.Module:
    """Returns ``model`` with the content of ``new``, or ``new`` if there is no model of its class."""
    if type(model) is not type(new):
        return new
    assert model is not None
    vars(model).clear()
    vars(model).update(vars(new))
    return model

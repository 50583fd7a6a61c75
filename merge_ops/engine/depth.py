"""Live models of other depths than the template's: made anew from the config when the depth changes."""

import json
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.merge_ops.assembly.merger import Assembly, Merger
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.output.folder import changed_config, layered_config


class DeepModels:
    """One live model, for recipes of ``slices``: it is made anew where a candidate's config is another one.

    It stays the same object nonetheless, of other layers, so that whoever got ready for it need not do so again.
    ``template`` is the live model whose generation settings it takes over.
    """

    def __init__(self, merger: Merger, template: nn.Module, dtype: torch.dtype) -> None:
        self._merger = merger
        self._template = template
        self._dtype = dtype
        self._key = ""
        self._model: nn.Module | None = None
        self._views: dict[str, Tensor] = {}

    def build(self, assembly: Assembly) -> tuple[nn.Module, dict[str, Tensor]]:
        """The assembly's model, and its tensors by name. What it was before is gone."""
        model, views = self._prepared(assembly)
        for name, view in views.items():
            assembly.write_tensor(name, view)
        return model, views

    def _prepared(self, assembly: Assembly) -> tuple[nn.Module, dict[str, Tensor]]:
        checkpoint = self._merger.checkpoints[assembly.template]
        layered = layered_config(assembly, self._merger) or checkpoint.config
        config = changed_config(layered, assembly, self._merger)
        key = json.dumps(config, sort_keys=True)
        if self._model is None or key != self._key:
            self._release()
            self._model = _become(self._model, self._made(checkpoint, config, assembly))
            self._key, self._views = key, live.bind_names(self._model, list(assembly.infos), checkpoint.reference)
        return self._model, self._views

    def _made(self, checkpoint: Any, config: dict[str, Any], assembly: Assembly) -> nn.Module:
        empty = {name: torch.empty(info.shape, dtype=self._cast(info.dtype)) for name, info in assembly.infos.items()}
        model = live.make(checkpoint, config, empty, self._merger.device, self._dtype)
        model.generation_config = self._template.generation_config
        return model

    def _cast(self, dtype: torch.dtype) -> torch.dtype:
        return self._dtype if dtype.is_floating_point else dtype

    def _release(self) -> None:
        """Gives the memory back before the new model takes its own."""
        for parameter in self._model.parameters() if self._model else ():
            parameter.data = parameter.data.new_empty(0)
        self._key, self._views = "", {}


def _become(model: nn.Module | None, made: nn.Module) -> nn.Module:
    """The model with all that was made in its place; the new one, where there was none or one of another class."""
    if type(model) is not type(made):
        return made
    assert model is not None
    vars(model).clear()
    vars(model).update(vars(made))
    return model

"""Live models: loaded by transformers, with views into their parameters by the checkpoint's tensor names.

Candidates are built by writing to the views.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint
from mergesearch.merge_ops.inputs.tokenizer import load_tokenizer


def load(checkpoint: Checkpoint, device: str, dtype: torch.dtype | None = None) -> tuple[nn.Module, Any]:
    """Returns the checkpoint's model in evaluation mode, and its tokenizer or None if it has none.

    Raises:
        UserError: the checkpoint is a single file, transformers does not have its class, or its adapter changes shapes.
    """
    folder = checkpoint.folder
    if folder is None:
        raise UserError(f"{checkpoint.reference}: a single file has no config to load a model by; give a folder")
    with no_progress_bars():
        model = _pretrained(checkpoint, folder, dtype)
        tokenizer = load_tokenizer(checkpoint)
    model = model.eval().requires_grad_(False).to(device)
    if checkpoint.has_adapter:
        _apply_adapter(model, checkpoint)
    return model, tokenizer


def _pretrained(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None) -> Any:
    """Returns the model of the tensors that the checkpoint reads, which transformers alone might not find."""
    model_class = _model_class(checkpoint)
    if checkpoint.weights.is_read_alike:
        return model_class.from_pretrained(folder, dtype=dtype or "auto", trust_remote_code=False)
    plain = checkpoint.without_adapter
    config = model_class.config_class.from_pretrained(folder, trust_remote_code=False)
    tensors = {name: plain.tensor(name) for name in plain.tensors}
    model = model_class.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype or "auto")
    if model.can_generate() and (folder / "generation_config.json").exists():
        model.generation_config = type(model.generation_config).from_pretrained(folder)
    return model


def from_config(
    checkpoint: Checkpoint, config: dict[str, Any], tensors: dict[str, Tensor], device: str, dtype: torch.dtype
) -> nn.Module:
    """Returns a model of the checkpoint's class with another config and other tensors, in evaluation mode."""
    model_class = _model_class(checkpoint)
    with no_progress_bars():
        model_config = model_class.config_class.from_dict(config)
        model = model_class.from_pretrained(
            None, config=model_config, state_dict=tensors, dtype=dtype, trust_remote_code=False
        )
    return cast(nn.Module, model.eval().requires_grad_(False).to(device))


def _apply_adapter(model: nn.Module, checkpoint: Checkpoint) -> None:
    plain = checkpoint.without_adapter
    reshaped = [name for name, info in checkpoint.tensors.items() if plain.tensors.get(name, info).shape != info.shape]
    if reshaped or checkpoint.tensors.keys() != plain.tensors.keys():
        changed = listed([*reshaped, *(checkpoint.tensors.keys() - plain.tensors.keys())])
        raise UserError(
            f"{checkpoint.reference}: the adapter changes the shape of the model, in {changed}; merge it first"
        )
    for name, view in bind(model, plain).items():
        view.copy_(checkpoint.tensor(name).view(view.shape))


def _model_class(checkpoint: Checkpoint) -> Any:
    import transformers

    names = checkpoint.config.get("architectures") or ["AutoModel"]
    model_class = getattr(transformers, names[0], None)
    if model_class is None:
        raise UserError(f"{checkpoint.reference}: transformers has no model class {names[0]!r}")
    return model_class


def bind(model: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Returns views into the live model's parameters by tensor name. Writing to a view changes the model.

    The binding is verified: read through the views, the model equals the checkpoint bit for bit, after the cast to the
    model's dtype.

    Args:
        model: a model that was loaded from the checkpoint.
        checkpoint: the checkpoint.

    Raises:
        UserError: the model differs from the checkpoint. The message lists the tensors.
    """
    views = bind_names(model, list(checkpoint.tensors), checkpoint.reference)
    differing = [name for name, view in views.items() if not _equals(view, checkpoint.tensor(name))]
    if differing:
        raise UserError(f"{checkpoint.reference}: the loaded model differs from the file in {listed(differing)}")
    return views


def bind_names(model: nn.Module, names: Sequence[str], reference: str) -> dict[str, Tensor]:
    """Returns views of these names into the live model's parameters.

    The binding is verified: every name is a view, and every parameter has a name. Raises UserError if not.
    """
    views = _views(model)
    missing = set(names) - views.keys()
    if missing:
        raise UserError(f"{reference}: the loaded model does not have the tensors {listed(missing)}")
    bound = {name: views[name] for name in names}
    _check_views(bound, model, reference)
    return bound


def bind_aligned(model: nn.Module, entry: AlignedCheckpoint) -> dict[str, Tensor]:
    """Returns ``bind`` by aligned names. Unties output embeddings of the model that another checkpoint has untied."""
    views = bind(model, entry.checkpoint)
    named = {name: views[own] for name, own in entry.own_names.items()}
    return {**named, **{name: _untied_head(model) for name in entry.tied_heads}}


def _untied_head(model: Any) -> Tensor:
    """Gives the model's output embedding a tensor of its own and returns it."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    return cast(Tensor, head.weight.detach())


def _views(model: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        named = {name: tensor.detach() for name, tensor in model.state_dict(keep_vars=True).items()}
        return {**named, **_split_views(model, named)}


def _split_views(model: nn.Module, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors that transformers fuses on loading (experts), as slices of the fused parameters."""
    if not getattr(model, "_weight_conversions", None):
        return {}
    from transformers.core_model_loading import revert_weight_conversion

    # Without copies, the result consists of views into the input.
    with (
        mock.patch.object(Tensor, "contiguous", lambda t, **_: t),
        mock.patch.object(Tensor, "clone", lambda t, **_: t),
    ):
        reverted: dict[str, Tensor] = revert_weight_conversion(model, dict(named))
    return reverted


def _check_views(views: Mapping[str, Tensor], model: nn.Module, reference: str) -> None:
    model_storages = set(_storages(model.state_dict(keep_vars=True)).values())
    copies = [name for name, storage in _storages(views).items() if storage not in model_storages]
    if copies:
        raise UserError(f"{reference}: cannot write into the loaded model's {listed(copies)}")
    view_storages = set(_storages(views).values())
    parameters = _storages(dict(model.named_parameters()))
    unbound = [name for name, storage in parameters.items() if storage not in view_storages]
    if unbound:
        raise UserError(f"{reference}: has no tensors for the loaded model's {listed(unbound)}")


def _storages(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: tensor.untyped_storage().data_ptr() for name, tensor in tensors.items()}


def _equals(view: Tensor, stored: Tensor) -> bool:
    return torch.equal(view.cpu(), stored.to(view.dtype).view(view.shape))


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Disables transformers' progress bars, and restores the previous state at the end."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()

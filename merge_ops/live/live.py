"""A live model whose parameters are seen under their checkpoint names, so that candidates are built right into it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.inputs.aligned_names import Input


def load(checkpoint: Checkpoint, device: str, dtype: torch.dtype | None = None) -> tuple[nn.Module, Any]:
    """The checkpoint's model in evaluation mode, and its tokenizer (None where it has none)."""
    import transformers

    if checkpoint.folder is None:
        raise UserError(f"{checkpoint.reference}: a single file has no config to load a model by; give a folder")
    with quiet():
        model = _model_class(checkpoint).from_pretrained(checkpoint.folder, dtype=dtype or "auto")
        tokenizer = _tokenizer(transformers, checkpoint)
    model = model.eval().requires_grad_(False).to(device)
    if checkpoint.stored is not checkpoint:
        _apply_adapter(model, checkpoint)
    return model, tokenizer


def make(
    checkpoint: Checkpoint, config: dict[str, Any], tensors: dict[str, Tensor], device: str, dtype: torch.dtype
) -> nn.Module:
    """A model of the checkpoint's class with another config and these weights by name, in evaluation mode."""
    model_class = _model_class(checkpoint)
    with quiet():
        made = model_class.config_class.from_dict(config)
        model = model_class.from_pretrained(None, config=made, state_dict=tensors, dtype=dtype)
    found: nn.Module = model.eval().requires_grad_(False).to(device)
    return found


def _apply_adapter(model: nn.Module, checkpoint: Checkpoint) -> None:
    stored = checkpoint.stored
    reshaped = [name for name, info in checkpoint.tensors.items() if stored.tensors.get(name, info).shape != info.shape]
    if reshaped or checkpoint.tensors.keys() != stored.tensors.keys():
        new = listed([*reshaped, *(checkpoint.tensors.keys() - stored.tensors.keys())])
        raise UserError(f"{checkpoint.reference}: the adapter changes the shape of the model, in {new}; merge it first")
    for name, view in bind(model, stored).items():
        view.copy_(checkpoint.tensor(name).view(view.shape))


def _model_class(checkpoint: Checkpoint) -> Any:
    import transformers

    names = checkpoint.config.get("architectures") or ["AutoModel"]
    found = getattr(transformers, names[0], None)
    if found is None:
        raise UserError(f"{checkpoint.reference}: transformers has no model class {names[0]!r}")
    return found


def _tokenizer(transformers: Any, checkpoint: Checkpoint) -> Any:
    assert checkpoint.folder is not None
    if not any(checkpoint.folder.glob("tokenizer*")):
        return None
    return transformers.AutoTokenizer.from_pretrained(checkpoint.folder)


def bind(model: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Views into the live model's parameters by checkpoint name; writing to a view changes the model.

    The model must have been loaded from ``checkpoint``. Proved: read through the views, the model gives the checkpoint
    back bit for bit (after the cast to the model's dtype). Raises UserError with the names where it does not.
    """
    bound = bind_names(model, list(checkpoint.tensors), checkpoint.reference)
    differing = [name for name, view in bound.items() if not _same(view, checkpoint.tensor(name))]
    if differing:
        raise UserError(f"{checkpoint.reference}: the loaded model differs from the file in {listed(differing)}")
    return bound


def bind_names(model: nn.Module, names: Sequence[str], reference: str) -> dict[str, Tensor]:
    """Views of these names into the live model's parameters; proved: each is one, and no parameter is left out."""
    views = _views(model)
    missing = set(names) - views.keys()
    if missing:
        raise UserError(f"{reference}: the loaded model does not show the tensors {listed(missing)}")
    bound = {name: views[name] for name in names}
    _prove_views(bound, model, reference)
    return bound


def bind_input(model: nn.Module, entry: Input) -> dict[str, Tensor]:
    """``bind`` under the names that the checkpoint goes by; embeddings that must be two are untied in the model."""
    views = bind(model, entry.checkpoint)
    named = {name: views[own] for name, own in entry.own.items()}
    return {**named, **{name: _untied_head(model) for name in entry.shown_heads}}


def _untied_head(model: Any) -> Tensor:
    """The model's output embedding, from now on a tensor of its own."""
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
    """Checkpoint names of parameters that transformers fuses on loading (experts), as slices of the fused ones."""
    if not getattr(model, "_weight_conversions", None):
        return {}
    from transformers.core_model_loading import revert_weight_conversion

    # Without copies, what comes back are views of what went in.
    with (
        mock.patch.object(Tensor, "contiguous", lambda t, **_: t),
        mock.patch.object(Tensor, "clone", lambda t, **_: t),
    ):
        reverted: dict[str, Tensor] = revert_weight_conversion(model, dict(named))
    return reverted


def _prove_views(views: Mapping[str, Tensor], model: nn.Module, reference: str) -> None:
    own = set(_storages(model.state_dict(keep_vars=True)).values())
    copies = [name for name, storage in _storages(views).items() if storage not in own]
    if copies:
        raise UserError(f"{reference}: cannot write into the loaded model's {listed(copies)}")
    seen = set(_storages(views).values())
    unseen = [name for name, storage in _storages(dict(model.named_parameters())).items() if storage not in seen]
    if unseen:
        raise UserError(f"{reference}: has nothing for the loaded model's {listed(unseen)}")


def _storages(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: tensor.untyped_storage().data_ptr() for name, tensor in tensors.items()}


def _same(view: Tensor, stored: Tensor) -> bool:
    return torch.equal(view.cpu(), stored.to(view.dtype).view(view.shape))


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' progress bars off the terminal, and puts them back."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()

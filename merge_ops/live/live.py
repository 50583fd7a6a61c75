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

from mergesearch.errors import UserError, first_line, listed
from mergesearch.merge_ops.checkpoint.architecture import Architecture, config_object, model_class
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.inputs.aligned_names import AlignedCheckpoint
from mergesearch.merge_ops.inputs.tokenizer import load_tokenizer
from mergesearch.merge_ops.live.built import Builder, build


def load(
    checkpoint: Checkpoint, device: str, dtype: torch.dtype | None = None, builder: Builder | None = None
) -> tuple[nn.Module, Any]:
    """Returns the checkpoint's model in evaluation mode, and its tokenizer or None if it has none.

    Args:
        checkpoint: the checkpoint.
        device: the device of the model.
        dtype: the dtype of its floats. None: that of the checkpoint.
        builder: makes the model, instead of transformers.

    Raises:
        UserError: there is no config, transformers does not have the model's class, or the adapter changes shapes.
    """
    if builder is not None:
        return build(checkpoint, builder, device, dtype), load_tokenizer(checkpoint)
    folder = checkpoint.folder
    if folder is None or not checkpoint.has_config:
        raise UserError(
            f"{checkpoint.reference}: has no config.json to make a model by; give a folder that has one, or set "
            "`builder` in the config: a function that makes the model"
        )
    with no_progress_bars(), _refusals(checkpoint):
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
    model.config.name_or_path = str(folder)  # as if it was loaded from there
    if model.can_generate() and (folder / "generation_config.json").exists():
        model.generation_config = type(model.generation_config).from_pretrained(folder)
    return model


def from_config(
    checkpoint: Checkpoint, config: dict[str, Any], tensors: dict[str, Tensor], device: str, dtype: torch.dtype
) -> nn.Module:
    """Returns a model of the checkpoint's class with another config and other tensors, in evaluation mode."""
    model_class = _model_class(checkpoint)
    with no_progress_bars(), _refusals(checkpoint):
        model_config = config_object(config)
        model = model_class.from_pretrained(
            None, config=model_config, state_dict=tensors, dtype=dtype, trust_remote_code=False
        )
    return cast(nn.Module, model.eval().requires_grad_(False).to(device))


@contextmanager
def _refusals(checkpoint: Checkpoint) -> Iterator[None]:
    """Turns what transformers raises on a folder that it cannot load into UserError, but not a lack of memory."""
    try:
        yield
    except (UserError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the files make transformers do
        reason = first_line(error)
        raise UserError(f"{checkpoint.reference}: transformers cannot load the model: {reason}") from error


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
    found = model_class(checkpoint.config)
    if found is None:
        named = (checkpoint.config.get("architectures") or [checkpoint.config.get("model_type")])[0]
        raise UserError(
            f"{checkpoint.reference}: transformers has no model class {named!r}; `builder` in the config names a "
            "function that makes the model"
        )
    return found


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
    """Returns views of these stored names into the live model's parameters.

    Names that transformers drops while loading have no view. The binding is verified: every parameter has a name,
    unless it may be missing. Raises UserError if not.
    """
    architecture = Architecture(model)
    views = _views(model)
    live_names = architecture.live_names(names)
    missing = [name for name, live in live_names.items() if live.loaded and live.name not in views]
    if missing:
        raise UserError(f"{reference}: the loaded model does not have the tensors {listed(missing)}")
    bound = {name: views[live_names[name].name] for name in names if live_names[name].loaded}
    _check_views(bound, architecture, reference)
    return bound


def bind_aligned(model: nn.Module, entry: AlignedCheckpoint) -> dict[str, Tensor]:
    """Returns ``bind`` by aligned names. Unties tensors of the model that another checkpoint has untied."""
    views = bind(model, entry.checkpoint)
    named = {name: views[own] for name, own in entry.own_names.items() if own in views}
    return {**named, **{name: _untied(model, live_names) for name, live_names in entry.untied.items()}}


def untie_head(model: Any) -> str | None:
    """Gives an output layer that is tied to the embedding a weight of its own.

    Returns its name, or None if there is no such output layer.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is not embedding.weight:
        return None
    name = next(f"{name}.weight" for name, module in model.named_modules() if module is head)
    _untied(model, [name])
    return name


def _untied(model: Any, names: Sequence[str]) -> Tensor:
    """Gives these parameters, which are one, a tensor of their own and returns it."""
    parameter = nn.Parameter(model.get_parameter(names[0]).detach().clone(), requires_grad=False)
    for name in names:
        module, _, key = name.rpartition(".")
        setattr(model.get_submodule(module), key, parameter)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    return parameter.detach()


def _views(model: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors of the model by name, and those that transformers fuses (experts) as slices of the fused."""
    with torch.no_grad():
        named = {name: tensor.detach() for name, tensor in model.state_dict(keep_vars=True).items()}
        return {**named, **_split_views(model, named)}


def _split_views(model: nn.Module, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    conversions = getattr(model, "_weight_conversions", None)
    if not conversions:
        return {}
    from transformers.core_model_loading import WeightConverter, revert_weight_conversion

    # Without renamings, the names are those of ``Architecture``. Without copies, the result are views into the input.
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    with (
        mock.patch.object(model, "_weight_conversions", converters),
        mock.patch.object(Tensor, "contiguous", lambda t, **_: t),
        mock.patch.object(Tensor, "clone", lambda t, **_: t),
    ):
        reverted: dict[str, Tensor] = revert_weight_conversion(model, dict(named))
    return reverted


def _check_views(views: Mapping[str, Tensor], architecture: Architecture, reference: str) -> None:
    model = architecture.model
    model_storages = set(_storages(model.state_dict(keep_vars=True)).values())
    copies = [name for name, storage in _storages(views).items() if storage not in model_storages]
    if copies:
        raise UserError(f"{reference}: cannot write into the loaded model's {listed(copies)}")
    view_storages = set(_storages(views).values())
    parameters = _storages(dict(model.named_parameters()))
    unbound = [name for name, storage in parameters.items() if storage not in view_storages]
    random = [name for name in unbound if not architecture.may_be_missing(name)]
    if random:
        raise UserError(
            f"{reference}: has no tensors for the loaded model's {listed(random)}, which transformers fills at random; "
            f"expected a checkpoint of {type(model).__name__}, or another class in `architectures` of its config.json"
        )


def _storages(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: tensor.untyped_storage().data_ptr() for name, tensor in tensors.items()}


def _equals(view: Tensor, stored: Tensor) -> bool:
    return view.numel() == stored.numel() and torch.equal(view.cpu(), stored.to(view.dtype).view(view.shape))


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

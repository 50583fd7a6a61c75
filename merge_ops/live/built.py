"""Live models that transformers does not make: by a function of the user, or as containers of tensors."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import nn

from mergesearch.errors import ForeignExitError, UserError, in_words, listed
from mergesearch.foreign import other_code
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.plugins import load
from mergesearch.trust import tell_code

Builder = Callable[[Checkpoint], nn.Module]
"""Makes a module whose ``state_dict`` has the checkpoint's tensors, by their names. Its values do not matter."""


def find_builder(reference: str) -> Builder:
    """Returns the builder that calls the user's function with the path of a checkpoint.

    Args:
        reference: ``module:function`` or ``path/to/file.py:function``.

    Raises:
        UserError: there is no such function. The builder raises it if the function fails or returns no module.
    """
    tell_code(f"the builder {reference}")
    function = load(reference)
    if not callable(function):
        raise UserError(f"builder: {reference} is {function!r}, expected a function")

    def build(checkpoint: Checkpoint) -> nn.Module:
        path = str(checkpoint.without_adapter.path)
        try:
            with other_code(f"builder: {reference}({path!r})"):
                module = function(path)
        except ForeignExitError:
            raise
        except Exception as error:  # anybody's code
            raise UserError(f"builder: {reference}({path!r}): {in_words(error)}") from error
        if not isinstance(module, nn.Module):
            raise UserError(f"builder: {reference} returned {module!r}, expected a torch.nn.Module")
        return module

    return build


def containers(checkpoint: Checkpoint) -> nn.Module:
    """Returns nested modules that compute nothing and have the checkpoint's tensors. A builder.

    Raises:
        UserError: a tensor's name is also the beginning of another's.
    """
    root = nn.Module()
    for name, info in checkpoint.tensors.items():
        *parents, last = name.split(".")
        module = root
        try:
            for parent in parents:
                if parent not in dict(module.named_children()):
                    module.add_module(parent, nn.Module())
                module = module.get_submodule(parent)
            module.register_buffer(last, torch.empty(info.shape, dtype=info.dtype))
        except (KeyError, AttributeError) as error:
            raise UserError(f"{checkpoint.reference}: {name}: cannot be an attribute of a module: {error}") from None
    return root


def build(checkpoint: Checkpoint, builder: Builder, device: str, dtype: torch.dtype | None) -> nn.Module:
    """Returns the builder's module in evaluation mode, with the checkpoint's tensors.

    Args:
        checkpoint: the checkpoint.
        builder: makes the module.
        device: the device of the module.
        dtype: the dtype of its floats. None: the widest of the checkpoint.

    Raises:
        UserError: the module does not have exactly the checkpoint's tensors, in their shapes.
    """
    floats = [info.dtype for info in checkpoint.tensors.values() if info.dtype.is_floating_point]
    module = builder(checkpoint).eval().requires_grad_(False)
    is_empty = any(tensor.is_meta for tensor in module.state_dict().values())
    module = module.to_empty(device=device) if is_empty else module.to(device)
    module = module.to(dtype or reduce(torch.promote_types, floats, torch.float32 if not floats else floats[0]))
    _fill(module, checkpoint)
    return module


def _fill(module: nn.Module, checkpoint: Checkpoint) -> None:
    own: dict[str, Any] = module.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    stored = {name: info.shape for name, info in checkpoint.tensors.items()}
    problems = [
        f"{name} ({list(stored[name]) if name in stored else 'missing'} in the file, "
        f"{list(shapes[name]) if name in shapes else 'missing'} in the module)"
        for name in shapes.keys() | stored.keys()
        if shapes.get(name) != stored.get(name) and not _shares_memory(name, own, stored)
    ]
    if problems:
        raise UserError(f"{checkpoint.reference}: the builder's module differs from the file in {listed(problems)}")
    with torch.no_grad():
        for name in stored:
            own[name].copy_(checkpoint.tensor(name))


def _shares_memory(name: str, own: dict[str, Any], stored: dict[str, tuple[int, ...]]) -> bool:
    """Returns whether a tensor that is not stored is another one that is: files have tied weights once."""
    if name in stored or name not in own:
        return False
    return any(own[other].data_ptr() == own[name].data_ptr() for other in stored if other in own)

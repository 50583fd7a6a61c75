"""Which tensors of a checkpoint an adapter's modules are.

Adapters are named by the modules of the model that was trained. With a config, transformers says which stored tensor
each of their parameters is; without one, they are the same names, or all of them with or without one prefix.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from unittest import mock

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.adapters.changes import Layout, Piece
from mergesearch.merge_ops.checkpoint.architecture import Architecture


class BaseNames:
    """The names of the base that an adapter is applied to.

    Args:
        stored: the names of the base's tensors.
        read: reads one of them.
        architecture: the base's architecture, if it is known.
        wanted: the names of parameters in the adapter, from which the prefix is found that they have otherwise.
    """

    def __init__(
        self,
        stored: Collection[str],
        read: Callable[[str], Tensor],
        architecture: Architecture | None,
        wanted: Sequence[str],
    ) -> None:
        self.architecture = architecture
        self._names, self._read, self._wanted = stored, read, wanted
        self._stored: dict[str, list[str]] = {}
        for own, live in _live(stored, architecture).items():
            if live is not None:
                self._stored.setdefault(live, []).append(own)

    def parameter(self, name: str) -> str | None:
        """Returns the base's name of a parameter in memory, from the adapter's name, or None if it has none."""
        if self.architecture is None:
            found = self._reprefixed(name)
        else:
            is_own = name in self.architecture.shapes
            found = name if is_own else self.architecture.live_names([name])[name].name
        return found if found in self._stored or self.group(found) != (found,) else None

    def has_module(self, module: str) -> bool:
        """Returns whether one of the base's modules has this name, or a name that ends with it."""
        return any(f".{module}." in f".{parameter}" for parameter in self._stored)

    def group(self, parameter: str) -> tuple[str, ...]:
        """Returns the parameters that are tied to this one, and itself."""
        return self._groups.get(parameter, (parameter,))

    @cached_property
    def _groups(self) -> dict[str, tuple[str, ...]]:
        """The tied parameters by parameter. As in transformers, one that is stored with other values is not tied."""
        groups: dict[str, tuple[str, ...]] = {}
        for tied in self.architecture.tied if self.architecture else []:
            stored = [parameter for parameter in tied if parameter in self._stored]
            apart = {parameter for parameter in stored[1:] if not self._are_equal(stored[0], parameter)}
            group = tuple(parameter for parameter in tied if parameter not in apart)
            groups |= dict.fromkeys(group, group)
        return groups

    def _are_equal(self, one: str, other: str) -> bool:
        return torch.equal(*(self._read(self._stored[parameter][0]) for parameter in (one, other)))

    def is_stored(self, name: str) -> bool:
        """Returns whether the base has a tensor of this name."""
        return name in self._names

    def stored(self, parameters: Iterable[str]) -> list[str]:
        """Returns the names of the stored tensors of these parameters."""
        return [own for parameter in parameters for own in self._stored.get(parameter, [])]

    def layout(self, parameter: str) -> Layout | None:
        """Returns how the module that owns a parameter stores it, or None if that is not known."""
        from transformers.pytorch_utils import Conv1D

        module = self.owner(parameter)
        layouts: list[tuple[type | tuple[type, ...], Layout]] = [
            (Conv1D, "columns"),
            (nn.Embedding, "embedding"),
            ((nn.Conv1d, nn.Conv2d, nn.Conv3d), "kernel"),
            ((nn.Linear, nn.MultiheadAttention), "rows"),
        ]
        return next((layout for kind, layout in layouts if isinstance(module, kind)), None)

    def shape(self, parameter: str) -> tuple[int, ...]:
        """Returns the shape in memory of a parameter of the architecture."""
        assert self.architecture is not None
        return self.architecture.shapes[parameter]

    def owner(self, parameter: str) -> nn.Module | None:
        """Returns the module that owns a parameter, if the architecture is known."""
        return self.architecture.module_of(parameter) if self.architecture else None

    def parameters_of(self, module: str, targets: Iterable[str]) -> list[str]:
        """Returns the parameters of a module that ``target_parameters`` names, in the order of the module."""
        owner = self.owner(f"{module}.weight") if targets else None
        if owner is None:
            return []
        names = [f"{module}.{name}" for name, _ in owner.named_parameters(recurse=False)]
        return [name for name in names if any(f".{name}".endswith(f".{target}") for target in targets)]

    def pieces(self, parameter: str) -> dict[str, Piece | None]:
        """Returns the stored tensors that a parameter of experts is stored as, each with its part of the parameter."""
        if whole := self.stored([parameter]):
            return dict.fromkeys(whole)
        assert self.architecture is not None
        fused = self.architecture.model.get_parameter(parameter)
        pieces: dict[str, Piece | None] = {}
        for name, view in _saved_views(self.architecture.model, parameter, fused).items():
            piece = _piece(view, fused, parameter)
            live = _live([name], self.architecture).values()
            pieces |= dict.fromkeys(self.stored(own for own in live if own), piece)
        return pieces

    def _reprefixed(self, name: str) -> str:
        prefix, superfluous = self._prefixes
        return prefix + name.removeprefix(superfluous)

    @cached_property
    def _prefixes(self) -> tuple[str, str]:
        """The prefix that the adapter's names lack, and the one that they have beyond the base's."""
        for name in self._wanted:
            longer = [(own.removesuffix(name), "") for own in self._stored if own.endswith(f".{name}")]
            shorter = [("", name.removesuffix(own)) for own in self._stored if name.endswith(f".{own}")]
            fitting = [change for change in [("", ""), *longer, *shorter] if self._fits_all(*change)]
            if len(fitting) == 1:
                return fitting[0]
        return "", ""

    def _fits_all(self, prefix: str, superfluous: str) -> bool:
        """Returns whether all of the adapter's names are the base's with this change, which no layer's number is in."""
        if any(part.isdigit() for part in (prefix + superfluous).split(".")):
            return False
        changed = (prefix + name.removeprefix(superfluous) for name in self._wanted)
        return all(name in self._stored for name in changed)


def _live(stored: Collection[str], architecture: Architecture | None) -> dict[str, str | None]:
    """Returns the name in memory of each stored tensor, or None if the model drops it."""
    if architecture is None:
        return {name: name for name in stored}
    # A tensor that the model drops stays a tensor of the result under its own name.
    return {own: live.name if live.loaded else None for own, live in architecture.live_names(stored).items()}


def _piece(view: Tensor, fused: Tensor, parameter: str) -> Piece:
    """Returns where a part of a parameter is. Raises UserError if it is no view: then the elements change places."""
    if view.untyped_storage()._cdata != fused.untyped_storage()._cdata:
        raise UserError(f"{parameter} is stored in another order than in memory; merge the adapter with PEFT first")
    shape, stride, offset = tuple(view.shape), view.stride(), int(view.storage_offset())
    if view.ndim == fused.ndim:
        return Piece(None, shape, stride, offset)
    expert, offset = divmod(offset, fused[0].numel())
    return Piece(expert, shape, stride, offset)


def _saved_views(model: nn.Module, parameter: str, fused: Tensor) -> dict[str, Tensor]:
    """Returns what transformers saves of a parameter, as views of it."""
    from transformers.core_model_loading import revert_weight_conversion

    with (
        mock.patch.object(Tensor, "contiguous", lambda t, **_: t),
        mock.patch.object(Tensor, "clone", lambda t, **_: t),
    ):
        return dict(revert_weight_conversion(model, {parameter: fused.detach()}))

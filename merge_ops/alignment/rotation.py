"""Rotations of the residual stream: the symmetry of models with RMS norms beyond permutations.

A layer reads the stream through a norm and adds to it. An RMS norm without weights, ``x / rms(x)``, commutes with every
orthogonal matrix Q, and weights of the norm can be folded into the linear layers that read its output. Then all that
reads from the stream may be multiplied by Q and all that writes to it by Qᵀ: Ashkboos et al., SliceGPT,
arXiv:2401.15024, section 3.1; QuaRot, arXiv:2404.00456.

With the folded weights of the two models as rows over the stream, the nearest rotation is that of the orthogonal
Procrustes problem (Schönemann 1966): ``Q = U Vᵀ`` for ``Bᵀ A = U S Vᵀ``. Afterwards the anchor's norms are unfolded
from the rotated weights, so that both models have the same norms.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError, listed

Tensors = Mapping[str, Tensor]
LARGE = 1e3
"""Inputs of a norm that is looked at: what it adds to the mean of squares is nothing beside them."""


@dataclass(frozen=True)
class Norm:
    """An RMS norm of the stream.

    Attributes:
        weight: the name of its weight.
        offset: what the norm adds to its weight: 1 in Gemma.
        readers: the names of the weights, [outputs, inputs], of the linear layers that read its output.
    """

    weight: str
    offset: float
    readers: tuple[str, ...]

    def factors(self, tensors: Tensors) -> Tensor:
        """What the norm multiplies each entry by, float64."""
        return tensors[self.weight].double() + self.offset


@dataclass(frozen=True)
class Stream:
    """The residual stream of a model.

    Attributes:
        dims: the dimensions of each tensor that have the entries of the stream, without the norms'.
        norms: its norms.
    """

    dims: Mapping[str, tuple[int, ...]]
    norms: Sequence[Norm]

    def folded(self, tensors: Tensors, name: str) -> Tensor:
        """Returns a tensor with the norm that it reads folded in, float64; of a norm, the weight that does nothing."""
        norm = self._norm_of.get(name)
        if norm is None:
            return tensors[name].double()
        if norm.weight == name:
            return torch.full_like(tensors[name], 1.0 - norm.offset, dtype=torch.float64)
        return tensors[name].double() * norm.factors(tensors)

    def unfolded(self, tensor: Tensor, name: str, anchor: Tensors) -> Tensor:
        """Returns a folded tensor as it is with the anchor's norms."""
        norm = self._norm_of.get(name)
        if norm is None:
            return tensor
        return anchor[name].double() if norm.weight == name else tensor / norm.factors(anchor)

    def rotated(self, tensor: Tensor, name: str, rotation: Tensor) -> Tensor:
        """Returns a folded tensor after the rotation [stream, stream] of the stream's rows."""
        for dim in self.dims.get(name, ()):
            tensor = torch.tensordot(tensor, rotation.to(tensor), ([dim], [0])).movedim(-1, dim)
        return tensor

    def cross(self, anchor: Tensor, tensor: Tensor, name: str) -> Tensor:
        """Returns the inner products [stream, stream] of two folded tensors' entries, the anchor's second, float64."""
        sums = [_rows(tensor, dim).mT @ _rows(anchor, dim) for dim in self.dims[name]]
        return torch.stack(sums).sum(dim=0)

    @property
    def _norm_of(self) -> dict[str, Norm]:
        return {name: norm for norm in self.norms for name in (norm.weight, *norm.readers)}


def _rows(tensor: Tensor, dim: int) -> Tensor:
    return tensor.double().movedim(dim, -1).reshape(-1, tensor.shape[dim])


def nearest_rotation(products: Tensor) -> Tensor:
    """Returns the orthogonal Q with the largest ``tr(Qᵀ products)``, float64."""
    left, _, right = torch.linalg.svd(products)
    rotation: Tensor = left @ right
    return rotation


def find_stream(
    model: nn.Module, reference: str, dims: Mapping[str, tuple[int, ...]], run: Callable[[nn.Module], Any]
) -> Stream:
    """Returns the stream of a live model.

    Args:
        model: the model.
        reference: its reference, for messages.
        dims: the dimensions of each tensor of ``state_dict`` that have the entries of the stream.
        run: runs the model on an input.

    Raises:
        UserError: the stream passes a norm that is no RMS norm, or whose output goes elsewhere than to linear layers;
            or an embedding and the output layer are one tensor.
    """
    norms = dict(_norm_modules(model, dims))
    offsets = {name: _offset(module, reference, name) for name, module in norms.items()}
    readers = _readers(model, norms, run)
    found = [Norm(f"{name}.weight", offset, tuple(readers[name])) for name, offset in offsets.items()]
    lonely = [norm.weight for norm in found if not norm.readers]
    if lonely:
        raise UserError(
            f"{reference}: align: orthogonal: the output of the norm {listed(lonely)} is not read by linear layers, "
            "into which its weight could be folded; use align: weights"
        )
    tied = [name for norm in found for name in norm.readers if _is_embedding(model, name)]
    if tied:
        raise UserError(
            f"{reference}: align: orthogonal: {listed(tied)} is tied to the embedding, and the norm before it cannot "
            "be folded into it; use align: weights"
        )
    weights = {norm.weight for norm in found}
    return Stream({name: own for name, own in dims.items() if name not in weights}, found)


def _norm_modules(model: nn.Module, dims: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, nn.Module]]:
    """Yields the modules with one weight per entry of the stream."""
    for name in dims:
        owner, _, key = name.rpartition(".")
        module = model.get_submodule(owner)
        if key == "weight" and module.get_parameter(key).dim() == 1:
            yield owner, module


def _offset(module: Any, reference: str, name: str) -> float:
    norm = copy.deepcopy(module).double()
    inputs = torch.randn(4, len(norm.weight), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * LARGE
    inputs = inputs.to(norm.weight.device)
    with torch.no_grad():
        found, unit = norm(inputs), inputs / inputs.square().mean(-1, keepdim=True).sqrt()
    for offset in (0.0, 1.0):
        if torch.allclose(found, unit * (norm.weight + offset), rtol=1e-4, atol=1e-4):
            return offset
    raise UserError(
        f"{reference}: align: orthogonal: {name} is {type(module).__name__}, which is no RMS norm, so that the stream "
        "cannot be rotated; use align: weights"
    )


def _readers(
    model: nn.Module, norms: Mapping[str, nn.Module], run: Callable[[nn.Module], Any]
) -> dict[str, dict[str, None]]:
    """Returns the weights of the linear layers that read each norm's output."""
    outputs: dict[int, tuple[str, Tensor]] = {}  # with the tensors, so that no other takes their place in memory
    readers: dict[str, dict[str, None]] = {name: {} for name in norms}

    def written(name: str, output: Tensor) -> None:
        outputs[output.untyped_storage().data_ptr()] = name, output

    def read(name: str, tensor: Tensor) -> None:
        source = outputs.get(tensor.untyped_storage().data_ptr())
        if source:
            readers[source[0]][f"{name}.weight"] = None

    with ExitStack() as stack:
        for name, module in norms.items():
            handle = module.register_forward_hook(lambda _, __, output, name=name: written(name, output))
            stack.callback(handle.remove)
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                handle = module.register_forward_pre_hook(lambda _, inputs, name=name: read(name, inputs[0]))
                stack.callback(handle.remove)
        run(model)
    return readers


def _is_embedding(model: nn.Module, weight: str) -> bool:
    parameter = model.get_parameter(weight)
    return any(module.weight is parameter for module in model.modules() if isinstance(module, nn.Embedding))

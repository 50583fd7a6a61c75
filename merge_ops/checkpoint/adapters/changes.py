"""What an adapter does to one tensor: the arithmetic, with every shape checked before.

Hu et al., "LoRA: low-rank adaptation of large language models", arXiv:2106.09685: ``W' = W + s B A``. DoRA
(arXiv:2402.09353): ``W' = m (W + s B A) / ‖W + s B A‖``, output by output. PiSSA (arXiv:2404.02948) and OLoRA
(arXiv:2406.01775) take from W the low-rank part that A and B began with. All as PEFT 0.21 computes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Read = Callable[[str], Tensor]
"""Reads a tensor of the adapter's file, in float32, by its name."""
Shape = tuple[int, ...]
Layout = Literal["rows", "columns", "embedding", "kernel"]
"""How a weight is stored: a row for each output (Linear), a column (Conv1D), a row for each token, or a kernel."""


@dataclass(frozen=True)
class Stored:
    """A tensor of the adapter's file."""

    name: str
    shape: Shape


class Change(Protocol):
    """One step from a tensor of the base to that of the adapted model."""

    def resulting(self, base: Shape) -> Shape:
        """Returns the shape of the result. Raises ValueError if the adapter's tensors do not fit the base's shape."""

    def applied(self, weight: Tensor, read: Read) -> Tensor:
        """Returns the changed tensor in float32."""


@dataclass(frozen=True)
class Whole:
    """The adapter's tensor in place of the base's. ``resizable``: the number of rows may be another."""

    new: Stored
    resizable: bool

    def resulting(self, base: Shape) -> Shape:
        own = self.new.shape
        if own != base and not (self.resizable and own[1:] == base[1:]):
            raise _misfit(own, base)
        return own

    def applied(self, weight: Tensor, read: Read) -> Tensor:
        return read(self.new.name).to(weight.dtype)


@dataclass(frozen=True)
class Product:
    """``s B A``, and for DoRA the magnitude.

    Attributes:
        a: the first factor, of shape (rank, inputs).
        b: the second factor, of shape (outputs, rank).
        layout: how the base stores the weight.
        scale: s.
        magnitude: the magnitudes of DoRA.
        residual: what the base loses before, see ``AdapterConfig.residual``.
    """

    a: Stored
    b: Stored
    layout: Layout
    scale: float
    magnitude: Stored | None = None
    residual: str | None = None

    def resulting(self, base: Shape) -> Shape:
        found = product_shape(self.layout, self.a.shape, self.b.shape)
        if found != base:
            raise _misfit(found, base)
        count = base[self._axis]
        if self.magnitude and torch.Size(self.magnitude.shape).numel() != count:
            raise ValueError(f"found {list(self.magnitude.shape)} magnitudes, expected {count}")
        if self.residual and self.layout not in RESIDUAL_LAYOUTS[self.residual]:
            raise ValueError(f"init_lora_weights: {self.residual} has no base for a weight that is stored so")
        return base

    def applied(self, weight: Tensor, read: Read) -> Tensor:
        base = self._without_initial(weight)
        changed = base + self.scale * self._product(read)
        if self.magnitude is None:
            return changed
        others = [axis for axis in range(changed.ndim) if axis != self._axis]
        factor = read(self.magnitude.name).flatten() / torch.linalg.vector_norm(changed, dim=others)
        scaled: Tensor = changed * factor.reshape([-1 if axis == self._axis else 1 for axis in range(changed.ndim)])
        return scaled

    @property
    def _axis(self) -> int:
        """The axis of the magnitudes: a layer's outputs, an embedding's features."""
        return 1 if self.layout in ("columns", "embedding") else 0

    def _without_initial(self, weight: Tensor) -> Tensor:
        """Returns the base that the adapter was trained on: the weight without what A and B began with."""
        if self.residual is None:
            return weight
        rank, matrix = self.a.shape[0], weight.T if self.layout == "columns" else weight
        if self.residual == "pissa":
            u, s, v = torch.linalg.svd(matrix, full_matrices=False)
            rest: Tensor = matrix - (u[:, :rank] * s[:rank]) @ v[:rank]
        else:
            q, r = torch.linalg.qr(matrix)
            rest = matrix - self.scale * (q[:, :rank] @ r[:rank])
        return rest.T if self.layout == "columns" else rest

    def _product(self, read: Read) -> Tensor:
        a, b = read(self.a.name), read(self.b.name)
        product: Tensor = b.flatten(1) @ a.flatten(1)
        if self.layout == "kernel":
            return product.reshape(b.shape[0], *a.shape[1:])
        return product if self.layout == "rows" else product.T


def product_shape(layout: Layout, a: Shape, b: Shape) -> Shape:
    """Returns the shape of B A as the layout stores it. Raises ValueError if A and B have no product."""
    is_kernel = layout == "kernel"
    well_formed = len(a) == len(b) and (len(a) > 2 and set(b[2:]) == {1} if is_kernel else len(a) == 2)
    if not well_formed or b[1] != a[0] or a[0] == 0:
        raise ValueError(f"found lora_A {list(a)} and lora_B {list(b)}, expected [rank, inputs] and [outputs, rank]")
    return (b[0], *a[1:]) if layout in ("rows", "kernel") else (a[1], b[0])


@dataclass(frozen=True)
class Piece:
    """The part of a fused parameter that a stored tensor is: a view of one expert's matrix, or of all (None)."""

    expert: int | None
    shape: Shape
    stride: Shape
    offset: int


@dataclass(frozen=True)
class Experts:
    """``s B A`` for each expert of a fused parameter of shape (experts, ...).

    Attributes:
        a: of shape (experts · rank, inputs).
        b: of shape (outputs, rank · experts).
        count: the number of experts.
        transposed: whether the parameter is of shape (experts, inputs, outputs), not (experts, outputs, inputs).
        scale: s.
        piece: the part that is stored, or None if the whole parameter is.
    """

    a: Stored
    b: Stored
    count: int
    transposed: bool
    scale: float
    piece: Piece | None

    def resulting(self, base: Shape) -> Shape:
        a, b = self.a.shape, self.b.shape
        if not (len(a) == len(b) == 2 and a[0] == b[1] and a[0] % self.count == 0):
            raise ValueError(
                f"found lora_A {list(a)} and lora_B {list(b)}, expected a rank for each of {self.count} experts"
            )
        inputs, outputs = a[1], b[0]
        matrix = (inputs, outputs) if self.transposed else (outputs, inputs)
        found = self.piece.shape if self.piece else (self.count, *matrix)
        if found != base:
            raise _misfit(found, base)
        return base

    def applied(self, weight: Tensor, read: Read) -> Tensor:
        a, b = read(self.a.name), read(self.b.name)
        a, b = a.reshape(self.count, -1, a.shape[1]), b.reshape(b.shape[0], -1, self.count)
        if self.piece is None or self.piece.expert is None:
            delta = torch.stack([self._delta(a, b, expert) for expert in range(self.count)])
        else:
            delta = self._delta(a, b, self.piece.expert).contiguous()
        if self.piece is None:
            return weight + delta
        return weight + delta.as_strided(self.piece.shape, self.piece.stride, self.piece.offset)

    def _delta(self, a: Tensor, b: Tensor, expert: int) -> Tensor:
        delta: Tensor = self.scale * (b[:, :, expert] @ a[expert])
        return delta.T if self.transposed else delta


@dataclass(frozen=True)
class Shift:
    """``s`` times the bias of B, added to the layer's bias."""

    bias: Stored
    scale: float

    def resulting(self, base: Shape) -> Shape:
        if self.bias.shape != base:
            raise _misfit(self.bias.shape, base)
        return base

    def applied(self, weight: Tensor, read: Read) -> Tensor:
        return weight + self.scale * read(self.bias.name)


@dataclass(frozen=True)
class NewRows:
    """New rows of an embedding."""

    new: Stored
    rows: Sequence[int]

    def resulting(self, base: Shape) -> Shape:
        if self.new.shape != (len(self.rows), *base[1:]):
            raise _misfit(self.new.shape, (len(self.rows), *base[1:]))
        if max(self.rows, default=0) >= base[0]:
            raise ValueError(f"trainable_token_indices: found {max(self.rows)}, the embedding has {base[0]} rows")
        return base

    def applied(self, weight: Tensor, read: Read) -> Tensor:
        return weight.index_copy(0, torch.tensor(list(self.rows), dtype=torch.long), read(self.new.name))


RESIDUAL_LAYOUTS: dict[str, tuple[Layout, ...]] = {"pissa": ("rows", "columns"), "olora": ("rows",)}


def _misfit(found: Shape, expected: Shape) -> ValueError:
    return ValueError(f"found {list(found)}, expected {list(expected)}")

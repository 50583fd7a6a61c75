"""Operations of torch: what may be permuted through each, and what must keep its order."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mergesearch.merge_ops.alignment.matching import match, weight_sources
from mergesearch.merge_ops.alignment.trace import derive

from . import families
from .test_symmetries import shuffled


class Around(nn.Module):
    """An operation between two linear layers."""

    def __init__(self, inner: int = 12, outer: int = 12) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, inner), nn.Linear(outer, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inside(self.first(x)))  # type: ignore[no-any-return]

    def inside(self, x: Tensor) -> Tensor:
        return x.relu()


class Square(Around):
    """A linear layer beside a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.square = nn.Linear(12, 12)

    def inside(self, x: Tensor) -> Tensor:
        return x + self.square(x).relu()


class FusedHeads(Around):
    """Queries, keys and values of each head side by side, as in GPT-NeoX."""

    def __init__(self) -> None:
        super().__init__(outer=8)
        self.qkv = nn.Linear(12, 24)

    def inside(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:-1], 2, 12).transpose(1, 2).chunk(3, dim=-1)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Lstm(Around):
    """Gates one behind the other."""

    def __init__(self) -> None:
        super().__init__(outer=7)
        self.lstm = nn.LSTM(12, 7, batch_first=True)

    def inside(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]  # type: ignore[no-any-return]


class Chosen(Around):
    """Each row has one of the matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(12, 4), nn.Parameter(torch.empty(4, 12, 12))

    def inside(self, x: Tensor) -> Tensor:
        weight, index = self.router(x).softmax(-1).topk(1, -1)
        return torch.einsum("bsi,bsio->bso", x, self.experts[index.squeeze(-1)]) * weight


class Shifted(Around):
    def inside(self, x: Tensor) -> Tensor:
        return x.roll(1, -1) * x


class Spectrum(Around):
    def inside(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).real


class Halves(Around):
    """A gate in the second half of the units."""

    def __init__(self) -> None:
        super().__init__(outer=6)

    def inside(self, x: Tensor) -> Tensor:
        return x[..., :6] * x[..., 6:].sigmoid()


class Unused(Around):
    def __init__(self) -> None:
        super().__init__()
        self.beside = nn.Linear(12, 12)


ROWS = (2, 4, 5)
IMAGE = (2, 3, 8, 8)
CASES: dict[str, tuple[nn.Module, tuple[int, ...], dict[int, int]]] = {
    "entries": (Around(), ROWS, {12: 1}),
    "square": (Square(), ROWS, {12: 1}),
    "gate in halves": (Halves(), ROWS, {6: 1}),
    "fused heads": (FusedHeads(), ROWS, {12: 1, 2: 1, 4: 2}),
    "attention of torch": (
        nn.Sequential(nn.Linear(5, 12), nn.TransformerEncoderLayer(12, 3, 20, batch_first=True), nn.Linear(12, 3)),
        ROWS,
        {12: 1, 3: 1, 4: 1, 20: 1},
    ),
    "lstm": (Lstm(), ROWS, {12: 1, 7: 1}),
    "mixture": (Chosen(), ROWS, {12: 2, 4: 1}),
    "group norm": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3)),
        IMAGE,
        {2: 1, 4: 1},
    ),
    "groups of channels": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, groups=4), nn.Conv2d(12, 4, 1)),
        IMAGE,
        {4: 1, 2: 1, 3: 1},
    ),
    "one channel each": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)),
        IMAGE,
        {8: 1},
    ),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 4, 1)), IMAGE, {8: 1}),
    "pooled": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
        IMAGE,
        {8: 1},
    ),
    "shuffled pixels": (
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.Conv2d(2, 4, 1)),
        IMAGE,
        {2: 1},
    ),
    "shift": (Shifted(), ROWS, {}),
    "unknown": (Spectrum(), ROWS, {}),
    "unused": (Unused(), ROWS, {}),
}
"""A module, the shape of its input, and how many groups there are of each size."""


@pytest.mark.parametrize("name", CASES)
def test_groups(name: str) -> None:
    module, shape, sizes = CASES[name]
    families.randomized(module)
    spec = derive(module, [torch.zeros(shape, dtype=torch.float64)])
    assert Counter(group.size for group in spec.groups.values()) == sizes
    example = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = families.output(module, [example])
    tensors = {key: own.clone() for key, own in module.state_dict().items()}
    copy = spec.apply(shuffled(spec), tensors)
    module.load_state_dict(copy)
    torch.testing.assert_close(families.output(module, [example]), before, rtol=0, atol=1e-9)
    back = spec.apply(match(spec, weight_sources(spec, tensors, copy)).permutations, copy)
    assert [key for key in tensors if not torch.equal(tensors[key], back[key])] == []


def test_what_keeps_its_order_is_told() -> None:
    rows = torch.zeros(ROWS, dtype=torch.float64)
    notes = {name: derive(module, [rows]).notes for name, (module, shape, _) in CASES.items() if shape == ROWS}
    assert "no rule for this operation" in notes["unknown"][0]
    assert notes["unused"][0].startswith("beside.bias: is not used by the forward pass")
    assert {name for name, own in notes.items() if own} == {"unknown", "unused"}

"""Small image models with the tensor names of Stable Diffusion's U-Net and of ESRGAN, and what scores them.

The configs of the examples name these functions: as ``builder``, which makes the network of a checkpoint, and as the
functions of tasks. The images are made here: soft blobs, or stripes.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

SIZE = 16
KINDS = ("blobs", "stripes")
ITEMS = 40
"""Images that a task has of a kind."""


def images(kind: str, count: int, seed: int) -> Tensor:
    """[count, 4, SIZE, SIZE], about -1 to 1: soft blobs, or stripes of any direction; the channels differ a little."""
    rng = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE), indexing="ij")
    numbers = torch.rand(count, 4, 1, 1, generator=rng)
    first, second, third, fourth = numbers.unbind(1)
    if kind == "stripes":
        angle = 3.1416 * first
        plane = torch.sin((5 + 5 * second) * (x * torch.cos(angle) + y * torch.sin(angle)) + 6.2832 * third)
    else:
        distance = (x - (1.4 * first - 0.7)).square() + (y - (1.4 * second - 0.7)).square()
        plane = 2 * torch.exp(-distance / (0.05 + 0.3 * third)) - 1 + 0.2 * fourth
    shades = torch.tensor([1.0, 0.9, -0.8, 0.5]).view(1, 4, 1, 1)
    return plane.unsqueeze(1) * shades


class Residual(nn.Module):
    """A residual block, with the names of Stable Diffusion."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(4, out), nn.SiLU(), nn.Identity(), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Conv2d(width, out, 1) if width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] to [n, out, h, w]."""
        result: Tensor = self.skip_connection(x) + self.out_layers(self.in_layers(x))
        return result


class Down(nn.Module):
    """Halves height and width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] to [n, width, h / 2, w / 2]."""
        result: Tensor = self.op(x)
        return result


class UNet(nn.Module):
    """A U-Net of one scale: from noisy latents to clean ones. Of 9 channels, 5 are a mask and what is known."""

    def __init__(self, channels: int = 4, width: int = 24) -> None:
        super().__init__()
        self.input_blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(channels, width, 3, padding=1)),
                nn.Sequential(Residual(width, width)),
                nn.Sequential(Down(width)),
                nn.Sequential(Residual(width, 2 * width)),
            ]
        )
        self.middle_block = nn.Sequential(Residual(2 * width, 2 * width))
        self.output_blocks = nn.ModuleList(
            [nn.Sequential(Residual(4 * width, width)), nn.Sequential(Residual(2 * width, width))]
        )
        self.out = nn.Sequential(nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] to [n, 4, h, w]."""
        wide = self.input_blocks[1](self.input_blocks[0](x))
        deep = self.input_blocks[3](self.input_blocks[2](wide))
        back = self.output_blocks[0](torch.cat([self.middle_block(deep), deep], dim=1))
        back = functional.interpolate(back, scale_factor=2.0)
        result: Tensor = self.out(self.output_blocks[1](torch.cat([back, wide], dim=1)))
        return result


def unet(path: str) -> nn.Module:
    """The network of a checkpoint, of 4 channels or of 9."""
    with safe_open(_file(path), "pt") as file:
        return UNet(file.get_slice("input_blocks.0.0.weight").get_shape()[1])


def _file(path: str) -> str:
    return path if path.endswith(".safetensors") else f"{path}/model.safetensors"


def noisy(clean: Tensor, seed: int) -> Tensor:
    """As much noise as image."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return 0.7071 * (clean + noise)


def masked(clean: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The 5 other inputs of inpainting, [n, 5, h, w], and the mask, [n, 1, h, w]: 1 in a half of the image."""
    rng, mask = random.Random(seed), torch.zeros(len(clean), 1, SIZE, SIZE)
    for each in mask:
        top, left = rng.randrange(SIZE // 2), rng.randrange(SIZE // 3)
        each[:, top : top + SIZE // 2, left : left + 2 * SIZE // 3] = 1.0
    return torch.cat([mask, clean * (1 - mask)], dim=1), mask


def denoising(model: Any, items: Sequence[str]) -> Tensor:
    """[items]: the mean squared error of each image that is denoised."""
    clean = _named(items)
    error: Tensor = (model(noisy(clean, 1)) - clean).square().mean((1, 2, 3))
    return error


def inpainting(model: Any, items: Sequence[str]) -> Tensor:
    """[items]: the mean squared error of each image where it was masked."""
    clean = _named(items)
    others, mask = masked(clean, 2)
    error = (model(torch.cat([noisy(clean, 1), others], dim=1)) - clean).square() * mask
    return error.sum((1, 2, 3)) / (4 * mask.sum((1, 2, 3)))


def _named(items: Sequence[str]) -> Tensor:
    """The images of these names, such as ``stripes 7``."""
    return torch.cat([images(kind, 1, 10_000 + int(n)) for kind, n in map(str.split, items)])


class DenseBlock(nn.Module):
    """ESRGAN's residual dense block."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for n in range(1, 6):
            out = growth if n < 5 else width
            self.add_module(f"conv{n}", nn.Conv2d(width + (n - 1) * growth, out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] to the same."""
        parts = [x]
        for n in range(1, 5):
            parts.append(functional.leaky_relu(self.get_submodule(f"conv{n}")(torch.cat(parts, dim=1)), 0.2))
        result: Tensor = x + 0.2 * self.get_submodule("conv5")(torch.cat(parts, dim=1))
        return result


class DenseBlocks(nn.Module):
    """ESRGAN's residual in residual dense block."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = (DenseBlock(width, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] to the same."""
        result: Tensor = x + 0.2 * self.RDB3(self.RDB2(self.RDB1(x)))
        return result


class RRDBNet(nn.Module):
    """ESRGAN's generator, which doubles height and width."""

    def __init__(self, width: int = 16, growth: int = 8) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(4, width, 3, padding=1)
        self.RRDB_trunk = nn.Sequential(DenseBlocks(width, growth))
        self.trunk_conv = nn.Conv2d(width, width, 3, padding=1)
        self.upconv1 = nn.Conv2d(width, width, 3, padding=1)
        self.HRconv = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 4, h, w] to [n, 4, 2 h, 2 w]."""
        first = self.conv_first(x)
        trunk = functional.interpolate(first + self.trunk_conv(self.RRDB_trunk(first)), scale_factor=2.0)
        up = functional.leaky_relu(self.HRconv(functional.leaky_relu(self.upconv1(trunk), 0.2)), 0.2)
        result: Tensor = self.conv_last(up)
        return result


def rrdb(_path: str = "") -> nn.Module:
    """The network of a checkpoint, with the inputs by which its operations are found for an alignment."""
    model = RRDBNet()
    model.dummy_inputs = (torch.zeros(1, 4, SIZE // 2, SIZE // 2),)  # type: ignore[assignment]
    return model


def scene(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """[n, 4, SIZE, SIZE] images of fine texture on blobs, and the same at half the size, which lost the texture."""
    rng = torch.Generator().manual_seed(seed + 1)
    texture = torch.randn(count, 1, SIZE, SIZE, generator=rng) * torch.rand(count, 1, 1, 1, generator=rng)
    large = images("blobs", count, seed) + 0.5 * texture
    return large, functional.avg_pool2d(large, 2)


def psnr(model: Any, items: Sequence[str]) -> Tensor:
    """[items]: the peak signal-to-noise ratio of each enlarged image, in dB."""
    large, small = _scenes(items)
    return 10 * torch.log10(4 / (model(small) - large).square().mean((1, 2, 3)))


def texture(model: Any, items: Sequence[str]) -> Tensor:
    """[items]: by how much each image is too smooth or too rough: the difference of the logarithm of its fineness."""
    large, small = _scenes(items)
    return (fineness(model(small)) - fineness(large)).abs()


def fineness(image: Tensor) -> Tensor:
    """[n]: the logarithm of the mean absolute difference of neighbours."""
    across, down = image.diff(dim=3).abs().mean((1, 2, 3)), image.diff(dim=2).abs().mean((1, 2, 3))
    return torch.log(across + down)


def _scenes(items: Sequence[str]) -> tuple[Tensor, Tensor]:
    pairs = [scene(1, 20_000 + int(name.split()[1])) for name in items]
    large, small = zip(*pairs, strict=True)
    return torch.cat(large), torch.cat(small)


def _task(score: Callable[[Any, Sequence[str]], Tensor], kind: str) -> Callable[[Any, Any, Sequence[str]], Any]:
    """A function of the config's tasks, over images of one kind."""

    def scored(model: Any, _tokenizer: Any, items: Sequence[str]) -> dict[str, float]:
        return dict(zip(items, score(model, items).tolist(), strict=True))

    scored.items = [f"{kind} {n}" for n in range(ITEMS)]  # type: ignore[attr-defined]
    return scored


denoise_blobs, denoise_stripes = (_task(denoising, kind) for kind in KINDS)
inpaint_blobs, inpaint_stripes = (_task(inpainting, kind) for kind in KINDS)
enlarge_psnr, enlarge_texture = (_task(score, "scene") for score in (psnr, texture))

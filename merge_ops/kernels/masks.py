"""Random masks that depend on a key and the element's place alone: not on global state, device, order or block size.

A counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) of 32-bit
multiplications and xor-shifts, as in Murmur3's finaliser, with half of the key on either side of the first round so
that streams of different keys are not shifts of each other. Each 32-bit word serves two elements.
"""

import hashlib

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.plans import GRAIN, grains
from mergesearch.seeds import derive

SAMPLED = 4096
_WEYL, _FIRST, _SECOND = 0x9E3779B1 - (1 << 32), 0x7FEB352D, 0x846CA68B - (1 << 32)


def mask_key(seed: int, model: str, tensor: str) -> int:
    """The 64-bit key of one tensor's mask; ``model`` is the ``fingerprint`` of its weights.

    A hash: keys that differ in few bits would have correlated masks.
    """
    return derive(seed, "mask", model, tensor, bits=64)


def fingerprint(weights: Tensor) -> str:
    """What a model's tensor is known by, wherever its checkpoint lies: a hash of elements from all over it."""
    flat = weights.reshape(-1)
    sample = flat[:: max(1, flat.numel() // SAMPLED)].contiguous().cpu()
    return hashlib.sha256(sample.view(torch.uint8).numpy().tobytes()).hexdigest()


def keep_mask(key: int, start: int, count: int, probability: float, device: torch.device) -> Tensor:
    """Booleans for the elements ``start`` to ``start + count`` (``start`` even): true with ``rounded(probability)``."""
    kept = grains(probability)
    if kept == GRAIN:  # one more than an int16 can be compared with
        return torch.ones(count, dtype=torch.bool, device=device)
    return draws(key, start, count, device) < kept - GRAIN // 2


def draws(key: int, start: int, count: int, device: torch.device) -> Tensor:
    """An int16 for each of the elements ``start`` to ``start + count`` (``start`` even), all equally probable."""
    return _words(key, start // 2, (count + 1) // 2, device).view(torch.int16)[:count]


def _words(key: int, start: int, count: int, device: torch.device) -> Tensor:
    # Places beyond 2^32 words continue under another key.
    epoch, first = divmod(start, 1 << 32)
    low, high = _signed(key + epoch), _signed((key >> 32) ^ epoch)
    x = torch.arange(first, first + count, dtype=torch.int64, device=device).to(torch.int32)
    x.mul_(_WEYL).add_(low)
    _xor_shift(x, 16).mul_(_FIRST).bitwise_xor_(high)
    _xor_shift(x, 15).mul_(_SECOND)
    return _xor_shift(x, 16)


def _xor_shift(x: Tensor, bits: int) -> Tensor:
    # int32 shifts keep the sign: mask it away.
    return x.bitwise_xor_((x >> bits).bitwise_and_((1 << (32 - bits)) - 1))


def _signed(word: int) -> int:
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >= 1 << 31 else word

"""Random masks that depend only on a key and the element's index.

They do not depend on global state, device, order or block size. The generator is counter-based (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011) and made of 32-bit multiplications and xor-shifts, as in
Murmur3's finalizer. Half of the key enters before the first round and half after it, so that streams of different keys
are not shifts of each other. Each 32-bit word serves two elements.
"""

import hashlib

import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.plans import GRAIN, grains
from mergesearch.seeds import derive

SAMPLED = 4096
_WEYL, _FIRST, _SECOND = 0x9E3779B1 - (1 << 32), 0x7FEB352D, 0x846CA68B - (1 << 32)


def mask_key(seed: int, model: str, tensor: str) -> int:
    """Returns the 64-bit key of one tensor's mask.

    The key is a hash, because keys that differ in few bits would give correlated masks.

    Args:
        seed: the recipe's seed.
        model: the ``fingerprint`` of the model's tensor.
        tensor: the tensor's name.
    """
    return derive(seed, "mask", model, tensor, bits=64)


def fingerprint(weights: Tensor) -> str:
    """Returns a hash of evenly spaced elements. It identifies a model's tensor independently of the model's path."""
    flat = weights.reshape(-1)
    sample = flat[:: max(1, flat.numel() // SAMPLED)].contiguous().cpu()
    return hashlib.sha256(sample.view(torch.uint8).numpy().tobytes()).hexdigest()


def keep_mask(key: int, start: int, count: int, probability: float, device: torch.device) -> Tensor:
    """Returns a bool tensor for the elements from ``start`` on: True with probability ``rounded(probability)``.

    ``start`` must be even.
    """
    kept_grains = grains(probability)
    if kept_grains == GRAIN:  # one more than an int16 can be compared with
        return torch.ones(count, dtype=torch.bool, device=device)
    return draws(key, start, count, device) < kept_grains - GRAIN // 2


def draws(key: int, start: int, count: int, device: torch.device) -> Tensor:
    """Returns a uniform int16 for each of the elements from ``start`` on. ``start`` must be even."""
    return _words(key, start // 2, (count + 1) // 2, device).view(torch.int16)[:count]


def _words(key: int, start: int, count: int, device: torch.device) -> Tensor:
    # Words from the 2^32th on use another key.
    epoch, first = divmod(start, 1 << 32)
    low, high = _signed(key + epoch), _signed((key >> 32) ^ epoch)
    x = torch.arange(first, first + count, dtype=torch.int64, device=device).to(torch.int32)
    x.mul_(_WEYL).add_(low)
    _xor_shift(x, 16).mul_(_FIRST).bitwise_xor_(high)
    _xor_shift(x, 15).mul_(_SECOND)
    return _xor_shift(x, 16)


def _xor_shift(x: Tensor, bits: int) -> Tensor:
    # A right shift of int32 extends the sign: mask it away.
    return x.bitwise_xor_((x >> bits).bitwise_and_((1 << (32 - bits)) - 1))


def _signed(word: int) -> int:
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >= 1 << 31 else word

"""Seeds that are derived from names, so that no random choice depends on another or on global state."""

import hashlib


def derive(*names: object, bits: int = 32) -> int:
    """An unsigned integer of ``bits`` bits, at most 256, that depends on the names alone.

    The first name is usually the run's seed, as in ``derive(run_seed, "sampler", 12)``.
    """
    text = "\x1f".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[: bits // 8], "little")

"""Damage to files: what a loss of power leaves, and changes at random."""

import random
from collections.abc import Callable


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zeroed(content: bytes) -> bytes:
    return bytes(len(content))


def garbage(content: bytes) -> bytes:
    return b"\xff\xfe garbage" * (1 + len(content) // 10)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": cut,
    "empty": lambda _: b"",
    "zeroed": zeroed,
    "garbage": garbage,
}


def damaged_at_random(content: bytes, seed: int) -> bytes:
    """Up to three parts of the content taken out, doubled, reversed, or put over with other bytes."""
    dice = random.Random(seed)
    for _ in range(dice.randrange(1, 4)):
        begin = dice.randrange(len(content) + 1)
        end = min(len(content), begin + dice.choice((1, 10, 300)))
        part = content[begin:end]
        content = dice.choice(
            (
                content[:begin] + content[end:],
                content[:end] + content[begin:],
                content[:begin] + bytes(dice.randrange(256) for _ in part) + content[end:],
                content[:begin] + bytes(len(part)) + content[end:],
                content[:begin] + part[::-1] + content[end:],
            )
        )
    return content

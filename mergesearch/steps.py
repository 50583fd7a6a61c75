"""How far long work is. Who works says what it does and how much of it is done; who shows it reads that meanwhile.

Saying costs two assignments, so that a loop over batches can say it each time. Nothing is said where nobody listens, as
in threads of their own.
"""

import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)


class SizedIterable(Sized, Iterable[T_co], Protocol[T_co]):
    """What has a length, and can be gone through."""


@dataclass
class Step:
    """What is being done.

    Attributes:
        what: In words, such as ``scoring``.
        of: How many units it has; 0: not known.
        unit: Such as ``items``.
        done: How many are done, about; a part of a unit counts.
        begun: When, by ``time.monotonic``.
    """

    what: str
    of: int = 0
    unit: str = ""
    done: float = 0.0
    begun: float = field(default_factory=time.monotonic)
    _first: float = 0.0
    _count: float = 0.0


class Meter:
    """The steps that are being done, each within the one before it. Other threads may read them at any time."""

    def __init__(self) -> None:
        self.steps: tuple[Step, ...] = ()


_METER: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextmanager
def metered() -> Iterator[Meter]:
    """A meter of what is done in the context; within another such context, that one's."""
    meter = _METER.get() or Meter()
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)


@contextmanager
def step(what: str, of: int = 0, unit: str = "") -> Iterator[None]:
    """Says what is done in the context: see ``Step``."""
    meter = _METER.get()
    if meter is None:
        yield
        return
    before = meter.steps
    meter.steps = (*before, Step(what, of, unit))
    try:
        yield
    finally:
        meter.steps = before


@contextmanager
def units(count: float) -> Iterator[None]:
    """The context does so many units of the step; within other such units, a part of these."""
    now = _now()
    if now is None:
        yield
        return
    first, before, now._first, now._count = now.done, (now._first, now._count), now.done, count
    try:
        yield
    finally:
        now.done = first + count
        now._first, now._count = before


@contextmanager
def part(share: float) -> Iterator[None]:
    """The context does this share of the ``units`` of the context around it."""
    now = _now()
    with units(now._count * share if now else 0.0):
        yield


def reached(share: float) -> None:
    """Says which share of the ``units`` of the innermost context is done."""
    now = _now()
    if now is not None:
        now.done = max(now.done, now._first + share * now._count)


def followed(parts: SizedIterable[T_co]) -> Iterator[T_co]:
    """The parts of a loop that does the ``units`` of the context; says after each that it is done."""
    for number, part in enumerate(parts, 1):
        yield part
        reached(number / len(parts))


def _now() -> Step | None:
    meter = _METER.get()
    return meter.steps[-1] if meter and meter.steps else None

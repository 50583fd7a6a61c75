"""Whether sequences may share rows, and the model be compiled: tried on the loaded model, the same items both ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from mergesearch.errors import UserError
from mergesearch.evaluators.inference.logprobs import Scorer

Mode = Literal["auto", "exact", "packed"]
COMPILED = {"cuda"}
"""The devices on which compiling is worth its minute: on a CPU nearly all of the time is spent in matrix products."""
SAMPLE = 6
"""Documents whose questions are asked both ways."""
WORTH = 0.1
"""Rows are shared where that saves at least this part of the work."""
BOUND = 1e-4
"""The most that two log-probabilities of one answer may differ by in float32, in nats or relatively."""


def settle(model: Any, mode: Mode, scorer: Scorer, documents: Sequence[Sequence[int]]) -> list[str]:
    """Lets the scorer share rows where that was asked for, is worth it and gives the same numbers.

    documents: of each the numbers of its questions. Returns what the user should know. Raises UserError where sharing
    was insisted on in vain.
    """
    width: int | None = getattr(model.config.get_text_config(), "hidden_size", None)
    if not documents or mode == "exact" or (mode == "auto" and not _worth(scorer, width)):
        return []
    reason = "its configuration does not say how wide it is" if width is None else ""
    reason = reason or _try(model, scorer, documents, lambda on: scorer.pack(width if on else None))
    if reason and mode == "packed":
        raise UserError(f"mode: questions cannot be packed on this model: {reason}")
    return [f"questions are scored one by one, not packed: {reason}"] if reason else []


def settle_compiled(model: Any, wanted: bool, scorer: Scorer, documents: Sequence[Sequence[int]]) -> list[str]:
    """Lets the scorer run the model compiled where that was asked for and gives the same numbers; a note where not."""
    if not wanted or not documents or model.device.type not in COMPILED:
        return []
    reason = _try(model, scorer, documents, scorer.compile)
    return [f"the model is not compiled: {reason}"] if reason else []


def _worth(scorer: Scorer, width: int | None) -> bool:
    return width is not None and scorer.saved(width) >= WORTH


def _try(model: Any, scorer: Scorer, documents: Sequence[Sequence[int]], switch: Callable[[bool], object]) -> str:
    """Turns on what scores in another way, unless something speaks against it, which is said then."""
    numbers = _sample(scorer, documents)
    reason = _reason_against(model, scorer, numbers, switch)
    switch(not reason)
    return reason


def _reason_against(model: Any, scorer: Scorer, numbers: Sequence[int], switch: Callable[[bool], object]) -> str:
    """Why not to score in another way, "" where nothing speaks against it."""
    exact = scorer.score(numbers)
    try:
        switch(True)
        other = scorer.score(numbers)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, IndexError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if not all(math.isfinite(one[0]) for one in [*exact, *other]):
        return "its output is not a number"
    worst = max(abs(a[0] - b[0]) / max(1.0, abs(a[0])) for a, b in zip(exact, other, strict=True))
    bound = max(BOUND, 8 * torch.finfo(model.dtype).eps)
    return "" if worst <= bound else f"log-probabilities differ by up to {worst:.1e} of their size"


def _sample(scorer: Scorer, documents: Sequence[Sequence[int]]) -> list[int]:
    """The questions of the longest document, and of others at even distances down to the shortest."""
    ordered = sorted(documents, key=lambda numbers: (-max(map(scorer.length, numbers)), numbers[0]))
    step = math.ceil(len(ordered) / SAMPLE)
    return [number for numbers in ordered[::step] for number in numbers]

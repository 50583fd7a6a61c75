"""Faster ways to score: sharing prefixes, and ``torch.compile``.

Each is tested on the loaded model before the first candidate: the same items are scored with it and without it. It is
used if the numbers agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mergesearch.errors import UserError, first_line
from mergesearch.evaluators.contract.options import Mode
from mergesearch.evaluators.inference.logprobs import ContinuationScorer

COMPILED_DEVICES = {"cuda"}
"""Types of devices on which compiling saves time. On a CPU nearly all of the time is spent in matrix products."""
TESTED_DOCUMENTS = 6
"""Number of documents that are scored both ways."""
MIN_WORK_SAVED = 0.1
"""Prefixes are shared if that saves at least this fraction of the work."""
TOLERANCE = 1e-4
"""The maximum difference of two float32 log-probabilities, in nats, or relative to a log-probability beyond 1 nat."""


def choose_packing(model: Any, mode: Mode, scorer: ContinuationScorer, documents: Sequence[Sequence[int]]) -> list[str]:
    """Lets the scorer share prefixes if ``mode`` allows it, it saves work, and the numbers are the same.

    Args:
        model: The transformers model.
        mode: See ``Mode``.
        scorer: The scorer.
        documents: For each document the indices of its queries.

    Returns:
        Notes for the user.

    Raises:
        UserError: The mode is ``packed``, but the model cannot score packed sequences.
    """
    width: int | None = getattr(model.config.get_text_config(), "hidden_size", None)
    if not documents or mode == "exact":
        return []
    if mode == "auto" and (width is None or scorer.work_saved(width) < MIN_WORK_SAVED):
        return []
    reason = "the model's config has no hidden_size" if width is None else ""
    reason = reason or _try(model, scorer, documents, lambda on: scorer.pack(width if on else None))
    if reason and mode == "packed":
        raise UserError(
            f"mode: found packed, but this model cannot score packed sequences: {reason}; use auto or exact"
        )
    return [f"mode: sequences are scored without packing: {reason}"] if reason else []


def choose_compilation(
    model: Any, wanted: bool, scorer: ContinuationScorer, documents: Sequence[Sequence[int]]
) -> list[str]:
    """Lets the scorer compile the model if that is wanted and the numbers are the same. Returns notes."""
    if not wanted or not documents or model.device.type not in COMPILED_DEVICES:
        return []
    reason = _try(model, scorer, documents, scorer.compile)
    return [f"compile: the model is scored without torch.compile: {reason}"] if reason else []


def _try(
    model: Any, scorer: ContinuationScorer, documents: Sequence[Sequence[int]], switch: Callable[[bool], object]
) -> str:
    """Switches a faster way on if it gives the same numbers; otherwise off. Returns why not, or an empty string."""
    reason = _reason_against(model, scorer, _sample(scorer, documents), switch)
    switch(not reason)
    return reason


def _reason_against(
    model: Any, scorer: ContinuationScorer, queries: Sequence[int], switch: Callable[[bool], object]
) -> str:
    expected = scorer.score(queries)
    try:
        switch(True)
        scores = scorer.score(queries)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, IndexError) as error:
        return f"{type(error).__name__}: {first_line(error)}"
    if not all(math.isfinite(logprob) for logprob, _ in [*expected, *scores]):
        return "the model's output is not a number"
    pairs = zip(expected, scores, strict=True)
    difference = max(abs(a - b) / max(1.0, abs(a)) for (a, _), (b, _) in pairs)
    tolerance = max(TOLERANCE, 8 * torch.finfo(model.dtype).eps)
    return "" if difference <= tolerance else f"log-probabilities differ, relatively by up to {difference:.1e}"


def _sample(scorer: ContinuationScorer, documents: Sequence[Sequence[int]]) -> list[int]:
    """The queries of some documents, evenly spaced from the longest to the shortest."""
    ordered = sorted(documents, key=lambda queries: (-max(map(scorer.query_length, queries)), queries[0]))
    step = math.ceil(len(ordered) / TESTED_DOCUMENTS)
    return [query for queries in ordered[::step] for query in queries]

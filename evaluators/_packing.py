"""Whether sequences may share rows: tried once on the loaded model, the same items both ways."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch

from mergesearch.errors import UserError
from mergesearch.evaluators._logprobs import Scorer

Mode = Literal["auto", "exact", "packed"]
SAMPLE = 6
"""Documents whose questions are asked both ways."""
WORTH = 0.1
"""Rows are shared where that saves at least this part of the work."""
BOUND = 1e-4
"""The most that two log-probabilities of one answer may differ by in float32, in nats or relatively."""
_logger = logging.getLogger(__name__)


class Packing:
    """For one model: decides at the first questions, and keeps to it whatever the weights are then."""

    def __init__(self, model: Any, mode: Mode) -> None:
        self._model = model
        self._mode = mode
        self._width: int | None = getattr(model.config.get_text_config(), "hidden_size", None)
        self._settled = False

    def settle(self, scorer: Scorer, documents: Sequence[Sequence[int]]) -> None:
        """Lets the scorer share rows where that was asked for, is worth it and gives the same numbers.

        documents: of each the numbers of its questions. Raises UserError where it was insisted on in vain.
        """
        if self._settled or not documents:
            return
        if self._mode == "exact" or (self._mode == "auto" and not self._worth(scorer)):
            self._settled = True
            return
        reason = self._tried(scorer, _sample(scorer, documents))
        if reason is None:
            return
        self._settled = True
        if reason and self._mode == "packed":
            raise UserError(f"mode: questions cannot be packed on this model: {reason}")
        if reason:
            _logger.warning("questions are scored one by one, not packed: %s", reason)
        scorer.pack(None if reason else self._width)

    def _worth(self, scorer: Scorer) -> bool:
        return self._width is not None and scorer.saved(self._width) >= WORTH

    def _tried(self, scorer: Scorer, numbers: Sequence[int]) -> str | None:
        """Why not, "" where nothing speaks against it, None where these weights' output is not finite."""
        if not self._width:
            return "its configuration does not say how wide it is"
        exact = scorer.score(numbers)
        scorer.pack(self._width)
        try:
            packed = scorer.score(numbers)
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, IndexError) as error:
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        finally:
            scorer.pack(None)
        if not all(math.isfinite(one[0]) for one in [*exact, *packed]):
            return None if not all(math.isfinite(one[0]) for one in exact) else "its output is not a number then"
        worst = max(abs(a[0] - b[0]) / max(1.0, abs(a[0])) for a, b in zip(exact, packed, strict=True))
        return "" if worst <= self._bound() else f"log-probabilities differ by up to {worst:.1e} of their size"

    def _bound(self) -> float:
        return max(BOUND, 8 * torch.finfo(self._model.dtype).eps)


def _sample(scorer: Scorer, documents: Sequence[Sequence[int]]) -> list[int]:
    """The questions of the longest document, and of others at even distances down to the shortest."""
    ordered = sorted(documents, key=lambda numbers: (-max(map(scorer.length, numbers)), numbers[0]))
    step = math.ceil(len(ordered) / SAMPLE)
    return [number for numbers in ordered[::step] for number in numbers]

"""How many tokens go through a model at once: measured once, the same for all tasks and candidates of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from mergesearch.text import shown

T = TypeVar("T")
DEFAULT_TOKENS = {"cpu": 2_048}
"""Default budget by type of device. A CPU is fastest when a batch fits into its cache; a GPU needs larger batches."""
DEFAULT_TOKENS_ELSEWHERE = 16_384
CACHE_FACTOR = {"cpu": 8}
"""Tokens in the key-value cache during generation, per token of the budget; 1 for other devices."""
CACHE_BYTES = 2**30
"""More tokens if they are small: the key-value cache of small models may have so many bytes."""
GRADIENT_SHARE = {"cpu": 0.5}
"""Tokens of a batch with gradients, per token of a batch that is scored: the activations of all layers are kept."""
GRADIENT_SHARE_ELSEWHERE = 0.25
CALL_TOKENS = {"cpu": 32}
"""Tokens that take about as long as what a call of the model takes beside its tokens."""
CALL_TOKENS_ELSEWHERE = 1_024


class Budget:
    """The maximum number of tokens, padding included, in a batch of more than one sequence.

    When a batch runs out of memory, the budget is halved for the rest of the run.

    Attributes:
        tokens: The current maximum.
        tried: Whether this many tokens are known to fit into memory. Otherwise evaluators run their largest batches
            when they are prepared.
    """

    def __init__(self, tokens: int, tried: bool = True, changed: Callable[[Budget], object] = lambda _: None) -> None:
        """changed: called with the budget after it became smaller."""
        self.tokens = tokens
        self.tried = tried
        self._initial_tokens = tokens
        self._changed = changed

    def scaled(self, count: int) -> int:
        """``count``, reduced as the budget was since the start; at least 1."""
        return max(count * self.tokens // self._initial_tokens, 1)

    def retry_smaller(self, is_smallest: Callable[[], bool], attempt: Callable[[], T]) -> T:
        """The result of ``attempt``; after each out-of-memory error the budget is halved and ``attempt`` repeated.

        Raises the error, and restores the budget, when ``is_smallest`` says that a smaller budget would change
        nothing.
        """
        before = self.tokens
        while True:
            try:
                result = attempt()
                break
            except RuntimeError as error:
                if not is_out_of_memory(error) or is_smallest():
                    self.tokens = before
                    raise
            self._halve()
        if self.tokens < before:
            self._changed(self)
        return result

    def _halve(self) -> None:
        import torch

        self.tokens //= 2
        torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device or the host ran out of memory."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in shown(error)


def default_tokens(device: Any) -> int:
    """The default budget of a device."""
    return DEFAULT_TOKENS.get(device_type(device), DEFAULT_TOKENS_ELSEWHERE)


def cache_tokens(budget: Budget, device: Any, size: int | None = None) -> int:
    """The maximum number of tokens in the key-value cache during generation. size: Bytes of one token."""
    tokens = budget.tokens * CACHE_FACTOR.get(device_type(device), 1)
    return max(tokens, budget.scaled(CACHE_BYTES // size)) if size else tokens


def call_tokens(device: Any) -> int:
    """Tokens that take about as long as one more call of the model."""
    return CALL_TOKENS.get(device_type(device), CALL_TOKENS_ELSEWHERE)


def gradient_tokens(budget: Budget, device: Any) -> int:
    """The maximum number of tokens of a batch whose activations are kept for the backward pass."""
    share = GRADIENT_SHARE.get(device_type(device), GRADIENT_SHARE_ELSEWHERE)
    return max(int(share * budget.tokens), 1)


def device_type(device: Any) -> str:
    """``"cuda"`` of ``"cuda:1"``."""
    return str(device).partition(":")[0]

"""How much a model is given at once: found by trying, the same for all tasks and candidates of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mergesearch.evaluators.contract.evaluator import LoadedModel

T = TypeVar("T")
DEFAULT = {"cpu": 2_048}
"""By the kind of device: what a processor's cache holds together is quickest, a GPU wants more."""
DEFAULT_ELSEWHERE = 16_384
KEPT = {"cpu": 8}
"""Tokens whose keys and values are kept while texts are generated, for each token that is computed at once."""


class Budget:
    """The most tokens, padding included, that the model is given at once in more than one row.

    Where they do not fit into memory they are halved, for all that follows, and ``changed`` is told. ``tried``: whether
    it is known already that they fit; else evaluators find out when they prepare, on the most that they will ask.
    """

    def __init__(self, tokens: int, tried: bool = True, changed: Callable[[Budget], object] = lambda _: None) -> None:
        self.tokens = tokens
        self.tried = tried
        self._first = tokens
        self._changed = changed

    def part(self, count: int) -> int:
        """Of a number that was meant for the first budget, what is left now; at least 1."""
        return max(count * self.tokens // self._first, 1)

    def fitting(self, is_least: Callable[[], bool], attempt: Callable[[], T]) -> T:
        """What ``attempt`` gives, at half as many tokens as often as it runs out of memory.

        Raises that where it ``is_least``, one row at a time: no budget would help then.
        """
        before = self.tokens
        while True:
            try:
                found = attempt()
                break
            except RuntimeError as error:
                if not is_out_of_memory(error) or is_least():
                    self.tokens = before
                    raise
            self._halve()
        if self.tokens < before:
            self._changed(self)
        return found

    def _halve(self) -> None:
        import torch

        self.tokens //= 2
        torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the host, has no more memory to give."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def default_tokens(device: Any) -> int:
    """Where nobody says otherwise."""
    return DEFAULT.get(_kind(device), DEFAULT_ELSEWHERE)


def kept_tokens(budget: Budget, device: Any) -> int:
    """How many tokens' keys and values are kept at once."""
    return budget.tokens * KEPT.get(_kind(device), 1)


def _kind(device: Any) -> str:
    return str(device).partition(":")[0]


def budget_of(subject: LoadedModel) -> Budget:
    """The subject's, or one of its own that is not known to fit."""
    if subject.budget is not None:
        return subject.budget
    device = subject.model.device
    return Budget(default_tokens(device), tried=_kind(device) == "cpu")

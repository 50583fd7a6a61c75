"""Budgets: halved until an attempt fits into memory, restored if none does."""

from collections.abc import Callable

import pytest
import torch

from mergesearch.evaluators import Budget, LoadedModel, default_tokens
from mergesearch.evaluators.contract.loaded_model import budget_of
from mergesearch.evaluators.contract.token_budget import cache_tokens


def fitting_below(budget: Budget, tokens: int) -> Callable[[], int]:
    """An attempt that runs out of memory unless the budget is at most so many tokens. Returns the budget."""

    def attempt() -> int:
        if budget.tokens > tokens:
            raise torch.OutOfMemoryError
        return budget.tokens

    return attempt


def test_it_is_halved_until_the_attempt_fits() -> None:
    changes = list[int]()
    budget = Budget(1000, changed=lambda changed: changes.append(changed.tokens))
    assert budget.retry_smaller(lambda: False, fitting_below(budget, 300)) == 250
    assert budget.retry_smaller(lambda: False, fitting_below(budget, 300)) == 250
    assert changes == [250]
    assert (budget.scaled(8), budget.scaled(1)) == (2, 1)


def test_it_is_restored_if_the_smallest_attempt_does_not_fit() -> None:
    budget = Budget(1000, changed=lambda _: pytest.fail("the budget has changed"))
    with pytest.raises(torch.OutOfMemoryError):
        budget.retry_smaller(lambda: budget.tokens < 100, fitting_below(budget, 10))
    assert budget.tokens == 1000


def test_other_errors_are_not_retried() -> None:
    attempts = list[int]()

    def attempt() -> None:
        attempts.append(1)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        Budget(1000).retry_smaller(lambda: False, attempt)
    assert attempts == [1]


def test_default_budgets_by_device() -> None:
    assert (default_tokens("cpu"), default_tokens("cuda:1")) == (2_048, 16_384)
    assert (cache_tokens(Budget(100), "cpu"), cache_tokens(Budget(100), "cuda")) == (800, 100)


def test_a_model_without_a_budget_has_the_default_of_its_device(subject: LoadedModel) -> None:
    budget = budget_of(subject)
    assert (budget.tokens, budget.tried) == (2_048, True)
    given = Budget(7)
    assert budget_of(LoadedModel(subject.model, subject.tokenizer, budget=given)) is given

"""The model that evaluators score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.token_budget import Budget, default_tokens, device_type

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LoadedModel:
    """A transformers model in memory with its tokenizer.

    Evaluators cache what depends on the tokenizer and on the model's configuration, for as long as they get the same
    ``model`` and ``tokenizer`` objects. The weights and the number of layers may change in place between two calls.

    Attributes:
        model: The transformers model.
        tokenizer: The tokenizer that is saved with the model. None: there is none.
        save: Writes the model, as it is now, to a folder that does not exist yet. For evaluators that run a program.
        scratch: A folder in which evaluators may write the model. None: the system's folder for temporary files.
        budget: How many tokens go through the model at once. None: each evaluator has a default budget of its own.
    """

    model: torch.nn.Module
    tokenizer: Any
    save: Callable[[Path], None] | None = field(default=None, compare=False)
    budget: Budget | None = field(default=None, compare=False)
    scratch: Path | None = field(default=None, compare=False)


def tokenizer_of(subject: LoadedModel) -> Any:
    """The tokenizer of the loaded model. Raises UserError if there is none."""
    if subject.tokenizer is None:
        raise UserError("the model's folder has no tokenizer, which this task needs")
    return subject.tokenizer


def budget_of(subject: LoadedModel) -> Budget:
    """The budget of the loaded model, or a default one for its device."""
    if subject.budget is not None:
        return subject.budget
    device = subject.model.device
    return Budget(default_tokens(device), tried=device_type(device) == "cpu")

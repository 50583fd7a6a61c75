"""A model to per-item scores. Knows nothing of merging or of Optuna; imports nothing heavy until it must."""

from collections.abc import Callable
from typing import TypeGuard

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.evaluator import (
    Differentiable,
    Evaluator,
    EvaluatorOptions,
    Item,
    LoadedModel,
    LossKind,
    MeanOfItems,
    Metric,
    Shared,
    aggregate,
    has_contributions,
    has_targets,
)
from mergesearch.evaluators.contract.jackknife import FunctionOfMeans, Jackknife, pseudo_values
from mergesearch.evaluators.contract.token_budget import Budget, default_tokens
from mergesearch.evaluators.data.split import split_items
from mergesearch.evaluators.lm_eval.lm_eval import LmEval
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.evaluators.tasks.classification import Classification
from mergesearch.evaluators.tasks.command import Command
from mergesearch.evaluators.tasks.embedding import Embedding
from mergesearch.evaluators.tasks.function import Function
from mergesearch.evaluators.tasks.perplexity import Perplexity
from mergesearch.plugins import find

__all__ = [
    "EVALUATORS",
    "Budget",
    "Differentiable",
    "Evaluator",
    "EvaluatorOptions",
    "FunctionOfMeans",
    "Item",
    "Jackknife",
    "LoadedModel",
    "LossKind",
    "MeanOfItems",
    "Metric",
    "Shared",
    "aggregate",
    "default_tokens",
    "find_evaluator",
    "has_contributions",
    "has_targets",
    "is_evaluator",
    "open_evaluator",
    "pseudo_values",
    "split_items",
]

EVALUATORS: dict[str, type[Evaluator]] = {
    "lm_eval": LmEval,
    "bits_per_byte": BitsPerByte,
    "perplexity": Perplexity,
    "classification": Classification,
    "embedding": Embedding,
    "function": Function,
    "command": Command,
}
"""Every evaluator by the name that a config calls it. ``Options`` of each is what the config says of one task."""


ENTRY_POINTS = "mergesearch.evaluators"
"""The group of entry points under which other packages list evaluators of theirs."""


def find_evaluator(name: str) -> type[Evaluator] | Callable[..., object]:
    """The evaluator of that name: of ``EVALUATORS``, an entry point's, or at ``"module:name"`` or ``"file.py:name"``.

    There, a function may stand instead: the one that ``Function`` is to call. Raises UserError.
    """
    found = find(name, EVALUATORS, ENTRY_POINTS, "evaluator")
    if is_evaluator(found) or (callable(found) and not isinstance(found, type)):
        return found
    raise UserError(f"evaluator: {name!r} is neither an evaluator, which has Options, nor a function")


def is_evaluator(found: object) -> TypeGuard[type[Evaluator]]:
    """Whether this is the class of an evaluator."""
    return isinstance(found, type) and issubclass(getattr(found, "Options", object), EvaluatorOptions)


def open_evaluator(name: str, options: EvaluatorOptions, shared: Shared) -> Evaluator:
    """The evaluator of that name. Raises UserError for whatever the options ask in vain."""
    kind = find_evaluator(name)
    assert is_evaluator(kind)
    return kind(options, shared)

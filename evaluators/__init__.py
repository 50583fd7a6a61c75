"""Scores of a model, item by item. Imports nothing heavy before an evaluator is made.

The rooms, from the top down; each imports from those below it only::

    tasks      the evaluators of the table, but lm_eval
    lm_eval    the evaluator of lm-eval's tasks and groups
    inference  a model in memory to log-probabilities, texts, embeddings and losses
    data       tables on disk, near-duplicates, the split into search and test items
    contract   what an evaluator is
"""

from collections.abc import Callable
from typing import TypeGuard

from mergesearch.errors import UserError, in_words
from mergesearch.evaluators.contract.differentiable import Differentiable, LossKind, has_targets
from mergesearch.evaluators.contract.documents import Answers, Describes, Document, answers_of, documents_of
from mergesearch.evaluators.contract.evaluator import Evaluator, MeanOfItems, Metric, has_contributions
from mergesearch.evaluators.contract.examples import TakesExamples
from mergesearch.evaluators.contract.graded import (
    Graded,
    GradedByMargin,
    decision_margin,
    is_graded,
    soft_decisions,
    spread,
)
from mergesearch.evaluators.contract.identity import code_of, content_of
from mergesearch.evaluators.contract.item import Item, aggregate
from mergesearch.evaluators.contract.jackknife import FunctionOfMeans, Jackknife, pseudo_values
from mergesearch.evaluators.contract.loaded_model import LoadedModel
from mergesearch.evaluators.contract.options import EvaluatorOptions, OnDisk, Shared, options_here, path_options
from mergesearch.evaluators.contract.sources import HasSources, Source, sources_of
from mergesearch.evaluators.contract.token_budget import Budget, default_tokens
from mergesearch.evaluators.data.content import content_hash
from mergesearch.evaluators.data.limit import limited
from mergesearch.evaluators.data.split import ItemTexts, split_items, split_together, without_shared
from mergesearch.evaluators.lm_eval.lm_eval import LmEval
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.evaluators.tasks.classification import Classification
from mergesearch.evaluators.tasks.command import Command
from mergesearch.evaluators.tasks.embedding import Embedding
from mergesearch.evaluators.tasks.function import Function
from mergesearch.evaluators.tasks.perplexity import Perplexity
from mergesearch.foreign import other_code
from mergesearch.plugins import find
from mergesearch.text import quoted
from mergesearch.trust import tell_code

__all__ = [
    "EVALUATORS",
    "Answers",
    "Budget",
    "Describes",
    "Differentiable",
    "Document",
    "Evaluator",
    "EvaluatorOptions",
    "FunctionOfMeans",
    "Graded",
    "GradedByMargin",
    "HasSources",
    "Item",
    "ItemTexts",
    "Jackknife",
    "LoadedModel",
    "LossKind",
    "MeanOfItems",
    "Metric",
    "OnDisk",
    "Shared",
    "Source",
    "TakesExamples",
    "aggregate",
    "answers_of",
    "code_of",
    "content_hash",
    "content_of",
    "decision_margin",
    "default_tokens",
    "documents_of",
    "find_evaluator",
    "has_contributions",
    "has_targets",
    "is_evaluator",
    "is_graded",
    "limited",
    "open_evaluator",
    "path_options",
    "pseudo_values",
    "soft_decisions",
    "sources_of",
    "split_items",
    "split_together",
    "spread",
    "without_shared",
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
"""Every evaluator by its name in a config. ``Options`` of each is what a config may say about one task."""

ENTRY_POINTS = "mergesearch.evaluators"
"""The group of entry points under which other packages list their evaluators."""


def find_evaluator(name: str) -> type[Evaluator] | Callable[..., object]:
    """The evaluator of that name: from ``EVALUATORS``, an entry point, ``"module:name"`` or ``"file.py:name"``.

    It may also be a plain function, to be called by the evaluator ``Function``.

    Raises:
        UserError: There is no such evaluator, or the object is neither an evaluator nor a function.
    """
    if ":" in name:
        tell_code(name)
    evaluator = find(name, EVALUATORS, ENTRY_POINTS, "evaluator")
    if is_evaluator(evaluator) or (callable(evaluator) and not isinstance(evaluator, type)):
        return evaluator
    raise UserError(
        f"evaluator: found {quoted(name)}, which is {evaluator!r}; "
        "expected a function, or a class with an attribute Options that is a subclass of EvaluatorOptions"
    )


def is_evaluator(obj: object) -> TypeGuard[type[Evaluator]]:
    """Whether this is an evaluator's class."""
    return isinstance(obj, type) and issubclass(getattr(obj, "Options", object), EvaluatorOptions)


def open_evaluator(name: str, options: EvaluatorOptions, shared: Shared) -> Evaluator:
    """Makes the evaluator of that name. Raises UserError, which names the task, for invalid options."""
    evaluator = find_evaluator(name)
    assert is_evaluator(evaluator)
    try:
        with other_code(f"task {options.task!r}"):
            return evaluator(options_here(options), shared)
    except UserError as error:
        names_task = str(error).startswith(f"task {options.task!r}")
        raise UserError(str(error) if names_task else f"task {options.task!r}: {error}") from error
    except Exception as error:
        if name in EVALUATORS:
            raise
        raise UserError(f"task {options.task!r}: evaluator {name!r} cannot be made: {in_words(error)}") from error

"""A model to per-item scores. Knows nothing of merging or of Optuna; imports nothing heavy until it must."""

from mergesearch.evaluators._base import (
    Evaluator,
    EvaluatorOptions,
    Item,
    LoadedModel,
    MeanOfItems,
    Metric,
    Shared,
    aggregate,
)
from mergesearch.evaluators._jackknife import FunctionOfMeans, Jackknife, pseudo_values
from mergesearch.evaluators.bits_per_byte import BitsPerByte
from mergesearch.evaluators.lm_eval import LmEval
from mergesearch.evaluators.split import split_items

__all__ = [
    "EVALUATORS",
    "Evaluator",
    "EvaluatorOptions",
    "FunctionOfMeans",
    "Item",
    "Jackknife",
    "LoadedModel",
    "MeanOfItems",
    "Metric",
    "Shared",
    "aggregate",
    "open_evaluator",
    "pseudo_values",
    "split_items",
]

EVALUATORS: dict[str, type[Evaluator]] = {
    "lm_eval": LmEval,
    "bits_per_byte": BitsPerByte,
}
"""Every evaluator by the name that a config calls it. ``Options`` of each is what the config says of one task."""


def open_evaluator(options: EvaluatorOptions, shared: Shared) -> Evaluator:
    """The evaluator whose ``Options`` these are. Raises UserError for whatever they ask in vain."""
    kind = next(each for each in EVALUATORS.values() if each.Options is type(options))
    return kind(options, shared)

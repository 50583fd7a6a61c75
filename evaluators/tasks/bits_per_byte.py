"""Bits per byte of texts: the evaluator ``perplexity`` with that metric, whose value is a plain mean."""

from __future__ import annotations

from typing import ClassVar, Literal

from mergesearch.evaluators.contract.options import EvaluatorOptions
from mergesearch.evaluators.tasks.perplexity import Perplexity, PerplexityOptions


class BitsPerByteOptions(PerplexityOptions):
    """Texts, from files or from a field of a data set, and how they are scored."""

    metric: Literal["bits_per_byte"] = "bits_per_byte"


class BitsPerByte(Perplexity):
    """See ``Perplexity``."""

    Options: ClassVar[type[EvaluatorOptions]] = BitsPerByteOptions

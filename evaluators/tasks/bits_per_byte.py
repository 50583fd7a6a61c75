"""Bits per byte of texts: ``perplexity`` with that metric, of which the value is a plain mean."""

from __future__ import annotations

from typing import ClassVar, Literal

from mergesearch.evaluators.contract.evaluator import EvaluatorOptions
from mergesearch.evaluators.tasks.perplexity import Perplexity, PerplexityOptions


class BitsPerByteOptions(PerplexityOptions):
    """Texts, from files or from a field of a data set, and how to read them."""

    metric: Literal["bits_per_byte"] = "bits_per_byte"


class BitsPerByte(Perplexity):
    """See ``Perplexity``."""

    Options: ClassVar[type[EvaluatorOptions]] = BitsPerByteOptions

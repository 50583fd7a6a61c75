"""What the candidates of a run share: properties and inputs of tensors, which do not depend on parameters."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.kernels.masks import fingerprint
from mergesearch.merge_ops.statistics.tensor_statistics import TensorStatistics

Provenance = tuple[Any, ...]
"""A tensor and its inputs without the parameters, as in ``TensorRecipe.provenance``."""


@dataclass(frozen=True)
class TensorProperties:
    """What is known about a tensor of the result before its inputs are read.

    Attributes:
        matched: whether all inputs have the tensor, in one shape.
        owner: the reference and name of the tensor that is copied where tensors are not merged.
        info: the shape, and the widest dtype of the inputs.
    """

    matched: bool
    owner: tuple[str, str]
    info: TensorInfo


@dataclass(frozen=True)
class MethodInputs:
    """The inputs of a tensor, and their statistics: all that a method needs beside its parameters."""

    base: Tensor | None
    models: Sequence[Tensor]
    statistics: TensorStatistics

    @cached_property
    def fingerprints(self) -> list[str]:
        """The fingerprints of the models, from which mask keys are derived."""
        return list(map(fingerprint, self.models))


@dataclass
class CandidateCache:
    """Results that are the same for all candidates with the same inputs.

    Attributes:
        properties: the properties of tensors, by base and provenance.
        matched: the provenances of results whose checkpoints match.
        method_inputs: the inputs of tensors by provenance, if all checkpoints are kept on the device.
        config_warnings: warnings about configs that differ, by the models and what the recipe says of them.
        vocabulary_warnings: warnings about vocabularies that differ, by the models and the number of rows.
    """

    properties: dict[Provenance, TensorProperties] = field(default_factory=dict)
    matched: set[Provenance] = field(default_factory=set)
    method_inputs: dict[Provenance, MethodInputs] = field(default_factory=dict)
    config_warnings: dict[tuple[Any, ...], list[str]] = field(default_factory=dict)
    vocabulary_warnings: dict[tuple[Any, ...], list[str]] = field(default_factory=dict)

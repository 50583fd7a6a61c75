"""The contract of merge methods: a declaration, and a function that decides how one tensor is merged."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, cast

from mergesearch.merge_ops.kernels.plans import Plan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

T = TypeVar("T")
Scalar = bool | int | float | str
BASE = -1
"""The index of the base where ``Statistics`` takes the index of an input."""


class Quantiles(Protocol):
    """A number for each element of a tensor or a model, in the order of their size. Every answer is exact.

    The first question costs two passes over memory at most, and another rank or threshold one at most. What was
    counted is kept for the run.
    """

    @property
    def size(self) -> int:
        """The number of elements."""
        ...

    @property
    def total(self) -> float:
        """The sum of all numbers."""
        ...

    def largest(self, rank: int) -> float:
        """Returns the ``rank``-th largest number, counted from 1."""
        ...

    def largest_of(self, ranks: Sequence[int]) -> list[float]:
        """Returns the numbers of several ranks, in as many passes as one rank takes."""
        ...

    def sum_from(self, threshold: float) -> float:
        """Returns the sum of the numbers that are at least ``threshold``."""
        ...

    def count_from(self, threshold: float) -> int:
        """Returns how many numbers are at least ``threshold``."""
        ...


class Statistics(Protocol):
    """Statistics of one tensor's inputs. They do not depend on a candidate's parameters.

    Each is computed on first access and cached for the run. ``size`` and ``shape`` are the tensor's, ``count`` is the
    number of models without the base.
    """

    size: int
    shape: tuple[int, ...]
    count: int
    has_base: bool

    def dot(self, a: int, b: int) -> float:
        """Returns the inner product of two inputs as flat vectors, in float64. ``BASE`` is the index of the base."""
        ...

    def task_dot(self, a: int, b: int) -> float:
        """Returns the inner product of two task vectors, in float64."""
        ...

    def row_dots(self, a: int, b: int, axis: int, task_vectors: bool) -> "NDArray[np.float64]":
        """Returns inner products along one axis of two inputs or task vectors, flat over the other axes."""
        ...

    def magnitudes(self, model: int) -> Quantiles:
        """Returns the magnitudes |δ| of the model's task vector in this tensor."""
        ...

    def model_magnitudes(self, model: int) -> Quantiles:
        """Returns the magnitudes |δ| of the model's task vectors in all tensors."""
        ...

    def spreads(self) -> Quantiles:
        """Returns ``Σ_i (δ_i − mean δ)²`` of all models for each element of this tensor."""
        ...

    def derived(
        self,
        name: str,
        compute: "Callable[[Tensor | None, Sequence[Tensor]], T]",
        models: Sequence[int] | None = None,
        settings: Hashable = (),
    ) -> T:
        """Returns ``compute(base, models)`` for the whole tensors.

        The value is cached until it is requested with other settings.

        Args:
            name: the name of the value in the cache.
            compute: gets the base, or None if there is none, and the models.
            models: the indices of the models to pass. All by default.
            settings: whatever the value depends on beside the tensors.
        """
        ...

    def model_derived(self, name: str, model: int, compute: "Callable[[Iterable[tuple[Tensor, Tensor]]], T]") -> T:
        """Returns ``compute(pairs)`` for a whole model.

        ``pairs`` holds every float tensor of the base with the model's tensor of the same name and shape.
        """
        ...

    def calibrated(self, kind: str, model: int, text: str, tokens: int) -> "Tensor | None":
        """Returns a statistic of this tensor from running the model on a text, or None if the tensor has none.

        Args:
            kind: ``fisher`` for the mean squared gradient, of the tensor's shape, or ``inputs`` for the Gram matrix of
                a linear layer's inputs: (d, d), or (1, d, d) if the layer's weight has a row for every input.
            model: the index of the model.
            text: the path of the text file.
            tokens: the number of tokens to read.
        """
        ...


@dataclass(frozen=True)
class ParameterValues:
    """A candidate's parameters for one tensor.

    Attributes:
        shared: the parameters with one value for all models.
        per_model: the parameters with one value for each model, in the order of the models.
        mask_keys_of: from a seed to the key of each model's random mask.
    """

    shared: Mapping[str, Scalar]
    per_model: Mapping[str, tuple[Scalar, ...]]
    mask_keys_of: Callable[[int], tuple[int, ...]]

    def number(self, name: str) -> float:
        """Returns a number that all models share."""
        return cast(float, self.shared[name])

    def switch(self, name: str) -> bool:
        """Returns a switch that all models share."""
        return cast(bool, self.shared[name])

    def text(self, name: str) -> str:
        """Returns a choice or path that all models share."""
        return cast(str, self.shared[name])

    def numbers(self, name: str) -> tuple[float, ...]:
        """Returns each model's number."""
        return cast(tuple[float, ...], self.per_model[name])

    def mask_keys(self) -> tuple[int, ...]:
        """Returns each model's mask key, which depends on ``seed``, the model's weights and the tensor's name."""
        return self.mask_keys_of(cast(int, self.shared["seed"]))


@dataclass(frozen=True)
class Parameter:
    """The declaration of one parameter of a method.

    Attributes:
        name: the key in a recipe.
        help: one line for the user.
        kind: the type of its values.
        default: the value if the recipe has none. None means that it is required.
        per_model: whether each model has its own value.
        low: the smallest valid number.
        high: the largest valid number.
        choices: the valid values of a choice.
        search: the range worth searching, or the choices worth trying.
    """

    name: str
    help: str
    kind: Literal["number", "integer", "switch", "choice", "file"] = "number"
    default: Scalar | None = None
    per_model: bool = False
    low: float = -inf
    high: float = inf
    choices: tuple[Scalar, ...] = ()
    search: tuple[Scalar, ...] = ()

    def read(self, value: object) -> Scalar:
        """Returns the value in the parameter's type. Raises ValueError with what is valid."""
        if self.kind == "choice":
            return self._read_choice(value)
        if self.kind == "switch":
            return _read_switch(value)
        if self.kind == "file":
            return _read_path(value)
        return self._read_number(value)

    def _read_choice(self, value: object) -> Scalar:
        value = _SWITCHES.get(value.lower(), value) if isinstance(value, str) and True in self.choices else value
        for choice in self.choices:
            if value == choice and isinstance(value, bool) == isinstance(choice, bool):
                return choice
        raise ValueError(f"{value!r} is not one of {', '.join(map(repr, self.choices))}")

    def _read_number(self, value: object) -> float | int:
        number = _as_float(value)
        if not self.low <= number <= self.high or not isfinite(number):
            raise ValueError(f"{value!r} is not between {self.low:g} and {self.high:g}")
        if self.kind == "integer" and number != int(number):
            raise ValueError(f"{value!r} is not a whole number")
        return int(number) if self.kind == "integer" else number


_SWITCHES: Mapping[str, bool] = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""Switches that a file has as text, in quotes."""


def _read_switch(value: object) -> bool:
    if isinstance(value, str) and value.lower() in _SWITCHES:
        return _SWITCHES[value.lower()]
    if value in (0, 1):
        return bool(value)
    raise ValueError(f"{value!r} is not true or false")


def _read_path(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not the path of a file")
    return value


def _as_float(value: object) -> float:
    # YAML 1.1 reads 1e-5 as text.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a number")
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number") from None


StatisticsBytes = Callable[[tuple[int, ...], int], int]
"""From a tensor's shape and the number of models to the bytes of its cached statistics."""


Copied = Callable[[ParameterValues, int, bool], int | None]
"""From a candidate's parameters, the number of models, and whether there is a base, to the index of an input."""


def no_copy(_: ParameterValues, __: int, ___: bool) -> None:
    """The result is no copy of an input, or not for certain."""
    return


def no_bytes(_: tuple[int, ...], __: int) -> int:
    """Statistics of a few numbers, which need no room of their own."""
    return 0


@dataclass(frozen=True)
class Method:
    """A merge method.

    Attributes:
        name: the ``merge_method`` of recipes.
        summary: one line on the result.
        paper: authors, title and URL, separated by commas.
        formula: the merged tensor θ, then its symbols, separated by commas.
        base: ``required`` if the method takes task vectors from ``base_model``, ``optional`` if it does so where a
            recipe has a ``base_model``, ``input`` if ``base_model`` is a model like the others.
        parameters: the declarations of its parameters.
        decide: from statistics and a candidate's parameters to the plan of one tensor.
        min_models: the smallest number of models beside the base.
        max_models: the largest number of models beside the base. None means any.
        symmetric: whether the order of the models does not matter.
        statistics_bytes: the size of the statistics of one tensor that stay in memory.
        heavy: whether ``decide`` may compute for long, so that small tensors are planned on several threads at once.
        copied: the input that is the result whatever the tensors are (``BASE`` for the base), or None. Such a tensor is
            copied bit by bit, so that recipes that leave the same model are the same candidate.
        corners: where the result is another than mergekit's, in sentences; empty where it never is.
    """

    name: str
    summary: str
    paper: str
    formula: str
    base: Literal["required", "optional", "input"]
    parameters: tuple[Parameter, ...]
    decide: Callable[[Statistics, ParameterValues], Plan]
    min_models: int = 1
    max_models: int | None = None
    symmetric: bool = True
    statistics_bytes: StatisticsBytes = no_bytes
    heavy: bool = False
    copied: Copied = no_copy
    corners: str = ""

    @property
    def model_count(self) -> str:
        """The number of models beside the base, in words: ``2``, ``1 or more``, ``1 to 3``."""
        if self.max_models is None:
            return f"{self.min_models} or more"
        return str(self.min_models) if self.min_models == self.max_models else f"{self.min_models} to {self.max_models}"

    def parameter(self, name: str) -> Parameter | None:
        """Returns the parameter of that name, or None."""
        return next((p for p in self.parameters if p.name == name), None)

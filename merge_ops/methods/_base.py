"""What a merge method is: a declaration, and a function that decides."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, cast

from mergesearch.merge_ops.kernels.plans import Plan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Compute = Callable[[Tensor | None, Sequence[Tensor]], "Value"]

Value = TypeVar("Value")
Scalar = bool | int | float | str
BASE = -1
"""The index of the base where ``Statistics`` takes the index of an input."""


class Quantiles(Protocol):
    """The magnitudes |δ| of one task vector, sorted."""

    size: int
    total: float

    def largest(self, rank: int) -> float:
        """The ``rank``-th largest magnitude, counted from 1."""
        ...

    def sum_from(self, threshold: float) -> float:
        """The sum of the magnitudes that are at least ``threshold``."""
        ...

    def count_from(self, threshold: float) -> int:
        """How many magnitudes are at least ``threshold``."""
        ...


class Statistics(Protocol):
    """What depends only on the inputs of one tensor; computed when first asked for, then kept for the run."""

    size: int
    shape: tuple[int, ...]
    count: int
    """How many models there are beside the base."""
    has_base: bool

    def dot(self, a: int, b: int) -> float:
        """The inner product of two inputs as flat vectors (float64); ``BASE`` is the base."""
        ...

    def task_dot(self, a: int, b: int) -> float:
        """The inner product of two task vectors (float64)."""
        ...

    def row_dots(self, a: int, b: int, axis: int, task_vectors: bool) -> "NDArray[np.float64]":
        """Inner products along one axis of two inputs, or of two task vectors; flat, in the others' order."""
        ...

    def magnitudes(self, model: int) -> Quantiles:
        """The sorted |x_model − base|."""
        ...

    def model_magnitudes(self, model: int) -> Quantiles:
        """The sorted |x_model − base| of all of the model's tensors together."""
        ...

    def derived(
        self,
        what: str,
        compute: "Compute[Value]",
        models: Sequence[int] | None = None,
        settings: Hashable = (),
    ) -> Value:
        """What ``compute(base, models)`` makes of the whole tensors, kept until it is asked for with other settings.

        ``models`` are the inputs to hand over, all by default; ``what`` is the name under which the value is kept.
        """
        ...

    def everywhere(self, what: str, model: int, compute: "Callable[[Iterable[tuple[Tensor, Tensor]]], Value]") -> Value:
        """What ``compute`` makes of the whole model, kept under ``what``.

        It is given each of the base's float tensors with the model's of the same name and shape.
        """
        ...

    def calibrated(self, kind: str, model: int, text: str, tokens: int) -> "Tensor | None":
        """What the model shows of this tensor when it runs over a text; None where it shows nothing.

        ``fisher`` is the mean squared gradient, ``inputs`` the Gram matrix of a linear layer's inputs: (d, d), or
        (1, d, d) where its weight has a row for every input.
        """
        ...


@dataclass(frozen=True)
class Values:
    """A candidate's numbers for one tensor: one for all, one for each model, and each model's random key."""

    shared: Mapping[str, Scalar]
    each: Mapping[str, tuple[Scalar, ...]]
    keys: Callable[[int], tuple[int, ...]]

    def number(self, name: str) -> float:
        return cast(float, self.shared[name])

    def switch(self, name: str) -> bool:
        return cast(bool, self.shared[name])

    def text(self, name: str) -> str:
        return cast(str, self.shared[name])

    def numbers(self, name: str) -> tuple[float, ...]:
        return cast(tuple[float, ...], self.each[name])

    def random_keys(self) -> tuple[int, ...]:
        """A key for each model, from the parameter ``seed``, the model's weights and the tensor's name."""
        return self.keys(cast(int, self.shared["seed"]))


@dataclass(frozen=True)
class Parameter:
    """One parameter: its type, default (None: it must be given), valid range, and the range worth searching."""

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
        """The value in the parameter's type; raises ValueError which says what was expected."""
        if self.kind == "choice":
            return self._read_choice(value)
        if self.kind == "switch":
            return self._read_switch(value)
        if self.kind == "file":
            return self._read_path(value)
        return self._read_number(value)

    def _read_choice(self, value: object) -> Scalar:
        for choice in self.choices:
            if value == choice and isinstance(value, bool) == isinstance(choice, bool):
                return choice
        raise ValueError(f"{value!r} is not one of {', '.join(map(repr, self.choices))}")

    def _read_switch(self, value: object) -> bool:
        if value in (0, 1):
            return bool(value)
        raise ValueError(f"{value!r} is not true or false")

    def _read_path(self, value: object) -> str:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{value!r} is not the path of a file")
        return value

    def _read_number(self, value: object) -> float | int:
        number = _as_number(value)
        if not self.low <= number <= self.high or not isfinite(number):
            raise ValueError(f"{value!r} is not between {self.low:g} and {self.high:g}")
        if self.kind == "integer" and number != int(number):
            raise ValueError(f"{value!r} is not a whole number")
        return int(number) if self.kind == "integer" else number


def _as_number(value: object) -> float:
    # YAML 1.1 reads 1e-5 as text.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a number")
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number") from None


TABLE_SIZE = 1 << 16
"""The most entries of a table of a tensor's sorted numbers."""
Kept = Callable[[tuple[int, ...], int], int]
"""From a tensor's shape and the number of models to bytes."""


def nothing(_: tuple[int, ...], __: int) -> int:
    return 0


@dataclass(frozen=True)
class Method:
    """A merge method.

    ``base`` says whether task vectors are taken from ``base_model`` (``required``; ``optional``: where there is one)
    or it is an input like the others (``input``). ``fewest`` and ``most`` count the models beside the base.
    ``symmetric``: the order of the models does not matter. ``kept`` says how many bytes of statistics stay in memory
    for a tensor, where that is more than a few numbers.
    """

    name: str
    summary: str
    paper: str
    formula: str
    base: Literal["required", "optional", "input"]
    parameters: tuple[Parameter, ...]
    decide: Callable[[Statistics, Values], Plan]
    fewest: int = 1
    most: int | None = None
    symmetric: bool = True
    kept: Kept = nothing

    @property
    def count_in_words(self) -> str:
        """How many models it takes beside the base."""
        if self.most is None:
            return f"{self.fewest} or more"
        return str(self.fewest) if self.fewest == self.most else f"{self.fewest} to {self.most}"

    def parameter(self, name: str) -> Parameter | None:
        return next((p for p in self.parameters if p.name == name), None)

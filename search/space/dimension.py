"""One dimension of a search space: what a sampler sees of it, and which places of the recipe it decides."""

from dataclasses import dataclass, field
from typing import cast

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from mergesearch.merge_ops.methods import Scalar
from mergesearch.search.space.paths import Path

METHOD = "merge_method"
"""The recipe's key for the merge method, and the name of the dimension that chooses it."""
Range = FloatDistribution | IntDistribution
DIGITS = 10
"""Of values that are spread over a range, so that a third of it is no 0.30000000000000004."""


@dataclass(frozen=True)
class Dimension:
    """One dimension.

    Attributes:
        name: its name in a study, unique in the space.
        distribution: its range or its choices; a categorical, float or int distribution.
        paths: the places in the recipe that its value decides.
        parameter: the parameter that it belongs to, if any.
        meaning: what the value stands for, where it is not a parameter's own value; for display.
    """

    name: str
    distribution: BaseDistribution
    paths: tuple[Path, ...] = ()
    parameter: str | None = None
    meaning: str = field(default="", compare=False)

    @property
    def kind(self) -> str:
        """The type and the scale, for display."""
        if isinstance(self.distribution, CategoricalDistribution):
            return "choice"
        numbers = self._range
        if isinstance(numbers, IntDistribution):
            return "integer, log" if numbers.log else "integer"
        return "number, log" if numbers.log else "number" if numbers.step is None else "number, stepped"

    @property
    def described(self) -> str:
        """The range or the choices, for display."""
        if isinstance(self.distribution, CategoricalDistribution):
            return ", ".join(str(c).lower() if isinstance(c, bool) else str(c) for c in self.distribution.choices)
        numbers = self._range
        if isinstance(numbers, FloatDistribution):
            return f"{numbers.low:g} to {numbers.high:g}" + ("" if numbers.step is None else f" by {numbers.step:g}")
        if numbers.high - numbers.low == 1:
            return f"{numbers.low} or {numbers.high}"
        return f"{numbers.low} to {numbers.high}" + ("" if numbers.step == 1 else f" by {numbers.step}")

    @property
    def ends(self) -> list[Scalar]:
        """All choices, or the two ends of the range."""
        if isinstance(self.distribution, CategoricalDistribution):
            return cast(list[Scalar], list(self.distribution.choices))
        return [self._range.low, self._range.high]

    @property
    def middle(self) -> Scalar:
        """The first choice, or the middle of the range: the geometric mean of its ends on a logarithmic scale."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.ends[0]
        low, high = self._range.low, self._range.high
        return self.nearest((low * high) ** 0.5 if self._range.log else (low + high) / 2)

    def nearest(self, value: Scalar) -> Scalar:
        """The value of this dimension nearest to ``value``; the first choice where ``value`` is none of them."""
        if isinstance(self.distribution, CategoricalDistribution):
            return value if value in self.distribution.choices else self.ends[0]
        return round_to_step(self._range, float(value))

    def spread(self, count: int) -> list[Scalar]:
        """All choices, or ``count`` values from end to end of the range, even on its scale; those that round to one
        step are one."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.ends
        low, high = self._range.low, self._range.high
        units = [n / (count - 1) for n in range(count)]
        values = [low ** (1 - unit) * high**unit if self._range.log else low + unit * (high - low) for unit in units]
        return list(dict.fromkeys(self.nearest(float(f"{value:.{DIGITS}g}")) for value in values))

    def ask(self, trial: Trial) -> Scalar:
        """The trial's value, suggested by the study's sampler."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return cast(Scalar, trial.suggest_categorical(self.name, choices))
            case FloatDistribution(low=low, high=high, log=log, step=step):
                return trial.suggest_float(self.name, low, high, log=log, step=step)
            case IntDistribution(low=low, high=high, log=log, step=step):
                return trial.suggest_int(self.name, low, high, log=log, step=step)
        raise TypeError(f"unknown distribution {self.distribution}")

    @property
    def _range(self) -> Range:
        if isinstance(self.distribution, Range):
            return self.distribution
        raise TypeError(f"unknown distribution {self.distribution}")


def round_to_step(distribution: Range, value: float) -> float | int:
    """The value of a range nearest to ``value``: within its ends, and on one of its steps where it has any."""
    low, high, step = distribution.low, distribution.high, distribution.step
    value = min(max(value, low), high)
    if step is not None:
        # Floats: the last step may end a hair beyond the range.
        value = min(low + round((value - low) / step) * step, high)
    return int(value) if isinstance(distribution, IntDistribution) else float(value)

"""One dimension of a search space, and how a config says what lies in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.methods import Method, Parameter, Scalar

Path = tuple[str | int, ...]
AUTO = "auto"
LOG_FROM = 100.0
"""A method's own range whose ends differ by this factor or more is searched on a logarithmic scale."""
STEP_TOLERANCE = 1e-9
NUMBERS = ("number", "integer")
PLAIN_NUMBER = Parameter("number", "any number")


@dataclass(frozen=True)
class Hole:
    """One dimension: what Optuna calls it, what it asks, and the places in the recipe that its value fills.

    ``meaning`` says what the value is where it is not the parameter's own.
    """

    name: str
    distribution: BaseDistribution
    paths: tuple[Path, ...] = ()
    parameter: str | None = None
    meaning: str = field(default="", compare=False)

    @property
    def kind(self) -> str:
        """What kind of dimension it is, in words."""
        match self.distribution:
            case CategoricalDistribution():
                return "choice"
            case IntDistribution(log=log):
                return "whole numbers, log" if log else "whole numbers"
            case FloatDistribution(log=log, step=step):
                return "numbers, log" if log else "numbers" if step is None else "numbers, stepped"
        raise TypeError(f"unknown distribution {self.distribution}")

    @property
    def described(self) -> str:
        """The range or the choices, in words."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return ", ".join(str(c).lower() if isinstance(c, bool) else str(c) for c in choices)
            case FloatDistribution(low=low, high=high, step=step):
                return f"{low:g} to {high:g}" + ("" if step is None else f" by {step:g}")
            case IntDistribution(low=low, high=high) if high - low == 1:
                return f"{low} or {high}"
            case IntDistribution(low=low, high=high, step=step):
                return f"{low} to {high}" + ("" if step == 1 else f" by {step}")
        raise TypeError(f"unknown distribution {self.distribution}")

    def ask(self, trial: Trial) -> Scalar:
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return trial.suggest_categorical(self.name, choices)  # type: ignore[return-value]
            case FloatDistribution(low=low, high=high, log=log, step=step):
                return trial.suggest_float(self.name, low, high, log=log, step=step)
            case IntDistribution(low=low, high=high, log=log, step=step):
                return trial.suggest_int(self.name, low, high, log=log, step=step)
        raise TypeError(f"unknown distribution {self.distribution}")

    def nearest(self, value: Scalar) -> Scalar:
        """The value of the hole that is nearest to this one."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return value if value in choices else choices[0]  # type: ignore[return-value]
            case FloatDistribution(low=low, high=high, step=step):
                inside = min(max(float(value), low), high)
                return inside if step is None else min(low + round((inside - low) / step) * step, high)
            case IntDistribution(low=low, high=high, step=step):
                return low + round((min(max(float(value), low), high) - low) / step) * step
        raise TypeError(f"unknown distribution {self.distribution}")

    @property
    def middle(self) -> Scalar:
        """The first of the choices; the middle of the range, geometric where it is logarithmic."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return choices[0]  # type: ignore[return-value]
            case FloatDistribution(low=low, high=high, log=log) | IntDistribution(low=low, high=high, log=log):
                return self.nearest((low * high) ** 0.5 if log else (low + high) / 2)
        raise TypeError(f"unknown distribution {self.distribution}")

    @property
    def ends(self) -> list[Scalar]:
        """The choices, or the two ends of the range."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return list(choices)  # type: ignore[arg-type]
            case FloatDistribution(low=low, high=high) | IntDistribution(low=low, high=high):
                return [low, high]
        raise TypeError(f"unknown distribution {self.distribution}")


SCALE_KEYS = ("log", "step", "int")
SHAPE_KEYS = ("curve", "layers", "interpolation")
HOLE_KEYS = ("search", "name", *SHAPE_KEYS, *SCALE_KEYS, "sums_to")
TIE_KEYS = ("same_as",)


def is_hole(value: Any) -> bool:
    """Whether a hole, or a tie to one, stands there in the place of a value."""
    return isinstance(value, dict) and ("search" in value or "same_as" in value)


def check_keys(spec: Mapping[str, Any], valid: Sequence[str], where: str) -> None:
    """Raises UserError for a key that is not among the valid ones."""
    for key in spec:
        if key not in valid:
            raise UserError(f"{where}: unknown key {str(key)!r}{nearest(str(key), valid)}")


def check_switch(spec: Mapping[str, Any], key: str, where: str) -> bool:
    """The value of a key that is true or false; false where it is not there."""
    value = spec.get(key, False)
    if not isinstance(value, bool):
        raise UserError(f"{where}.{key}: found {value!r}, expected true or false")
    return value


def check_count(value: Any, low: int, high: int, where: str) -> int:
    """A whole number between the two, both included."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{where}: found {value!r}, expected a whole number from {low} to {high}")
    return value


def distributions(
    spec: Mapping[str, Any], name: str, methods: Sequence[Method], where: str
) -> dict[BaseDistribution, list[Method]]:
    """What is asked in a hole of the parameter ``name``, and by which methods: one entry where all ask the same."""
    known = [(method, parameter) for method in methods if (parameter := method.parameter(name))]
    if spec["search"] != AUTO:
        return {_given(spec, [parameter for _, parameter in known], where): [method for method, _ in known]}
    for key in SCALE_KEYS:
        if key in spec:
            raise UserError(f"{where}.{key}: goes with a range of your own; search: auto is the method's")
    found: dict[BaseDistribution, list[Method]] = {}
    for method, parameter in known:
        found.setdefault(_own(method, parameter, where), []).append(method)
    return found


def _own(method: Method, parameter: Parameter, where: str) -> BaseDistribution:
    """The range that the method says is worth searching."""
    values = parameter.search
    if parameter.kind == "switch":
        values = values or (False, True)
    elif parameter.kind == "choice":
        values = values or tuple(choice for choice in parameter.choices if isinstance(choice, str))
    if not values:
        raise UserError(
            f"{where}: search: auto: {method.name} names no range for {parameter.name}; expected [low, high]"
        )
    if parameter.kind not in NUMBERS:
        return CategoricalDistribution(values)
    low, high = float(values[0]), float(values[-1])
    if parameter.kind == "integer":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=low > 0 and high / low >= LOG_FROM)


def _given(spec: Mapping[str, Any], parameters: Sequence[Parameter], where: str) -> BaseDistribution:
    """Two numbers are a range where the parameter is a number; whatever else is a list of choices."""
    values = spec["search"]
    if not isinstance(values, list) or len(values) < 2:
        raise UserError(f"{where}: search: found {values!r}, expected [low, high], a list of choices or auto")
    read = read_values(parameters, values, where)
    if len(values) == 2 and parameters[0].kind in NUMBERS:
        return number_range(spec, where, integer=parameters[0].kind == "integer", values=read)
    for key in SCALE_KEYS:
        if key in spec:
            raise UserError(f"{where}.{key}: goes with a range [low, high], found the choices {values!r}")
    if len(set(read)) < len(read):
        raise UserError(f"{where}: search: found {values!r}, expected each choice once")
    return CategoricalDistribution(read)


def read_values(parameters: Sequence[Parameter], values: Sequence[Any], where: str) -> list[Scalar]:
    """The values as all these parameters read them; raises UserError for one that a parameter cannot take."""
    try:
        return [[parameter.read(value) for parameter in parameters][-1] for value in values]
    except ValueError as error:
        raise UserError(f"{where}: search: {error}") from None


def number_range(
    spec: Mapping[str, Any], where: str, integer: bool = False, values: Sequence[Any] | None = None
) -> FloatDistribution | IntDistribution:
    """The range ``[low, high]`` of a spec with its ``log``, ``step`` and ``int``."""
    values = spec["search"] if values is None else values
    low, high = (_number(value, f"{where}: search") for value in values)
    if not low < high:
        raise UserError(f"{where}: search: found {spec['search']!r}, expected the lower number first")
    log = check_switch(spec, "log", where)
    if log and low <= 0:
        raise UserError(f"{where}: log: the range begins at {low:g}, expected a number above 0")
    whole = check_switch(spec, "int", where) or integer
    if whole and (low != int(low) or high != int(high)):
        raise UserError(f"{where}: search: found {spec['search']!r}, expected whole numbers")
    step = _step(spec, high - low, whole, log, where)
    if whole:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def _number(value: Any, where: str) -> float:
    try:
        return float(PLAIN_NUMBER.read(value))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _step(spec: Mapping[str, Any], width: float, whole: bool, log: bool, where: str) -> float | None:
    if "step" not in spec:
        return None
    step = _number(spec["step"], f"{where}.step")
    if log:
        raise UserError(f"{where}: found both log and step, expected one of them")
    if step <= 0 or abs(width / step - round(width / step)) > STEP_TOLERANCE or (whole and step != int(step)):
        raise UserError(f"{where}.step: found {step:g}, expected a step that divides {spec['search']!r}")
    return step

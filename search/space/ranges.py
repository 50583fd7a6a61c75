"""From ``{search: ...}`` to distributions: ranges, choices, and the ranges that merge methods declare themselves."""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mergesearch.errors import UserError
from mergesearch.merge_ops.methods import Method, Parameter, Scalar
from mergesearch.search.space.checks import read_flag
from mergesearch.search.space.dimension import Range
from mergesearch.text import quoted

AUTO = "auto"
"""The value of ``search`` that stands for the method's own range."""
SCALE_KEYS = ("log", "step", "int")
"""The keys that go with ``search: [low, high]``."""
LOG_FROM = 100.0
"""A method's own range whose ends differ by this factor or more is searched on a logarithmic scale."""
STEP_TOLERANCE = 1e-9
NUMBERS = ("number", "integer")
PLAIN_NUMBER = Parameter("number", "any number")


def read_distributions(
    spec: Mapping[str, Any], name: str, methods: Sequence[Method], where: str
) -> dict[BaseDistribution, list[Method]]:
    """The distributions of a hole in the parameter ``name``, each with the methods that it is for.

    There is one for all methods, but with ``search: auto`` one for each range that the methods declare. Raises
    UserError for a hole that is no range and no list of choices of the parameter.
    """
    having = [(method, parameter) for method in methods if (parameter := method.parameter(name))]
    if spec["search"] != AUTO:
        return {_read_explicit(spec, [parameter for _, parameter in having], where): [method for method, _ in having]}
    for key in SCALE_KEYS:
        if key in spec:
            raise UserError(f"{where}.{key}: found beside search: auto, expected beside a range [low, high]")
    by_range: dict[BaseDistribution, list[Method]] = {}
    for method, parameter in having:
        by_range.setdefault(_declared_range(method, parameter, where), []).append(method)
    return by_range


def _declared_range(method: Method, parameter: Parameter, where: str) -> BaseDistribution:
    """The range that the method declares as worth searching."""
    values = parameter.search
    if parameter.kind == "switch":
        values = values or (False, True)
    elif parameter.kind == "choice":
        values = values or tuple(choice for choice in parameter.choices if isinstance(choice, str))
    if not values:
        raise UserError(
            f"{where}.search: found auto, but {method.name} declares no range for {parameter.name}; "
            "expected [low, high] or a list of choices"
        )
    if parameter.kind not in NUMBERS:
        return CategoricalDistribution(values)
    low, high = float(values[0]), float(values[-1])
    if parameter.kind == "integer":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=low > 0 and high / low >= LOG_FROM)


def _read_explicit(spec: Mapping[str, Any], parameters: Sequence[Parameter], where: str) -> BaseDistribution:
    """Two numbers are a range, if the parameter is a number; any other list is one of choices."""
    values = spec["search"]
    if not isinstance(values, list) or len(values) < 2:
        raise UserError(f"{where}.search: found {quoted(values)}, expected [low, high], a list of choices or auto")
    read = read_values(parameters, values, f"{where}.search")
    if len(values) == 2 and parameters[0].kind in NUMBERS:
        return read_range(spec, where, integer=parameters[0].kind == "integer", values=read)
    for key in SCALE_KEYS:
        if key in spec:
            raise UserError(f"{where}.{key}: found beside the choices {values!r}, expected beside a range [low, high]")
    if len(set(read)) < len(read):
        raise UserError(f"{where}.search: found {quoted(values)}, expected each choice once")
    return CategoricalDistribution(read)


def read_values(parameters: Sequence[Parameter], values: Sequence[Any], where: str) -> list[Scalar]:
    """The values in the type of the parameters. Raises UserError for a value that one of the parameters cannot take."""
    try:
        return [[parameter.read(value) for parameter in parameters][-1] for value in values]
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def read_range(
    spec: Mapping[str, Any], where: str, integer: bool = False, values: Sequence[Any] | None = None
) -> Range:
    """The range ``search: [low, high]`` of a hole with its ``log``, ``step`` and ``int``.

    Args:
        spec: the hole.
        where: the start of messages.
        integer: whether the range has integers only, whatever ``int`` is.
        values: the two ends, where they have been read already.
    """
    low, high = (_read_number(value, f"{where}.search") for value in (spec["search"] if values is None else values))
    if not low < high:
        raise UserError(f"{where}.search: found {quoted(spec['search'])}, expected the lower number first")
    log = read_flag(spec, "log", where)
    if log and low <= 0:
        raise UserError(f"{where}.log: found a range that starts at {low:g}, expected one that starts above 0")
    integer = read_flag(spec, "int", where) or integer
    if integer and (low != int(low) or high != int(high)):
        raise UserError(f"{where}.search: found {quoted(spec['search'])}, expected whole numbers")
    step = _read_step(spec, high - low, integer, log, where)
    if integer:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def _read_number(value: Any, where: str) -> float:
    return float(read_values([PLAIN_NUMBER], [value], where)[0])


def _read_step(spec: Mapping[str, Any], width: float, integer: bool, log: bool, where: str) -> float | None:
    if "step" not in spec:
        return None
    step = _read_number(spec["step"], f"{where}.step")
    if log:
        raise UserError(f"{where}: found both log and step, expected one of them")
    if step <= 0 or abs(width / step - round(width / step)) > STEP_TOLERANCE or (integer and step != int(step)):
        raise UserError(f"{where}.step: found {step:g}, expected a step that divides {spec['search']!r}")
    return step

"""Settings of parameters in recipes: a value, a gradient over depth, or filters on tensor names.

A setting is a scalar, a list of scalars that are interpolated over the layers, or a list of ``{filter, value}`` whose
first matching entry counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from mergesearch.errors import Problems, UserError, nearest
from mergesearch.merge_ops.methods import PARAMETER_NAMES, Method, Parameter, Scalar
from mergesearch.say import Say
from mergesearch.text import quoted

IGNORED = frozenset({"embed_slerp"})
"""Parameters of old mergekit recipes that mergekit itself no longer reads."""


def _check_setting(setting: Any) -> Any:
    if isinstance(setting, dict):
        _check_filter(setting)
    elif isinstance(setting, list) and any(isinstance(element, dict) for element in setting):
        for element in setting:
            _check_filter(element)
    elif not _is_scalar_or_gradient(setting):
        forms = "a value, a list of values over depth, or a list of {filter, value}"
        raise ValueError(f"found {quoted(setting)}, expected {forms}")
    return setting


def _check_filter(element: Any) -> None:
    if not isinstance(element, dict):
        raise ValueError(f"found {quoted(element)} among filters, expected {{filter, value}}")
    for key in element:
        if key not in ("filter", "value"):
            raise ValueError(f"unknown key {key!r}{nearest(str(key), ('filter', 'value'))}")
    if not _is_scalar_or_gradient(element.get("value")) or not isinstance(element.get("filter"), str | None):
        raise ValueError(f"found {quoted(element)}, expected {{filter: text, value: a value or a list of values}}")


def _is_scalar_or_gradient(setting: Any) -> bool:
    if isinstance(setting, list):
        return bool(setting) and all(isinstance(value, Scalar) for value in setting)
    return isinstance(setting, Scalar)


def blank_as(empty: type) -> BeforeValidator:
    """Reads a key without a value in YAML as ``empty()``."""
    return BeforeValidator(lambda value: empty() if value is None else value)


Setting = Annotated[Any, AfterValidator(_check_setting)]
ParameterSettings = dict[str, Setting]
OptionalSettings = Annotated[ParameterSettings, blank_as(dict), Field(default_factory=dict)]


def check_parameters(
    settings: Mapping[str, Any], where: str, methods: Sequence[Method], warn: Say | None = None
) -> None:
    """Checks names and values of parameters.

    As in mergekit, parameters that only other methods have are ignored, so that one file can serve several methods.

    Args:
        settings: the settings by the parameters' names.
        where: the key of the settings, for messages.
        methods: the methods that read the settings.
        warn: gets a warning for each parameter that no method has, which mergekit ignores. Without it, it is an error.

    Raises:
        UserError: no method has a parameter of that name, or a method cannot take a value.
    """
    valid = PARAMETER_NAMES.union(*({parameter.name for parameter in method.parameters} for method in methods))
    problems = Problems()
    for name, setting in settings.items():
        if name not in valid | IGNORED:
            problem = f"{where}: there is no parameter {quoted(name)}{nearest(name, valid)}"
            if warn is None:
                problems.found.append(problem)
            else:
                warn(f"{problem}; it is ignored, as in mergekit")
        for parameter in filter(None, (method.parameter(name) for method in methods)):
            problems.attempt(_check_values, parameter, setting, f"{where}.{name}")
    problems.check()


def _check_values(parameter: Parameter, setting: Any, where: str) -> None:
    for value in _scalars(setting):
        try:
            parameter.read(value)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None


def _scalars(setting: Any) -> Iterator[Scalar]:
    """Yields every value in a setting of any form."""
    if isinstance(setting, dict):
        yield from _scalars(setting["value"])
    elif isinstance(setting, list):
        for element in setting:
            yield from _scalars(element)
    else:
        yield setting


def filters_of(data: Any) -> Iterator[str]:
    """The filters on tensor names anywhere in a recipe's data, but those that take every name."""
    if isinstance(data, dict) and data.keys() == {"filter", "value"} and data["filter"] not in (None, "*", ""):
        yield data["filter"]
    elif isinstance(data, dict | list | tuple):
        for value in data.values() if isinstance(data, dict) else data:
            yield from filters_of(value)


def form_of(setting: Any) -> Literal["value", "gradient", "filters"]:
    """Returns what the value for a tensor depends on: nothing, the tensor's depth, or its depth and name."""
    if isinstance(setting, dict):
        return "filters"
    if not isinstance(setting, list):
        return "value"
    return "filters" if isinstance(setting[0], dict) else "gradient"


def value_for(parameter: Parameter, levels: Sequence[Mapping[str, Any]], name: str, depth: float) -> Scalar | None:
    """Returns the parameter's value for one tensor, or None if it has none and no default.

    Args:
        parameter: the parameter.
        levels: settings from the most specific to the most general. The first with a value counts.
        name: the tensor's name, for filters.
        depth: the tensor's relative depth from 0 to 1, for gradients.
    """
    for settings in levels:
        value = _evaluate(settings.get(parameter.name), parameter, name, depth)
        if value is not None:
            return value
    return parameter.default


def _evaluate(setting: Any, parameter: Parameter, name: str, depth: float) -> Scalar | None:
    if setting is None:
        return None
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return parameter.read(setting)
    if isinstance(setting[0], dict):
        matching = (entry for entry in setting if entry.get("filter") in (None, "*") or entry["filter"] in name)
        return _evaluate(next(matching, {"value": None})["value"], parameter, name, depth)
    return _interpolate([parameter.read(value) for value in setting], parameter, depth)


def _interpolate(values: list[Scalar], parameter: Parameter, depth: float) -> Scalar:
    position = depth * (len(values) - 1)
    # With one value per layer, each layer must get exactly its value, but i / n · n may be slightly less than i.
    low = int(position + 1e-9)
    if parameter.kind != "number":
        return values[low]
    high = min(low + 1, len(values) - 1)
    fraction = max(position - low, 0.0)
    start, end = float(values[low]), float(values[high])
    return parameter.read(start + fraction * (end - start))

"""Settings of parameters as recipes write them: a value, a gradient over depth, or filters on tensors' names."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.methods import PARAMETER_NAMES, Method, Parameter, Scalar

SETTING_FORMS = "a value, a list of values over depth, or a list of {filter, value}"
FORGOTTEN = frozenset({"embed_slerp"})
"""Names that old mergekit files carry and mergekit itself no longer reads."""


def _check_setting(setting: Any) -> Any:
    if isinstance(setting, dict):
        _check_conditional(setting)
    elif isinstance(setting, list) and any(isinstance(element, dict) for element in setting):
        for element in setting:
            _check_conditional(element)
    elif not _is_scalar_or_gradient(setting):
        raise ValueError(f"found {setting!r}, expected {SETTING_FORMS}")
    return setting


def _check_conditional(element: Any) -> None:
    if not isinstance(element, dict):
        raise ValueError(f"found {element!r} among filters, expected {{filter, value}}")
    for key in element:
        if key not in ("filter", "value"):
            raise ValueError(f"unknown key {key!r}{nearest(str(key), ('filter', 'value'))}")
    if not _is_scalar_or_gradient(element.get("value")):
        raise ValueError(f"found {element!r}, expected {{filter: text, value: a value or a list of values}}")


def _is_scalar_or_gradient(setting: Any) -> bool:
    if isinstance(setting, list):
        return bool(setting) and all(isinstance(value, Scalar) for value in setting)
    return isinstance(setting, Scalar)


def nothing_is(empty: type) -> BeforeValidator:
    """A key that YAML leaves blank is as good as not there."""
    return BeforeValidator(lambda value: empty() if value is None else value)


Setting = Annotated[Any, AfterValidator(_check_setting)]
PlainSettings = dict[str, Setting]
Settings = Annotated[PlainSettings, nothing_is(dict), Field(default_factory=dict)]


def check_parameters(settings: Mapping[str, Any], where: str, methods: Sequence[Method]) -> None:
    """Raises UserError for a name that no method has, or a value that these methods' parameter cannot take.

    A name that only other methods have is ignored, as mergekit does: one file can then serve several methods.
    """
    known = PARAMETER_NAMES.union(*({parameter.name for parameter in method.parameters} for method in methods))
    for name, setting in settings.items():
        if name not in known | FORGOTTEN:
            raise UserError(f"{where}: there is no parameter {name!r}{nearest(name, known)}")
        for parameter in filter(None, (method.parameter(name) for method in methods)):
            _check_values(parameter, setting, f"{where}.{name}")


def _check_values(parameter: Parameter, setting: Any, where: str) -> None:
    for value in _scalars(setting):
        try:
            parameter.read(value)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None


def _scalars(setting: Any) -> Iterator[Scalar]:
    """Every value in a setting, whatever its form."""
    if isinstance(setting, dict):
        yield from _scalars(setting["value"])
    elif isinstance(setting, list):
        for element in setting:
            yield from _scalars(element)
    else:
        yield setting


def form(setting: Any) -> Literal["value", "gradient", "filters"]:
    """What a setting's value for a tensor depends on: nothing, the tensor's depth, or its name too."""
    if isinstance(setting, dict):
        return "filters"
    if not isinstance(setting, list):
        return "value"
    return "filters" if isinstance(setting[0], dict) else "gradient"


def find(parameter: Parameter, sources: Sequence[Mapping[str, Any]], name: str, depth: float) -> Scalar | None:
    """The parameter's value for a tensor in the first of these that has one, else its default (None: there is none)."""
    for settings in sources:
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
        chosen = (c for c in setting if c.get("filter") in (None, "*") or c["filter"] in name)
        return _evaluate(next(chosen, {"value": None})["value"], parameter, name, depth)
    return _interpolate([parameter.read(value) for value in setting], parameter, depth)


def _interpolate(values: list[Scalar], parameter: Parameter, depth: float) -> Scalar:
    position = depth * (len(values) - 1)
    # One value a layer is met exactly: i / n · n may be a hair less than i.
    low = int(position + 1e-9)
    if parameter.kind != "number":
        return values[low]
    high = min(low + 1, len(values) - 1)
    part = max(position - low, 0.0)
    start, end = float(values[low]), float(values[high])
    return parameter.read(start + part * (end - start))

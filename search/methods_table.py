"""``mergesearch methods``: what each merge method is and takes, from its own declaration."""

from collections.abc import Mapping
from math import isinf

from mergesearch.merge_ops.methods import Method, Parameter


def methods_table(methods: Mapping[str, Method]) -> str:
    """One line a method."""
    return "\n".join(f"{name:<18} {method.summary}" for name, method in methods.items())


def method_page(method: Method) -> str:
    """Formula, paper, inputs and parameters of one method."""
    lines = [
        f"{method.name}: {method.summary}",
        "",
        f"  {method.formula}",
        f"  {method.paper}",
        "",
        _inputs(method),
        "",
    ]
    return "\n".join([*lines, "parameters:", *map(_parameter, method.parameters)])


def _inputs(method: Method) -> str:
    most = "" if method.most is None else f", at most {method.most}"
    base = {"required": "base_model and ", "optional": "base_model (or none) and ", "input": ""}[method.base]
    return f"inputs: {base}at least {method.fewest} model(s){most}"


def _parameter(parameter: Parameter) -> str:
    scope = "each model" if parameter.per_model else "all"
    default = "required" if parameter.default is None else f"default {_text(parameter.default)}"
    facts = [f"for {scope}", default, *_range(parameter)]
    if parameter.search:
        facts.append(f"worth searching: {' to '.join(map(_text, parameter.search))}")
    return f"  {parameter.name:<12} {parameter.help}\n{'':15}({'; '.join(facts)})"


def _range(parameter: Parameter) -> list[str]:
    if parameter.kind == "choice":
        return [f"one of {', '.join(map(_text, parameter.choices))}"]
    if parameter.kind == "switch" or (isinf(parameter.low) and isinf(parameter.high)):
        return []
    return [f"{parameter.low:g} to {parameter.high:g}"]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

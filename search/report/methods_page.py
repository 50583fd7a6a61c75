"""``mergesearch methods``: a list of the merge methods and a page for each, from what the methods declare."""

import re
from collections.abc import Iterator, Mapping, Sequence
from math import isinf
from textwrap import wrap

from mergesearch.merge_ops.methods import Method, Parameter

SYMBOLS = {
    "θ_b": "base_model",
    "θ_i": "a model",
    "δ_i": "its task vector θ_i − θ_b",
    "δ": "the task vector θ_1 − θ_b",
    "δ'_i": "the kept part of its task vector",
    "w_i": "weight",
    "λ": "lambda",
    "α": "alpha",
    "ε": "epsilon",
    "A": "the models with the elected sign",
}
"""Symbols that several formulas have, which do not explain them each."""
WIDTH = 100
EXAMPLE_MODELS = ("one", "two")


def methods_table(methods: Mapping[str, Method]) -> str:
    """One line for each method: its name and its summary."""
    return "\n".join(f"{name:<18} {method.summary}" for name, method in methods.items())


def method_page(method: Method) -> str:
    """The formula, paper, inputs and parameters of a method, and an example of a recipe."""
    sections = [
        [f"{method.name}: {method.summary}"],
        [f"  {clause}" for clause in clauses(method.formula)],
        _symbols(method.formula),
        [f"  {line}" for line in re.split(r", (?=https)", method.paper)],
        [f"inputs: {_inputs(method)}"],
        *_parameters(method.parameters),
        wrap(f"unlike mergekit: {method.corners}", WIDTH, subsequent_indent="  ") if method.corners else [],
        ["example:", *_example(method)],
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def clauses(formula: str) -> list[str]:
    """The formula, and the definitions of its symbols that follow it, one by one."""
    return re.split(r", (?=[^,()\[\]{}]+ [=~] )", formula)


def _symbols(formula: str) -> list[str]:
    """The lines that explain the formula's common symbols, without those that it defines itself."""
    explained = [
        f"{symbol} is {meaning}"
        for symbol, meaning in SYMBOLS.items()
        if re.search(rf"(?<!\w){re.escape(symbol)}(?![\w'])", formula) and f"{symbol} =" not in formula
    ]
    text = f"where {', '.join(explained)}"
    return wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ") if explained else []


def _inputs(method: Method) -> str:
    models = f"{method.model_count} model{'' if method.max_models == 1 else 's'}"
    if method.base == "required":
        return f"base_model, and {models} beside it"
    return f"{models}, and optionally base_model, for task vectors" if method.base == "optional" else models


def _parameters(parameters: Sequence[Parameter]) -> Iterator[list[str]]:
    width = 2 + max((len(parameter.name) for parameter in parameters), default=0)
    for title, per_model in (("parameters of each model:", True), ("parameters of the merge:", False)):
        lines = [line for p in parameters if p.per_model == per_model for line in _parameter(p, width)]
        yield [title, *lines] if lines else []


def _parameter(parameter: Parameter, width: int) -> list[str]:
    default = "required" if parameter.default is None else f"default {_format(parameter.default)}"
    facts = [default, *_valid_values(parameter)]
    if parameter.search:
        facts.append(f"worth searching: [{', '.join(map(_format, parameter.search))}]")
    return [f"  {parameter.name:<{width}}{parameter.help}", f"  {'':<{width}}({'; '.join(facts)})"]


def _valid_values(parameter: Parameter) -> list[str]:
    """The choices or the range of a parameter; nothing where every value of its type is valid."""
    if parameter.kind == "choice":
        return [f"one of {', '.join(map(_format, parameter.choices))}"]
    if parameter.kind in ("switch", "file") or (isinf(parameter.low) and isinf(parameter.high)):
        return []
    low, high = _format(parameter.low), _format(parameter.high)
    if isinf(parameter.high):
        return [f"{low} or more"]
    return [f"{high} or less" if isinf(parameter.low) else f"{low} to {high}"]


def _format(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.16g}" if isinstance(value, float) else str(value)


def _example(method: Method) -> list[str]:
    """A recipe with the required parameters, and those parameters of the models that are worth searching."""
    per_model = _example_settings([p for p in method.parameters if p.per_model and (p.default is None or p.search)])
    shared = _example_settings([p for p in method.parameters if not p.per_model and p.default is None])
    names = EXAMPLE_MODELS[: max(method.min_models, min(len(EXAMPLE_MODELS), method.max_models or len(EXAMPLE_MODELS)))]
    parameters = f", parameters: {per_model}" if per_model else ""
    return [
        f"  merge_method: {method.name}",
        *(["  base_model: models/base"] if method.base == "required" else []),
        "  models:",
        *(f"    - {{model: models/{name}{parameters}}}" for name in names),
        *([f"  parameters: {shared}"] if shared else []),
    ]


def _example_settings(parameters: Sequence[Parameter]) -> str:
    return f"{{{', '.join(f'{p.name}: {_example_value(p)}' for p in parameters)}}}" if parameters else ""


def _example_value(parameter: Parameter) -> str:
    """A file, or the middle of the range that is worth searching."""
    if parameter.kind == "file":
        return "text.txt"
    low, high = (float(bound) for bound in parameter.search)
    return f"{(low + high) / 2:.3g}"

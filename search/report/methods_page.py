"""``mergesearch methods``: what each merge method is and takes, from its own declaration."""

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
    "δ'_i": "what is left of its task vector",
    "w_i": "weight",
    "λ": "lambda",
    "α": "alpha",
    "ε": "epsilon",
    "A": "the models that have the elected sign",
}
"""What formulas have in common."""


def methods_table(methods: Mapping[str, Method]) -> str:
    """One line a method."""
    return "\n".join(f"{name:<18} {method.summary}" for name, method in methods.items())


def method_page(method: Method) -> str:
    """Formula, paper, inputs, parameters, and an example of one method."""
    parts = [
        [f"{method.name}: {method.summary}"],
        [f"  {clause}" for clause in clauses(method.formula)],
        _legend(method.formula),
        [f"  {line}" for line in re.split(r", (?=https)", method.paper)],
        [f"takes {_inputs(method)}"],
        *_parameters(method.parameters),
        ["example:", *_example(method)],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def clauses(formula: str) -> list[str]:
    """The formula, and what its symbols are, each on a line of its own."""
    return re.split(r", (?=[^,()\[\]{}]+ [=~] )", formula)


def _legend(formula: str) -> list[str]:
    known = ", ".join(f"{symbol} {meaning}" for symbol, meaning in SYMBOLS.items() if _has(formula, symbol))
    return wrap(f"where {known}", 100, initial_indent="  ", subsequent_indent="  ") if known else []


def _has(formula: str, symbol: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(symbol)}(?![\w'])", formula)) and f"{symbol} =" not in formula


def _inputs(method: Method) -> str:
    models = f"{method.count_in_words} model{'' if method.most == 1 else 's'}"
    if method.base == "required":
        return f"base_model and {models} beside it"
    return f"{models}, and base_model where task vectors are wanted" if method.base == "optional" else models


def _parameters(parameters: Sequence[Parameter]) -> Iterator[list[str]]:
    width = 2 + max((len(parameter.name) for parameter in parameters), default=0)
    for title, per_model in (("for each model:", True), ("for all:", False)):
        lines = [line for p in parameters if p.per_model == per_model for line in _parameter(p, width)]
        yield [title, *lines] if lines else []


def _parameter(parameter: Parameter, width: int) -> list[str]:
    default = "required" if parameter.default is None else f"default {_text(parameter.default)}"
    facts = [default, *_range(parameter)]
    if parameter.search:
        facts.append(f"worth searching: [{', '.join(map(_text, parameter.search))}]")
    return [f"  {parameter.name:<{width}}{parameter.help}", f"  {'':<{width}}({'; '.join(facts)})"]


def _range(parameter: Parameter) -> list[str]:
    if parameter.kind == "choice":
        return [f"one of {', '.join(map(_text, parameter.choices))}"]
    if parameter.kind in ("switch", "file") or (isinf(parameter.low) and isinf(parameter.high)):
        return []
    low, high = _text(parameter.low), _text(parameter.high)
    if isinf(parameter.high):
        return [f"{low} or more"]
    return [f"{high} or less" if isinf(parameter.low) else f"{low} to {high}"]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.16g}" if isinstance(value, float) else str(value)


def _example(method: Method) -> list[str]:
    """A recipe with what must be given, and what the models are usually told apart by."""
    own = _settings([p for p in method.parameters if p.per_model and (p.default is None or p.search)])
    shared = _settings([p for p in method.parameters if not p.per_model and p.default is None])
    names = ("one", "two")[: max(method.fewest, min(2, method.most or 2))]
    parameters = f", parameters: {own}" if own else ""
    return [
        f"  merge_method: {method.name}",
        *(["  base_model: models/base"] if method.base == "required" else []),
        "  models:",
        *(f"    - {{model: models/{name}{parameters}}}" for name in names),
        *([f"  parameters: {shared}"] if shared else []),
    ]


def _settings(parameters: Sequence[Parameter]) -> str:
    return f"{{{', '.join(f'{p.name}: {_tried(p)}' for p in parameters)}}}" if parameters else ""


def _tried(parameter: Parameter) -> str:
    """A value in the middle of what is worth searching."""
    if parameter.kind == "file":
        return "text.txt"
    low, high = (float(bound) for bound in parameter.search)
    return f"{(low + high) / 2:.3g}"

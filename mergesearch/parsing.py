"""Validated objects from data, and YAML in both directions."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from mergesearch.errors import UserError, first_line, nearest
from mergesearch.reading import read_text
from mergesearch.text import NO_TEXT, quoted

Parsed = TypeVar("Parsed", bound=BaseModel)
MOST_PROBLEMS = 20
"""How many problems of one file are listed."""


class Strict(BaseModel):
    """The base of every model of a file: immutable, without unknown keys, without infinite numbers or NaN.

    All problems of a file are found at once. A switch is not taken for the number 0 or 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _check_keys(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict):
            return handler(data)
        valid = [field.alias or name for name, field in cls.model_fields.items()]
        unknown = [key for key in data if key not in valid][:MOST_PROBLEMS]
        problems = [_unknown(key, data[key], valid) for key in unknown]
        switches = [name for name in _numbers(cls) if _has_switch(data.get(name))]
        problems += [_problem("no_number", "Input should be a number", (name,), data[name]) for name in switches]
        try:
            model = handler({key: value for key, value in data.items() if key in valid})
        except ValidationError as error:
            found = error.errors(include_url=False)
            problems += [_problem(each["type"], each["msg"], each["loc"], each["input"]) for each in found]
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        return model


def _unknown(key: Any, value: Any, valid: list[str]) -> InitErrorDetails:
    text = f"unknown key {quoted(str(key))}{nearest(str(key), valid)}"
    return _problem("unknown_key", text, (str(key),), value)


def _problem(kind: str, text: str, place: tuple[str | int, ...], value: Any) -> InitErrorDetails:
    error = PydanticCustomError(kind, "{text}", {"text": text})
    return InitErrorDetails(type=error, loc=place, input=value)


def invalid(problems: Iterable[str]) -> ValidationError:
    """The error of a value with several problems, to be raised by a validator."""
    details = [_problem("value_error", problem, (), None) for problem in problems]
    return ValidationError.from_exception_data("value", details)


@cache
def _numbers(model: type[BaseModel]) -> list[str]:
    """The fields that are numbers, and no switches."""
    kinds = {name: set(_kinds(field.annotation)) for name, field in model.model_fields.items()}
    return [name for name, found in kinds.items() if found & {int, float} and bool not in found]


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _kinds(argument)


def _has_switch(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and any(isinstance(entry, bool) for entry in value))


def parse(model: type[Parsed], data: Any, where: str) -> Parsed:
    """``data`` as a ``model``.

    Raises UserError with a line for each problem, in order: ``where``, the key, what was found, what was expected.
    """
    if not isinstance(data, dict):
        found = "is empty" if data is None else f"found {quoted(data, 60)}"
        raise UserError(f"{where}: {found}, expected keys: {', '.join(model.model_fields)}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = sorted(error.errors(include_url=False), key=lambda problem: _position(data, problem["loc"]))
        lines = list(dict.fromkeys(_line(where, problem) for problem in problems[:MOST_PROBLEMS]))
        more = len(problems) - MOST_PROBLEMS
        raise UserError(*lines, *([f"{where}: and {more} problems more"] if more > 0 else [])) from None


def _position(data: Any, place: tuple[str | int, ...]) -> list[int]:
    """The indices that lead to a place of the data. A key that is missing comes last."""
    position = []
    for part in place:
        if isinstance(data, dict):
            position.append(next((i for i, key in enumerate(data) if str(key) == part), len(data)))
        elif isinstance(data, list) and isinstance(part, int):
            position.append(part)
        data = data.get(part) if isinstance(data, dict) else data[part] if _has_index(data, part) else None
    return position


def _has_index(data: Any, part: str | int) -> bool:
    return isinstance(data, list) and isinstance(part, int) and part < len(data)


def first_problem(error: ValidationError) -> str:
    """The first problem of an object that is not valid, on one line."""
    return _line("", error.errors(include_url=False)[0]).removeprefix(": ")


def _line(where: str, problem: Any) -> str:
    place = problem["loc"][:-1] if problem["type"] == "unknown_key" else problem["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    prefix = f"{where}: {key.lstrip('.')}" if key else where
    if problem["type"] == "missing":
        return f"{prefix}: is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("value_error", "unknown_key"):
        return f"{prefix}: {message}"
    return f"{prefix}: found {quoted(problem['input'], 60)}, expected: {message}"


YAML_BYTES = 512 << 10
"""The largest YAML file."""
DEEPEST = 50
"""The most levels of a YAML document."""
MOST_VALUES = 30_000
"""The most keys and values of a YAML file; what an alias stands for counts wherever the alias is."""
MOST_DOCUMENTS = 1000
INTEGER_BITS = 64


class _Loader(yaml.SafeLoader):
    """Safe YAML without what has no end, and without values that nothing can take.

    Refused are: documents that are too deep or too long, values that contain themselves, integers of more than 64 bits,
    and characters that cannot be written. Of equal keys the last one counts, and ``repeated`` has the others.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = self._count = self._documents = 0
        self.repeated: list[ConstructorError] = []

    def compose_document(self) -> yaml.Node | None:
        self._documents += 1
        if self._documents > MOST_DOCUMENTS:
            raise ComposerError(None, None, f"found more than {MOST_DOCUMENTS} documents")
        node = super().compose_document()
        if node is not None:
            _measure(node, {})
        return node

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._level, self._count = self._level + 1, self._count + 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        _check_size(self._level, self._count, mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # PyYAML's readers of scalars raise ValueError, KeyError, AttributeError and others
            raise _wrong_value(node) from error
        if isinstance(value, int) and value.bit_length() >= INTEGER_BITS:
            raise _wrong(node, f"found an integer of {value.bit_length()} bits, expected less than {INTEGER_BITS}")
        if isinstance(value, str) and (found := NO_TEXT.search(value)):
            raise _wrong(node, f"found the character U+{ord(found[0]):04X}, which no text can have")
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[tuple[str, str], int] = {}
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        for key in (key for key, _ in pairs if isinstance(key, yaml.ScalarNode)):
            if line := lines.get((key.tag, key.value)):
                self.repeated.append(_wrong(key, f"found the key {quoted(key.value)} again, as in line {line}"))
            lines[key.tag, key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _measure(node: yaml.Node, sizes: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """The levels and the values of a node. Raises ComposerError where these have no end, or are too many."""
    if id(node) not in sizes:
        sizes[id(node)] = None
        parts = node.value if isinstance(node, yaml.SequenceNode) else [n for pair in node.value for n in pair]
        parts = parts if isinstance(node, yaml.CollectionNode) else []
        measured = [_measure(part, sizes) for part in parts]
        levels = 1 + max((levels for levels, _ in measured), default=0)
        count = 1 + sum(count for _, count in measured)
        _check_size(levels, count, node.start_mark)
        sizes[id(node)] = levels, count
    size = sizes[id(node)]
    if size is None:
        raise _wrong(node, "found a value that contains itself")
    return size


def _check_size(levels: int, count: int, mark: Any) -> None:
    if levels > DEEPEST:
        raise ComposerError(None, None, f"found more than {DEEPEST} levels, expected fewer", mark)
    if count > MOST_VALUES:
        raise ComposerError(None, None, f"found more than {MOST_VALUES} values, aliases included", mark)


def _wrong_value(node: yaml.Node) -> ConstructorError:
    value = quoted(node.value) if isinstance(node, yaml.ScalarNode) else "a collection"
    return _wrong(node, f"found {value}, which is no valid {node.tag.rpartition(':')[2]}; put text in quotes")


def _wrong(node: yaml.Node, problem: str) -> ConstructorError:
    return ConstructorError(None, None, problem, node.start_mark)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises UserError where it cannot be read, is not YAML, or has a key twice."""
    documents, repeated = _documents(path)
    if repeated:
        raise UserError(*repeated)
    if len(documents) > 1:
        raise UserError(f"{path}: found {len(documents)} documents, expected one; remove the lines ---")
    return documents[0] if documents else None


def read_yaml_documents(path: Path, warn: Callable[[str], object]) -> list[Any]:
    """The documents of a YAML file. Of equal keys, ``warn`` hears; the last one counts. Raises UserError."""
    documents, repeated = _documents(path)
    for problem in repeated:
        warn(f"{problem}; the last one counts, as in mergekit")
    return documents


def _documents(path: Path) -> tuple[list[Any], list[str]]:
    """The documents, and where they have a key again."""
    text = read_text(path, YAML_BYTES)
    documents: list[Any] = []
    try:
        loader = _Loader(text)
        while loader.check_data():  # type: ignore[no-untyped-call]
            documents.append(loader.get_data())
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: is not YAML: {_in_words(error, text)}") from None
    return documents, [f"{path}: {_in_words(error, text)}" for error in loader.repeated]


def _in_words(error: Exception, text: str) -> str:
    """An error of PyYAML in one line, with the line of the file."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        problem = "; ".join(part for part in (error.context, error.problem) if part)
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        return f"line {line}: found the character U+{code:04X}, which YAML does not allow"
    return first_line(error)


def parse_yaml(text: str) -> Any:
    """The content of a YAML text that this project wrote itself."""
    return yaml.load(text, _Loader)


def parse_yaml_documents(text: str) -> list[Any]:
    """The documents of a YAML text that this project wrote itself."""
    return list(yaml.load_all(text, _Loader))


class YamlDumper(yaml.SafeDumper):
    """Writes lists of plain values on one line."""


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    flow = all(isinstance(value, bool | int | float | str) for value in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


YamlDumper.add_representer(list, _represent_list)
YamlDumper.add_representer(tuple, _represent_list)  # type: ignore[arg-type]


def dump_yaml(data: Any) -> str:
    """YAML of ``data``, with the keys of mappings in their given order."""
    return yaml.dump(data, Dumper=YamlDumper, sort_keys=False, allow_unicode=True, width=100)

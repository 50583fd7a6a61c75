"""The rule for paths: those of a config are relative to its file, those of the command line to the current folder."""

import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from glob import escape, has_magic
from pathlib import Path
from typing import Any

from mergesearch.errors import Problems, UserError, located
from mergesearch.evaluators import find_evaluator, is_evaluator, path_options
from mergesearch.merge_ops.checkpoint.references import (
    Alignment,
    ModelReference,
    is_spec_file,
    may_be_on_hub,
    parse_reference,
    with_references,
)
from mergesearch.merge_ops.recipe.after_merge import FILE_KEYS
from mergesearch.merge_ops.recipe.recovery import EXPERTS
from mergesearch.reading import ALREADY_OPEN

TOKENIZER_WORDS = ("base", "union")
"""Sources of a tokenizer that are no models."""
INNER = ("search", "value")
"""Keys of a recipe whose value is meant as that of the key above."""


def folder_of(file: Path) -> Path:
    """The folder that the paths of a config are relative to; of a file that the shell has opened, the current one."""
    return Path() if str(file).startswith(ALREADY_OPEN) else file.parent


def absolute_paths(data: Any, folder: Path) -> Any:
    """A config's unchecked content with absolute paths in place of those that are relative to ``folder``.

    A model that is not there stays as it is where it may be a name on the Hugging Face Hub. What is no path, or no
    valid value, stays as well. Raises UserError for a path that is not in ``folder``, but in the current folder.
    """
    places = _Places(folder.resolve())
    result = _config(data, places) if isinstance(data, dict) else data
    places.problems.check()
    return result


@dataclass(frozen=True)
class _Places:
    """What paths become that are relative to ``folder``, and what is wrong with them."""

    folder: Path
    problems: Problems = field(default_factory=Problems)

    def path(self, text: str) -> str:
        """A file or folder."""
        found = self._joined(text)
        if not os.path.lexists(found) and os.path.lexists(text):
            there = os.path.relpath(text, self.folder)
            raise UserError(
                f"found {text!r}, which is in the current folder, but not beside the config; paths in a config are "
                f"relative to its file: {there}"
            )
        return found

    def model(self, text: str) -> str:
        """A checkpoint, a name on the hub, or one of these with an adapter."""
        try:
            reference = parse_reference(text, self.folder)
        except UserError:
            return text
        given = [part for part in (reference.model, reference.adapter) if part is not None]
        parts = [self._checkpoint(part) for part in given]
        found = ModelReference(*parts, aligned=self._alignment(reference.aligned))
        return text if found == reference else str(found)

    def _alignment(self, given: Alignment | None) -> Alignment | None:
        if given is None:
            return None
        data, spec = given.data and self.path(given.data), given.spec and self.spec(given.spec)
        return replace(given, to=self.model(given.to), data=data, spec=spec)

    def spec(self, text: str) -> str:
        """What says how a model is aligned: a YAML file, or a function."""
        return self.path(text) if is_spec_file(text) else self.code(text)

    def pattern(self, text: str) -> str:
        """A file, or a pattern of files."""
        if not has_magic(text) or os.path.lexists(self._joined(text)) or Path(text).is_absolute():
            return self.path(text)
        return str(Path(escape(str(self.folder))) / text)

    def models(self, text: str) -> str:
        """A checkpoint, a folder of them, or a pattern."""
        return self.pattern(text) if has_magic(text) else self.model(text)

    def code(self, text: str) -> str:
        """``path/to/file.py:name``; modules and names of a table are no paths."""
        file, colon, name = text.rpartition(":")
        return f"{self.path(file)}:{name}" if colon and file.endswith(".py") else text

    def command(self, value: str | list[str]) -> str | list[str]:
        """A program and its arguments, of which those are paths that are files in the folder."""
        try:
            given = shlex.split(value) if isinstance(value, str) else value
        except ValueError:
            return value
        parts = [self._argument(part) for part in given]
        return value if parts == given else parts

    def _argument(self, part: str) -> str:
        found = self._joined(part)
        return found if Path(found).is_file() else part

    def storage(self, url: str) -> str:
        """The URL of a database; that of SQLite has the path of a file."""
        kind, separator, place = url.partition(":///")
        is_path = separator and kind.partition("+")[0] == "sqlite" and place and not place.startswith((":", "file:"))
        return f"{kind}:///{self._joined(place)}" if is_path else url

    def artifacts(self, url: str) -> str:
        """A folder, or the URL of a bucket."""
        return url if "://" in url else self._joined(url)

    def _checkpoint(self, text: str) -> str:
        found = self._joined(text)
        is_on_hub = may_be_on_hub(text) and not os.path.lexists(text)
        return text if is_on_hub and not os.path.lexists(found) else self.path(text)

    def _joined(self, text: str) -> str:
        """The path in the folder, which has no symbolic links: it goes up by name."""
        try:
            path = Path(text).expanduser()
        except RuntimeError:  # nobody's home
            return text
        if path.is_absolute() or not text:
            return text if not text.startswith("~") else str(path)
        folder, parts = self.folder, path.parts
        while parts[:1] == ("..",):
            folder, parts = folder.parent, parts[1:]
        return str(folder.joinpath(*parts))

    def replaced(self, owner: dict[str, Any], key: str, rule: Callable[[Any], Any], where: str = "") -> dict[str, Any]:
        """The owner with a key's text, or each text of its list, by a rule."""
        if not isinstance(owner, dict) or key not in owner:
            return owner
        return {**owner, key: self.by(rule, owner[key], f"{where}{key}")}

    def by(self, rule: Callable[[Any], Any], value: Any, where: str) -> Any:
        """A text, or each text of a list, by a rule, whose error is kept. Anything else stays."""
        if isinstance(value, list):
            return [self.by(rule, each, where) for each in value]
        return self.problems.attempt(_located, where, rule, value) if isinstance(value, str) else value


def named_paths(data: Mapping[str, Any]) -> list[str]:
    """The paths and patterns that a config names, whose paths are absolute: all that its runs read from the disk."""
    places = _Named(Path("/"))
    _config(dict(data), places)
    return list(places.found)


@dataclass(frozen=True)
class _Named(_Places):
    """Takes note of absolute paths, and changes nothing."""

    found: dict[str, None] = field(default_factory=dict)

    def path(self, text: str) -> str:
        if Path(text).is_absolute():
            self.found[text] = None
        return text

    def _argument(self, part: str) -> str:
        is_installed = shutil.which(Path(part).name) == part
        return self.path(part) if Path(part).is_file() and not is_installed else part


def _located(where: str, rule: Callable[[Any], Any], value: Any) -> Any:
    with located(where):
        return rule(value)


def _config(data: dict[str, Any], places: _Places) -> dict[str, Any]:
    data = places.replaced(data, "builder", places.code)
    sections = {"recipe": _recipe_section, "soup": _soup, "recover": _recover, "evaluate": _evaluate, "search": _search}
    return {
        **data,
        **{key: read(data[key], places) for key, read in sections.items() if isinstance(data.get(key), dict)},
    }


def _search(data: dict[str, Any], places: _Places) -> dict[str, Any]:
    data = places.replaced(data, "artifacts", places.artifacts, "search.")
    return places.replaced(data, "storage", places.storage, "search.")


def _soup(data: dict[str, Any], places: _Places) -> dict[str, Any]:
    data = places.replaced(data, "base", places.model, "soup.")
    return places.replaced(data, "models", places.models, "soup.")


def _recover(data: dict[str, Any], places: _Places) -> dict[str, Any]:
    data = places.replaced(data, "from", lambda text: text if text == EXPERTS else places.model(text), "recover.")
    if not isinstance(data.get("data"), dict):
        return places.replaced(data, "data", places.path, "recover.")
    texts = {
        places.model(str(model)): places.by(places.path, path, "recover.data") for model, path in data["data"].items()
    }
    return {**data, "data": texts}


def _evaluate(data: dict[str, Any], places: _Places) -> dict[str, Any]:
    data = places.replaced(data, "include_path", places.path, "evaluate.")
    tasks = {
        key: [_task(entry, places, f"evaluate.{key}[{index}].") for index, entry in enumerate(data[key])]
        for key in ("tasks", "test_tasks")
        if isinstance(data.get(key), list)
    }
    return {**data, **tasks}


def _task(entry: Any, places: _Places, where: str) -> Any:
    """A task's entry, whose evaluator says which options are paths."""
    if not isinstance(entry, dict) or not isinstance(entry.get("evaluator", "lm_eval"), str):
        return entry
    entry = places.replaced(entry, "evaluator", places.code, where)
    try:
        kind = find_evaluator(entry.get("evaluator") or "lm_eval")
    except UserError:
        return entry
    rules = {"path": places.path, "pattern": places.pattern, "code": places.code, "command": places.command}
    for name, meant in path_options(kind.Options).items() if is_evaluator(kind) else ():
        if meant == "command" and isinstance(entry.get(name), list):
            entry = {**entry, name: places.command(entry[name])}
        elif meant == "pattern" or isinstance(entry.get(name), str):
            entry = places.replaced(entry, name, rules[meant], where)
    return entry


def _recipe_section(data: dict[str, Any], places: _Places) -> Any:
    try:
        data = with_references(data)
    except ValueError:
        return data  # the field says what is wrong
    rules: Mapping[str, Callable[[str], str]] = {
        **dict.fromkeys(("model", "models", "base_model", "to"), places.model),
        "spec": places.spec,
        "builder": places.code,
        **dict.fromkeys(("source", "tokenizer_source"), lambda text: _tokenizer(text, places)),
        **dict.fromkeys(FILE_KEYS, places.path),
        "chat_template": lambda text: _chat_template(text, places),
        "merge_method": places.code,
    }
    return _in_recipe(data, places, rules, "recipe", "")


def _in_recipe(value: Any, places: _Places, rules: Mapping[str, Callable[[str], str]], where: str, key: str) -> Any:
    """A part of a recipe, whose key says what its texts are."""
    if isinstance(value, dict):
        return {
            each: _in_recipe(part, places, rules, f"{where}.{each}", key if each in INNER else str(each))
            for each, part in value.items()
        }
    if isinstance(value, list):
        return [_in_recipe(part, places, rules, f"{where}[{index}]", key) for index, part in enumerate(value)]
    return places.by(rules[key], value, where) if key in rules else value


def _tokenizer(text: str, places: _Places) -> str:
    name = text.removeprefix("model:")
    return text if name in TOKENIZER_WORDS else places.model(name)


def _chat_template(text: str, places: _Places) -> str:
    """A template's text or name stays."""
    found = "" if "{" in text else places.model(text)
    return found if Path(found).is_absolute() and Path(found).is_dir() else text

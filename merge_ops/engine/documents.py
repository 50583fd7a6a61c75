"""Recipe files of several documents: each has a ``name``, and others use its result as a model by that name.

As in mergekit's files of several parts, the order of the documents does not matter; the one without a name (or, where
all have one, the last) is the result. The others are written to a temporary folder beside the result and removed.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mergesearch.errors import UserError
from mergesearch.files import ended_by_exception
from mergesearch.merge_ops.checkpoint.references import split_reference
from mergesearch.merge_ops.engine.engine import Say, check_output, merge, silent
from mergesearch.merge_ops.output.writer import new_parents_removed
from mergesearch.merge_ops.recipe.recipe import Recipe


def read_recipes(path: Path) -> list[Recipe]:
    """The recipes of a file, the result's last, each after those that it uses. Raises UserError."""
    documents = [_named(document) for document in _load(path) if document is not None]
    if len(documents) <= 1:
        return [Recipe.read(documents[0] if documents else None, str(path))]
    read = [Recipe.read(document, f"{path}: document {i + 1}") for i, document in enumerate(documents)]
    return _in_order(read, str(path))


def merge_file(path: Path, out: Path, say: Say = silent) -> None:
    """Writes the result of a recipe file to the folder ``out``, or nothing where it fails. Raises UserError.

    ``say`` is given the memory plan of every merge.
    """
    merge_recipes(read_recipes(path), out, say)


def merge_recipes(recipes: Sequence[Recipe], out: Path, say: Say = silent) -> None:
    """Writes the last recipe's result to ``out``; each may use those before it by name."""
    *parts, last = recipes
    if not parts:
        merge(last, out, say=say)
        return
    check_output(out)
    text = "---\n".join(recipe.to_yaml() for recipe in recipes)
    with ended_by_exception(), new_parents_removed(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.parts.", dir=out.parent))
        try:
            merge(last, out, _merge_parts(parts, folder, say), text, say)
        finally:
            shutil.rmtree(folder)


def _merge_parts(parts: Sequence[Recipe], folder: Path, say: Say) -> dict[str, Path]:
    """Where each part's result lies, by name."""
    places: dict[str, Path] = {}
    for index, recipe in enumerate(parts):
        place = folder / str(index)
        merge(recipe, place, places, say=say)
        places[str(recipe.name)] = place
    return places


def _load(path: Path) -> list[Any]:
    try:
        return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML: {error}") from error


def _named(document: Any) -> Any:
    """A document with the name that others use it by; old files of several parts say ``out_path`` for it."""
    if not isinstance(document, dict) or "out_path" not in document:
        return document
    rest = {key: value for key, value in document.items() if key != "out_path"}
    return {"name": document["out_path"], **rest}


def _in_order(recipes: Sequence[Recipe], where: str) -> list[Recipe]:
    names = [recipe.name for recipe in recipes]
    doubled = [name for name in names if names.count(name) > 1]
    if doubled:
        what = f"the name {doubled[0]!r}" if doubled[0] else "no name"
        raise UserError(f"{where}: found {len(doubled)} documents with {what}, expected one")
    last = next((recipe for recipe in recipes if recipe.name is None), recipes[-1])
    named = {recipe.name: recipe for recipe in recipes if recipe.name}
    ordered: list[Recipe] = []
    _visit(last, named, ordered, [], where)
    for recipe in recipes:
        if recipe not in ordered:
            raise UserError(f"{where}: the result of {recipe.name!r} is not used by the last document")
    return ordered


def _visit(
    recipe: Recipe, named: Mapping[str, Recipe], ordered: list[Recipe], above: list[str | None], where: str
) -> None:
    """Puts a recipe behind those that it uses."""
    if recipe.name in above:
        raise UserError(f"{where}: the documents use each other in a circle: {' -> '.join(map(str, above))}")
    for reference in [*recipe.references, *recipe.tokenizers]:
        for part in (split_reference(reference).model, reference):
            if part in named and named[part] not in ordered:
                _visit(named[part], named, ordered, [*above, recipe.name], where)
    if recipe not in ordered:
        ordered.append(recipe)

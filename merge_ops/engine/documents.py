"""Recipe files of several documents, which can use each other's results as models.

A document has a ``name``, by which others refer to its result. As in mergekit's files of several documents, their order
does not matter. The document without a name is the result, or the last one if all have a name. The results of the
others are written to a temporary folder beside the output, which is removed at the end.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergesearch.errors import Problems, UserError
from mergesearch.files import ended_by_exception
from mergesearch.merge_ops.alignment.references import plain_references
from mergesearch.merge_ops.checkpoint.references import parse_reference
from mergesearch.merge_ops.engine.engine import check_output, merge
from mergesearch.merge_ops.engine.options import DEFAULTS, MergeOptions
from mergesearch.merge_ops.output.writer import new_parents_removed
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import read_yaml_documents
from mergesearch.say import Say, silent

OF_A_CONFIG = {"recipe", "soup", "evaluate"}
"""Keys by which the config of a search is known."""


def read_recipes(path: Path, warn: Say | None = None) -> list[Recipe]:
    """Returns the recipes of a file, each after those that it uses. The last one is the result's.

    ``warn`` is as for ``Recipe.read``.

    Raises:
        UserError: the file is not readable, or a recipe is not valid, not used, or part of a cycle.
    """
    documents = [_with_name(each) for each in read_yaml_documents(path, warn or silent) if each is not None]
    if any(isinstance(each, dict) and each.keys() & OF_A_CONFIG for each in documents):
        raise UserError(
            f"{path}: is a config, not a recipe: `mergesearch run {path}` searches; the recipes that it writes, as "
            "recommended.yml, can be merged"
        )
    if len(documents) <= 1:
        return [Recipe.read(documents[0] if documents else None, str(path), warn)]
    problems, names = Problems(), [f"{path}: document {i + 1}" for i in range(len(documents))]
    read = [problems.attempt(Recipe.read, *pair, warn) for pair in zip(documents, names, strict=True)]
    problems.check()
    return _ordered([recipe for recipe in read if recipe], str(path))


def documents_text(recipes: Sequence[Recipe]) -> str:
    """The YAML of a file with these recipes."""
    return "---\n".join(recipe.to_yaml() for recipe in recipes)


def merge_file(path: Path, out: Path, options: MergeOptions = DEFAULTS) -> None:
    """Writes the result of a recipe file to the folder ``out``, or nothing if it fails.

    Args:
        path: the recipe file.
        out: the folder, which must not exist or be empty.
        options: what is not part of a recipe; for every merge.

    Raises:
        UserError: as for ``read_recipes`` and ``merge``.
    """
    recipes = read_recipes(path, options.warn)
    try:
        merge_recipes(recipes, out, options)
    except UserError as error:
        raise UserError(*error.problems, *_beside(path, recipes)) from error


def _beside(path: Path, recipes: Sequence[Recipe]) -> Iterator[str]:
    """A line for each model that is not where the recipe says, but would be if that were relative to the recipe."""
    named = dict.fromkeys(name for recipe in recipes for name in (*recipe.references, *recipe.tokenizers))
    parts = (part for name in named for part in (parse_reference(name).model, parse_reference(name).adapter) if part)
    for part in parts:
        if not os.path.lexists(part) and os.path.lexists(path.parent / part):
            yield (
                f"{path}: {part} is beside the recipe, but paths in a recipe are relative to the current folder, as in "
                f"mergekit; write {path.parent / part}, or go to {path.parent}"
            )


def merge_recipes(recipes: Sequence[Recipe], out: Path, options: MergeOptions = DEFAULTS) -> None:
    """Writes the last recipe's result to ``out``. Each recipe may use the previous ones by name."""
    *intermediate, last = recipes
    if not intermediate:
        merge(last, out, options=options)
        return
    check_output(out)
    text = documents_text(recipes)
    with ended_by_exception(), new_parents_removed(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.parts.", dir=out.parent))
        try:
            merge(last, out, _merge_intermediate(intermediate, folder, options), text, options)
        finally:
            shutil.rmtree(folder)


def _merge_intermediate(recipes: Sequence[Recipe], folder: Path, options: MergeOptions) -> dict[str, Path]:
    """Returns the path of each result by name."""
    paths: dict[str, Path] = {}
    for index, recipe in enumerate(recipes):
        path = folder / str(index)
        merge(recipe, path, paths, options=options)
        paths[str(recipe.name)] = path
    return paths


def _with_name(document: Any) -> Any:
    """Returns the document with ``name`` in place of ``out_path``, the key of old files."""
    if not isinstance(document, dict) or "out_path" not in document:
        return document
    others = {key: value for key, value in document.items() if key != "out_path"}
    return {"name": document["out_path"], **others}


def _ordered(recipes: Sequence[Recipe], where: str) -> list[Recipe]:
    names = [recipe.name for recipe in recipes]
    duplicates = [name for name in names if names.count(name) > 1]
    if duplicates:
        what = f"the name {duplicates[0]!r}" if duplicates[0] else "no name"
        raise UserError(f"{where}: found {len(duplicates)} documents with {what}, expected one")
    result = next((recipe for recipe in recipes if recipe.name is None), recipes[-1])
    by_name = {recipe.name: recipe for recipe in recipes if recipe.name}
    ordered: list[Recipe] = []
    _append_after_dependencies(result, by_name, ordered, [], where)
    for recipe in recipes:
        if recipe not in ordered:
            raise UserError(f"{where}: the result of {recipe.name!r} is not used by the last document")
    return ordered


def _append_after_dependencies(
    recipe: Recipe, by_name: Mapping[str, Recipe], ordered: list[Recipe], users: list[str | None], where: str
) -> None:
    if recipe.name in users:
        raise UserError(f"{where}: the documents use each other in a cycle: {' -> '.join(map(str, users))}")
    for reference in plain_references([*recipe.references, *recipe.tokenizers]):
        for name in (parse_reference(reference).model, reference):
            if name in by_name and by_name[name] not in ordered:
                _append_after_dependencies(by_name[name], by_name, ordered, [*users, recipe.name], where)
    if recipe not in ordered:
        ordered.append(recipe)

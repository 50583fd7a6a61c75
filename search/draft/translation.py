"""Configs of other tools, and recipes, as configs of this one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergesearch.errors import UserError
from mergesearch.parsing import read_yaml
from mergesearch.search.draft import mergekit_evolve, mergenetic, plain_recipe
from mergesearch.search.draft.draft import Draft, path_in

EXPECTED = "a config of mergekit-evolve (genome), of mergenetic (run_id, models) or a recipe (merge_method)"


def translated(
    source: Path, file: Path, tasks: Sequence[dict[str, Any]] = (), include_path: str | None = None
) -> Draft:
    """The config of another tool in ``source``, or a recipe, as a config in ``file``.

    ``tasks`` are scored instead of those of the source; ``include_path`` has some of them. What has no counterpart is a
    note. Raises UserError where the source is none of these, or has no tasks and none are given.
    """
    data = read_yaml(source)
    if not isinstance(data, dict):
        raise UserError(f"{source}: has no keys, expected {EXPECTED}")
    if "genome" in data:
        draft = mergekit_evolve.translated(data, source, file, tasks)
    elif {"run_id", "pop_size"} & data.keys():
        draft = mergenetic.translated(data, source, file, tasks)
    elif "merge_method" in data:
        draft = plain_recipe.translated(data, source, file, tasks)
    elif {"recipe", "soup"} & data.keys():
        raise UserError(f"{source}: is a config of mergesearch; `mergesearch check {source}` checks it")
    else:
        raise UserError(f"{source}: found keys {', '.join(map(str, data))}, expected {EXPECTED}")
    if not draft.data["evaluate"]["tasks"]:
        raise UserError(f"{source}: has no tasks of lm-eval; name them with --task")
    if include_path:
        draft.data["evaluate"]["include_path"] = path_in(file, include_path)
    return draft

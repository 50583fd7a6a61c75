"""Makes a space of a recipe: its numbers become holes, with the ranges that its method recommends."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergesearch.errors import UserError, located
from mergesearch.merge_ops.checkpoint.references import with_references
from mergesearch.merge_ops.methods import Parameter, find_method
from mergesearch.search.draft.draft import Draft, as_in
from mergesearch.search.draft.sections import SPLIT, TRIALS, places_of, run_name, with_notes


def translated(data: dict[str, Any], source: Path, file: Path, tasks: Sequence[dict[str, Any]]) -> Draft:
    """See ``translation.translated``."""
    try:
        recipe = with_references(data)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    with located(str(source)):
        ranges = {
            p.name: p for p in find_method(str(data["merge_method"])).parameters if p.kind == "number" and p.search
        }
    notes = {
        "": [f"From {source.name}, a recipe, whose numbers are searched now."],
        "recipe.merge_method": ["{search: [METHOD, METHOD]} chooses among several."],
    }
    config = {
        "recipe": _opened(recipe, ranges, source, file),
        "evaluate": {"tasks": [*tasks], "split": dict(SPLIT)},
        "search": {"trials": TRIALS},
        "output": {"name": run_name(file.stem)},
    }
    return Draft(config, with_notes(notes))


def _opened(part: Any, ranges: dict[str, Parameter], source: Path, file: Path) -> Any:
    """A part of a recipe with holes in its parameters, and its models as the config names them."""
    if isinstance(part, list):
        return [_opened(each, ranges, source, file) for each in part]
    if not isinstance(part, dict):
        return part
    opened: dict[str, Any] = {}
    for key, value in part.items():
        if key == "parameters" and isinstance(value, dict):
            opened[key] = {name: _hole(setting, ranges.get(name)) for name, setting in value.items()}
        elif key in ("model", "base_model") and isinstance(value, str):
            opened[key] = as_in(file, value, places_of(source))
        else:
            opened[key] = _opened(value, ranges, source, file)
    return opened


def _hole(setting: Any, parameter: Parameter | None) -> Any:
    """A hole in place of a number, and with as many knots in place of a gradient."""
    if parameter is None:
        return setting
    if isinstance(setting, list):
        if all(_is_number(value) for value in setting) and len(setting) > 1:
            return {"search": _range([float(value) for value in setting], parameter), "curve": len(setting)}
        return [_hole(value, parameter) for value in setting]
    if isinstance(setting, dict):
        return {**setting, "value": _hole(setting.get("value"), parameter)}
    return {"search": _range([float(setting)], parameter)} if _is_number(setting) else setting


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _range(values: Sequence[float], parameter: Parameter) -> list[float]:
    """The recommended range, and wider where the recipe's numbers are outside."""
    low, high = (float(end) for end in (parameter.search[0], parameter.search[-1]))
    return [min(low, *values), max(high, *values)]

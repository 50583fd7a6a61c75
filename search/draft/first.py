"""A first config for models of one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergesearch.search.draft.draft import Draft, as_in, path_in
from mergesearch.search.draft.models import recipe_for
from mergesearch.search.draft.sections import SPLIT, TRIALS, run_name, with_notes

CURVE = "curve: 3 is a weight for the first, the middle and the last layer. More dimensions need more trials."


def first_draft(
    file: Path,
    base: str | None,
    models: Sequence[str],
    tasks: Sequence[dict[str, Any]],
    include_path: str | None = None,
) -> Draft:
    """A config in ``file`` that searches for a merge of these models. Raises UserError."""
    recipe, why = recipe_for(as_in(file, base) if base else None, [as_in(file, model) for model in models])
    evaluate: dict[str, Any] = {"tasks": [*tasks], "split": dict(SPLIT)}
    if include_path:
        evaluate = {"include_path": path_in(file, include_path), **evaluate}
    config = {
        "recipe": recipe,
        "evaluate": evaluate,
        "search": {"trials": TRIALS},
        "output": {"name": run_name(file.stem)},
    }
    notes = {
        "": ["Paths are relative to this file. `mergesearch check` says whether all is right."],
        "recipe.merge_method": [why, "`mergesearch methods` lists all."],
        "recipe.models": [CURVE],
        "evaluate.tasks": ["weight: 2 counts a task twice. `limit: 1000` uses fewer items of large tasks."],
    }
    return Draft(config, with_notes(notes))

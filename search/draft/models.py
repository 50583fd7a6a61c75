"""The checkpoints of a folder, and a recipe with holes for some of them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.adapters.config import ADAPTER_CONFIG
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.reading import read_json_object
from mergesearch.search.config import RESULTS

DEEPEST = 4
"""The levels of folders that are looked at."""
MOST = 30
"""The most checkpoints that are found."""
SKIPPED = {"node_modules", "site-packages", "__pycache__"}
"""Folders of other things."""


@dataclass(frozen=True)
class Found:
    """A checkpoint on the disk; ``of`` is the base that an adapter says it was trained on."""

    path: str
    is_adapter: bool = False
    of: str = ""

    @property
    def looks_like_a_base(self) -> bool:
        """Whether its name says so."""
        return not self.is_adapter and "base" in Path(self.path).name.lower()


def checkpoints_below(folder: Path) -> list[Found]:
    """The checkpoints and adapters below a folder, by name."""
    found = []
    for parent, folders, files in os.walk(folder):
        path = Path(parent).relative_to(folder).as_posix()
        is_of_runs = Path(path) == RESULTS or path.count("/") >= DEEPEST
        folders[:] = [] if is_of_runs else sorted(f for f in folders if not f.startswith(".") and f not in SKIPPED)
        if ADAPTER_CONFIG in files:
            found.append(Found(path, True, _trained_on(Path(parent))))
        elif "config.json" in files and any(file.endswith(".safetensors") for file in files):
            found.append(Found(path))
        else:
            continue
        folders.clear()
        if len(found) == MOST:
            break
    return found


def likely_base(found: Sequence[Found]) -> str | None:
    """The checkpoint whose name says so, or the one that an adapter was trained on."""
    named = (each.path for each in found if each.looks_like_a_base)
    return next(named, None) or next((each.of for each in found if each.of), None)


def _trained_on(folder: Path) -> str:
    try:
        return str(read_json_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    except UserError:
        return ""


def fit(path: str, other: str) -> bool:
    """Whether two checkpoints have the same tensors; True where one of them cannot be read here."""
    try:
        one, two = ({name: info.shape for name, info in Checkpoint(each).tensors.items()} for each in (path, other))
    except UserError:
        return True
    return one == two


def recipe_for(base: str | None, models: Sequence[str]) -> tuple[dict[str, Any], str]:
    """A recipe with holes by which these models can be merged, and why these methods.

    Raises UserError where there are too few models.
    """
    if base is None and len(models) < 2:
        raise UserError(f"found {len(models)} model and no base, expected two models, or a base and one model")
    entries = [{"model": model, "parameters": parameters} for model, parameters in _with_parameters(base, models)]
    if base is not None:
        methods = ["task_arithmetic", "ties", "dare_ties"] if len(models) > 1 else ["task_arithmetic", "ties"]
        why = "Task vectors, what each model changed of the base: added, or trimmed and without conflicts of signs."
        return {"merge_method": {"search": methods}, "base_model": base, "models": entries}, why
    methods = ["linear", "nuslerp" if len(models) == 2 else "multislerp"]
    why = "Averages, along a line or on a sphere: without a base there are no task vectors."
    return {"merge_method": {"search": methods}, "models": entries}, why


def _with_parameters(base: str | None, models: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for model in models:
        if base is None:
            yield model, {"weight": {"search": [0.0, 1.0], "curve": 3}}
        else:
            yield model, {"weight": {"search": [0.0, 1.5], "curve": 3}, "density": {"search": [0.1, 1.0]}}

"""The sections of a first config that do not depend on where it is from."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

TRIALS = 60
BASELINES = 15
"""About how many baselines a run scores before it searches; they count as trials."""
NOTES: Mapping[str, Sequence[str]] = {
    "recipe": ["What is merged, in mergekit's YAML. The search fills each {search: ...}."],
    "evaluate": ["How candidates are scored."],
    "evaluate.split": [
        "The search sees one part of the items. The verdict is about the other part, which nothing saw."
    ],
    "search": ["The budget. `mergesearch check` says how long it takes; a run that was stopped goes on."],
    "search.trials": ["All trials, about 15 baselines included."],
    "output": ["The run's folder is results/runs/NAME."],
}
SPLIT = {"search": 0.5, "test": 0.5}


def run_name(text: str) -> str:
    """A name of a run like this text."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100] or "run"


def with_notes(*others: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The usual notes, and others after them."""
    keys = dict.fromkeys(key for notes in (NOTES, *others) for key in notes)
    return {key: [note for notes in (NOTES, *others) for note in notes.get(key, ())] for key in keys}


def places_of(source: Path) -> list[Path]:
    """Where paths in another tool's file may be: in the current folder, as those tools take them, or beside it."""
    return [Path(), source.parent]

"""The sides of a config's tasks: which items the search looks at, and which ones the verdict is kept for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergesearch.copies import here
from mergesearch.errors import UserError
from mergesearch.evaluators import Item, TakesExamples, split_together, without_shared
from mergesearch.merge_ops.checkpoint.weight_files import SUFFIX
from mergesearch.merge_ops.recipe.after_merge import FILE_KEYS
from mergesearch.reading import read_bytes
from mergesearch.search.config.evaluate import Split
from mergesearch.search.problem.tasks import Task


def with_split(tasks: Sequence[Task], split: Split, calibration: Sequence[str]) -> list[Task]:
    """The tasks, of search items, with search, test and unused items; what has the same content is on the same side.

    ``calibration``: texts that the search uses; items that share content with them are search items. A single item,
    which is one number for the whole model, belongs to the search: it cannot be split. Raises UserError where a side of
    a task would be empty.
    """
    several = [task for task in tasks if len(task.search) > 1]
    found = split_together([task.search for task in several], split.search, split.seed, calibration, split.test)
    sides = dict(zip(map(id, several), found, strict=True))
    return [_on_sides(task, *sides.get(id(task), (task.search, []))) for task in tasks]


def _on_sides(task: Task, search: Sequence[Item], test: Sequence[Item]) -> Task:
    used = {item.id for item in (*search, *test)}
    return replace(task, search=search, test=test, unused=[item for item in task.search if item.id not in used])


def without_test_items(searched: Sequence[Task], tested: Sequence[Task]) -> tuple[list[Task], list[str]]:
    """The tasks of the search without what they share with the tasks of the verdict, and notes about it.

    Raises UserError where nothing is left of a task.
    """
    kept = without_shared([task.search for task in searched], [task.test for task in tested])
    notes = []
    for task, items in zip(searched, kept, strict=True):
        if not items:
            raise UserError(
                f"tasks: every item of {task.name!r} is a test item of test_tasks too, so there is nothing to search "
                "on; give it other items, or use split instead of test_tasks"
            )
        if left_out := len(task.search) - len(items):
            note = f"{left_out} of {len(task.search)} items are left out of the search: they are test items too"
            notes.append(f"task {task.name!r}: {note}")
    return [replace(task, search=items) for task, items in zip(searched, kept, strict=True)], notes


def left_items(tasks: Sequence[Task]) -> list[str]:
    """Says which tasks are not used as a whole, because of a limit or a split."""
    counts = [(task, len(task.used), len(task.evaluator.items)) for task in tasks]
    return [f"task {task.name!r}: {used:,} of {items:,} items are used" for task, used, items in counts if used < items]


def separated_examples(tasks: Sequence[Task]) -> list[str]:
    """Keeps test and unused items out of the examples before search items; says how examples are drawn.

    Raises UserError.
    """
    test = [item for task in tasks for item in (*task.test, *task.unused)]
    notes = []
    for task in tasks:
        if isinstance(task.evaluator, TakesExamples):
            found = task.evaluator.separate_examples(test if task.search else [])
            notes += [f"task {task.name!r}: {note}" for note in found]
    return notes


def calibration_texts(recipe: Mapping[str, Any]) -> list[str]:
    """The content of the text files that a recipe runs models on; those that cannot be read are left out."""
    texts = [Path(here(str(path))) for path in calibration_files(recipe) if path.suffix != SUFFIX]
    return [read_bytes(path).decode(errors="replace") for path in texts]


def calibration_files(recipe: Mapping[str, Any]) -> list[Path]:
    """The files that a recipe's methods and its steps after the merge run models on."""
    paths = dict.fromkeys(Path(name) for name in _strings_under(recipe, FILE_KEYS))
    return [path for path in paths if Path(here(str(path))).is_file()]


def _strings_under(data: Any, keys: frozenset[str], is_under: bool = False) -> Iterator[str]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _strings_under(value, keys, is_under or key in keys)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _strings_under(value, keys, is_under)
    elif is_under and isinstance(data, str):
        yield data

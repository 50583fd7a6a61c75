"""What ``mergesearch compare`` shows: a table by task and the items that turn, in the terminal or for programs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mergesearch.search.across.pairing import Flip, PairedComparison, TaskDifference
from mergesearch.search.report.screen import CELL
from mergesearch.search.report.table_text import as_csv, as_markdown
from mergesearch.search.verdict.formatting import interval
from mergesearch.search.verdict.result import as_json
from mergesearch.text import as_code, as_code_block, as_heading, as_line, shown

HEADS = ("task", "items", "A", "B", "A − B", "p", "Holm", "A : B")
EXPLAINED = (
    "Paired differences with 95 % intervals; two-sided p, and the same corrected by Holm for the number of tasks; "
    "items on which A : B does better."
)
QUESTION = 600
"""The most characters of a question that are shown; its end, where few-shot examples come before it."""


def comparison_text(found: PairedComparison, form: str, flips: int = 0) -> str:
    """A comparison as ``json``, ``csv`` or ``md``; ``flips`` items of each side, which CSV has no place for."""
    if form == "json":
        return _as_json(found, flips)
    rows = [_row(task) for task in found.tasks]
    if form == "csv":
        return as_csv(rows)
    lines = [line for task in found.tasks for line in _flips_in_words(task, flips)] if flips else []
    parts = [
        f"A: {as_code(found.a)}, B: {as_code(found.b)}\n",
        as_markdown([_markdown_row(task) for task in found.tasks]),
        f"{as_heading(found.sentence)}\n",
        *(f"* {as_heading(note)}\n" for note in found.notes),
        *([as_code_block("\n".join(lines))] if lines else []),
    ]
    return "\n".join(parts)


def _markdown_row(task: TaskDifference) -> dict[str, object]:
    return dict(zip(HEADS, _cells(task), strict=True))


def print_comparison(screen: Console, found: PairedComparison, flips: int = 0) -> None:
    """The names, a table of the tasks, what is proven, and what was left out; ``flips`` items of each side."""
    screen.print(f"A: {found.a}\nB: {found.b}")
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False, pad_edge=False)
    table.add_column("task", overflow="fold")
    for head in HEADS[1:]:
        table.add_column(head, justify="right", no_wrap=True)
    for task in found.tasks:
        name, *cells = _cells(task)
        table.add_row(name.replace(" ", "\n", 1), *cells, style="bold" if task.better else "")
    screen.print(table)
    screen.print(found.sentence, style="bold")
    screen.print(EXPLAINED, style="dim")
    for note in found.notes:
        screen.print(note)
    for task in found.tasks if flips else ():
        for line in _flips_in_words(task, flips):
            screen.print(line)


def _cells(task: TaskDifference) -> Iterator[str]:
    direction = "" if task.higher_is_better else ", less is better"
    yield f"{as_line(task.task, CELL)} {as_line(task.metric, CELL)}{direction}"
    yield f"{task.items:,}"
    yield from (f"{value:.3f}" for value in (task.a, task.b))
    yield interval(task.difference, "+")
    yield from (f"{p:.4f}" for p in (task.p, task.p_holm))
    yield f"{len(task.wins)} : {len(task.losses)}"


def _flips_in_words(task: TaskDifference, count: int) -> Iterator[str]:
    for side, flips in (("A", task.wins), ("B", task.losses)):
        yield f"\n{shown(task.task, CELL)}: {len(flips)} items on which {side} does better{_cut(flips, count)}"
        for flip in flips[:count]:
            yield from _flip_in_words(flip)


def _cut(flips: Sequence[Flip], count: int) -> str:
    return f", {count} of them" if len(flips) > count else ""


def _flip_in_words(flip: Flip) -> Iterator[str]:
    yield f"  item {as_line(flip.item)}: A {flip.a:.3g}, B {flip.b:.3g}"
    texts = {"question": flip.question[-QUESTION:], "right": flip.right, "A": flip.answer_a, "B": flip.answer_b}
    for name, text in texts.items():
        if text:
            yield f"    {name}: {as_line(text.strip(), QUESTION)}"


def _row(task: TaskDifference) -> dict[str, object]:
    return {
        "task": task.task,
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "items": task.items,
        "clusters": task.clusters,
        "a": task.a,
        "b": task.b,
        "difference": task.difference.value,
        "low": task.difference.low,
        "high": task.difference.high,
        "p": task.p,
        "p_holm": task.p_holm,
        "better": task.better,
        "a_wins": len(task.wins),
        "b_wins": len(task.losses),
    }


def _as_json(found: PairedComparison, flips: int) -> str:
    tasks = [
        {
            **asdict(task, dict_factory=as_json),
            "better": task.better,
            "wins": {"count": len(task.wins), "items": [asdict(flip) for flip in task.wins[:flips]]},
            "losses": {"count": len(task.losses), "items": [asdict(flip) for flip in task.losses[:flips]]},
        }
        for task in found.tasks
    ]
    content = {"a": found.a, "b": found.b, "sentence": found.sentence, "notes": list(found.notes), "tasks": tasks}
    return json.dumps(content, indent=2) + "\n"

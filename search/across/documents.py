"""What the items of a run are about, for people to read: a table in the run's folder with a row for each used item.

So neither data sets nor evaluators are needed to show the items of a finished run.
"""

from collections.abc import Mapping
from pathlib import Path

from mergesearch.evaluators import Document, documents_of
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Task
from mergesearch.search.study.answers import ItemKey
from mergesearch.search.study.table_file import read_table, write_table
from mergesearch.search.verdict.result import SIDES
from mergesearch.text import shown

DOCUMENTS = "documents.parquet"
COLUMNS = ("task", "split", "item", "question", "right", "choices")
TEXT = 4_000
"""The most characters of a text that are kept."""


def write_documents(tasks: TaskSet, folder: Path) -> None:
    """Writes the table."""
    rows = [
        (task.name, side, item.id, document.question, document.right, list(document.choices))
        for task in tasks
        for side in SIDES
        for item, document in zip(task.items(side), shown_documents(task, side), strict=True)
    ]
    columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    write_table(folder / DOCUMENTS, dict(zip(COLUMNS, map(list, columns), strict=True)))


def shown_documents(task: Task, side: str) -> list[Document]:
    """The documents of one side's items, fit to be stored and shown."""
    return [
        Document(shown(each.question, TEXT), shown(each.right, TEXT), [shown(one, TEXT) for one in each.choices])
        for each in documents_of(task.evaluator, task.items(side))
    ]


def read_documents(folder: Path) -> Mapping[ItemKey, Document]:
    """The documents by task and item. Raises UserError where there is no such table, or it is damaged."""
    columns, _ = read_table(folder / DOCUMENTS, COLUMNS)
    rows = zip(*(columns[name] for name in COLUMNS), strict=True)
    return {(task, item): Document(question, right, choices) for task, _, item, question, right, choices in rows}

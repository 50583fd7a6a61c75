"""Groups and tags: their values from those of their subtasks, and their items."""

import random
from pathlib import Path

from mergesearch.evaluators import LoadedModel

from ..lm_eval_tasks import MULTIPLE_CHOICE, choice_docs, write_task
from .helpers import open_lm_eval


def test_tags_are_the_plain_mean_of_their_tasks(tmp_path: Path, subject: LoadedModel) -> None:
    draw = random.Random(4)
    for name, count in (("one", 5), ("two", 9)):
        write_task(tmp_path, name, choice_docs(draw, count), MULTIPLE_CHOICE + "tag: both\n")
    whole, parts = open_lm_eval(tmp_path, task="both"), [open_lm_eval(tmp_path, task=name) for name in ("one", "two")]
    values = [part.value(part.items, part.score(subject, part.items)) for part in parts]
    assert whole.value(whole.items, whole.score(subject, whole.items)) == sum(values) / 2
    assert [item.id for item in whole.items][4:6] == ["one/4", "two/0"]


def test_items_of_a_group_say_their_subtask(tasks: Path) -> None:
    items = open_lm_eval(tasks, task="evenly").items
    assert {item.subtask for item in items} == {item.id.partition("/")[0] for item in items}
    assert len({item.subtask for item in items}) > 1
    assert {item.subtask for item in open_lm_eval(tasks, task="toy_mc").items} == {""}

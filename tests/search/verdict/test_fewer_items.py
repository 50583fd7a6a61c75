"""Runs on a part of their items: nothing looks at the others, and the choice belongs to the run."""

from pathlib import Path

import pytest

from mergesearch.errors import UserError
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.search.config import Config
from mergesearch.search.evaluate import evaluate_model
from mergesearch.search.problem.task_set import open_tasks

from ..helpers import Data, go


def test_nothing_looks_at_unused_items(
    config: Data, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config["evaluate"] |= {"split": {"search": 0.25, "test": 0.25}, "limit": 10}
    config["search"]["trials"] = 12
    config["output"]["model"] = False
    looked: set[str] = set()
    score = BitsPerByte.score
    monkeypatch.setattr(
        BitsPerByte, "score", lambda self, m, items: looked.update(i.id for i in items) or score(self, m, items)
    )
    verdict = go(config, tmp_path)
    parsed = Config.model_validate(config)
    found = evaluate_model(str(models / "one"), parsed, "config", results=tmp_path / "nowhere")
    (task,) = open_tasks(parsed.evaluate)
    assert looked == {item.id for item in task.used}
    assert (len(task.search), len(task.test), len(task.unused)) == (2, 2, 6)
    assert found.to_json()["items"] == {"text": 4}
    assert verdict.test_items == 2
    assert open_tasks(parsed.evaluate).notes == ["task 'text': 4 of 12 items are used"]
    for key, value in (("limit", 8), ("split", {"search": 0.25, "test": 0.5})):
        with pytest.raises(UserError, match=f"was begun with another config: evaluate.{key}"):
            go({**config, "evaluate": {**config["evaluate"], key: value}}, tmp_path)


def test_a_task_has_its_own_limit(config: Data) -> None:
    config["evaluate"]["tasks"][0]["limit"] = 0.75
    config["evaluate"]["limit"] = 6
    first, second = (open_tasks(Config.model_validate(config).evaluate).all[0].used for _ in range(2))
    assert first == second
    assert len(first) == 9

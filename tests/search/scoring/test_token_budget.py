"""How much is scored at once: settled once for a run, halved where memory does not suffice, and kept in its folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.evaluators.inference.logits import Logits
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.optimize.callbacks import Watcher
from mergesearch.search.run import run
from mergesearch.search.study.run_folder import RunFolder

from ..helpers import Data, go, session_of


def kept(results: Path) -> Any:
    return json.loads((results / "small" / "batches.json").read_text())


def full_above(tokens: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device that holds no larger batches; the sizes of those that it was given."""
    seen, at = list[int](), Logits.at

    def limited(self: Logits, ids: torch.Tensor, *more: Any) -> torch.Tensor:
        seen.append(ids.numel())
        if ids.numel() > tokens:
            raise torch.OutOfMemoryError
        return at(self, ids, *more)

    monkeypatch.setattr(Logits, "at", limited)
    return seen


def test_a_run_goes_on_with_half_as_much(config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config["search"]["trials"] = 9
    go(config, tmp_path / "roomy")
    assert kept(tmp_path / "roomy") == {"tokens": 2048}
    config["evaluate"]["batch_tokens"] = 1024
    said: list[str] = []
    seen = full_above(200, monkeypatch)
    plan = open_plan(Config.model_validate(config), "config")
    run(plan, tmp_path, Watcher(stage=said.append))
    assert said.count("out of memory: from now on all workers of this run score 128 tokens at once") == 1
    assert kept(tmp_path) == {"tokens": 128}
    assert max(seen[10:]) <= 200
    assert (tmp_path / "small" / "best.yml").exists()


def test_who_goes_on_and_who_joins_does_as_was_found(config: Data, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    sessions = [session_of(config, tmp_path, name) for name in ("one.1.1", "two.2.2")]
    for session in sessions:
        session.prepare()
    budgets = [session.live.loaded.budget for session in sessions]
    assert [budget.tokens for budget in budgets if budget] == [2048, 2048]
    RunFolder(tmp_path / "small").write_json("batches.json", {"tokens": 128})
    for session in [*sessions, session_of(config, tmp_path, "three.3.3")]:
        session.loop.run_trial()
        budget = session.live.loaded.budget
        assert budget is not None
        assert (budget.tokens, budget.tried) == (128, True)


def test_a_gpu_is_tried_before_anything_is_scored(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergesearch.search.session.find_device", lambda _: "cuda")
    (tmp_path / "small").mkdir()
    seen = full_above(200, monkeypatch)
    session = session_of(config, tmp_path, "one.1.1")
    session.prepare()
    assert kept(tmp_path) == {"tokens": 128}
    seen.clear()
    again = session_of(config, tmp_path, "two.2.2")
    again.prepare()
    assert seen == []
    session.loop.run_trial()
    assert max(seen) <= 200

"""How much is scored at once: settled once for a run, halved where memory does not suffice, and kept in its folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.evaluators.inference.logits import Logits
from mergesearch.search.config import Config
from mergesearch.search.problem.problem import open_job
from mergesearch.search.run import Watcher, run
from mergesearch.search.study.run_folder import RunFolder

from ..optimize.test_workers import loop_of
from ..test_run import Data, go


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
    job = open_job(Config.model_validate(config), "config")
    run(job, tmp_path, Watcher(stage=said.append))
    assert said.count("out of memory: 512 tokens at once from now on, in this run and whoever goes on with it") == 1
    assert kept(tmp_path) == {"tokens": 512}
    assert max(seen[10:]) <= 200
    assert (tmp_path / "small" / "best.yml").exists()


def test_who_goes_on_and_who_joins_does_as_was_found(config: Data, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    loops = [loop_of(config, tmp_path, name) for name in ("one.1.1", "two.2.2")]
    for loop in loops:
        loop.prepare()
    budgets = [loop.subject.budget for loop in loops]
    assert [budget.tokens for budget in budgets if budget] == [2048, 2048]
    RunFolder(tmp_path / "small").write_json("batches.json", {"tokens": 128})
    for loop in [*loops, loop_of(config, tmp_path, "three.3.3")]:
        loop.run_trial()
        assert loop.subject.budget is not None
        assert loop.subject.budget.tokens == 128
        assert loop.subject.budget.tried


def test_a_gpu_is_tried_before_anything_is_scored(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergesearch.search.scoring.live_model.find_device", lambda _: "cuda")
    (tmp_path / "small").mkdir()
    seen = full_above(200, monkeypatch)
    loop = loop_of(config, tmp_path, "one.1.1")
    loop.prepare()
    assert kept(tmp_path) == {"tokens": 512}
    seen.clear()
    again = loop_of(config, tmp_path, "two.2.2")
    again.prepare()
    assert seen == []
    loop.run_trial()
    assert max(seen) <= 200

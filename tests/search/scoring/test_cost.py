"""What a run is said to cost beforehand is what it does."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mergesearch.evaluators import Budget, Item
from mergesearch.search.candidates.plan import SearchPlan, open_plan
from mergesearch.search.config import Config
from mergesearch.search.scoring import cost as costs
from mergesearch.search.scoring.live_model import LiveModel, open_engine

from ..helpers import Data


def plan_of(config: Data) -> SearchPlan:
    return open_plan(Config.model_validate(config), "config")


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_the_memory_plan_is_the_runs(config: Data, method: str) -> None:
    config["recipe"]["merge_method"] = method
    for entry in config["recipe"]["models"]:
        entry["parameters"] = {"weight": {"search": [0.0, 1.0]}}
    plan = plan_of(config)
    arguments = plan.problem, plan.takes_gradients
    memory, runs = costs.memory_plan(*arguments), open_engine(*arguments).memory
    assert (memory.location, memory.checkpoints, memory.statistics) == (
        runs.location,
        runs.checkpoints,
        runs.statistics,
    )
    assert bool(memory.statistics) == (method != "task_arithmetic")


def test_what_is_quantised_is_measured_quantised(config: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the double, which counts how often it is made anew and what it is asked."""
    made, asked = list[object](), list[int]()

    def double(live: Any, evaluate: Any, built: Any) -> Any:
        assert evaluate.quantization == "8bit"
        model = deepcopy(live)
        seen: list[object] = [object()]

        def follow(_: Any, inputs: Any) -> None:
            asked.append(inputs[0].numel())
            if seen[0] is not built():
                seen[0] = built()
                made.append(seen[0])

        model.register_forward_pre_hook(follow)
        return model

    monkeypatch.setattr("mergesearch.search.scoring.live_model.scored_model", double)
    monkeypatch.setattr("mergesearch.merge_ops.live.quantized.find_spec", lambda _: True)
    config["evaluate"]["quantization"] = "8bit"
    plan = plan_of(config)
    live = LiveModel(open_engine(plan.problem, False), plan.problem.config.evaluate, Budget(2048))
    plan.problem.tasks.prepare(live.loaded)
    made.clear()
    asked.clear()
    cost = costs.estimate(plan.problem, live, measured=True)
    built = costs.BUILT * len(plan.problem.space.methods)
    assert len(made) == built
    assert asked[:built] == [1] * built
    assert sum(asked[built:]) > 6 * 40
    assert min(cost.build, cost.score) > 0


@pytest.mark.parametrize(("seconds", "scored"), [(0.0, [1, 1]), (1.5, [1, 1, 4]), (1e9, [1, 1, 4, 6])])
def test_items_are_scored_until_their_time_can_be_measured(
    config: Data, monkeypatch: pytest.MonkeyPatch, seconds: float, scored: list[int]
) -> None:
    """Each item takes a second, by a clock that only the evaluator moves."""
    plan, now, counts = plan_of(config), [0.0], list[int]()
    (task,) = plan.problem.tasks.searched
    assert len(task.search) == 6

    def score(_: Any, items: Sequence[Item]) -> None:
        counts.append(len(items))
        now[0] += len(items)

    monkeypatch.setattr(task.evaluator, "score", score)
    monkeypatch.setattr(costs, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(costs, "PROBE_SECONDS", seconds)
    subject: Any = None
    assert costs._seconds_per_item(task, subject, measured=False) == 1.0
    assert counts == scored


def test_the_users_code_is_not_run_for_a_guess(config: Data, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def judge(model, tokenizer): raise SystemError\n", encoding="utf-8")
    config["evaluate"]["tasks"].append({"evaluator": f"{tmp_path / 'judge.py'}:judge", "task": "judged"})
    plan = plan_of(config)
    live = LiveModel(open_engine(plan.problem, False), plan.problem.config.evaluate, Budget(2048))
    plan.problem.tasks.prepare(live.loaded)
    assert costs.estimate(plan.problem, live, measured=False).how.endswith("runs judged, whose time is not known")


def test_a_models_cost_is_guessed_without_it(config: Data) -> None:
    cost = costs.guess_unloaded(plan_of(config).problem)
    assert min(cost.build, cost.score, cost.verdict) > 0
    assert cost.search(20) > cost.search(10) > 10 * (cost.build + cost.score)

"""What a run is said to cost beforehand is what it does."""

from copy import deepcopy
from typing import Any

import pytest

from mergesearch.search.candidates.plan import SearchPlan, open_plan
from mergesearch.search.config import Config
from mergesearch.search.scoring import cost as costs
from mergesearch.search.scoring.live_model import open_engine

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

    monkeypatch.setattr(costs, "scored_model", double)
    monkeypatch.setattr("mergesearch.merge_ops.live.quantized.find_spec", lambda _: True)
    config["evaluate"]["quantization"] = "8bit"
    plan = plan_of(config)
    cost = costs.measure(plan.problem, plan.takes_gradients)
    assert len(made) == costs.BUILT
    assert asked[: costs.BUILT] == [1] * costs.BUILT
    assert sum(asked[costs.BUILT :]) > 2 * 6 * 40
    assert min(cost.build, cost.score) > 0

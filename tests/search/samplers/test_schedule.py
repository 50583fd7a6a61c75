"""Which stage asks for which trial, and what the config may say about it."""

from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from mergesearch.errors import UserError
from mergesearch.parsing import parse
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config, Search
from mergesearch.search.run import run
from mergesearch.search.samplers.schedule import plan
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder

Data = dict[str, Any]


class Dimension:
    def __init__(self, name: str, distribution: BaseDistribution) -> None:
        self.name, self.distribution = name, distribution


class Method:
    name = "ties"


class Shape:
    methods = (Method(),)
    is_stack = False

    def __init__(self, dimensions: int, choices: bool = False) -> None:
        found = CategoricalDistribution((1, 2)) if choices else FloatDistribution(0, 1)
        self.dimensions = [Dimension(f"x[{number}]", found) for number in range(dimensions)]

    def dimensions_of(self, _method: Method) -> list[Dimension]:
        return self.dimensions


@pytest.mark.parametrize(
    ("shape", "trials", "expected"),
    [
        (Shape(6, choices=True), 60, ["tpe"]),
        (Shape(6), 60, ["local"]),
        (Shape(160), 200, ["local"]),
        (Shape(160), 1000, ["local", "cmaes"]),
    ],
)
def test_auto(shape: Shape, trials: int, expected: list[str]) -> None:
    found = plan(shape, Search(trials=trials))
    assert [stage.sampler for stage in found.stages] == expected
    assert f"{trials} trials" in found.why or "choices" in found.why


class Own:
    """A method with one dimension of its own."""

    def __init__(self, name: str) -> None:
        self.name = name


class Several(Shape):
    methods = (Own("ties"), Own("dare_ties"))  # type: ignore[assignment]

    def dimensions_of(self, method: Any) -> list[Dimension]:
        return [*super().dimensions_of(method), Dimension(method.name, FloatDistribution(0, 1))]


def test_auto_stays_with_the_best_method_and_learns_its_numbers() -> None:
    found = plan(Several(5), Search(trials=60))
    assert [stage.sampler for stage in found.stages] == ["local"]
    assert found.why == "6 smooth dimensions and 60 trials, staying with the best of 2 methods"
    assert [stage.sampler for stage in plan(Several(5, choices=True), Search()).stages] == ["tpe"]


SCHEDULE = [{"sampler": "gp", "trials": 3, "dimensions": 2}, {"sampler": "qmc", "trials": 2}, {"sampler": "cmaes"}]


def test_stages_follow_each_other(config: Data, tmp_path: Path) -> None:
    config["recipe"]["merge_method"] = "ties"
    config["search"] = {"trials": 18, "schedule": SCHEDULE}
    run(open_plan(Config.model_validate(config), "config"), tmp_path)
    trials = t.finished(RunFolder(tmp_path / "small").open_study(None))
    sampled = [trial for trial in trials if t.kind_of(trial) == t.SAMPLED]
    slots = [trial.user_attrs.get(t.SLOT, {"of": None})["of"] for trial in sampled]
    assert slots == [None] * 3 + ["qmc/1"] * 2 + ["cmaes/2"] * 3
    for trial in sampled[:3]:
        knots = [trial.params[f"one.weight[{knot}]"] for knot in range(3)]
        assert knots == [knots[0]] * 3, "two dimensions have no room for more than a knot each"
    begun = sampled[-1].user_attrs[t.SLOT]["begun"]
    points = [trial for trial in trials if trial.params and trial.number < sampled[-3].number]
    assert begun == t.best(points).number


def test_a_grid_that_is_exhausted_ends_the_run(config: Data, tmp_path: Path) -> None:
    config["recipe"]["merge_method"] = "task_arithmetic"
    for entry in config["recipe"]["models"]:
        entry["parameters"] = {"weight": {"search": [0.0, 1.0]}}
    config["search"] = {"trials": 200, "sampler": "grid", "points": 3}
    verdict = run(open_plan(Config.model_validate(config), "config"), tmp_path)
    assert verdict.trials == 9 + 1 + 9, "baselines, the usual setting, the grid"
    assert run(open_plan(Config.model_validate(config), "config"), tmp_path) == verdict


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"sampler": "gp", "schedule": SCHEDULE}, "search: found both sampler and schedule, expected one of them"),
        ({"schedule": []}, "search: schedule: found [], expected"),
        (
            {"schedule": [{"sampler": "gp"}, {"sampler": "cmaes"}]},
            "search: schedule[0].trials: is missing; only the last stage may go on to the end",
        ),
        ({"schedule": [{"sampler": "cmae"}]}, "there is no sampler 'cmae'; did you mean 'cmaes'?"),
        ({"schedule": [{"sampler": "gp", "trails": 3}]}, "schedule[0]: unknown key 'trails'; did you mean 'trials'?"),
        (
            {"schedule": [{"sampler": "cmaes", "dimensions": 4}]},
            "dimensions: found 4 with cmaes, expected all, or another sampler: gp, tpe",
        ),
        ({"schedule": [{"sampler": "gp", "dimensions": 0}]}, "dimensions: found 0, expected a number from 1, or all"),
        ({"schedule": [{"sampler": "gp", "sigma": 0.1}]}, "sigma: is a setting of catcma, cmaes, local, niches, found"),
        ({"sampler": "gp", "sigma": 0.1}, "search: sigma: is a setting of catcma, cmaes, local, niches, found with gp"),
        ({"sampler": "cmaes", "points": 4}, "search: points: is a setting of grid, found with cmaes"),
        ({"population": 3}, "search.population: found 3, expected"),
        ({"start": "gradients"}, "search.start: found 'gradients', expected"),
        ({"gradient": {"steps": 2}}, "points: found 4, expected no more than the 2 steps"),
    ],
)
def test_bad_plans(config: Data, search: Data, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(Config, config | {"search": search}, "my.yml")
    for part in message.split(": "):
        assert part in str(error.value), str(error.value)

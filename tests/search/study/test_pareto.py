"""Fronts, knees and constraints by hand, and what is wrong with them in a config."""

import re
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from mergesearch.errors import UserError
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.config.constraints import Constraint
from mergesearch.search.report.sections.front import front_figure, front_table
from mergesearch.search.samplers import Branch, SamplerRequest, make_sampler
from mergesearch.search.statistics import Estimate
from mergesearch.search.study import trials as t
from mergesearch.search.study.pareto import best_of, front_of, knee
from mergesearch.search.verdict.comparison import Claim
from mergesearch.search.verdict.constraint_checks import Check
from mergesearch.search.verdict.front import Front, FrontMember, Standing
from mergesearch.search.verdict.result import ConstraintResult
from mergesearch.search.verdict.wording import headline

from ...tolerances import close
from ..helpers import Data, row


@pytest.mark.parametrize("objectives", [2, 3])
def test_the_best_are_those_that_none_dominates(objectives: int) -> None:
    points = np.random.default_rng(0).integers(0, 6, size=(60, objectives)).astype(float)
    for point, is_best in zip(points, best_of(points), strict=True):
        others = [all(b >= a for a, b in zip(point, other, strict=True)) and any(other > point) for other in points]
        assert is_best != any(others)


def test_the_front_is_optunas_without_what_breaks_a_constraint() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    rng = np.random.default_rng(1)
    for number in range(40):
        values = rng.integers(0, 9, size=2).astype(float)
        study.add_trial(
            create_trial(values=values, user_attrs={t.SCORE: values.sum()}, constraints={"c": float(number % 4 == 0)})
        )
    front = front_of(study)
    assert [trial.number for trial in front] == [
        min(twin.number for twin in study.best_trials if twin.values == trial.values) for trial in front
    ]
    assert {tuple(trial.values) for trial in front} == {tuple(trial.values) for trial in study.best_trials}
    assert [trial.values[0] for trial in front] == sorted((trial.values[0] for trial in front), reverse=True)


def test_the_knee_is_farthest_from_the_line_between_the_ends() -> None:
    points = np.array([[10.0, 0.0], [9.0, 3.0], [8.0, 6.0], [4.0, 7.0], [0.0, 8.0]])
    normal = np.array([1 / 10, 1 / 8])  # of the line through (10, 0) and (0, 8), in the front's ranges
    assert knee(points) == int((points @ normal).argmax()) == 2
    assert knee(points * [1, 1000] + [5, -3]) == 2


@pytest.mark.parametrize(
    "points", [[[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [[3, 0], [1, 1], [0, 3]]]
)
def test_no_knee_where_no_point_stands_out(points: list[list[float]]) -> None:
    assert knee(np.array(points, dtype=float)) is None


@pytest.mark.parametrize(
    ("said", "value", "baseline", "margin"),
    [
        ({"at_least": 0.7}, 0.75, None, 0.05),
        ({"at_most": 2.0}, 2.5, None, -0.5),
        ({"never_below": "base", "by": 0.01}, 0.80, 0.80, 0.01),
        ({"never_below": "base"}, 0.79, 0.80, -0.01),
        ({"never_above": "base", "by": 0.1}, 2.3, 2.0, -0.2),
    ],
)
def test_margins(said: Data, value: float, baseline: float | None, margin: float) -> None:
    constraint = Constraint.model_validate({"task": "x", **said})
    assert constraint.margin(value, baseline) == close(margin, 4, magnitude=value)


WRONG: dict[str, tuple[Data, str]] = {
    "no bound": ({"task": "text"}, r"evaluate.constraints\[0\]: found no bound, expected one of at_least, never_below"),
    "two bounds": (
        {"task": "text", "at_most": 1, "never_above": "base"},
        "found at_most and never_above, expected one",
    ),
    "by of a number": (
        {"task": "text", "at_most": 1, "by": 0.1},
        "by: goes with never_below or never_above, found with",
    ),
    "unknown key": ({"task": "text", "at_mots": 1}, r"constraints\[0\]: unknown key 'at_mots'; did you mean 'at_most'"),
    "unknown task": ({"task": "txet", "at_most": 1}, r"constraints\[0\]: the search has no task 'txet'.*mean 'text'"),
    "wrong side": ({"task": "text", "at_least": 1}, "is scored by .*less is better: say at_most or never_above"),
    "unknown baseline": ({"task": "text", "never_above": "bsae"}, "there is no baseline 'bsae'; did you mean 'base'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_constraints(config: Data, tmp_path: Path, case: str) -> None:
    from mergesearch.parsing import dump_yaml

    said, message = WRONG[case]
    config["evaluate"]["constraints"] = [said]
    file = tmp_path / "my.yml"
    file.write_text(dump_yaml(config))
    with pytest.raises(UserError, match=message):
        open_plan(Config.read(file), str(file))


def test_one_task_is_not_several_objectives(config: Data) -> None:
    config["evaluate"]["aggregate"] = "pareto"
    with pytest.raises(UserError, match="aggregate: pareto needs two or more tasks with a weight above 0, found text"):
        open_plan(Config.model_validate(config), "config")


def scored(x: float, value: float, violation: float) -> optuna.trial.FrozenTrial:
    return create_trial(
        params={"x": x}, distributions={"x": FloatDistribution(0, 1)}, value=value, constraints={"c": violation}
    )


def test_what_keeps_the_constraints_is_better_and_else_what_misses_by_least() -> None:
    study = optuna.create_study(direction="maximize")
    for value, violation in ((9.0, 0.5), (8.0, 0.2), (1.0, -0.1), (2.0, 0.0)):
        study.add_trial(scored(0.5, value, violation))
    trials = study.get_trials()
    assert t.best(trials).value == 2.0
    assert t.best(trials[:2]).value == 8.0


@pytest.mark.parametrize("name", ["cmaes", "catcma", "local", "gp", "tpe", "stack"])
def test_samplers_follow_constraints(name: str) -> None:
    """More of x is better, up to where the constraint is broken: the later trials keep it, near the limit."""
    study = optuna.create_study(direction="maximize")
    study.add_trial(scored(0.3, 0.3, -0.1))
    branches = [Branch({"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}, {}, {})]
    count = {"gp": 20, "tpe": 60}.get(name, 80)
    for finished in range(count):
        study.sampler = make_sampler(name, SamplerRequest(branches, 0, finished))
        trial = study.ask()
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        trial.set_constraint("c", x - 0.4)
        study.tell(trial, x - 0.1 * y)
    late = [trial.params["x"] for trial in study.get_trials()[-count // 4 :]]
    assert np.mean([x <= 0.4 for x in late]) >= 0.3
    assert np.mean(late) == pytest.approx(0.4, abs=0.12)


KEPT, BROKEN = (Check("a at least 0.7", 0.01, Estimate(m, m - 0.1, m + 0.1)) for m in (0.02, -0.02))


@pytest.mark.parametrize(
    ("limits", "begins", "allowed"),
    [
        (
            ConstraintResult([KEPT]),
            "Use trial 9 (ties): it is proven better than every baseline; its gain over the best of them, base, is ",
            True,
        ),
        (
            ConstraintResult([KEPT, BROKEN]),
            "Use base: the best candidate of the search, trial 9 (ties), breaks a at least 0.7 (by 0.0200) on the",
            False,
        ),
        (
            ConstraintResult([KEPT], rival_keeps=False),
            "Use trial 9 (ties): it satisfies every constraint, which no baseline does; ",
            True,
        ),
        (
            ConstraintResult([KEPT], winner_keeps=False),
            "Use base: no candidate of the search satisfies every constraint on the search items; the nearest",
            False,
        ),
        (
            ConstraintResult([KEPT], winner_keeps=False, rival_keeps=False),
            "No candidate satisfies every constraint on the search items; the nearest of the search, trial 9 (ties), ",
            False,
        ),
    ],
)
def test_headlines_and_recommendations_under_constraints(limits: ConstraintResult, begins: str, allowed: bool) -> None:
    claim = Claim(Estimate(0.02, 0.01, 0.03), 0.001)
    assert headline(row("trial 9", 9), row("base", 0), claim, 100, limits=limits).startswith(begins)
    assert limits.allow(beyond_chance=True) == allowed
    assert limits.allow(beyond_chance=False) == (allowed and not limits.rival_keeps)


def test_constraints_in_words() -> None:
    assert KEPT.in_words.startswith(
        "a at least 0.7: kept on the search items by 0.0100; kept on the test items, margin"
    )
    assert KEPT.in_words.endswith("both are within chance.")
    assert BROKEN.is_broken
    assert "broken on the test items, margin -0.0200" in BROKEN.in_words
    assert "not checked on test items" in Check("a at least 0.7", 0.01, None).in_words


@pytest.mark.parametrize("objectives", [2, 3])
def test_the_figure_shows_every_trial_and_the_table_every_member(objectives: int) -> None:
    names = ["a", "b", "c"][:objectives]
    study = optuna.create_study(directions=["maximize"] * objectives)
    rng = np.random.default_rng(0)
    for number in range(20):
        values = rng.random(objectives)
        kind = {t.KIND: t.BASELINE, t.NAME: f"soup {number}"} if number < 3 else {}
        attributes = {**kind, t.SCORE: values.sum(), t.VALUES: dict(zip(names, values.tolist(), strict=True))}
        study.add_trial(
            create_trial(
                params={"x": 0.123456},
                distributions={"x": FloatDistribution(0, 1)},
                values=values,
                user_attrs=attributes,
                constraints={"c": float(number == 19)},
            )
        )
    standing = Standing(Estimate(0.5, 0.4, 0.6), Estimate(0.5, 0.4, 0.6), Estimate(0.1, 0.0, 0.2), 0.04)
    members = [
        FrontMember(
            t.label_of(trial), trial.number, "ties", f"{trial.number}.yml", dict.fromkeys(names, standing), [], True
        )
        for trial in front_of(study)
    ]
    front = Front(members, members[0].trial, dict.fromkeys(names, "maximize"))
    figure = front_figure(front, study.get_trials(), members[-1].trial)
    texts = {text for trace in figure.data for text in trace.text or ()}
    assert {re.sub("</?b>", "", text.split("<br>")[0]) for text in texts} == set(map(t.label_of, study.get_trials()))
    if objectives == 2:
        assert sum("x = 0.1235" in text for text in texts) == 3 + len({m.trial for m in members} - {0, 1, 2})
    named = {trace.name for trace in figure.data}
    assert {"winner by the weights", "knee", "baseline", "breaks a constraint"} <= named
    table = front_table(front, members[-1].trial)
    assert all(f"<td class=text>{member.recipe}</td>" in table for member in members)

"""Whole runs with several objectives and with constraints: what wins, what is left, and that runs can be killed."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.study import StudyDirection

from mergesearch.errors import UserError
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import read_yaml
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.run import run
from mergesearch.search.samplers import SAMPLERS
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.trials import recipe_of
from mergesearch.search.verdict.result import Verdict

from ...tolerances import close
from ..helpers import Data, go, killed, searched, study_of, written


@pytest.fixture
def two(config: Data, tmp_path: Path) -> Data:
    """The small search with two tasks of texts that differ, each an objective; and a third that counts nowhere."""
    rng, tasks = random.Random(0), []
    for name, letters in (("early", "abcdef"), ("late", "uvwxyz"), ("guard", "klmnop")):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(16):
            (folder / f"{number:03}.txt").write_text("".join(rng.choices(letters, k=40)))
        tasks.append({"evaluator": "bits_per_byte", "task": name, "files": [str(folder / "*.txt")]})
    tasks[1]["weight"], tasks[2]["weight"] = 3.0, 0.0
    config["evaluate"] |= {"tasks": tasks, "aggregate": "pareto"}
    config["output"]["model"] = False
    config["search"]["trials"] = 15
    return config


def course(folder: Path) -> list[tuple[Any, ...]]:
    return [
        (t.kind_of(trial), trial.params, trial.user_attrs[t.RECIPE], trial.values, trial.constraints)
        for trial in t.finished(study_of(folder))
    ]


def naive_front(values: list[list[float]]) -> list[list[float]]:
    """Of pairs of which less is better, written out."""
    beaten = [any(b[0] <= a[0] and b[1] <= a[1] and b != a for b in values) for a in values]
    return sorted({tuple(value) for value, out in zip(values, beaten, strict=True) if not out})  # type: ignore[type-var]


def test_the_front_its_recipes_and_the_winner_by_weight(two: Data, tmp_path: Path) -> None:
    verdict = go(two, tmp_path)
    folder = tmp_path / "small"
    study = study_of(folder)
    assert study.directions == [StudyDirection.MINIMIZE] * 2
    assert study.metric_names == ["early", "late"]
    trials = study.get_trials()
    values = [trial.values for trial in t.completed(study)]
    front = verdict.front
    assert front
    assert sorted(tuple(trials[member.trial].values) for member in front.members) == naive_front(values)
    weighted = [trial.values[0] / 4 + 3 * trial.values[1] / 4 for trial in searched(study)]
    assert verdict.winner.search.value == close(-min(weighted), 16)
    assert sorted(path.name for path in (folder / "front").iterdir()) == sorted(
        Path(member.recipe).name for member in front.members
    )
    for member in front.members:
        assert Recipe.read(read_yaml(folder / member.recipe)) == recipe_of(trials[member.trial])
        assert member.standings["early"].search
        assert member.standings["early"].search.value == close(trials[member.trial].values[0], 16)
    assert written(folder / "best.yml") == recipe_of(trials[verdict.winner.trial]).to_yaml()
    assert Verdict.from_json(json.loads((folder / "verdict.json").read_text())) == verdict
    assert not t.stopped(study)


def test_differences_on_the_test_items_are_those_of_the_values(two: Data, tmp_path: Path) -> None:
    verdict = go(two, tmp_path)
    assert verdict.front
    rival = next(row for row in verdict.baselines if row.name == verdict.best_baseline)
    compared = [member for member in verdict.front.members if member.trial != rival.trial]
    for member in compared:
        for task, standing in member.standings.items():
            assert standing.test
            assert standing.difference
            difference = standing.test.value - rival.tasks[task]["test"]
            assert standing.difference.value == close(difference, 16, magnitude=abs(standing.test.value))
            assert standing.p is not None
            assert (standing.p < 0.05) == (not standing.difference.low <= 0 <= standing.difference.high)


@pytest.mark.parametrize(("place", "call"), [("score", 27), ("tell", 14)])
def test_killed_and_resumed(two: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, call: int) -> None:
    two["search"]["sampler"] = "auto"
    two["evaluate"]["constraints"] = [{"task": "guard", "never_above": "base", "by": 0.01}]
    go(two, tmp_path / "whole")
    killed(monkeypatch, place, call, two, tmp_path / "torn")
    go(two, tmp_path / "torn")
    assert course(tmp_path / "torn" / "small") == course(tmp_path / "whole" / "small")
    assert (tmp_path / "torn/small/best.yml").read_bytes() == (tmp_path / "whole/small/best.yml").read_bytes()


@pytest.mark.parametrize("sampler", [name for name, kind in SAMPLERS.items() if kind.objectives])
def test_samplers_that_follow_several_objectives(two: Data, tmp_path: Path, sampler: str) -> None:
    two["search"]["sampler"] = sampler
    two["evaluate"]["constraints"] = [{"task": "guard", "at_most": 4.9}]
    go(two, tmp_path)
    assert len([trial for trial in t.completed(study_of(tmp_path / "small")) if t.kind_of(trial) == t.SAMPLED]) == 3


@pytest.mark.parametrize("sampler", [name for name, kind in SAMPLERS.items() if not kind.objectives])
def test_samplers_that_do_not_are_refused(two: Data, sampler: str) -> None:
    two["search"]["sampler"] = sampler
    with pytest.raises(UserError, match=f"found the sampler {sampler} with aggregate: pareto, .*: auto, gp, tpe, "):
        open_plan(Config.model_validate(two), "config")
    two["search"] |= {"sampler": "auto", "schedule": [{"sampler": "tpe", "trials": 3}, {"sampler": sampler}]}
    with pytest.raises(UserError, match=f"found the sampler {sampler} with aggregate: pareto"):
        open_plan(Config.model_validate(two), "config")


def alone(two: Data) -> Data:
    """The same with one objective, the other task being a guard."""
    two["evaluate"]["aggregate"] = "mean"
    two["evaluate"]["tasks"][1]["weight"] = 0.0
    return two


def values_of(folder: Path, task: str) -> dict[str, float]:
    return {t.label_of(trial): trial.user_attrs[t.VALUES][task] for trial in t.completed(study_of(folder))}


def test_a_winner_keeps_the_constraints(two: Data, tmp_path: Path) -> None:
    alone(two)["evaluate"]["constraints"] = [{"task": "late", "never_above": "two", "by": 0.001}]
    verdict = go(two, tmp_path)
    study = study_of(tmp_path / "small")
    limit = values_of(tmp_path / "small", "late")["two"] + 0.001
    kept = [trial for trial in t.completed(study) if trial.user_attrs[t.VALUES]["late"] <= limit]
    assert 0 < len(kept) < len(t.completed(study))
    assert all(t.violation(trial) == 0 for trial in kept)
    assert verdict.winner.trial == max(kept, key=lambda trial: (trial.value, -trial.number)).number
    assert t.violation(max(t.completed(study), key=t.score_of)), "or the constraint would change nothing"
    (check,) = verdict.checks
    assert check.search >= 0
    assert check.test
    other = next(row for row in verdict.baselines if row.name == "two")
    margin = other.tasks["late"]["test"] + 0.001 - verdict.winner.tasks["late"]["test"]
    assert check.test.value == close(margin, 16, magnitude=other.tasks["late"]["test"])
    assert check.test.low < margin < check.test.high


@pytest.mark.parametrize("edit", [alone, lambda two: two])
def test_where_nothing_keeps_a_constraint_it_is_said(two: Data, tmp_path: Path, edit: Callable[[Data], Data]) -> None:
    edit(two)["evaluate"]["constraints"] = [{"task": "guard", "at_most": 0.5}]
    verdict = go(two, tmp_path)
    guarded = values_of(tmp_path / "small", "guard")
    assert verdict.winner.tasks["guard"]["search"] == close(min(guarded.values()), 16)
    assert verdict.sentence.startswith("No candidate satisfies every constraint on the search items; ")
    assert "guard at most 0.5 (by " in verdict.sentence
    assert verdict.recommended == verdict.best_baseline
    assert verdict.front is None
    assert go(two, tmp_path).test_looks == 1


def test_a_race_is_run_against_a_candidate_that_keeps_the_constraints(two: Data, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    rng = random.Random(0)
    for number in range(160):
        (folder / f"{number:03}.txt").write_text("".join(rng.choices("abcdefghij ", k=40)))
    alone(two)["evaluate"]["tasks"][0]["files"] = [str(folder / "*.txt")]
    two["search"] |= {"trials": 20, "racing": {"first_block": 16}}
    two["evaluate"]["constraints"] = [{"task": "late", "never_above": "base", "by": 0.01}]
    go(two, tmp_path / "held")
    study = study_of(tmp_path / "held" / "small")
    trials = study.get_trials()
    assert t.stopped(study)
    assert all(t.violation(trials[trial.user_attrs[t.AGAINST]]) == 0 for trial in t.stopped(study))
    assert all(len(trial.constraints) == 1 for trial in t.finished(study))
    two["evaluate"]["constraints"] = [{"task": "late", "at_most": 0.5}]
    go(two, tmp_path / "none")
    assert not t.stopped(study_of(tmp_path / "none" / "small"))


def test_a_reference_that_cannot_be_scored_ends_the_run(
    two: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise RuntimeError("no memory")

    two["evaluate"]["constraints"] = [{"task": "late", "never_above": "base"}]
    monkeypatch.setattr(BitsPerByte, "score", never)
    with pytest.raises(UserError, match=r"constraints: base could not be scored, .*RuntimeError: no memory"):
        go(two, tmp_path)


def test_a_named_baseline_is_scored_once(two: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(two)["search"]["trials"] = 2
    two["evaluate"]["constraints"] = [{"task": "late", "never_above": "one"}]
    calls, score = [], BitsPerByte.score
    monkeypatch.setattr(BitsPerByte, "score", lambda self, *args: calls.append(1) or score(self, *args))
    loop_calls = []
    from mergesearch.search.optimize.callbacks import Watcher

    run(open_plan(Config.model_validate(two), "c"), tmp_path, Watcher(trial=lambda *_: loop_calls.append(len(calls))))
    assert loop_calls[-1] == 4, "two trials of two tasks each"
    assert t.violation(t.finished(RunFolder(tmp_path / "small").open_study(None))[1]) == 0


def test_the_table_of_trials_has_the_sum_by_weight(two: Data, tmp_path: Path) -> None:
    import mergesearch

    two["search"]["trials"] = 9
    table = mergesearch.run(Config.model_validate(two), tmp_path).trials
    weighted = -(table["values.early"] + 3 * table["values.late"]) / 4
    assert table["value"].tolist() == close(weighted.tolist(), 4)

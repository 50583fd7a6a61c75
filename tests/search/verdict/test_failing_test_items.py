"""Test items that cannot be scored: the verdict is held without them, or without the candidate, and says so."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.report.screen import console
from mergesearch.search.report.verdict_page import print_verdict
from mergesearch.search.run import run
from mergesearch.search.study import trials as t
from mergesearch.search.verdict.wording import left_out_in_words

from ..helpers import Data, go, searched, study_of, written
from ..optimize.test_attempts import ran

JUDGES = """
import os
from pathlib import Path

HERE = Path(__file__).parent


def spread(model):
    return float(sum(p.double().abs().sum() for p in model.parameters()))


def score(model, items, name):
    worth = {item: ((hash(name + item) % 97) / 97 + 1e-3 * spread(model)) for item in items}
    if name == "second" and (HERE / "tested").exists() or name == "first":
        FAIL
    return worth


def first(model, tokenizer, items):
    return score(model, items, "first")


def second(model, tokenizer, items):
    return score(model, items, "second")


first.items = [f"a {n}" for n in range(16)]
second.items = [f"b {n}" for n in range(16)]
"""
IS_TEST = "set(items) & set((HERE / 'test').read_text().split(','))"


def judged(config: Data, tmp_path: Path, fail: str) -> Data:
    """Two tasks, the first of which does what is said before it returns."""
    file = tmp_path / "judges.py"
    file.write_text(JUDGES.replace("FAIL", fail))
    config["evaluate"]["tasks"] = [
        {"evaluator": "function", "task": name, "function": f"{file}:{name}"} for name in ("first", "second")
    ]
    config["search"] |= {"trials": 10, "racing": False}
    tasks = open_plan(Config.model_validate(config), "config").problem.tasks
    (tmp_path / "test").write_text(",".join(item.id for task in tasks for item in task.test))
    return config


def test_a_task_that_fails_for_all_is_left_out(
    config: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = judged(config, tmp_path, f"if name == 'first' and {IS_TEST}: raise ValueError('item [bold]9[/] is broken')")
    verdict = go(data, tmp_path)
    assert [each.what for each in verdict.left_out] == ["the test items of task 'first'"]
    assert verdict.winner.tasks["first"].keys() == {"search", "all"}
    assert verdict.test_items == len(open_items(data, "second"))
    said = left_out_in_words(verdict)
    assert said.endswith("task 'first', which could not be scored: ValueError: item [bold]9[/] is broken.")
    print_verdict(console(), verdict)
    assert "item [bold]9[/] is broken" in " ".join(capsys.readouterr().out.split())
    assert "item [bold]9[/] is broken" in (tmp_path / "small" / "report.html").read_text()
    assert go(data, tmp_path) == verdict


def open_items(data: Data, name: str) -> Any:
    tasks = open_plan(Config.model_validate(data), "config").problem.tasks
    return next(task.test for task in tasks if task.name == name)


def test_where_no_task_is_left_the_trials_are_kept(config: Data, tmp_path: Path) -> None:
    data = judged(config, tmp_path, f"if {IS_TEST} and not (HERE / 'mended').exists(): raise ValueError('broken')")
    (tmp_path / "tested").touch()
    with pytest.raises(
        UserError, match=r"no verdict: the test items of task 'first' .*: ValueError: broken; all trial"
    ):
        go(data, tmp_path)
    assert len(t.completed(study_of(tmp_path / "small"))) == 10
    (tmp_path / "mended").touch()
    verdict = go(data, tmp_path)
    assert (verdict.trials, verdict.left_out) == (10, [])


def failing_for(config: Data, tmp_path: Path, which: str) -> Data:
    """A config whose winner, or whose baseline one, cannot be scored on the test items."""
    act = f"if {IS_TEST} and repr(spread(model)) in (HERE / 'bad').read_text(): raise ValueError('broken')"
    data = judged(config, tmp_path, act)
    (tmp_path / "bad").write_text("")
    data["output"]["name"] = "before"
    data["search"]["trials"] = 16
    before = go(data, tmp_path)
    spoiled = before.winner if which == "winner" else next(row for row in before.baselines if row.name == which)
    trial = next(trial for trial in t.completed(study_of(tmp_path / "before")) if trial.number == spoiled.trial)
    recipe = t.recipe_of(trial)
    engine = Engine(recipe.references, recipe.references[0], recipe.target_dtype, "cpu")
    model = engine.build(recipe)
    spread = float(sum(p.double().abs().sum() for p in model.parameters()))
    (tmp_path / "bad").write_text(repr(spread))
    data["output"]["name"] = "small"
    return data


@pytest.mark.parametrize("which", ["winner", "one"])
def test_a_candidate_that_fails_is_left_out(config: Data, tmp_path: Path, which: str) -> None:
    data = failing_for(config, tmp_path, which)
    verdict = run(open_plan(Config.model_validate(data), "config"), tmp_path)
    assert {each.reason for each in verdict.left_out} == {"ValueError: broken"}
    names = {each.what for each in verdict.left_out}
    assert not names & {row.name for row in verdict.rows}
    assert "This verdict is held without " in left_out_in_words(verdict)
    contenders = [trial for trial in searched(study_of(tmp_path / "small")) if t.label_of(trial) not in names]
    assert verdict.winner.trial == t.best(contenders).number
    assert written(tmp_path / "small" / "best.yml") == t.recipe_of(t.best(contenders)).to_yaml()
    assert go(data, tmp_path) == verdict


@pytest.mark.slow
def test_a_candidate_that_ends_the_process_of_the_verdict_is_left_out(config: Data, tmp_path: Path) -> None:
    act = (
        f"chosen = HERE / 'chosen'\n    if {IS_TEST} and not chosen.exists(): chosen.write_text(repr(spread(model)))\n"
        f"    if {IS_TEST} and chosen.read_text() == repr(spread(model)): os.abort()"
    )
    data = judged(config, tmp_path, act.replace("\n", "\n    "))
    assert [ran(data, tmp_path) for _ in range(3)] == [-6, -6, 0]
    verdict = go(data, tmp_path)
    assert Counter("signal 6" in each.reason for each in verdict.left_out) == {True: len(verdict.left_out)}
    assert verdict.left_out

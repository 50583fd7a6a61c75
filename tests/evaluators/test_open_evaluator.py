"""Evaluators by name: what a name may stand for, and errors that name the task."""

from pathlib import Path

import pytest

from mergesearch.errors import UserError
from mergesearch.evaluators import EVALUATORS, Shared, find_evaluator, is_evaluator, open_evaluator

from .lm_eval_tasks import MULTIPLE_CHOICE, write_task


def test_names_of_the_table() -> None:
    assert {name: find_evaluator(name) for name in EVALUATORS} == EVALUATORS
    with pytest.raises(UserError, match="there is no evaluator 'perplexty'; did you mean 'perplexity'"):
        find_evaluator("perplexty")


def test_functions_and_classes_of_modules() -> None:
    assert not is_evaluator(find_evaluator("math:sqrt"))
    assert is_evaluator(find_evaluator("mergesearch.evaluators.tasks.function:Function"))


@pytest.mark.parametrize("name", ["math:pi", "decimal:Decimal"])
def test_other_objects_are_no_evaluators(name: str) -> None:
    with pytest.raises(UserError, match=f"evaluator: found '{name}', which is .*; expected a function"):
        find_evaluator(name)


def test_errors_name_the_task_once(tmp_path: Path) -> None:
    options = EVALUATORS["perplexity"].Options.model_validate({"task": "prose", "data": str(tmp_path / "none.csv")})
    with pytest.raises(UserError, match=r"^task 'prose': data: there is no .*none.csv"):
        open_evaluator("perplexity", options, Shared())
    write_task(tmp_path, "mine", [], MULTIPLE_CHOICE)
    options = EVALUATORS["lm_eval"].Options.model_validate({"task": "mine"})
    with pytest.raises(UserError, match=r"^task 'mine' cannot be loaded: its split has no documents"):
        open_evaluator("lm_eval", options, Shared(include_path=tmp_path))

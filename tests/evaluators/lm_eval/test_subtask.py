"""One task: its documents as items, its metric, and correct answers that are wrong."""

import random
from pathlib import Path

import pytest
import torch

from mergesearch.errors import UserError
from mergesearch.evaluators import Source, has_contributions, sources_of

from ...tolerances import close
from ..lm_eval_tasks import MULTIPLE_CHOICE, choice_docs, write_task
from .helpers import open_lm_eval


def test_fingerprints_follow_content_or_group(tasks: Path) -> None:
    whole, grouped = open_lm_eval(tasks, task="toy_mc"), open_lm_eval(tasks, task="toy_mc", group="source")
    assert len({item.fingerprint for item in whole.items}) == 40
    assert len({item.fingerprint for item in grouped.items}) == 10


def test_metric_by_document_must_be_numbers(tasks: Path) -> None:
    with pytest.raises(
        UserError, match=r"'likelihood' of task 'toy_odd' gives .* expected one or more numbers; usable metrics: acc, "
    ):
        open_lm_eval(tasks, task="toy_odd", metric="likelihood")


def test_choices_that_are_missing_later(tmp_path: Path) -> None:
    docs = [{"question": "q", "choices": list("ab"), "gold": 0}, {"question": "q", "gold": 0}]
    write_task(tmp_path, "mine", docs, MULTIPLE_CHOICE)
    with pytest.raises(UserError, match="task 'mine', item 1: its choices are None, expected a list"):
        open_lm_eval(tmp_path, task="mine")


@pytest.mark.parametrize("gold", [4, -1])
def test_answer_key_out_of_range(gold: int, tmp_path: Path) -> None:
    docs = [{"question": "q", "choices": list("abcd"), "gold": one} for one in (0, gold)]
    write_task(tmp_path, "mine", docs, MULTIPLE_CHOICE)
    with pytest.raises(UserError, match=f"task 'mine', item 1: the correct answer {gold} is not among its 4 choices"):
        open_lm_eval(tmp_path, task="mine")


@pytest.mark.parametrize(
    ("task", "metric", "chance"), [("toy_mc", "acc_norm", 0.25), ("toy_gen", "exact_match,whole", 0.0)]
)
def test_chance_is_one_in_so_many_choices(tasks: Path, task: str, metric: str, chance: float) -> None:
    assert {item.chance for item in open_lm_eval(tasks, task=task, metric=metric).items} == {chance}


def test_metrics_under_several_filters_are_told_apart_by_them(tasks: Path) -> None:
    """As lm-eval's results have them. A task with one filter needs no name of it."""
    asked = [("toy_gen", f"exact_match,{name}") for name in ("whole", "letters")] + [("toy_mc", "acc,none")]
    names = [open_lm_eval(tasks, task=task, metric=metric).metric.name for task, metric in asked]
    assert names == ["exact_match,whole", "exact_match,letters", "acc"]


def test_files_are_no_data_set_on_the_hub(tasks: Path) -> None:
    assert sources_of(open_lm_eval(tasks, task="toy_mc")) == []


@pytest.mark.parametrize(
    ("path", "kwargs", "is_known"),
    [
        ("allenai/ai2_arc", {}, True),
        ("hellaswag", None, True),
        ("json", {}, False),
        ("org/data", {"data_files": "x.json"}, False),
        ("/data/mine", {}, False),
        ("tests", {}, False),
        (None, {}, False),
    ],
)
def test_a_data_set_on_the_hub_is_known_by_its_name(
    tasks: Path, monkeypatch: pytest.MonkeyPatch, path: str | None, kwargs: dict[str, str] | None, is_known: bool
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])  # where tests is a folder
    evaluator = open_lm_eval(tasks, task="toy_mc")
    config = evaluator.subtasks[0]._task.config
    for key, value in {"dataset_path": path, "dataset_kwargs": kwargs, "dataset_name": "easy"}.items():
        monkeypatch.setattr(config, key, value)
    expected = [Source("toy_mc", str(path), "easy", config.test_split or config.validation_split)] if is_known else []
    assert sources_of(evaluator) == expected


def test_chance_of_an_f1_is_not_known(tasks: Path) -> None:
    assert {item.chance for item in open_lm_eval(tasks, task="toy_odd", metric="f1").items} == {None}


def test_a_median_has_a_value_and_no_contributions(tmp_path: Path) -> None:
    metric = "  - {metric: acc_norm, aggregation: median, higher_is_better: true}\n"
    settings = MULTIPLE_CHOICE.partition("  - {metric: acc_norm")[0] + metric + "num_fewshot: 0\n"
    write_task(tmp_path, "toy_median", choice_docs(random.Random(0), 9), settings)
    mean, median = (open_lm_eval(tmp_path, task="toy_median", metric=metric) for metric in ("acc", "acc_norm"))
    scores = torch.tensor([0.0, 1, 1, 0, 1, 1, 0, 1, 0], dtype=torch.float64)
    assert median.value(median.items, scores) == 1.0
    assert mean.value(mean.items, scores) == close(5 / 9, 9)
    assert has_contributions(mean)
    assert not has_contributions(median)

"""What a run keeps of its items: documents, scores and answers, as data frames and beside comparisons."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

import mergesearch
from mergesearch import UserError
from mergesearch.search.across.documents import DOCUMENTS
from mergesearch.search.across.finalists import Finalists
from mergesearch.search.across.flips import flips
from mergesearch.search.across.pairing import compared
from mergesearch.search.study import trials as t
from mergesearch.search.study.answers import FOLDER

from ...tolerances import close
from .conftest import write_tasks


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, models: Path) -> mergesearch.Run:
    """A run on questions with two choices, and on texts, whose objective is the questions alone."""
    folder = tmp_path_factory.mktemp("items")
    write_tasks(folder / "tasks")
    weight = {"weight": {"search": [0.0, 1.0]}}
    config: dict[str, Any] = {
        "recipe": {
            "merge_method": "task_arithmetic",
            "base_model": str(models / "base"),
            "models": [{"model": str(models / name), "parameters": weight} for name in ("one", "two")],
        },
        "evaluate": {
            "include_path": str(folder / "tasks"),
            "tasks": [{"task": "many", "metric": "acc"}, {"task": "texts", "metric": "bits_per_byte", "weight": 0}],
            "split": {"search": 0.5, "test": 0.5, "seed": 0},
        },
        "search": {"trials": 13, "sampler": "random", "start": "none", "seed": 0},
        "output": {"name": "items", "model": False},
    }
    return mergesearch.run(config, folder)


def test_items_have_documents_and_the_scores_of_the_verdict(run: mergesearch.Run) -> None:
    table = run.items
    assert list(table.columns[:6]) == ["task", "split", "item", "question", "right", "choices"]
    assert list(table.columns[6:]) == list(dict.fromkeys(row.name for row in run.verdict.rows))
    assert table.groupby("task").size().to_dict() == {"many": 80, "texts": 20}
    for row in run.verdict.rows:
        for side in ("search", "test"):
            of_task = table[(table["task"] == "many") & (table["split"] == side)]
            assert of_task[row.name].mean() == close(row.tasks["many"][side], 80)
    docs = [json.loads(line) for line in (run.folder.parent / "tasks" / "many.jsonl").read_text().splitlines()]
    for row in table[table["task"] == "many"].itertuples():
        doc = docs[int(row.item)]
        assert (row.question, row.right, list(row.choices)) == (
            doc["text"],
            doc["choices"][doc["answer"]],
            doc["choices"],
        )


def test_answers_are_those_that_were_scored(run: mergesearch.Run) -> None:
    scores, answers = run.items, run.answers
    for row in run.verdict.rows:
        asked = (scores["task"] == "many") & (scores["split"] == "test")
        assert asked.sum() > 10
        assert ((answers[row.name] == scores["right"]) == (scores[row.name] == 1))[asked].all()
        assert (answers[row.name][~asked] == "").all()


def test_any_trial_can_be_asked_for(run: mergesearch.Run) -> None:
    assert "same_as" in run.trials
    others = [n for n in run.trials.index if n not in {row.trial for row in run.verdict.rows}]
    assert others
    number = next(n for n in others if run.trials.loc[n, "state"] == "COMPLETE")
    table = run.items_of(number)
    name = t.label_of(run.study.get_trials()[number])
    searched = table[(table["task"] == "many") & (table["split"] == "search")]
    assert searched[name].mean() == close(run.trials.loc[number, "values.many"], 80)
    assert table[table["split"] == "test"][name].map(math.isnan).all()
    with pytest.raises(UserError, match="has no trial 99, its trials are 0 to"):
        run.items_of(99)


def test_what_is_lost_is_said(run: mergesearch.Run, tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_bytes((run.folder / "config.yml").read_bytes())
    lost = mergesearch.Run(tmp_path, run.config, run.verdict)
    with pytest.raises(UserError, match=f"has no {DOCUMENTS}; run its config"):
        _ = lost.items


def test_comparisons_of_runs_show_what_was_answered(run: mergesearch.Run) -> None:
    assert (run.folder / FOLDER).is_dir()
    rows = {row.name: row.trial for row in run.verdict.rows}
    found = Finalists.read(run.folder)
    differences = compared(found.measured(rows["one"]), found.measured(rows["two"])).tasks
    task = next(each for each in differences if each.task == "many")
    assert task.wins
    for flip in task.wins:
        assert flip.answer_a == flip.right != flip.answer_b
        assert {flip.answer_a, flip.answer_b} == set(flip.choices)


def test_flips_are_those_of_the_comparisons(run: mergesearch.Run) -> None:
    found = Finalists.read(run.folder)
    others = [row.trial for row in run.verdict.baselines if row.trial != run.verdict.winner.trial]
    every, counts = flips(found, others, most=1000)
    for trial in others:
        pair = compared(found.measured(run.verdict.winner.trial), found.measured(trial)).tasks
        assert counts[trial] == (sum(len(task.wins) for task in pair), sum(len(task.losses) for task in pair))
        assert counts[trial] == (sum(trial in each.won for each in every), sum(trial in each.lost for each in every))
    few, same = flips(found, others, most=2)
    assert same == counts
    assert {(each.task, each.item) for each in few} <= {(each.task, each.item) for each in every}
    assert len(few) <= 4 * len(others)
    assert flips(found, others, most=2)[0] == few

"""The card of a run's model: verdict and scores for people, and scores of test items alone for the Hub."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from mergesearch.evaluators import Source
from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.search.across.finalists import Finalists
from mergesearch.search.config import Config
from mergesearch.search.report.hub_card import EVAL_RESULTS, write_hub_card
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.verdict.result import Verdict, read_verdict
from mergesearch.search.verdict.wording import shown_baselines


@pytest.fixture
def run(finished: Path) -> Path:
    return finished


def verdict_of(run: Path) -> Verdict:
    verdict = read_verdict(RunFolder(run))
    assert verdict is not None
    return verdict


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_a_run_writes_its_card(run: Path) -> None:
    verdict, card = verdict_of(run), card_of(run / "model")
    assert card.text.strip().startswith("# small")
    assert verdict.sentence in re.sub(r"\\(.)", r"\1", card.text)
    assert str(run.parent) not in card.content
    assert "model: two" in card.text
    for row in shown_baselines(verdict):
        assert f"| {row.name}" in card.text


def test_only_test_items_are_results(run: Path) -> None:
    verdict, card = verdict_of(run), card_of(run / "model")
    values = {result.dataset_args["task"]: result.metric_value for result in card.data.eval_results}
    assert values == {name: round(each["test"], 4) for name, each in verdict.recommended_row.tasks.items()}
    assert {result.dataset_args["side"] for result in card.data.eval_results} == {"test"}
    assert all("held-out test items" in result.dataset_name for result in card.data.eval_results)
    assert card.data.model_name == "small"
    assert not (run / "model" / EVAL_RESULTS).exists(), "the tasks are of no data set on the Hub"


def test_scores_of_data_sets_on_the_hub_are_files(run: Path, tmp_path: Path) -> None:
    finalists, verdict = Finalists.read(run), verdict_of(run)
    first, second = finalists.about.tasks
    first = replace(first, sources=[Source("part", "org/data", "main", "test")])
    second = replace(second, sources=[Source(f"part_{n}", "org/other", str(n), "test") for n in range(2)])
    found = replace(finalists, about=replace(finalists.about, tasks=[first, second]))
    merge_file(run / "best.yml", tmp_path / "model")
    write_hub_card(tmp_path / "model", found, verdict, verdict.winner, Config.read(run / "config.yml"))
    files = {file.stem: yaml.safe_load(file.read_text()) for file in (tmp_path / "model" / EVAL_RESULTS).iterdir()}
    entries = {name: parse_eval_result_entries(content)[0] for name, content in files.items()}
    assert {name: (each.dataset_id, each.task_id) for name, each in entries.items()} == {
        "letters": ("org/data", "part"),
        "more": ("org/other", "more"),
    }
    assert entries["letters"].value == round(verdict.winner.tasks["letters"]["test"], 4)
    assert "4 held-out test items" in str(entries["letters"].notes)
    data = card_of(tmp_path / "model").data
    assert data.datasets == ["org/data", "org/other"]
    by_task = {result.dataset_args["task"]: result for result in data.eval_results}
    assert (by_task["letters"].dataset_type, by_task["letters"].dataset_config) == ("org/data", "main")


def test_the_same_run_has_the_same_card(run: Path, tmp_path: Path) -> None:
    """Whatever the folder of the model."""
    verdict = verdict_of(run)
    merge_file(run / "recommended.yml", tmp_path / "again")
    write_hub_card(
        tmp_path / "again", Finalists.read(run), verdict, verdict.recommended_row, Config.read(run / "config.yml")
    )
    assert (tmp_path / "again" / "README.md").read_text() == (run / "model" / "README.md").read_text()


def test_the_model_of_the_card_is_marked(run: Path, tmp_path: Path) -> None:
    verdict = verdict_of(run)
    merge_file(run / "best.yml", tmp_path / "best")
    write_hub_card(tmp_path / "best", Finalists.read(run), verdict, verdict.winner, Config.read(run / "config.yml"))
    marked = [line for line in card_of(tmp_path / "best").text.splitlines() if "(this model)" in line]
    assert len(marked) == 1
    assert verdict.winner.name in marked[0]

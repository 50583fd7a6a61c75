"""What ``check`` calls ready runs: it does what a run does before its first candidate."""

from pathlib import Path

import pytest

from mergesearch.errors import UserError
from mergesearch.search.candidates.plan import SearchPlan, open_plan
from mergesearch.search.config import Config
from mergesearch.search.rehearsal import expected_cost

from .helpers import Data


def plan_of(config: Data) -> SearchPlan:
    return open_plan(Config.model_validate(config), "config")


def test_nothing_is_left_behind(config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    before = sorted(tmp_path.rglob("*"))
    cost = expected_cost(plan_of(config), False, print)
    assert cost.score > 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_task_that_the_model_cannot_do_is_found(config: Data, tmp_path: Path) -> None:
    """Tasks are prepared for the model: this one has no chat template."""
    docs = "\n".join(f'{{"q": "{letter}", "gold": 0}}' for letter in "abcdefgh")
    (tmp_path / "docs.jsonl").write_text(docs, encoding="utf-8")
    (tmp_path / "own.yaml").write_text(
        f"""task: own
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "docs.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: ["a", "b"]
doc_to_target: gold
metric_list: [{{metric: acc}}]
""",
        encoding="utf-8",
    )
    config["evaluate"]["include_path"] = str(tmp_path)
    config["evaluate"]["tasks"] = [{"task": "own", "metric": "acc", "apply_chat_template": True}]
    with pytest.raises(UserError, match="the model's tokenizer has no chat template"):
        expected_cost(plan_of(config), False, print)


def test_a_model_that_does_not_fit_is_not_loaded(config: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergesearch.merge_ops.inputs.memory.free_on_host", lambda: 1000)
    monkeypatch.setattr("mergesearch.search.session.open_engine", None)
    said: list[str] = []
    cost = expected_cost(plan_of(config), False, said.append)
    assert cost.score > 0
    assert said[-1:] == ["the model does not fit in the memory of this machine (1 kB free): it was not loaded"]


@pytest.mark.parametrize(
    ("trials", "warning"),
    [
        (12, "search.trials: 12 are all taken by the 12 baselines"),
        (18, "18 less 12 baselines are 6 for 7 dimensions"),
        (40, ""),
    ],
)
def test_a_budget_that_is_too_small_is_warned_of(config: Data, trials: int, warning: str) -> None:
    config["search"]["trials"] = trials
    warnings = plan_of(config).warnings
    assert len(warnings) == bool(warning)
    assert all(warning in each for each in warnings)


def test_the_base_as_the_only_model_has_itself_and_the_method_as_baselines(config: Data) -> None:
    base = config["recipe"]["base_model"]
    config["recipe"] = {
        "merge_method": "linear",
        "base_model": base,
        "models": [{"model": base, "parameters": {"weight": {"search": [0.5, 1.0]}}}],
    }
    assert len(plan_of(config).baselines) == 2


def test_a_space_without_dimensions_is_warned_of(config: Data) -> None:
    models = [{**entry, "parameters": {"weight": 0.5}} for entry in config["recipe"]["models"]]
    config["recipe"] = {**config["recipe"], "merge_method": "task_arithmetic", "models": models}
    (warning,) = plan_of(config).warnings
    assert "has nothing to search: every candidate is the same merge" in warning

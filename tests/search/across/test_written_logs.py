"""The samples that this project writes are those of lm-eval's command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from mergesearch.evaluators import LoadedModel
from mergesearch.evaluators.contract.options import Shared
from mergesearch.evaluators.lm_eval.lm_eval import LmEval
from mergesearch.evaluators.lm_eval.options import LmEvalOptions
from mergesearch.evaluators.lm_eval.sample_writer import write_logs
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.live import live

from .conftest import Logs

METRICS = {"few": "acc", "many": "acc_norm", "texts": "bits_per_byte"}
SAME = ("doc_id", "doc", "target", "arguments", "filter", "metrics", "doc_hash", "prompt_hash", "target_hash")


@pytest.fixture(scope="module")
def written(logs: Logs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of the first model on all documents."""
    subject = LoadedModel(*live.load(Checkpoint(str(logs.one.parent / "models" / "one")), "cpu"))
    shared, found = Shared(include_path=logs.one.parent / "tasks", max_length=64), []
    for task, metric in METRICS.items():
        evaluator = LmEval(LmEvalOptions(task=task, metric=metric), shared)
        found += evaluator.logs(subject, evaluator.items)[0]
    folder = tmp_path_factory.mktemp("written")
    write_logs(folder, "one", "2026-01-31T12-30-59", found, {})
    return folder


def lines(folder: Path, task: str) -> list[dict[str, Any]]:
    (file,) = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def flat(value: Any) -> list[float]:
    """The numbers of nested lists, in which lm-eval writes them as texts."""
    if isinstance(value, list):
        return [number for each in value for number in flat(each)]
    return [float({"True": 1, "False": 0}.get(str(value), value))]


@pytest.mark.parametrize("task", METRICS)
def test_each_line_is_that_of_lm_eval(logs: Logs, written: Path, task: str) -> None:
    for ours, theirs in zip(lines(written, task), lines(logs.one, task), strict=True):
        assert list(ours) == list(theirs)
        assert {key: ours[key] for key in SAME} == {key: theirs[key] for key in SAME}
        for key in ("resps", "filtered_resps", *ours["metrics"]):
            assert flat(ours[key]) == pytest.approx(flat(theirs[key]), rel=1e-4)


def test_the_results_are_those_of_lm_eval(logs: Logs, written: Path) -> None:
    ours, theirs = (json.loads(next(each.rglob("results_*.json")).read_text()) for each in (written, logs.one))
    for task, values in ours["results"].items():
        assert set(values) <= {*theirs["results"][task], "sample_len"}
        for name, value in values.items():
            expected = theirs["results"][task].get(name)
            if isinstance(expected, float):
                assert value == pytest.approx(expected, rel=1e-4), name
    for key in ("versions", "higher_is_better", "n-shot", "n-samples", "task_hashes"):
        assert ours[key] == theirs[key], key

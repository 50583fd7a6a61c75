"""``mergesearch export``: files of a run for other programs."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from lm_eval.utils import get_file_datetime, get_file_task_name, make_table

from mergesearch.errors import UserError
from mergesearch.search.across.finalists import Finalists
from mergesearch.search.across.sample_logs import logged
from mergesearch.search.cli import main
from mergesearch.search.compare import compare
from mergesearch.search.sharing.export import export_logs
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.verdict.result import Verdict, read_verdict

from ..across.conftest import LETTERS, write_tasks
from ..helpers import go, llama_of_letters, save_fine_tunes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on three tasks of lm-eval, one without test items."""
    folder = tmp_path_factory.mktemp("run")
    save_fine_tunes(folder / "models", *llama_of_letters(f"{LETTERS} ", layers=1), 0.5)
    write_tasks(folder / "tasks")
    models = [{"model": str(folder / "models" / name), "parameters": {"weight": 0.5}} for name in ("one", "two")]
    models[0]["parameters"] = {"weight": {"search": [0.0, 1.0]}}
    tasks = [
        {"evaluator": "lm_eval", "task": name, "metric": metric}
        for name, metric in (("few", "acc"), ("many", "acc_norm"), ("texts", "bits_per_byte"))
    ]
    config: dict[str, Any] = {
        "recipe": {"merge_method": "linear", "models": models},
        "evaluate": {"tasks": tasks, "include_path": str(folder / "tasks"), "split": {"search": 0.5, "test": 0.5}},
        "search": {"trials": 7, "sampler": "random"},
        "output": {"name": "small", "model": False},
    }
    go(config, folder / "results")
    return folder / "results" / "small"


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    export_logs(run, run.parent / "logs")
    return run.parent / "logs"


def verdict_of(run: Path) -> Verdict:
    verdict = read_verdict(RunFolder(run))
    assert verdict is not None
    return verdict


def test_the_logs_have_the_scores_of_the_verdict(run: Path, exported: Path) -> None:
    verdict, finalists = verdict_of(run), Finalists.read(run)
    for row, name in ((verdict.winner, verdict.winner.name.replace(" ", "_")), (verdict.baselines[0], "one")):
        (results,) = (json.loads(file.read_text()) for file in (exported / name).glob("results_*.json"))
        values = finalists.values(row.trial)
        for task, metric in (("few", "acc"), ("many", "acc_norm"), ("texts", "bits_per_byte")):
            assert results["results"][task][f"{metric},none"] == pytest.approx(values[task], abs=1e-9)
            assert results["n-samples"][task]["effective"] == finalists.items(task)


def test_lm_eval_reads_and_shows_them(exported: Path) -> None:
    folder = exported / "one"
    (file,) = folder.glob("results_*.json")
    content = json.loads(file.read_text())
    table = make_table(content)
    assert "|many " in table
    assert "acc_norm" in table
    for samples in folder.glob("samples_*.jsonl"):
        assert get_file_task_name(samples.name) in content["results"]
        assert get_file_datetime(samples.name) == file.stem.removeprefix("results_")


def test_compare_reads_them_as_it_reads_the_run(run: Path, exported: Path) -> None:
    verdict, winner = verdict_of(run), verdict_of(run).winner.name.replace(" ", "_")
    found = compare(exported / winner, exported / "one", metrics=["acc", "acc_norm", "bits_per_byte"])
    by_task = {task.task: task for task in found.tasks}
    one = next(row for row in verdict.baselines if row.name == "one")
    for name in ("many", "texts"):
        assert by_task[name].a == pytest.approx(verdict.winner.tasks[name]["test"], abs=1e-9)
        assert by_task[name].b == pytest.approx(one.tasks[name]["test"], abs=1e-9)


def test_the_same_bytes_each_time(run: Path, exported: Path, tmp_path: Path) -> None:
    export_logs(run, tmp_path / "again")
    files = sorted(file.relative_to(exported) for file in exported.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(tmp_path / "again") for file in (tmp_path / "again").rglob("*.json*"))
    for file in files:
        assert (exported / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_logged_reads_all_metrics(exported: Path) -> None:
    assert {task for task, _ in logged(exported / "one").tasks} == {"few", "many", "texts"}


def test_what_cannot_be_exported_is_refused(run: Path, finished: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="already exists"):
        export_logs(run, exported)
    with pytest.raises(UserError, match="no task of lm-eval"):
        export_logs(finished, tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


def test_the_model_of_a_run_is_asked_of_a_converter(finished: Path, tmp_path: Path) -> None:
    """Its tokens are no byte-level BPE, which only a converter of others may know."""
    script = tmp_path / "convert.py"
    script.write_text("import sys\nfrom pathlib import Path\nPath(sys.argv[3]).write_text(sys.argv[1])\n")
    command = ["export", str(finished), "--gguf", str(tmp_path / "out.gguf")]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 2
    assert "tokenizer.json: expected byte-level BPE" in refused.stderr
    written = CliRunner().invoke(main, [*command, "--converter", str(script)])
    assert (written.exit_code, written.stdout) == (0, f"wrote {tmp_path / 'out.gguf'}\n")
    assert (tmp_path / "out.gguf").read_text() == str(finished / "model")


def test_something_has_to_be_asked_for(finished: Path) -> None:
    result = CliRunner().invoke(main, ["export", str(finished)])
    assert (result.exit_code, result.stderr) == (2, "error: found neither --gguf nor --lm-eval, expected one of them\n")

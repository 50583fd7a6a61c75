"""The Python API: it does what the commands do, and is typed for those who use it."""

import ast
import html
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState

import mergesearch
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint, tensors_digest
from mergesearch.merge_ops.live.live import bind
from mergesearch.search.config import Config
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder

from ..tolerances import close
from .helpers import written

Data = dict[str, Any]


@pytest.fixture
def run(config: Data, tmp_path: Path) -> mergesearch.Run:
    config["search"]["trials"] = 13
    return mergesearch.run(config, tmp_path / "runs")


def test_a_run(run: mergesearch.Run, tmp_path: Path) -> None:
    assert run.folder == tmp_path / "runs" / "small"
    assert run.verdict.trials == 13
    assert run.config.output.name == "small"
    assert run.best.recipe.to_yaml() == written(run.folder / "best.yml")
    assert run.recommended.recipe.to_yaml() == written(run.folder / "recommended.yml")


def test_what_is_built_and_written_is_what_was_scored(run: mergesearch.Run, tmp_path: Path) -> None:
    scored = Checkpoint(str(run.folder / "model"))
    model, tokenizer = run.recommended.build()
    assert tokenizer("abc")["input_ids"]
    assert not model.training
    views = bind(model, scored)
    assert tensors_digest((name, views[name]) for name in scored.tensors) == scored.digest()
    run.recommended.write(tmp_path / "merged")
    assert Checkpoint(str(tmp_path / "merged")).digest() == scored.digest()


def test_recipes_that_change_the_shape_can_be_built(models: Path) -> None:
    from mergesearch.search.api.finished import Best

    layers = [{"sources": [{"model": str(models / "one"), "layer_range": [0, 2]}]}] * 2
    recipe = mergesearch.Recipe.read({"merge_method": "passthrough", "slices": layers})
    model: Any = Best(recipe).build().model
    assert model.config.num_hidden_layers == 4
    with torch.no_grad():
        assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_trials_are_a_data_frame(run: mergesearch.Run) -> None:
    table = run.trials
    trials = t.finished(RunFolder(run.folder).open_study(None))
    assert list(table.index) == [trial.number for trial in trials]
    assert list(table["value"]) == [trial.value for trial in trials]
    assert list(table["name"][:3]) == ["base", "one", "two"]
    assert set(table["kind"]) == {t.BASELINE, t.SAMPLED}
    assert table["values.text"].notna().all()
    assert table["params.one.density"].notna().sum() == sum("one.density" in trial.params for trial in trials)
    assert {"seconds.build", "seconds.score", "recipe", "phenotype", "reason", "state"} <= set(table.columns)
    winner = table.loc[run.verdict.winner.trial]
    assert winner["value"] == close(run.verdict.winner.search.value, 16)
    assert winner["recipe"] == run.best.recipe.to_yaml()


def test_the_study_is_optunas(run: mergesearch.Run) -> None:
    assert isinstance(run.study, optuna.Study)
    assert len(run.study.trials) == 13
    assert run.study is run.study
    drawn = optuna.visualization.plot_optimization_history(run.study)
    assert drawn.data


def test_figures_are_those_of_the_report(run: mergesearch.Run) -> None:
    page = (run.folder / "report.html").read_text()
    assert set(run.figures) == set(re.findall(r"<div class=plot id=(\S+)", page))
    assert {"verdict", "candidates-figure", "course-by-trial"} <= set(run.figures)
    drawn = run.figures["course-by-trial"]
    shown = [number for trace in drawn.data if trace.mode == "markers" for number in trace.x]
    assert sorted(shown) == [trial.number for trial in run.study.get_trials(states=[TrialState.COMPLETE])]
    assert drawn.layout.title.text.startswith("Objective on the search items, by trial")
    (run.folder / "report.html").unlink()
    with pytest.raises(mergesearch.UserError, match=r"report.html: is lost"):
        mergesearch.Run.read(run.folder).figures  # noqa: B018


def test_what_a_notebook_shows(run: mergesearch.Run) -> None:
    shown = run._repr_html_()
    assert html.escape(run.verdict.sentence) in shown
    assert str(run.folder / "recommended.yml") in shown
    for row in (run.verdict.winner, run.verdict.baselines[0]):
        assert f"<td>{row.test.value:.3f} [" in shown
    assert shown.count("<table>") == shown.count("</table>") == 1
    assert str(run.verdict) == run.verdict.sentence
    nasty = replace(run.verdict, sentence="<script>alert(1)</script>")
    assert "<script>" not in nasty._repr_html_()


def test_a_run_is_read_without_torch(run: mergesearch.Run) -> None:
    code = (
        "import sys, mergesearch\n"
        f"run = mergesearch.Run.read({str(run.folder)!r})\n"
        "print(run.verdict.recommended, run.config.output.name, len(run._repr_html_()) > 0)\n"
        "print([name for name in ('torch', 'transformers', 'lm_eval', 'IPython') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{run.verdict.recommended} small True", "[]"]


def test_a_run_is_read_again(run: mergesearch.Run, tmp_path: Path) -> None:
    again = mergesearch.Run.read(run.folder)
    assert again == run
    assert again.best == run.best
    with pytest.raises(mergesearch.UserError, match="no such file"):
        mergesearch.Run.read(tmp_path / "nowhere")
    (run.folder / "verdict.json").unlink()
    with pytest.raises(mergesearch.UserError, match="no verdict yet"):
        mergesearch.Run.read(run.folder)


def test_a_file_its_content_and_a_config_are_the_same(config: Data, config_file: Path, tmp_path: Path) -> None:
    config["search"]["trials"] = 10
    found = [
        mergesearch.run(given, tmp_path / str(number)).verdict
        for number, given in enumerate((config, Config.read(config_file, trials=10)))
    ]
    assert found[0] == found[1]
    config_file.write_text(config_file.read_text().replace("base_model: ", "base_model: /nowhere"))
    with pytest.raises(mergesearch.UserError, match=f"{config_file}: /nowhere.*no such checkpoint"):
        mergesearch.run(config_file, tmp_path / "file")


def test_check(config: Data, config_file: Path) -> None:
    for given in (config, config_file):
        found = mergesearch.check(given)
        assert (found.trials, found.baselines, found.items) == (17, 12, {"text": (6, 6)})
        assert {"one.density", "two.weight.mlp"} <= set(found.dimensions)
        assert found.seconds > 0
        assert found.verdict_seconds > 0
        assert any("expect little" in note for note in found.notes)
        for shown in (str(found), found._repr_html_()):
            assert "one.density" in shown
            assert "expect little" in shown
            assert "to score a candidate" in shown
        assert found._repr_html_().startswith("<pre")
    config["search"]["trails"] = 3
    with pytest.raises(mergesearch.UserError, match="unknown key 'trails'"):
        mergesearch.check(config)


def test_evaluate(config: Data, models: Path, run: mergesearch.Run, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    found = mergesearch.evaluate(models / "one", config, nowhere)
    score = found.scores["text"]
    assert (score.task, score.metric, score.items) == ("text", "bits_per_byte", 12)
    assert score.value.low < score.value.value < score.value.high
    items = found.items
    assert list(items.columns) == ["task", "split", "item", "score"]
    assert items.groupby("split").size().to_dict() == {"search": 6, "test": 6}
    baseline = next(row for row in run.verdict.baselines if row.name == "one")
    assert score.value.value == close(baseline.tasks["text"]["all"], 24, magnitude=8.0)
    assert f"{score.value.value:.4f} [" in str(found)
    assert f"<td>{score.value.value:.4f} [" in found._repr_html_()
    with pytest.warns(UserWarning, match="counts it as a look"):
        recipe = mergesearch.evaluate(run.best.recipe, config, run.folder.parent)
    of_file = mergesearch.evaluate(run.folder / "best.yml", config, nowhere)
    of_best = mergesearch.evaluate(run.best, config, nowhere)
    assert recipe.scores == of_file.scores == of_best.scores
    assert recipe.scores["text"].value.value == close(run.verdict.winner.tasks["text"]["all"], 24, magnitude=8.0)


def test_progress(config: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config["search"]["trials"] = 9
    mergesearch.run(config, tmp_path)
    assert capsys.readouterr().out == ""
    mergesearch.run(config | {"output": {"name": "shown"}}, tmp_path, progress=True)
    assert "verdict" in capsys.readouterr().out


def test_what_is_wrong_with_a_dictionary(config: Data) -> None:
    config["search"]["trails"] = 3
    with pytest.raises(mergesearch.UserError, match=r"config: search: unknown key 'trails'; did you mean 'trials'"):
        mergesearch.run(config)


def test_merge(models: Path, tmp_path: Path) -> None:
    data = {
        "merge_method": "linear",
        "models": [{"model": str(models / m), "parameters": {"weight": 1}} for m in ("one", "two")],
    }
    file = tmp_path / "recipe.yml"
    file.write_text(mergesearch.Recipe.read(data).to_yaml())
    for name, recipe in (
        ("data", data),
        ("recipe", mergesearch.Recipe.read(data)),
        ("file", file),
        ("text", str(file)),
    ):
        mergesearch.merge(recipe, tmp_path / name)
    assert len({Checkpoint(str(tmp_path / name)).digest() for name in ("data", "recipe", "file", "text")}) == 1


def test_every_public_name_is_there_and_typed() -> None:
    assert sorted(mergesearch.__all__) == mergesearch.__all__
    for name in mergesearch.__all__:
        assert getattr(mergesearch, name).__doc__, name
        assert name in dir(mergesearch)
    tree = ast.parse(Path(mergesearch.__file__).read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: str(node.module)
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {name: f"mergesearch.{home}" for name, home in mergesearch._HOMES.items()}
    assert set(typed) == set(mergesearch.__all__)
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        mergesearch.serach  # noqa: B018


USE = """
import mergesearch

run = mergesearch.run({"recipe": {}}, progress=True)
reveal_type(run.verdict.sentence)
model, tokenizer = run.best.build()
reveal_type(model)
reveal_type(mergesearch.check("a.yml").seconds)
reveal_type(mergesearch.evaluate("a", "a.yml").scores["task"].value.low)
reveal_type(run.figures)
mergesearch.merge(run.best.recipe, "out")
engine = mergesearch.Engine(["a", "b"], "a")
reveal_type(engine.build(run.best.recipe))
mergesearch.run(3)
"""


@pytest.mark.slow
def test_types_as_a_user_sees_them(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(USE)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "use.py"]
    environment = {**os.environ, "MYPYPATH": str(Path(mergesearch.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    notes = [line.split(": ", 1)[1] for line in done.stdout.splitlines() if line.startswith("use.py")]
    assert 'note: Revealed type is "str"' in notes
    assert sum("Module" in note for note in notes) == 2, done.stdout
    assert notes.count('note: Revealed type is "float"') == 2
    assert sum(note.startswith("error") for note in notes) == 1, "only the last line is wrong"

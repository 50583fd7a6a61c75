"""A second round: merges of a run as the models of the next one, whose recipes are made of the first checkpoints."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optuna.trial import create_trial

import mergesearch
from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.documents import documents_text, merge_file, merge_recipes, read_recipes
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import read_yaml
from mergesearch.search.api.finished import Run
from mergesearch.search.problem.origins import Origin, from_checkpoints
from mergesearch.search.remerge import Merge, different, remerge
from mergesearch.search.statistics import Array
from mergesearch.search.study import trials as t

from ..tolerances import assert_close
from .helpers import go

Data = dict[str, Any]


def linear(weights: dict[str, float]) -> Recipe:
    models = [{"model": model, "parameters": {"weight": weight}} for model, weight in weights.items()]
    return Recipe.read({"merge_method": "linear", "models": models, "parameters": {"normalize": False}})


def written(recipe: Recipe, folder: Path) -> str:
    """The merge of a run: its folder."""
    merge_recipes(from_checkpoints(recipe), folder)
    Origin("a run", 0, Checkpoint(str(folder)).digest(), []).write(folder)
    return str(folder)


def remade(recipe: Recipe, folder: Path, removed: list[str]) -> Checkpoint:
    """The merge of the written recipe, after the merges that it was made of are gone."""
    file = folder / "recipe.yml"
    file.write_text(documents_text(from_checkpoints(recipe)))
    for path in removed:
        shutil.rmtree(path)
    merge_file(file, folder / "remade")
    return Checkpoint(str(folder / "remade"))


def test_a_merge_of_merges_is_that_of_the_checkpoints(models: Path, tmp_path: Path) -> None:
    """Two rounds, against float64 sums of the checkpoints."""
    base, one, two = (str(models / name) for name in ("base", "one", "two"))
    first = written(linear({base: 0.5, one: 0.5}), tmp_path / "first")
    second = written(linear({first: 0.25, two: 0.75}), tmp_path / "second")
    recipe = linear({first: 0.6, second: 0.4})
    merge_recipes([recipe], tmp_path / "scored")
    found = remade(recipe, tmp_path, [first, second])
    assert found.digest() == Checkpoint(str(tmp_path / "scored")).digest()
    weights = {base: 0.6 * 0.5 + 0.4 * 0.125, one: 0.6 * 0.5 + 0.4 * 0.125, two: 0.4 * 0.75}
    for name in found.tensors:
        terms = [weight * Checkpoint(model).tensor(name).double() for model, weight in weights.items()]
        size = float(torch.stack(terms).abs().sum(0).max())
        assert_close(found.tensor(name).double(), torch.stack(terms).sum(0), 12, size, torch.float32)


def test_a_merge_of_merges_is_made_again_whatever_the_methods(models: Path, tmp_path: Path) -> None:
    base, one, two = (str(models / name) for name in ("base", "one", "two"))
    entries = [{"model": one, "parameters": {"weight": 0.7}}, {"model": two, "parameters": {"weight": 0.4}}]
    dare = {"merge_method": "dare_ties", "base_model": base, "models": entries, "parameters": {"density": 0.5}}
    first = written(Recipe.read(dare), tmp_path / "first")
    slerp = {"merge_method": "slerp", "base_model": first, "models": [{"model": two}], "parameters": {"t": 0.3}}
    recipe = Recipe.read(slerp)
    merge_recipes([recipe], tmp_path / "scored")
    assert remade(recipe, tmp_path, [first]).digest() == Checkpoint(str(tmp_path / "scored")).digest()


def test_what_is_no_merge_of_a_run_or_was_trained_on_stays_a_checkpoint(models: Path, tmp_path: Path) -> None:
    plain, merged = linear({str(models / "base"): 0.5, str(models / "one"): 0.5}), tmp_path / "merged"
    assert from_checkpoints(plain) == [plain]
    recipe = linear({written(plain, merged): 1.0, str(models / "two"): 0.5})
    assert [each.name for each in from_checkpoints(recipe)] == [str(merged), None]
    shutil.copy(models / "two" / "model.safetensors", merged / "model.safetensors")
    assert from_checkpoints(recipe) == [recipe]


def test_a_folder_that_was_merged_anew_is_not_taken_for_the_one_before(models: Path, tmp_path: Path) -> None:
    base, one, two = (str(models / name) for name in ("base", "one", "two"))
    first = written(linear({base: 0.5, one: 0.5}), tmp_path / "first")
    second = written(linear({first: 0.5, two: 0.5}), tmp_path / "second")
    shutil.rmtree(first)
    written(linear({base: 0.3, one: 0.7}), tmp_path / "first")
    with pytest.raises(UserError, match="stood in this folder before"):
        from_checkpoints(linear({first: 0.5, second: 0.5}))


def merges(rows: list[Array]) -> list[Merge]:
    """From the best one on."""
    trials = [create_trial(value=0.0, user_attrs={t.PHENOTYPE: str(row)}) for row in rows]
    return [Merge(None, trial, row) for trial, row in zip(trials, rows, strict=True)]  # type: ignore[arg-type]


def test_the_best_merges_that_differ_are_chosen() -> None:
    near, far = np.array([1.0, 1, 0.1, 0]), np.array([0.0, 0, 1, 1])
    rows = [np.array([1.0, 1, 0, 0]), near, near, far, *(np.full(4, 9.0 + n) for n in range(9))]
    assert [row.scores.tolist() for row in different(merges(rows[:4]), 2)] == [rows[0].tolist(), far.tolist()]
    assert not any(merge.scores.max() > 16 for merge in different(merges(rows), 2)), "the pool has the best eight"
    with pytest.raises(UserError, match="found 3 different merges"):
        different(merges(rows[:4]), 4)


def test_a_second_round(config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The merges are searched on the first run's items, and what is written needs no merge of them."""
    monkeypatch.chdir(tmp_path)
    config["search"] |= {"trials": 12, "sampler": "random", "levels": "none", "start": "none"}
    go(config, tmp_path / "runs")
    first, out = tmp_path / "runs" / "small", Path("next.yml")
    paths = mergesearch.remerge([str(first)], "next.yml", 3)
    assert [path.parent for path in paths] == [Path("next")] * 3
    data = read_yaml(out)
    assert data["evaluate"]["split"] == config["evaluate"]["split"]
    with pytest.raises(UserError, match=r"next\.yml: expected a new file"):
        remerge([first], out, 3, lambda _: None)
    data["evaluate"]["split"]["seed"] = 1
    with pytest.raises(UserError, match="test items of task 'text' were search items of the run"):
        go(data, tmp_path / "elsewhere")
    data["evaluate"]["split"]["seed"] = 0
    data["search"]["trials"] = 7
    go(data, tmp_path / "runs")
    _check_the_next(tmp_path / "runs" / "next", first)


def _check_the_next(folder: Path, first: Path) -> None:
    run, scored = Run.read(folder), Checkpoint(str(folder / "model")).digest()
    shutil.rmtree("next")
    run.recommended.write("api")
    merge_file(folder / "recommended.yml", Path("file"))
    assert Checkpoint("api").digest() == Checkpoint("file").digest() == scored
    assert len(read_recipes(folder / "model" / "mergesearch_recipe.yml")) > 1
    originals = set(Run.read(first).best.recipe.references)
    names = {each.name for each in read_recipes(folder / "best.yml")}
    used = {reference for each in read_recipes(folder / "best.yml") for reference in each.references}
    assert used - names <= originals | {str(Path(path)) for path in originals}
    model, _ = run.best.build()
    assert list(model.parameters())


def test_runs_with_another_split_do_not_go_together(config: Data, tmp_path: Path) -> None:
    config["search"] |= {"trials": 8, "sampler": "random", "levels": "none", "start": "none"}
    config["output"]["model"] = False
    go(config, tmp_path / "a")
    config["evaluate"]["split"]["seed"] = 1
    go(config, tmp_path / "b")
    with pytest.raises(UserError, match="test items of one run were search items of the other"):
        remerge([tmp_path / "a" / "small", tmp_path / "b" / "small"], tmp_path / "next.yml", 2, lambda _: None)
    with pytest.raises(UserError, match="is no run"):
        remerge([tmp_path], tmp_path / "next.yml", 2, lambda _: None)

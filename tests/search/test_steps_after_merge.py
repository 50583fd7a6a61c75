"""A search whose candidates have a step after the merge."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import mergesearch
from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.search.space.space import Space


def test_what_a_search_scores_is_what_a_merge_writes(models: Path, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "calibration.txt").write_text("abc abd bcd acd " * 30)
    weight = {"weight": {"search": [0.0, 1.0]}}
    entries = [{"model": str(models / name), "parameters": weight} for name in ("one", "two")]
    repair = {"data": str(tmp_path / "calibration.txt"), "tokens": 256}
    searched = {**repair, "include": {"search": [True, False]}}
    config: dict[str, Any] = {
        "recipe": {"merge_method": "linear", "models": entries, "repair": searched},
        "evaluate": {
            "tasks": [{"evaluator": "bits_per_byte", "task": "texts", "files": [str(texts / "*.txt")]}],
            "split": {"search": 0.5, "test": 0.5, "seed": 0},
        },
        "search": {"trials": 12, "sampler": "random", "seed": 0},
        "output": {"name": "repaired"},
    }
    run = mergesearch.run(config, tmp_path)
    candidates = run.trials.dropna(subset="params.repair.include")
    assert set(candidates["params.repair.include"]) == {True, False}
    has_step = candidates["recipe"].map(lambda text: yaml.safe_load(text).get("repair") == repair)
    assert (has_step == candidates["params.repair.include"]).all()
    merge_file(run.folder / "recommended.yml", tmp_path / "merged")
    assert Checkpoint(str(tmp_path / "merged")).digest() == Checkpoint(str(run.folder / "model")).digest()


def test_include_is_a_choice(models: Path) -> None:
    entries = [{"model": str(models / "one"), "parameters": {"weight": {"search": [0.0, 1.0]}}}]
    recipe = {"merge_method": "linear", "models": entries, "repair": {"data": "text.txt", "include": True}}
    with pytest.raises(UserError, match=r"recipe: repair.include: found True, expected \{search: \[true, false\]\}"):
        Space(recipe, 2, "recipe")

"""Searches over checkpoints whose tensors go by other names, or are not all there: a search takes what a merge does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.evaluate import evaluate_model
from mergesearch.search.run import run
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder

from ..helpers import rescored

Data = dict[str, Any]
Tensors = dict[str, Tensor]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def edited(source: Path, folder: Path, change: Callable[[Tensors], Tensors], **config: Any) -> str:
    """A copy of a checkpoint with other tensors, and other values in its config."""
    shutil.copytree(source, folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **config}))
    save_file(change(load_file(source / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def without_prefix(tensors: Tensors) -> Tensors:
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def without_head(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != HEAD}


def tied(source: Path, folder: Path) -> str:
    return edited(source, folder, without_head, tie_word_embeddings=True)


def headless(source: Path, folder: Path) -> str:
    return edited(source, folder, lambda tensors: without_prefix(without_head(tensors)), architectures=["LlamaModel"])


def small(config: Data, **paths: str) -> Data:
    """The config with these in place of its base, first and second model, and two trials beside the baselines."""
    recipe = config["recipe"]
    recipe["base_model"] = paths.get("base", recipe["base_model"])
    for entry, name in zip(recipe["models"], ("one", "two"), strict=True):
        entry["model"] = paths.get(name, entry["model"])
    config["search"]["trials"] = 11
    return config


def searched(data: Data, results: Path) -> dict[str, float]:
    """Each baseline's score on the search items, after a run in which every trial could be scored."""
    run(open_plan(Config.model_validate(data), "config"), results)
    done = t.finished(RunFolder(results / "small").open_study(None))
    assert [trial.user_attrs.get(t.REASON) for trial in done] == [None] * len(done)
    return {trial.user_attrs[t.NAME]: trial.values[0] for trial in done if t.kind_of(trial) == t.BASELINE}


def rebuilt(results: Path, out: Path) -> None:
    """What is recommended is written as its recipe rebuilds it, and transformers finds every tensor that it expects."""
    import transformers

    merge(Recipe.read(yaml.safe_load((results / "small" / "recommended.yml").read_text())), out)
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (results / "small" / "model" / name).read_bytes()
    _, info = transformers.AutoModelForCausalLM.from_pretrained(results / "small" / "model", output_loading_info=True)
    assert not any(info.values())


def own_score(data: Data, folder: Path | str) -> float:
    """The checkpoint's own, as transformers loads it, on the search items."""
    found = evaluate_model(str(folder), Config.model_validate(data), "config")
    return -found.scores["text"].value.value


def on_all_texts(data: Data) -> Data:
    """The search looks at every text, so that a baseline's score is that of the checkpoint's own evaluation."""
    evaluate = data["evaluate"]
    del evaluate["split"]
    others = Path(evaluate["tasks"][0]["files"][0]).parents[1] / "others"
    others.mkdir(exist_ok=True)
    for number in range(2):
        (others / f"{number}.txt").write_text(f"{'abcdefghij'[number:]} is not searched on.\n")
    evaluate["test_tasks"] = [{**evaluate["tasks"][0], "task": "others", "files": [str(others / "*.txt")]}]
    return data


def test_a_model_without_the_prefix(config: Data, models: Path, tmp_path: Path) -> None:
    data = small(config)
    expected = searched(data, tmp_path / "plain")
    renamed = edited(models / "two", tmp_path / "two", without_prefix)
    found = searched(small(data, two=renamed), tmp_path / "renamed")
    # Random masks are drawn by the model's name in the recipe, which is another one.
    assert {**found, "dare_ties": 0} == {**expected, "dare_ties": 0}
    rebuilt(tmp_path / "renamed", tmp_path / "out")


@pytest.mark.parametrize("names", [["base"], ["base", "two"], ["one"]], ids=" and ".join)
def test_tied_and_untied(names: list[str], config: Data, models: Path, tmp_path: Path) -> None:
    """Each checkpoint scores what it scores on its own, whichever of them have one embedding for both ends."""
    paths = {name: tied(models / name, tmp_path / name) for name in names}
    data = on_all_texts(small(config, **paths))
    scores = searched(data, tmp_path)
    for name in ("base", "one", "two"):
        assert scores[name] == rescored(own_score(data, paths.get(name, models / name)))
    rebuilt(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_model_without_a_head(name: str, config: Data, models: Path, tmp_path: Path) -> None:
    data = on_all_texts(small(config, **{name: headless(models / name, tmp_path / name)}))
    with pytest.raises(UserError, match=r"config: recipe: the checkpoints differ in lm_head\.weight \(\[30, 16\] in "):
        open_plan(Config.model_validate(data), "config")
    data["recipe"]["on_mismatch"] = "base"
    scores = searched(data, tmp_path)
    completed = edited(models / name, tmp_path / "completed", lambda t: {**t, HEAD: base_head(models)})
    assert scores[name] == rescored(own_score(data, completed))
    rebuilt(tmp_path, tmp_path / "out")


def base_head(models: Path) -> Tensor:
    return load_file(models / "base" / "model.safetensors")[HEAD]


def test_a_tensor_that_a_model_has_beyond_the_base_and_does_not_use(config: Data, models: Path, tmp_path: Path) -> None:
    more = edited(models / "one", tmp_path / "one", lambda tensors: {**tensors, "value_head.weight": torch.ones(1, 16)})
    data = small(config, one=more)
    left_out = f"{more}: 1 tensor that transformers does not need and that {models / 'base'} does not have"
    warnings = open_plan(Config.model_validate(data), "config").problem.warnings
    assert [line for line in warnings if "value_head.weight" in line and line.startswith(left_out)]
    searched(data, tmp_path)
    rebuilt(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("wish", ["base", "overlap"])
def test_a_model_with_fewer_tokens(wish: str, config: Data, models: Path, tmp_path: Path) -> None:
    def shorter(tensors: Tensors) -> Tensors:
        return {**tensors, EMBEDDING: tensors[EMBEDDING][:-2].clone(), HEAD: tensors[HEAD][:-2].clone()}

    data = small(config, two=edited(models / "two", tmp_path / "two", shorter, vocab_size=28))
    data["recipe"]["on_mismatch"] = wish
    scores = searched(data, tmp_path)
    assert len(set(scores.values())) > 3
    rebuilt(tmp_path, tmp_path / "out")

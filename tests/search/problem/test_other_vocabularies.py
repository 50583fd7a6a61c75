"""Searches over models of different vocabularies: one vocabulary for candidates, and each model's own for baselines."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from mergesearch.errors import UserError
from mergesearch.evaluators import Budget
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import read_yaml
from mergesearch.search.config import Config
from mergesearch.search.evaluate import evaluate_model
from mergesearch.search.problem.problem import open_problem
from mergesearch.search.remerge import remerge
from mergesearch.search.scoring.live_model import LiveModel, open_engine

from ...evaluators.command_line import run
from ...evaluators.lm_eval_tasks import MULTIPLE_CHOICE, choice_docs, write_task
from ..helpers import go, rescored

Data = dict[str, Any]
NEW = ["ab", "cd", "ef"]


def with_other_tokens(source: Path, out: Path) -> str:
    """A copy of a model whose rows are in another order, with rows for three more tokens."""
    shutil.copytree(source, out)
    content = json.loads((out / "tokenizer.json").read_text())
    old = content["model"]["vocab"]
    rows = len(old)
    content["model"]["vocab"] = {token: (row + 5) % rows for token, row in old.items()}
    content["model"]["vocab"] |= {token: rows + n for n, token in enumerate(NEW)}
    for token in content["added_tokens"]:
        token["id"] = content["model"]["vocab"][token["content"]]
    (out / "tokenizer.json").write_text(json.dumps(content))
    tensors = load_file(out / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name].roll(5, 0), tensors[name][:3] + 0.1])
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    changed = {key: (value + 5) % rows for key, value in config.items() if key in ("bos_token_id", "eos_token_id")}
    (out / "config.json").write_text(json.dumps({**config, **changed, "vocab_size": rows + 3}))
    (out / "generation_config.json").unlink()
    return str(out)


@pytest.fixture
def pair(config: Data, models: Path, tmp_path: Path) -> Data:
    """A search over the base and two models, of which one has other tokens."""
    config["recipe"] = {
        "merge_method": {"search": ["task_arithmetic", "linear"]},
        "base_model": str(models / "base"),
        "models": [
            {"model": str(models / "one"), "parameters": {"weight": {"search": [0.0, 1.0]}}},
            {
                "model": with_other_tokens(models / "two", tmp_path / "other"),
                "parameters": {"weight": {"search": [0.0, 1.0]}},
                "include": {"search": [True, False]},
            },
        ],
    }
    config["search"]["trials"] = 14
    return config


@pytest.mark.parametrize("missing", ["mean", "subtokens", "omp"])
@pytest.mark.parametrize("source", ["union", "base"])
def test_the_live_model_is_what_merge_writes(source: str, missing: str, pair: Data, tmp_path: Path) -> None:
    pair["recipe"]["tokenizer"] = {"source": source, "missing": missing}
    problem = open_problem(Config.model_validate(pair), "config")
    engine = open_engine(problem, takes_gradients=False)
    rows = 30 + 3 * (source == "union")
    for method in problem.space.methods:
        for included in (True, False):
            point = {**problem.space.start(method, {}), "other.include": included}
            recipe = Recipe.read(yaml.safe_load(problem.space.fill(method, point).to_yaml()))
            assert len(recipe.models) == 1 + included
            engine.build(recipe)
            out = tmp_path / f"{method.name}-{included}"
            merge(recipe, out)
            assert engine.digest() == Checkpoint(str(out)).digest()
            assert load_file(out / "model.safetensors")["lm_head.weight"].shape[0] == rows
            assert len(AutoTokenizer.from_pretrained(out)) == rows == len(engine.tokenizer)


@pytest.mark.parametrize("source", ["union", "base"])
def test_each_model_is_scored_as_its_owner_has_it(source: str, pair: Data, models: Path, tmp_path: Path) -> None:
    pair["recipe"]["tokenizer_source"] = source
    pair["search"] |= {"trials": 12, "racing": True, "start": "gradient"}
    verdict = go(pair, tmp_path)
    scores = {row.name: row.tasks["text"]["all"] for row in verdict.baselines}
    for name, folder in {"base": models / "base", "one": models / "one", "other": tmp_path / "other"}.items():
        own = evaluate_model(str(folder), Config.model_validate(pair), "config").scores["text"].value.value
        assert scores[name] == rescored(own)
    merge_file(tmp_path / "small" / "best.yml", tmp_path / "out")
    found = evaluate_model(str(tmp_path / "out"), Config.model_validate(pair), "config").scores["text"].value.value
    assert verdict.winner.tasks["text"]["all"] == rescored(found)


def test_soups_and_learned_soups(pair: Data, tmp_path: Path) -> None:
    pair["recipe"] |= {"tokenizer_source": "union"}
    pair["search"] |= {"trials": 20, "soups": ["greedy_safe", "learned_layers"]}
    verdict = go(pair, tmp_path)
    assert [row.name for row in verdict.soups] == ["greedy soup (safe)", "learned soup (layers)"]
    assert verdict.left_out == []
    stored = read_yaml(tmp_path / "small" / "config.yml")
    assert open_problem(Config.model_validate(stored), "config").tokenizer
    assert go(pair, tmp_path).trials == 20
    merges = remerge([tmp_path / "small"], tmp_path / "again.yml", top=4)
    again = open_problem(Config.read(tmp_path / "again.yml"), str(tmp_path / "again.yml"))
    rows = {len(AutoTokenizer.from_pretrained(merged)) for merged in merges}
    assert (again.tokenizer is None) == (len(rows) == 1)


def test_a_tokenizer_that_cannot_be_read(pair: Data, tmp_path: Path) -> None:
    pair["recipe"]["tokenizer_source"] = "union"
    (tmp_path / "other" / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}, "type": "none"}}')
    with pytest.raises(UserError, match=r"other: transformers cannot read the tokenizer \(tokenizer\.json"):
        open_problem(Config.model_validate(pair), "config")


def test_no_token_in_common(pair: Data, tmp_path: Path) -> None:
    pair["recipe"]["tokenizer"] = {"source": "union", "missing": "omp"}
    file = tmp_path / "other" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] = {f"{token}!": row for token, row in content["model"]["vocab"].items()}
    file.write_text(json.dumps({**content, "added_tokens": []}))
    config = json.loads((tmp_path / "other" / "tokenizer_config.json").read_text())
    others = {key: value for key, value in config.items() if not key.endswith("_token")}
    (tmp_path / "other" / "tokenizer_config.json").write_text(json.dumps({**others, "unk_token": "<s>!"}))
    content["model"]["unk_token"] = "<s>!"
    file.write_text(json.dumps({**content, "added_tokens": []}))
    with pytest.raises(UserError, match=r"config: recipe: tokenizer\.missing: omp: .*other have no token in common"):
        open_problem(Config.model_validate(pair), "config")


def test_a_hole_in_the_tokenizer(pair: Data) -> None:
    pair["recipe"]["tokenizer"] = {"source": "union", "missing": {"search": ["mean", "omp", "subtokens"]}}
    with pytest.raises(UserError, match=r"tokenizer\.missing"):
        open_problem(Config.model_validate(pair), "config")


@pytest.mark.slow
def test_lm_evals_command_line_says_the_same(pair: Data, tmp_path: Path) -> None:
    """Of a candidate in the live model, and of a model as its owner has it."""
    docs = [{**doc, "question": doc["question"][:24]} for doc in choice_docs(random.Random(0), 40)]
    write_task(tmp_path, "choices", docs, MULTIPLE_CHOICE + "num_fewshot: 0\n")
    pair["evaluate"] |= {"tasks": [{"task": "choices"}], "include_path": str(tmp_path)}
    pair["recipe"]["tokenizer"] = {"source": "union", "missing": "subtokens"}
    problem = open_problem(Config.model_validate(pair), "config")
    engine, method = open_engine(problem, takes_gradients=False), problem.space.methods[0]
    merged = problem.space.fill(method, problem.space.start(method, {}))
    merge(merged, tmp_path / "out")
    alone = Recipe.read({"merge_method": "linear", "models": [{"model": str(tmp_path / "other")}]})
    live = LiveModel(engine, problem.config.evaluate, Budget(2048))
    [task] = problem.tasks.all
    for count, (recipe, folder) in enumerate(
        ((merged, tmp_path / "out"), (alone, tmp_path / "other"), (merged, tmp_path / "out"))
    ):
        engine.build(recipe)
        problem.tasks.prepare(live.loaded)
        found = task.evaluator.value(task.evaluator.items, task.score(live.loaded, task.evaluator.items))
        command = ["--model", "hf", "--model_args", f"pretrained={folder}", "--tasks", "choices"]
        command += ["--include_path", str(tmp_path), "--device", "cpu"]
        printed = run(command, {"plain": []}, tmp_path / f"printed-{count}", tmp_path / "cache")
        assert found == printed["plain"].values["choices"]["acc,none"]
        assert 0 < found < 1

"""Baselines that compute or are used otherwise than the template score what `mergesearch eval` says of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mergesearch
from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import dump_yaml, read_yaml
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.evaluate import evaluate_model
from mergesearch.search.optimize.callbacks import QUIET, Watcher
from mergesearch.search.run import run

from .helpers import rescored, session_of

Data = dict[str, Any]


def copy_of(source: Path, folder: Path, **config: Any) -> str:
    """A copy of a checkpoint with other values in its config."""
    shutil.copytree(source, folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **config}))
    return str(folder)


def two_only(config: Data, two: str) -> Data:
    """A search over one weight of one model."""
    config["recipe"] = {
        "merge_method": "task_arithmetic",
        "base_model": config["recipe"]["base_model"],
        "models": [{"model": two, "parameters": {"weight": {"search": [0.0, 1.0]}}}],
    }
    config["search"]["trials"] = 6
    return config


def baselines(data: Data, results: Path, watcher: Watcher = QUIET) -> dict[str, float]:
    """Each baseline's value on all items, after a run."""
    verdict = run(open_plan(Config.model_validate(data), "config"), results, watcher)
    return {row.name: row.tasks["text"]["all"] for row in [*verdict.baselines, verdict.winner]}


def own_score(data: Data, folder: Path | str) -> float:
    found = evaluate_model(str(folder), Config.model_validate(data), "config")
    return found.scores["text"].value.value


def with_capitals(folder: str) -> None:
    """The tokenizer begins every text with another letter."""
    file = Path(folder) / "tokenizer.json"
    content = json.loads(file.read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "a"}, "content": "z"}
    file.write_text(json.dumps(content))


def scale(folder: str, part: str, factor: float) -> None:
    """Multiplies the tensors with this part in their names."""
    file = Path(folder) / "model.safetensors"
    tensors = {name: tensor * (factor if part in name else 1) for name, tensor in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})


OTHERWISE: dict[str, tuple[Data, Callable[[str], None]]] = {
    "rope": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
        lambda folder: scale(folder, "_proj", 9),
    ),
    "norm": ({"rms_norm_eps": 0.5}, lambda _: None),
    "tokenizer": ({}, with_capitals),
}


@pytest.mark.parametrize("kind", OTHERWISE)
def test_a_baseline_is_scored_as_its_owner_has_it(kind: str, config: Data, models: Path, tmp_path: Path) -> None:
    changed, change = OTHERWISE[kind]
    two = copy_of(models / "two", tmp_path / "two", **changed)
    change(two)
    data, said = two_only(config, two), list[str]()
    scores = baselines(data, tmp_path / "results", Watcher(stage=said.append))
    assert scores["two"] == rescored(own_score(data, two))
    shutil.copy(models / "two" / "config.json", tmp_path / "two" / "config.json")
    shutil.copy(models / "two" / "tokenizer.json", tmp_path / "two" / "tokenizer.json")
    assert scores["two"] != rescored(own_score(data, two))
    assert scores["base"] == rescored(own_score(data, models / "base"))
    folder = tmp_path / "results" / "small"
    warned = ["config.json differs" in line for line in mergesearch.Run.read(folder).verdict.warnings]
    assert warned == [True] * bool(changed)
    assert any("config.json differs" in line for line in said) == bool(changed)
    assert ("config.json differs" in (folder / "report.html").read_text()) == bool(changed)


def test_such_a_baseline_is_written_as_it_was_scored_where_it_is_recommended(
    config: Data, models: Path, tmp_path: Path
) -> None:
    """With its own norm, which brings all logits near to zero, it is better than the base and all merges."""
    data = two_only(config, copy_of(models / "two", tmp_path / "two", rms_norm_eps=100.0))
    data["recipe"]["base_model"] = copy_of(models / "base", tmp_path / "base")
    scale(data["recipe"]["base_model"], "lm_head", 50)
    scores = baselines(data, tmp_path / "results")
    folder = tmp_path / "results" / "small"
    assert scores["two"] < scores["base"]
    assert mergesearch.Run.read(folder).verdict.recommended == "two"
    assert own_score(data, folder / "model") == rescored(scores["two"])
    merge(Recipe.read(read_yaml(folder / "recommended.yml")), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rms_norm_eps"] == 100.0
    built = mergesearch.Run.read(folder).recommended.build().model
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(built.state_dict()["model.norm.weight"], stored["model.norm.weight"])


def test_a_baseline_with_another_pooling_is_scored_with_its_own(config: Data, models: Path, tmp_path: Path) -> None:
    folders = []
    for name, flag in (("base", "cls_token"), ("two", "mean_tokens")):
        folders.append(Path(copy_of(models / name, tmp_path / name)))
        (folders[-1] / "1_Pooling").mkdir()
        (folders[-1] / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{flag}": True}))
    rows = [{"sentence1": "ab"[n % 2] * n, "sentence2": "abc"[n % 3] * 9, "score": n * 7 % 10} for n in range(1, 25)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = two_only(config, str(folders[1]))
    data["recipe"]["base_model"] = str(folders[0])
    task = {"evaluator": "embedding", "task": "text", "data": str(tmp_path / "pairs.jsonl")}
    data["evaluate"] = {"tasks": [task], "split": {"search": 0.5, "test": 0.5}}
    scores = baselines(data, tmp_path / "results")
    for folder in folders:
        own = evaluate_model(str(folder), Config.model_validate(data), "config").scores["text"].value.value
        assert scores[folder.name] == rescored(own)
    assert own_pooling_matters(data, folders[1], scores["two"])


def own_pooling_matters(data: Data, folder: Path, score: float) -> bool:
    data["evaluate"]["tasks"][0]["pooling"] = "cls"
    found = evaluate_model(str(folder), Config.model_validate(data), "config")
    return bool(score != rescored(found.scores["text"].value.value))


def test_models_of_another_kind_are_refused_by_check(config: Data, models: Path, tmp_path: Path) -> None:
    data = two_only(config, copy_of(models / "two", tmp_path / "two", hidden_act="relu"))
    with pytest.raises(UserError, match=r"config: recipe: .*two: config\.json: .*hidden_act"):
        open_plan(Config.model_validate(data), "config")
    data["recipe"]["on_config_mismatch"] = "warn"
    assert "hidden_act" in open_plan(Config.model_validate(data), "config").problem.warnings[0]


# Labels


WORDS = ["[UNK]", "[PAD]", *"abcdefgh"]


def classifier(folder: Path, seed: int, **config: Any) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(BertConfig(vocab_size=len(WORDS), num_labels=3, **small))
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    for key in ("id2label", "label2id"):
        content.pop(key, None)
    (folder / "config.json").write_text(json.dumps({**content, **config}))
    return str(folder)


def named(*names: str) -> Data:
    return {"id2label": {str(n): name for n, name in enumerate(names)}}


def only_by_label(*names: str) -> Data:
    return {"label2id": {name: n for n, name in enumerate(names)}}


def label_data(tmp_path: Path, one: str, two: str, section: str) -> Data:
    letters = str.maketrans("0123456789", "abcdefghab")
    rows = [{"text": " ".join(f"{n:03}".translate(letters)), "label": "xyz"[n % 3]} for n in range(48)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"evaluator": "classification", "task": "text", "data": str(tmp_path / "data.jsonl")}
    models = [{"model": model, "parameters": {"weight": {"search": [0.1, 1.0]}}} for model in (one, two)]
    recipe = {"recipe": {"merge_method": "linear", "models": models}, "search": {"trials": 6}}
    soup = {"soup": {"models": [one, two], "kinds": ["uniform"], "check_heads": False}}
    evaluate = {"tasks": [task], "split": {"search": 0.5, "test": 0.5}}
    return {**(soup if section == "soup" else recipe), "evaluate": evaluate, "output": {"name": "small"}}


@pytest.mark.parametrize("form", [named, only_by_label])
@pytest.mark.parametrize("section", ["recipe", "soup"])
def test_labels_in_another_order(form: Callable[..., Data], section: str, tmp_path: Path) -> None:
    """The same as if the second model had been saved with its rows in the order of the first."""
    one = classifier(tmp_path / "one", 1, **named("x", "y", "z"))
    two = classifier(tmp_path / "two", 2, **form("z", "x", "y"))
    data = label_data(tmp_path, one, two, section)
    scores = baselines(data, tmp_path / "results")
    ordered = Path(copy_of(Path(two), tmp_path / "ordered", **named("x", "y", "z"), label2id=None))
    reorder(ordered, [1, 2, 0])
    assert scores["two"] == accuracy(data, str(ordered))
    logits = [outputs(folder) for folder in (one, str(ordered))]
    recipe = {"merge_method": "linear", "models": [{"model": m, "parameters": {"weight": 0.5}} for m in (one, two)]}
    merge(Recipe.read(recipe), tmp_path / "out")
    recipe["models"] = [{"model": m, "parameters": {"weight": 0.5}} for m in (one, str(ordered))]
    merge(Recipe.read(recipe), tmp_path / "expected")
    assert torch.equal(outputs(str(tmp_path / "out")), outputs(str(tmp_path / "expected")))
    assert not torch.equal(*logits)


def reorder(folder: Path, rows: list[int]) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name][rows].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def outputs(folder: str) -> torch.Tensor:
    from transformers import AutoModelForSequenceClassification

    with torch.no_grad():
        logits: torch.Tensor = (
            AutoModelForSequenceClassification.from_pretrained(folder).eval()(torch.tensor([[2, 3, 4, 5]])).logits
        )
    return logits


def accuracy(data: Data, folder: str) -> float:
    found = evaluate_model(folder, Config.model_validate(data), "config")
    return found.scores["text"].value.value


def test_other_labels_are_refused(tmp_path: Path) -> None:
    one = classifier(tmp_path / "one", 1, **named("x", "y", "z"))
    two = classifier(tmp_path / "two", 2, **named("x", "y", "w"))
    data = label_data(tmp_path, one, two, "soup")
    with pytest.raises(UserError, match=r"two: has other labels \(id2label\) than .*one: w; expected x, y, z"):
        open_plan(Config.model_validate(data), "config")
    data["soup"]["on_config_mismatch"] = "warn"
    (warning,) = open_plan(Config.model_validate(data), "config").problem.warnings
    assert "the rows are merged in their order" in warning


def test_labels_without_names_are_a_warning(tmp_path: Path) -> None:
    one = classifier(tmp_path / "one", 1, **named("x", "y", "z"))
    two = classifier(tmp_path / "two", 2, **named("LABEL_0", "LABEL_1", "LABEL_2"))
    problem = open_plan(Config.model_validate(label_data(tmp_path, one, two, "recipe")), "config").problem
    assert any("(id2label)" in warning for warning in problem.warnings)


def test_the_command_line_warns_on_standard_error(models: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from mergesearch.search.cli import main

    two = copy_of(models / "two", tmp_path / "two", rms_norm_eps=0.5)
    entries = [{"model": model, "parameters": {"weight": 0.5}} for model in (str(models / "base"), two)]
    (tmp_path / "recipe.yml").write_text(dump_yaml({"merge_method": "linear", "models": entries}))
    result = CliRunner().invoke(main, ["merge", str(tmp_path / "recipe.yml"), str(tmp_path / "out")])
    assert result.exit_code == 0
    assert "warning: " in result.stderr
    assert "rms_norm_eps (0.5, not 1e-06)" in result.stderr


# Bases and chat templates


def test_models_that_may_be_the_template_compute_alike(config: Data, models: Path, tmp_path: Path) -> None:
    """Where a base is a choice, or there is none and the first model is one."""
    two, one = copy_of(models / "two", tmp_path / "two", rms_norm_eps=0.5), str(models / "one")
    data = two_only(config, two)
    data["recipe"]["base_model"] = {"search": [str(models / "base"), two]}
    data["recipe"]["models"][0]["model"] = one
    with pytest.raises(UserError, match=r"base_model: .*base and .*two differ in config\.json: rms_norm_eps"):
        open_plan(Config.model_validate(data), "config")
    entries = [
        {"model": {"search": [one, two]}, "parameters": {"weight": 0.5}},
        {"model": str(models / "base"), "parameters": {"weight": {"search": [0.1, 1]}}},
    ]
    data["recipe"] = {"merge_method": "linear", "models": entries}
    with pytest.raises(UserError, match=r"one and .*two differ in config\.json: rms_norm_eps.*set base_model"):
        open_plan(Config.model_validate(data), "config")
    data["recipe"]["base_model"] = str(models / "base")
    open_plan(Config.model_validate(data), "config")


def test_a_chat_template_of_a_model(config: Data, models: Path, tmp_path: Path) -> None:
    """A warning where only a fine-tune has one; where the recipe takes it, candidates are scored and written so."""
    two = copy_of(models / "two", tmp_path / "two")
    (tmp_path / "two" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!\n")
    data = two_only(config, two)
    warnings = open_plan(Config.model_validate(data), "config").problem.warnings
    assert any(
        "has a chat template; the result has none" in line and f"`chat_template: {two}`" in line for line in warnings
    )
    data["recipe"]["chat_template"] = two
    session = session_of(data, tmp_path / "results")
    assert session.plan.problem.warnings == []
    assert session.live.engine.tokenizer.chat_template == "{{ messages[0]['content'] }}!\n"
    recipe = session.plan.problem.space.fill(session.plan.problem.space.methods[0], {"two.weight": 0.5})
    session.live.engine.build(recipe)
    session.live.engine.save(tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}!\n"
    data["recipe"]["chat_template"] = str(models / "base")
    with pytest.raises(UserError, match=r"recipe: chat_template: .*base has no chat template; did you mean .*two"):
        open_plan(Config.model_validate(data), "config")


@pytest.mark.parametrize("kind", ["tokenizer", "rope"])
def test_an_ensemble_needs_one_tokenizer(kind: str, config: Data, models: Path, tmp_path: Path) -> None:
    changed, change = OTHERWISE[kind]
    two = copy_of(models / "two", tmp_path / "two", **changed)
    change(two)
    data, said = two_only(config, two), list[str]()
    data["evaluate"]["ensemble"] = True
    verdict = run(open_plan(Config.model_validate(data), "config"), tmp_path / "results", Watcher(stage=said.append))
    assert (verdict.ensemble is None) == (kind == "tokenizer")
    assert any("different tokenizers" in line for line in said) == (kind == "tokenizer")

"""Whole runs with evaluators of every kind: classifiers, functions, programs, ensembles, several tasks."""

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from optuna.trial import TrialState

from mergesearch.errors import UserError
from mergesearch.evaluators.tasks.classification import Classification
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import dump_yaml
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.cli import main
from mergesearch.search.config import Config
from mergesearch.search.optimize.callbacks import Watcher
from mergesearch.search.run import run
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.verdict.result import Verdict
from mergesearch.search.verdict.wording import graded_in_words

from ...tolerances import close
from ..helpers import course, killed, rescored, save_fine_tunes, study_of

Data = dict[str, Any]
WORDS = ["good", "fine", "great", "bad", "poor", "awful", "film", "book", "the", "a"]
LABELS = ["worse", "better"]


def go(data: Data, results: Path, notes: list[str] | None = None) -> Verdict:
    say = (notes if notes is not None else []).append
    return run(open_plan(Config.model_validate(data), "config"), results, Watcher(stage=say, detail=say))


@pytest.fixture(scope="session")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the BERT classifiers base, one and two."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("classifiers")
    known = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]")
    config = BertConfig(
        vocab_size=len(known),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        initializer_range=0.5,
        id2label=dict(enumerate(LABELS)),
        label2id={name: n for n, name in enumerate(LABELS)},
    )
    save_fine_tunes(folder, lambda: BertForSequenceClassification(config), fast, 0.2)
    return folder


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """Forty labelled texts, one of them longer than the context."""
    draw = random.Random(0)
    rows = [
        {"text": " ".join(draw.choices(WORDS, k=30 if n == 0 else draw.randint(2, 8))), "label": draw.choice(LABELS)}
        for n in range(40)
    ]
    file = tmp_path / "reviews.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def classification(classifiers: Path, reviews: Path) -> Data:
    """A search among classifiers by accuracy and by F1."""
    models = [
        {"model": str(classifiers / name), "parameters": {"weight": {"search": [0.0, 1.5]}}} for name in ("one", "two")
    ]
    task = {"evaluator": "classification", "data": str(reviews)}
    return {
        "recipe": {"merge_method": "task_arithmetic", "base_model": str(classifiers / "base"), "models": models},
        "evaluate": {
            "tasks": [{**task, "task": "reviews", "metric": metric} for metric in ("accuracy", "f1", "mcc")],
            "split": {"search": 0.5, "test": 0.5},
        },
        "search": {"trials": 12, "sampler": "random"},
        "output": {"name": "small"},
    }


def test_classifiers_are_searched_judged_and_written(classification: Data, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    classification["evaluate"]["ensemble"] = True
    notes: list[str] = []
    verdict = go(classification, tmp_path, notes)
    assert "task 'reviews:accuracy': 1 of 40 texts are cut to 12 tokens" in notes
    folder = tmp_path / "small"
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    reader = AutoTokenizer.from_pretrained(folder / "model")
    rows = [json.loads(line) for line in (tmp_path / "reviews.jsonl").read_text().splitlines()]
    with torch.no_grad():
        encoded = [reader(row["text"], return_tensors="pt", truncation=True, max_length=12) for row in rows]
        said = [LABELS[int(model(**one).logits.argmax())] for one in encoded]
    right = sum(one == row["label"] for one, row in zip(said, rows, strict=True)) / len(rows)
    assert verdict.recommended_row.tasks["reviews:accuracy"]["all"] == close(right, 40)
    is_sampled = verdict.winner.trial not in [row.trial for row in verdict.baselines]
    assert (verdict.graded is not None) == is_sampled
    assert bool(graded_in_words(verdict)) == is_sampled
    assert verdict.ensemble is not None
    assert verdict.ensemble.name == "ensemble of 2 models"
    assert 0 <= verdict.ensemble.tasks["reviews:accuracy"]["test"] <= 1
    assert verdict.best_baseline != verdict.ensemble.name
    assert Verdict.from_json(json.loads((folder / "verdict.json").read_text())) == verdict
    assert verdict.ensemble.name in (folder / "report.html").read_text()


def test_scores_of_several_numbers_are_kept(classification: Data, tmp_path: Path) -> None:
    go(classification, tmp_path)
    folder = RunFolder(tmp_path / "small")
    scores = folder.load_scores(t.scores_name(0))
    assert {task: tuple(one.shape) for task, one in scores.items()} == {
        "reviews:accuracy": (20,),
        "reviews:f1": (20, 2),
        "reviews:mcc": (20, 2),
    }
    values = t.finished(folder.open_study(None))[0].user_attrs[t.VALUES]
    plan = open_plan(Config.model_validate(classification), "config")
    assert plan.problem.tasks.values("search", scores) == values


@pytest.mark.parametrize("sampler", ["cmaes", "tpe"])
def test_a_graded_run_goes_on_where_it_was_killed(
    classification: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    classification["search"] |= {"trials": 26, "sampler": sampler}
    notes: list[str] = []
    go(classification, tmp_path / "whole", notes)
    for call in (13, 8):
        killed(monkeypatch, "tell", call, classification, tmp_path / "torn")
    go(classification, tmp_path / "torn")
    assert course(tmp_path / "torn" / "small") == course(tmp_path / "whole" / "small")
    told = [study_of(tmp_path / name / "small").user_attrs[t.SIGNAL] for name in ("whole", "torn")]
    assert told[0] == told[1]
    assert told[0][0].startswith("signal of reviews:accuracy: grades of bandwidth ")
    assert set(told[0]) <= set(notes)
    assert told[0][0] in (tmp_path / "torn" / "small" / "report.html").read_text()


def test_a_descent_on_classifiers_goes_on_where_it_was_killed(
    classification: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for entry in classification["recipe"]["models"]:
        entry["parameters"]["weight"]["curve"] = 3
    classification["search"] |= {"trials": 17, "levels": "none", "gradient": {"steps": 4, "items": 0.5, "points": 1}}
    notes: list[str] = []
    go(classification, tmp_path / "whole", notes)
    names = ", ".join(f"reviews:{metric}" for metric in ("accuracy", "f1", "mcc"))
    assert f"gradient start: follows the loss (graded) of {names}" in notes
    assert not [note for note in notes if "failed" in note]
    killed(monkeypatch, "targets", 8, classification, tmp_path / "torn", Classification)
    go(classification, tmp_path / "torn")
    found = course(tmp_path / "torn" / "small")
    assert found == course(tmp_path / "whole" / "small")
    assert [kind for kind, *_ in found].count(t.GRADIENT) == 1


def test_a_run_that_is_told_the_metric_keeps_no_margins(classification: Data, tmp_path: Path) -> None:
    classification["search"]["signal"] = "metric"
    go(classification, tmp_path / "metric")
    classification["search"]["signal"] = "graded"
    go(classification, tmp_path / "graded")
    items = open_plan(Config.model_validate(classification), "config").problem.tasks.items("search")
    folders = [RunFolder(tmp_path / name / "small") for name in ("metric", "graded")]
    (scores, none), (same, margins) = (each.load_scores_and_margins(t.scores_name(0), items) for each in folders)
    assert not none
    assert {name: values.tolist() for name, values in scores.items()} == {k: v.tolist() for k, v in same.items()}
    assert {name: tuple(values.shape) for name, values in margins.items()} == {
        "reviews:accuracy": (20,),
        "reviews:f1": (20, 2),
        "reviews:mcc": (20, 2),
    }
    assert t.SIGNAL not in study_of(tmp_path / "metric" / "small").user_attrs


def test_grades_need_a_task_that_has_margins(config: Data) -> None:
    config["search"]["signal"] = "graded"
    with pytest.raises(UserError, match=r"search\.signal: found graded, but 'text' has no margins"):
        open_plan(Config.model_validate(config), "config")


def test_an_ensemble_of_one_fine_tune_is_with_the_base(config: Data, tmp_path: Path) -> None:
    """Bits per byte of the mean of two models' probabilities, on the run's own test items."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config["recipe"] = {
        "merge_method": "task_arithmetic",
        "base_model": config["recipe"]["base_model"],
        "models": [{"model": config["recipe"]["models"][0]["model"], "parameters": {"weight": {"search": [0.0, 1.0]}}}],
    }
    config["evaluate"]["ensemble"] = True
    config["search"]["trials"] = 7
    verdict = go(config, tmp_path)
    assert verdict.ensemble is not None
    folders = [config["recipe"]["base_model"], config["recipe"]["models"][0]["model"]]
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in folders]
    reader = AutoTokenizer.from_pretrained(folders[0])
    nats, size = 0.0, 0
    for file in sorted((tmp_path / "texts").iterdir()):
        ids = torch.tensor([[0, *reader(file.read_text()).input_ids]])
        assert ids.shape[1] <= 65, "one window"
        with torch.no_grad():
            mixture = torch.stack([model(ids[:, :-1]).logits[0].double().softmax(-1) for model in models]).mean(0)
        nats -= float(mixture.log().gather(1, ids[0, 1:, None]).sum())
        size += file.stat().st_size
    assert verdict.ensemble.tasks["text"]["all"] == rescored(nats / size / 0.6931471805599453)


def test_the_ensemble_is_scored_once_in_a_run(config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config["evaluate"]["ensemble"] = True
    config["search"]["trials"] = 9
    first = go(config, tmp_path).ensemble
    monkeypatch.setattr("mergesearch.search.verdict.ensemble._ensemble", None)
    config["search"]["trials"] = 10
    again = go(config, tmp_path)
    assert again.trials == 10
    assert again.ensemble == first


def test_a_run_does_without_an_ensemble_that_fails(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config["evaluate"]["ensemble"] = True
    config["search"]["trials"] = 9

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("mergesearch.search.verdict.ensemble._ensemble", full)
    notes: list[str] = []
    assert go(config, tmp_path, notes).ensemble is None
    assert "the ensemble could not be scored: OutOfMemoryError: no room" in notes


FUNCTION = """
def judge(model, tokenizer):
    norm = float(sum(p.square().sum() for p in model.parameters()))
    if {fails}:
        raise RuntimeError("judge is ill")
    return {{f"q{{n}}": norm / (n + 1) for n in range(6)}}
judge.items = [f"q{{n}}" for n in range(6)]

def whole(model, tokenizer):
    return 1.0 / float(sum(p.square().sum() for p in model.parameters()))
"""


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    file = tmp_path / "judge.py"
    file.write_text(FUNCTION.format(fails="False"))
    return file


def test_a_function_named_as_the_evaluator(config: Data, judge: Path, tmp_path: Path) -> None:
    config["evaluate"]["tasks"] = [{"evaluator": f"{judge}:judge", "task": "judged"}]
    config["search"]["trials"] = 9
    verdict = go(config, tmp_path)
    assert verdict.test_items == 3
    written = yaml.safe_load((tmp_path / "small" / "config.yml").read_text())["evaluate"]["tasks"][0]
    assert (written["evaluator"], written["function"]) == ("function", f"{judge}:judge")
    assert go(config, tmp_path) == verdict


def test_a_function_that_fails_fails_its_candidate(config: Data, tmp_path: Path) -> None:
    file = tmp_path / "ill.py"
    file.write_text("calls = []\n" + FUNCTION.format(fails="calls.append(1) or len(calls) == 3"))
    config["evaluate"]["tasks"] = [{"evaluator": "function", "function": f"{file}:judge", "task": "judged"}]
    config["search"]["trials"] = 9
    go(config, tmp_path)
    trials = t.finished(RunFolder(tmp_path / "small").open_study(None))
    (failed,) = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert failed.user_attrs[t.REASON] == "RuntimeError: judge is ill"


def test_one_number_for_the_whole_model_counts_in_the_search_alone(config: Data, judge: Path, tmp_path: Path) -> None:
    config["evaluate"]["tasks"].append({"evaluator": f"{judge}:whole", "task": "whole", "weight": 2.0})
    config["search"]["trials"] = 9
    notes: list[str] = []
    verdict = go(config, tmp_path, notes)
    assert any(note.startswith("task 'whole': gives one number for the whole model") for note in notes)
    values = verdict.winner.tasks
    assert set(values["whole"]) == {"search", "all"}
    assert verdict.winner.search.value == close((2 * values["whole"]["all"] - values["text"]["search"]) / 3, 16)
    assert verdict.winner.test.value == close(-values["text"]["test"], 16)


def test_a_verdict_on_nothing_is_refused(config: Data, judge: Path) -> None:
    whole = {"evaluator": f"{judge}:whole", "task": "whole"}
    config["evaluate"]["tasks"] = [whole]
    with pytest.raises(UserError, match="tasks: 'whole': found one number for the whole model and no items"):
        open_plan(Config.model_validate(config), "config")
    del config["evaluate"]["split"]
    config["evaluate"]["test_tasks"] = [{**whole, "task": "whole again"}]
    with pytest.raises(UserError, match="no verdict can be held on"):
        open_plan(Config.model_validate(config), "config")


PROGRAM = """
import hashlib, json, sys
from pathlib import Path
folder = Path(sys.argv[1])
digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
with open(sys.argv[3], "a") as log:
    print(digest, *sorted(file.name for file in folder.iterdir()), file=log)
value = int(digest[:6], 16) / 16**6
print(json.dumps({name: value for name in Path(sys.argv[2]).read_text().split()}))
"""


def test_a_program_gets_what_merge_would_write(config: Data, tmp_path: Path) -> None:
    program, log = tmp_path / "program.py", tmp_path / "log"
    program.write_text(PROGRAM)
    command = [sys.executable, "-I", "-S", str(program), "{model}", "{items}", str(log)]
    items = [f"q{n}" for n in range(4)]
    config["evaluate"]["tasks"] = [{"evaluator": "command", "task": "judged", "command": command, "items": items}]
    config["search"]["trials"] = 11
    verdict = go(config, tmp_path)
    seen = [line.split() for line in log.read_text().splitlines()]
    recipes = [trial.user_attrs[t.RECIPE] for trial in t.finished(RunFolder(tmp_path / "small").open_study(None))]
    last = tmp_path / "again"
    merge(Recipe.read(yaml.safe_load(recipes[-1])), last)
    digest = hashlib.sha256((last / "model.safetensors").read_bytes()).hexdigest()
    assert digest in {line[0] for line in seen}
    assert {"config.json", "tokenizer.json", "README.md"} <= set(seen[0])
    winner = hashlib.sha256((tmp_path / "small" / "model" / "model.safetensors").read_bytes()).hexdigest()
    assert verdict.recommended_row.test.value == int(winner[:6], 16) / 16**6
    file = tmp_path / "eval.yml"
    file.write_text(dump_yaml(config))
    found = CliRunner().invoke(main, ["eval", str(last), str(file), "--json"])
    assert json.loads(found.stdout)["tasks"]["judged"]["score"] == int(digest[:6], 16) / 16**6


def test_what_the_model_lacks_is_found_before_the_first_trial(classification: Data, tmp_path: Path) -> None:
    with (tmp_path / "reviews.jsonl").open("a") as file:
        file.write('{"text": "the book", "label": "so so"}\n')
    config = tmp_path / "config.yml"
    config.write_text(dump_yaml(classification))
    found = CliRunner().invoke(main, ["run", str(config), "--results", str(tmp_path / "runs")])
    assert found.exit_code == 2
    assert found.stderr.startswith("error: evaluate: task 'reviews:accuracy': label: ")
    assert "has the label 'so so', which the model does not have; valid: 'better', 'worse'" in found.stderr
    assert not t.finished(RunFolder(tmp_path / "runs" / "small").open_study(None))


def text_task(config: Data, **more: Any) -> Data:
    return {**config["evaluate"]["tasks"][0], **more}


def test_objectives_that_cannot_be(config: Data, judge: Path) -> None:
    judged = {"evaluator": f"{judge}:judge", "task": "judged"}
    cases: list[tuple[Data, dict[str, Any], list[Data], str]] = [
        (config, {"aggregate": "min"}, [text_task(config), judged], "min needs tasks .* lower is better for text"),
        (config, {"aggregate": "min"}, [judged, {**judged, "task": "b", "weight": 2}], "takes no weights but 0 and 1"),
        (config, {"normalize": "leaderboard"}, [text_task(config)], "task 'text' has the metric bits_per_byte, where"),
        (config, {"normalize": "leaderboard"}, [judged], "what guessing scores in task 'judged' is not known"),
        (config, {"ensemble": True}, [text_task(config), judged], "'judged' gives no logits to average"),
    ]
    for data, options, tasks, message in cases:
        changed = {**data, "evaluate": {**data["evaluate"], "tasks": tasks, **options}}
        with pytest.raises(UserError, match=f"config: evaluate: .*{message}"):
            open_plan(Config.model_validate(changed), "config")


def test_normalised_by_what_items_say_or_the_config(classification: Data, tmp_path: Path) -> None:
    tasks = classification["evaluate"]["tasks"]
    tasks[1] |= {"chance": 0.4, "weight": 2.0}
    tasks[2]["normalize"] = "none"
    classification["evaluate"]["normalize"] = "leaderboard"
    verdict = go(classification, tmp_path)
    accuracy, f1, mcc = (verdict.winner.tasks[f"reviews:{name}"]["test"] for name in ("accuracy", "f1", "mcc"))
    expected = (max(0, accuracy - 0.5) / 0.5 + 2 * max(0, f1 - 0.4) / 0.6 + mcc) / 4
    assert verdict.winner.test.value == close(expected, 40, magnitude=1.0)


THIRD = """
from mergesearch.evaluators import EvaluatorOptions, Item, MeanOfItems, Metric
import torch

class Options(EvaluatorOptions):
    power: int

class Norms(MeanOfItems):
    Options = Options

    def __init__(self, options, shared):
        self.task, self.metric, self._power = options.task, Metric("norm"), options.power
        self.items = [Item(str(n), self.task, str(n)) for n in range(4)]

    def score(self, subject, items):
        norm = float(sum(p.abs().pow(self._power).sum() for p in subject.model.parameters()))
        return torch.tensor([norm + int(item.id) for item in items], dtype=torch.float64)
"""


def test_an_evaluator_of_somebody_else(config: Data, tmp_path: Path) -> None:
    file = tmp_path / "third.py"
    file.write_text(THIRD)
    entry = {"evaluator": f"{file}:Norms", "task": "norms", "power": 2}
    config["evaluate"]["tasks"] = [entry]
    config["search"]["trials"] = 9
    assert go(config, tmp_path).metrics == {"norms": "norm"}
    assert Config.model_validate(Config.model_validate(config).dump()) == Config.model_validate(config)
    config["evaluate"]["tasks"] = [{**entry, "pwer": 2}]
    with pytest.raises(ValueError, match="unknown key 'pwer'; did you mean 'power'"):
        Config.model_validate(config)


@pytest.mark.parametrize("where", ["__init__", "prepare", "score"])
@pytest.mark.parametrize("error", ["raise KeyError('weights')", "__import__('sys').exit(0)"])
def test_an_evaluator_of_somebody_else_that_fails(
    config: Data, models: Path, tmp_path: Path, where: str, error: str
) -> None:
    file = tmp_path / "third.py"
    file.write_text(f"{THIRD}\n    def {where}(self, *_):\n        {error}\n")
    config["evaluate"]["tasks"] = [{"evaluator": f"{file}:Norms", "task": "norms", "power": 2}]
    (tmp_path / "eval.yml").write_text(dump_yaml(config))
    found = CliRunner().invoke(main, ["eval", str(models / "one"), str(tmp_path / "eval.yml")])
    assert found.exit_code == 2
    assert "task 'norms'" in found.stderr
    assert ("KeyError: 'weights'" if "Key" in error else "third.py, line") in found.stderr


def test_a_value_to_which_no_item_adds_a_share_is_shown_and_not_searched_for(config: Data, tmp_path: Path) -> None:
    file = tmp_path / "third.py"
    file.write_text(f"{THIRD}\n    has_contributions = False\n")
    entry = {"evaluator": f"{file}:Norms", "task": "norms", "power": 2}
    tasks = config["evaluate"]["tasks"]
    guard = {"constraints": [{"task": "norms", "at_least": 0.0}]}
    for task, more in ((entry, {}), ({**entry, "weight": 0}, guard)):
        config["evaluate"] |= {"tasks": [*tasks, task], **more}
        with pytest.raises(UserError, match=r"task 'norms': norm is no mean over items .*no interval.*weight: 0"):
            open_plan(Config.model_validate(config), "config")
    del config["evaluate"]["constraints"]
    config["search"]["trials"] = 9
    assert "norms" in go(config, tmp_path).winner.tasks


def test_too_few_items(config: Data, texts: Path) -> None:
    config["evaluate"]["tasks"][0]["files"] = [str(texts / "0[01].txt")]
    with pytest.raises(UserError, match="tasks: 'text': 2 items are too few for a search and a verdict"):
        open_plan(Config.model_validate(config), "config")


def test_a_model_of_no_numbers_is_an_error_of_eval(config: Data, models: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(models / "one")
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(models / "one").save_pretrained(tmp_path / "broken")
    file = tmp_path / "eval.yml"
    file.write_text(dump_yaml(config))
    found = CliRunner().invoke(main, ["eval", str(tmp_path / "broken"), str(file)])
    assert found.exit_code == 2
    assert "broken: task 'text', item " in found.stderr
    assert "the model's output is not a number" in found.stderr


def test_quantisation_without_bitsandbytes(config: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergesearch.merge_ops.live.quantized.find_spec", lambda _: None)
    config["evaluate"]["quantization"] = "4bit"
    with pytest.raises(UserError, match="config: evaluate: quantization: needs bitsandbytes"):
        open_plan(Config.model_validate(config), "config")


@pytest.mark.filterwarnings("ignore")
def test_a_search_of_quantised_candidates(config: Data, tmp_path: Path) -> None:
    """Scores differ from those in full precision, and are those of the winner's folder, loaded quantised."""
    config["search"]["trials"] = 9
    full = go(config, tmp_path / "full")
    config["evaluate"]["quantization"] = "8bit"  # 4 bits take no layers as small as these
    verdict = go(config, tmp_path)
    assert verdict.winner.tasks != full.winner.tasks
    file = tmp_path / "eval.yml"
    file.write_text(dump_yaml(config))
    found = CliRunner().invoke(main, ["eval", str(tmp_path / "small" / "model"), str(file), "--json"])
    printed = json.loads(found.stdout)["tasks"]["text"]["bits_per_byte"]
    assert verdict.recommended_row.tasks["text"]["all"] == rescored(printed)

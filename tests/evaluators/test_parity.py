"""Every kind of lm-eval task: the values, and each item's, are those of the ``lm_eval`` command line."""

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.evaluators import LoadedModel, Shared
from mergesearch.evaluators.lm_eval import LmEval, LmEvalOptions

from .conftest import GENERATE, MULTIPLE_CHOICE, TEXT, WORD, WORDS, choice_docs, greedy, sentence, write_task

CLOSE = 1e-4
"""Items on which packed and exact may disagree have two log-probabilities as near as this."""
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
BINARY = """output_type: multiple_choice
doc_to_text: "Q: {{question}} A:"
doc_to_choice: ["cat", "dog"]
doc_to_target: gold
num_fewshot: 0
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_mutual_info, aggregation: mean, higher_is_better: true}
  - {metric: f1, aggregation: f1, higher_is_better: true}
  - {metric: mcc, aggregation: matthews_corrcoef, higher_is_better: true}
  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}
"""
PARTIAL = """output_type: multiple_choice
doc_to_text: gold
doc_to_choice: "{{['the ' + one + ' ' + middle, 'the ' + two + ' ' + middle]}}"
doc_to_target: end
num_fewshot: 0
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
TRANSLATE = """output_type: generate_until
doc_to_text: "Q: {{question}} A:"
doc_to_target: answer
num_fewshot: 0
generation_kwargs: {until: ["zzz"], max_gen_toks: 8, do_sample: false}
metric_list:
  - {metric: bleu, aggregation: bleu, higher_is_better: true}
  - {metric: chrf, aggregation: chrf, higher_is_better: true}
  - {metric: "chrf++", aggregation: "chrf++", higher_is_better: true}
  - {metric: ter, aggregation: ter, higher_is_better: false}
"""
PARTS = """output_type: generate_until
doc_to_text: "Q: {{question}} A:"
doc_to_target: answer
num_fewshot: 0
repeats: 2
generation_kwargs: {until: ["zzz"], max_gen_toks: 6, do_sample: false}
process_results: !function parts.judge
metric_list:
  - {metric: parts, aggregation: !function parts.share, higher_is_better: true}
  - {metric: length, aggregation: median, higher_is_better: false}
"""
PARTS_CODE = """
def judge(doc, results):
    return {"parts": [w in results[0] for w in doc["question"].split()], "length": len(results[0])}

def share(lists):
    flat = [one for each in lists for one in each]
    return sum(flat) / len(flat)
"""
GROUP = """group: {name}
task: [toy_mc, toy_yes, toy_wino]
aggregate_metric_list:
  - {{metric: acc, weight_by_size: {by_size}}}
"""
PLAIN = {
    "toy_mc": ["acc", "acc_norm"],
    "toy_yes": ["acc", "acc_mutual_info", "f1", "mcc", "brier_score"],
    "toy_wino": ["acc"],
    "toy_word": ["acc", "perplexity"],
    "toy_text": ["bits_per_byte", "byte_perplexity", "word_perplexity"],
    "toy_gen": ["exact_match,whole", "exact_match,letters"],
    "toy_bleu": ["bleu", "chrf", "chrf++", "ter"],
    "toy_parts": ["parts", "length"],
    "by_size": ["acc"],
}
CHATTED = {"toy_mc": ["acc"], "toy_shots": ["acc", "acc_norm"], "toy_say": ["exact_match,whole"], "evenly": ["acc"]}
EXACT = {"acc", "acc_norm", "acc_mutual_info", "f1", "mcc", "exact_match", "bleu", "chrf", "chrf++", "ter"}
INSTRUCTION = "the cat says"


@pytest.fixture(scope="module")
def chatty(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The saved model, its tokenizer with a chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("chatty")
    AutoModelForCausalLM.from_pretrained(saved).save_pretrained(folder)
    reader = AutoTokenizer.from_pretrained(saved)
    reader.chat_template = CHAT
    reader.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("kinds")
    draw = random.Random(5)
    asked = [{"question": sentence(draw, draw.randint(3, 9)), "gold": n % 2} for n in range(30)]
    said = greedy(saved, [f"Q: {doc['question']} A:" for doc in asked[:10]], tokens=8)
    answered = [
        {"question": doc["question"], "answer": text.strip()[:20]} for doc, text in zip(asked, said, strict=False)
    ]
    filled = [
        {"one": draw.choice(WORDS), "two": draw.choice(WORDS), "middle": sentence(draw, 3), "end": "sat", "gold": n % 2}
        for n in range(14)
    ]
    byte = "  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}\n"
    (made / "parts.py").write_text(PARTS_CODE)
    write_task(made, "toy_mc", choice_docs(draw, 20), MULTIPLE_CHOICE + "num_fewshot: 0\n")
    write_task(made, "toy_shots", choice_docs(draw, 12), MULTIPLE_CHOICE)
    write_task(made, "toy_yes", asked, BINARY)
    write_task(made, "toy_wino", filled, PARTIAL)
    write_task(made, "toy_word", [{"context": sentence(draw, 8), "word": " cat"} for _ in range(6)], WORD)
    write_task(made, "toy_text", [{"page": sentence(draw, size)} for size in (5, 300, 120)], TEXT + byte)
    write_task(made, "toy_gen", answered, GENERATE)
    write_task(made, "toy_say", answered, GENERATE.replace("num_fewshot: 0\n", ""))
    write_task(made, "toy_bleu", answered, TRANSLATE)
    write_task(made, "toy_parts", answered, PARTS)
    (made / "by_size.yaml").write_text(GROUP.format(name="by_size", by_size="true"))
    (made / "evenly.yaml").write_text(GROUP.format(name="evenly", by_size="false"))
    return made


COMMAND = """
import lm_eval.evaluator_utils
lm_eval.evaluator_utils.stderr_for_metric = lambda **_: None  # 100,000 resamples take minutes
from lm_eval.__main__ import cli_evaluate
cli_evaluate()
"""
Printed = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def command_line(
    chatty: Path, folder: Path, own_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Printed, Printed]]:
    """Runs lm-eval: (values by task, the items' metrics by task, then by (metric,filter))."""

    def run(names: str, *more: str) -> tuple[Printed, Printed]:
        out = tmp_path_factory.mktemp("printed")
        plain = f"run --model hf --model_args pretrained={chatty} --device cpu --batch_size 5 --log_samples"
        tasks = ["--tasks", names, "--include_path", str(folder), "--output_path", str(out)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(own_cache), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *plain.split(), *tasks, *more],
            check=False,
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        (results,) = out.rglob("results_*.json")
        found = {path.name.partition("_20")[0].removeprefix("samples_"): _items(path) for path in out.rglob("*.jsonl")}
        return json.loads(results.read_text())["results"], found

    return run


def _items(path: Path) -> dict[str, dict[int, Any]]:
    found: dict[str, dict[int, Any]] = {}
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        for metric in sample["metrics"]:
            found.setdefault(f"{metric},{sample['filter']}", {})[sample["doc_id"]] = sample[metric]
    return found


@pytest.fixture(scope="module")
def plain(command_line: Callable[..., tuple[Printed, Printed]]) -> tuple[Printed, Printed]:
    return command_line("by_size,toy_word,toy_text,toy_gen,toy_bleu,toy_parts")


@pytest.fixture(scope="module")
def chatted(command_line: Callable[..., tuple[Printed, Printed]]) -> tuple[Printed, Printed]:
    more = ["--apply_chat_template", "--system_instruction", INSTRUCTION, "--num_fewshot", "2"]
    return command_line("evenly,toy_shots,toy_say", *more)


@pytest.fixture
def live(chatty: Path) -> LoadedModel:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return LoadedModel(AutoModelForCausalLM.from_pretrained(chatty).eval(), AutoTokenizer.from_pretrained(chatty))


def opened(folder: Path, mode: str, **options: Any) -> LmEval:
    return LmEval(LmEvalOptions(**options), Shared.model_validate({"include_path": folder, "mode": mode}))


def agrees(evaluator: LmEval, live: LoadedModel, printed: tuple[Printed, Printed], metric: str) -> None:
    """The value as printed, contributions whose mean it is, and each item's own number where it has one."""
    values, items = printed
    key = metric if "," in metric else f"{metric},none"
    scores = evaluator.score(live, evaluator.items)
    value = evaluator.value(evaluator.items, scores)
    expected = values[evaluator.task][key]
    tolerance = 1e-12 if metric.partition(",")[0] in EXACT else 1e-6
    assert value == pytest.approx(expected, rel=tolerance, abs=1e-12)
    weights = torch.tensor([item.weight for item in evaluator.items])
    mean = (weights * evaluator.contributions(evaluator.items, scores)).sum() / weights.sum()
    assert float(mean) == pytest.approx(value, rel=1e-9)
    own = items.get(evaluator.task, {}).get(key, {})
    if scores.dim() == 1 and own and not isinstance(own[0], list):
        assert scores.tolist() == pytest.approx([float(own[int(item.id)]) for item in evaluator.items], rel=1e-5)


@pytest.mark.parametrize(("task", "metric"), [(task, metric) for task, metrics in PLAIN.items() for metric in metrics])
def test_equals_the_command_line(
    task: str, metric: str, folder: Path, live: LoadedModel, plain: tuple[Printed, Printed]
) -> None:
    agrees(opened(folder, "exact", task=task, metric=metric), live, plain, metric)


@pytest.mark.parametrize(
    ("task", "metric"), [(task, metric) for task, metrics in CHATTED.items() for metric in metrics]
)
def test_equals_the_command_line_in_a_chat(
    task: str, metric: str, folder: Path, live: LoadedModel, chatted: tuple[Printed, Printed]
) -> None:
    settings = {"apply_chat_template": True, "system_instruction": INSTRUCTION, "num_fewshot": 2}
    agrees(opened(folder, "exact", task=task, metric=metric, **settings), live, chatted, metric)


def test_the_numbers_say_something(plain: tuple[Printed, Printed], chatted: tuple[Printed, Printed]) -> None:
    values = plain[0]
    assert 0 < values["toy_yes"]["f1,none"] < 1
    assert values["toy_yes"]["mcc,none"] != 0
    assert 0 < values["toy_bleu"]["bleu,none"] < 100
    assert 0 < values["toy_parts"]["parts,none"] < 1
    assert (
        values["by_size"]["acc,none"] != sum(values[task]["acc,none"] for task in ("toy_mc", "toy_yes", "toy_wino")) / 3
    )
    assert chatted[0]["toy_shots"]["acc,none"] != chatted[0]["toy_shots"]["acc_norm,none"]


@pytest.mark.parametrize("task", ["toy_mc", "toy_yes", "toy_wino", "toy_shots"])
def test_packed_items_differ_only_where_log_probabilities_nearly_tie(
    task: str, folder: Path, live: LoadedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    exact, packed = (opened(folder, mode, task=task, metric="acc", num_fewshot=2) for mode in ("exact", "packed"))
    pairs = zip(exact.score(live, exact.items), packed.score(live, packed.items), strict=True)
    unequal = [n for n, (a, b) in enumerate(pairs) if a != b]
    assert packed._requests._scorer._width == 32
    close = [n for n, group in enumerate(exact._built[task]) if _gap([one.resps[0][0] for one in group]) < CLOSE]
    with capsys.disabled():
        print(f"\n{task}: {len(unequal)} of {len(exact.items)} items differ; {len(close)} have a near tie")
    assert set(unequal) <= set(close)
    for group, other in zip(exact._built[task], packed._built[task], strict=True):
        assert [one.resps[0][0] for one in group] == pytest.approx([one.resps[0][0] for one in other], abs=CLOSE)


def _gap(logprobs: list[float]) -> float:
    ordered = sorted(logprobs)
    return min((b - a for a, b in pairwise(ordered)), default=math.inf)

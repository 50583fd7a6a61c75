"""Every kind of lm-eval task: the values, and each item's, are those of the ``lm_eval`` command line."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.evaluators import LoadedModel, Shared
from mergesearch.evaluators.lm_eval.lm_eval import LmEval, LmEvalOptions

from ...tolerances import close, path_length, tolerance
from ..command_line import Printed
from ..helpers import SYSTEM_INSTRUCTION

PLAIN = {
    "toy_mc": ["acc", "acc_norm"],
    "toy_yes": ["acc", "acc_mutual_info", "f1", "mcc", "brier_score"],
    "toy_wino": ["acc"],
    "toy_word": ["acc", "perplexity"],
    "toy_text": ["bits_per_byte", "byte_perplexity", "word_perplexity"],
    "toy_gen": ["exact_match,whole", "exact_match,letters"],
    "toy_bleu": ["bleu", "chrf", "chrf++", "ter"],
    "toy_parts": ["parts", "length"],
    "toy_lists": ["exact_match"],
    "toy_own": ["any_of"],
    "toy_scripts": ["acc", "acc_norm", "acc_bytes"],
    "by_size": ["acc"],
    "nested": ["acc"],
}
CHATTED = {"toy_mc": ["acc"], "toy_shots": ["acc", "acc_norm"], "toy_say": ["exact_match,whole"], "evenly": ["acc"]}
EXACT = {
    "acc",
    "acc_norm",
    "acc_bytes",
    "acc_mutual_info",
    "any_of",
    "f1",
    "mcc",
    "exact_match",
    "bleu",
    "chrf",
    "chrf++",
    "ter",
}


@pytest.fixture
def live(saved_chat_model: Path) -> LoadedModel:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(saved_chat_model, dtype=torch.float64).eval()
    return LoadedModel(model, AutoTokenizer.from_pretrained(saved_chat_model))


def opened(folder: Path, mode: str, **options: Any) -> LmEval:
    return LmEval(LmEvalOptions(**options), Shared.model_validate({"include_path": folder, "mode": mode}))


def agrees(evaluator: LmEval, live: LoadedModel, printed: Printed, metric: str) -> None:
    """The value as printed, contributions whose mean it is, and each item's own number where it has one."""
    key = metric if "," in metric else f"{metric},none"
    scores = evaluator.score(live, evaluator.items)
    value = evaluator.value(evaluator.items, scores)
    expected = printed.values[evaluator.task][key]
    count, path = len(evaluator.items), path_length(live.model, 128)
    size = max(1.0, abs(expected))
    assert value == close(expected, count if metric.partition(",")[0] in EXACT else path, magnitude=size)
    weights = torch.tensor([item.weight for item in evaluator.items])
    mean = (weights * evaluator.contributions(evaluator.items, scores)).sum() / weights.sum()
    # Pseudo-values are differences of the value times the number of items.
    assert float(mean) == close(value, count, magnitude=count * size)
    own = printed.items.get(evaluator.task, {}).get(key, {})
    if scores.dim() == 1 and own and not isinstance(own[0], list):
        assert scores.tolist() == close([float(own[int(item.id)]) for item in evaluator.items], path)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(("task", "metric"), [(task, metric) for task, metrics in PLAIN.items() for metric in metrics])
def test_equals_the_command_line(
    task: str, metric: str, tasks: Path, live: LoadedModel, command_line: dict[str, Printed]
) -> None:
    agrees(opened(tasks, "exact", task=task, metric=metric), live, command_line["plain"], metric)


@pytest.mark.parametrize(
    ("task", "metric"), [(task, metric) for task, metrics in CHATTED.items() for metric in metrics]
)
def test_equals_the_command_line_in_a_chat(
    task: str, metric: str, tasks: Path, live: LoadedModel, command_line: dict[str, Printed]
) -> None:
    settings = {"apply_chat_template": True, "system_instruction": SYSTEM_INSTRUCTION, "num_fewshot": 2}
    agrees(opened(tasks, "exact", task=task, metric=metric, **settings), live, command_line["chat"], metric)


def test_the_numbers_say_something(command_line: dict[str, Printed]) -> None:
    values, chatted = command_line["plain"].values, command_line["chat"].values
    assert 0 < values["toy_yes"]["f1,none"] < 1
    assert values["toy_yes"]["mcc,none"] != 0
    assert 0 < values["toy_bleu"]["bleu,none"] < 100
    assert 0 < values["toy_parts"]["parts,none"] < 1
    assert (
        values["by_size"]["acc,none"] != sum(values[task]["acc,none"] for task in ("toy_mc", "toy_yes", "toy_wino")) / 3
    )
    assert chatted["toy_shots"]["acc,none"] != chatted["toy_shots"]["acc_norm,none"]


@pytest.mark.parametrize("task", ["toy_mc", "toy_yes", "toy_wino", "toy_shots"])
def test_packed_items_differ_only_where_log_probabilities_nearly_tie(task: str, tasks: Path, live: LoadedModel) -> None:
    exact, packed = (opened(tasks, mode, task=task, metric="acc", num_fewshot=2) for mode in ("exact", "packed"))
    pairs = zip(exact.score(live, exact.items), packed.score(live, packed.items), strict=True)
    unequal = [n for n, (a, b) in enumerate(pairs) if a != b]
    assert packed.runner_for(live).scorer.packing_width == 32
    expected, logprobs = (_logprobs(evaluator, task) for evaluator in (exact, packed))
    largest = max(abs(logprob) for document in expected for logprob in document)
    bound = tolerance(path_length(live.model, 128), magnitude=largest)
    assert set(unequal) <= {n for n, document in enumerate(expected) if _gap(document) < bound}
    for document, other in zip(expected, logprobs, strict=True):
        assert document == pytest.approx(other, rel=0, abs=bound)


def _logprobs(evaluator: LmEval, task: str) -> list[list[float]]:
    return [[instance.resps[0][0] for instance in instances] for instances in evaluator.instances[task]]


def _gap(logprobs: list[float]) -> float:
    ordered = sorted(logprobs)
    return min((b - a for a, b in pairwise(ordered)), default=math.inf)

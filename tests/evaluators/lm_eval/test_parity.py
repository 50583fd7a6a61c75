"""Every kind of lm-eval task: the values, and each item's, are those of the ``lm_eval`` command line."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.evaluators import LoadedModel, Shared
from mergesearch.evaluators.lm_eval.lm_eval import LmEval, LmEvalOptions

from ..command_line import Printed
from ..conftest import CHAT_INSTRUCTION

CLOSE = 1e-4
"""Items on which packed and exact may disagree have two log-probabilities as near as this."""
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


@pytest.fixture
def live(chatty: Path) -> LoadedModel:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return LoadedModel(AutoModelForCausalLM.from_pretrained(chatty).eval(), AutoTokenizer.from_pretrained(chatty))


def opened(folder: Path, mode: str, **options: Any) -> LmEval:
    return LmEval(LmEvalOptions(**options), Shared.model_validate({"include_path": folder, "mode": mode}))


def agrees(evaluator: LmEval, live: LoadedModel, printed: Printed, metric: str) -> None:
    """The value as printed, contributions whose mean it is, and each item's own number where it has one."""
    key = metric if "," in metric else f"{metric},none"
    scores = evaluator.score(live, evaluator.items)
    value = evaluator.value(evaluator.items, scores)
    expected = printed.values[evaluator.task][key]
    tolerance = 1e-12 if metric.partition(",")[0] in EXACT else 1e-6
    assert value == pytest.approx(expected, rel=tolerance, abs=1e-12)
    weights = torch.tensor([item.weight for item in evaluator.items])
    mean = (weights * evaluator.contributions(evaluator.items, scores)).sum() / weights.sum()
    assert float(mean) == pytest.approx(value, rel=1e-9)
    own = printed.items.get(evaluator.task, {}).get(key, {})
    if scores.dim() == 1 and own and not isinstance(own[0], list):
        assert scores.tolist() == pytest.approx([float(own[int(item.id)]) for item in evaluator.items], rel=1e-5)


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
    settings = {"apply_chat_template": True, "system_instruction": CHAT_INSTRUCTION, "num_fewshot": 2}
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
    assert packed._requests.scorer._width == 32
    close = [n for n, group in enumerate(exact._built[task]) if _gap([one.resps[0][0] for one in group]) < CLOSE]
    assert set(unequal) <= set(close)
    for group, other in zip(exact._built[task], packed._built[task], strict=True):
        assert [one.resps[0][0] for one in group] == pytest.approx([one.resps[0][0] for one in other], abs=CLOSE)


def _gap(logprobs: list[float]) -> float:
    ordered = sorted(logprobs)
    return min((b - a for a, b in pairwise(ordered)), default=math.inf)

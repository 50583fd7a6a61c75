"""lm-eval tasks on a live model: the command line's numbers, and messages for what cannot be asked."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.errors import UserError
from mergesearch.evaluators import EVALUATORS, LoadedModel, Shared
from mergesearch.evaluators.lm_eval.lm_eval import LmEval, LmEvalOptions

from ...tolerances import close, path_length, tolerance
from ..lm_eval_tasks import GENERATE, MULTIPLE_CHOICE, write_task
from .helpers import open_lm_eval


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"task": "toy_mc"}, "acc,none"),
        ({"task": "toy_mc", "metric": "acc_norm"}, "acc_norm,none"),
        ({"task": "toy_mc", "metric": "acc,none", "num_fewshot": 2}, "acc,none"),
        ({"task": "toy_shots", "num_fewshot": 2}, "acc,none"),
        ({"task": "toy_shots", "metric": "acc_norm", "num_fewshot": 2}, "acc_norm,none"),
        ({"task": "toy_word"}, "acc,none"),
        ({"task": "toy_gen", "metric": "exact_match,whole"}, "exact_match,whole"),
        ({"task": "toy_gen", "metric": "exact_match,letters"}, "exact_match,letters"),
    ],
)
def test_equals_the_command_line(
    options: dict[str, Any], key: str, tasks: Path, printed: dict[str, Any], wide: LoadedModel
) -> None:
    evaluator = open_lm_eval(tasks, **options)
    for _ in range(2):
        assert evaluator.value(evaluator.items, evaluator.score(wide, evaluator.items)) == printed[options["task"]][key]
    assert evaluator.metric.higher_is_better
    assert len(evaluator.items) == printed[options["task"]]["sample_len"]


def test_the_command_lines_numbers_say_something(printed: dict[str, Any]) -> None:
    assert 0 < printed["toy_mc"]["acc,none"] < 1
    assert 0 < printed["toy_word"]["acc,none"] < 1
    assert 0 < printed["toy_gen"]["exact_match,whole"] < 1
    assert printed["toy_shots"]["acc,none"] != printed["toy_shots"]["acc_norm,none"]


def test_bits_per_byte_of_a_task(tasks: Path, printed: dict[str, Any], wide: LoadedModel) -> None:
    evaluator = open_lm_eval(tasks, task="toy_text", metric="bits_per_byte")
    value = evaluator.value(evaluator.items, evaluator.score(wide, evaluator.items))
    assert value == close(printed["toy_text"]["bits_per_byte,none"], path_length(wide.model, 128))
    assert not evaluator.metric.higher_is_better


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_equal_those_of_a_fresh_model(
    dtype: torch.dtype, tasks: Path, saved: Path, subject: LoadedModel
) -> None:
    """After new weights were written into the live model, which has scored others before."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    fresh = AutoModelForCausalLM.from_pretrained(saved).to(dtype)
    subject.model.to(dtype)
    weights = {name: value.clone() for name, value in subject.model.state_dict().items()}
    with torch.no_grad():
        for parameter in subject.model.parameters():
            parameter.mul_(1.5)
    # One sequence at a time, as below, so that what comes before the output layer is computed alike.
    evaluator = LmEval(LmEvalOptions(task="toy_mc"), Shared(include_path=tasks, batch_size=1, mode="exact"))
    evaluator.score(subject, evaluator.items)
    subject.model.load_state_dict(weights)
    evaluator.score(subject, evaluator.items)
    instances = [each for by_document in evaluator.instances["toy_mc"] for each in by_document]
    answers = [instance.filtered_resps["none"] for instance in instances]
    reference = HFLM(pretrained=fresh, tokenizer=subject.tokenizer, batch_size=1)
    expected = reference.loglikelihood(instances, disable_tqdm=True)
    # A logit is a sum in float32, whatever the dtype. It is rounded to the dtype, as are log-probabilities and sums.
    logprobs = [logprob for logprob, _ in expected]
    size, terms = max(map(abs, logprobs)), fresh.config.hidden_size + fresh.config.vocab_size
    bound = tolerance(terms, torch.float32, size) + tolerance(3, dtype, size)
    assert [logprob for logprob, _ in answers] == pytest.approx(logprobs, rel=0, abs=bound)
    assert [is_greedy for _, is_greedy in answers] == [is_greedy for _, is_greedy in expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "toy_mx"}, "task: there is no lm-eval task 'toy_mx'; did you mean 'toy_mc'?"),
        ({"task": "hellaswagg"}, "did you mean 'hellaswag'?"),
        (
            {"task": "qqqqqqqqqqqqqq"},
            "; tasks in include_path: toy_bleu, toy_gen, toy_lists, toy_mc, toy_odd and 12 more",
        ),
        ({"task": "toy_group", "metric": "f1"}, "task 'toy_mc' has no metric 'f1'"),
        ({"task": "toy_mc", "metric": "acc_nrom"}, "has no metric 'acc_nrom'; did you mean 'acc_norm'?"),
        ({"task": "toy_mc", "metric": "acc,strict"}, "has no filter 'strict'; valid: none"),
        ({"task": "toy_gen", "metric": "exact_match"}, "expected 'exact_match,whole' or 'exact_match,letters'"),
        ({"task": "toy_shots", "num_fewshot": 99}, "'toy_shots': its prompts with num_fewshot 99 cannot be built"),
        ({"task": "toy_mc", "group": "sauce"}, "group: document 0 of task 'toy_mc' has no field 'sauce'"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, Any], message: str, tasks: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        open_lm_eval(tasks, **options)


def test_nothing_is_printed(tmp_path: Path, subject: LoadedModel, capfd: pytest.CaptureFixture[str]) -> None:
    docs = [{"question": f"why {number}", "answer": "so"} for number in range(3)]
    write_task(tmp_path, "fresh", docs, GENERATE)
    capfd.readouterr()
    evaluator = open_lm_eval(tmp_path, task="fresh", metric="exact_match,whole")
    evaluator.score(subject, evaluator.items)
    assert capfd.readouterr() == ("", "")


def test_items_longer_than_the_context_are_counted(tasks: Path, subject: LoadedModel) -> None:
    notes = open_lm_eval(tasks, task="toy_mc").prepare(subject)
    assert notes == [
        "2 of 40 items are longer than the model's context of 128 tokens; "
        "tokens at their beginning are cut, as in lm-eval"
    ]


def test_tokenizer_without_a_chat_template(tasks: Path, subject: LoadedModel) -> None:
    evaluator = open_lm_eval(tasks, task="toy_mc", apply_chat_template=True)
    with pytest.raises(UserError, match="apply_chat_template: the model's tokenizer has no chat template"):
        evaluator.score(subject, evaluator.items)


def test_answer_without_tokens(tmp_path: Path, subject: LoadedModel) -> None:
    docs = [{"question": "q", "choices": ["a", answer], "gold": 0} for answer in ("b", "")]
    write_task(tmp_path, "mine", docs, MULTIPLE_CHOICE.replace("output_type", 'target_delimiter: ""\noutput_type'))
    evaluator = open_lm_eval(tmp_path, task="mine")
    with pytest.raises(UserError, match="task 'mine', item 1: the answer '' has no tokens of its own"):
        evaluator.score(subject, evaluator.items)


def test_generation_longer_than_the_context(tmp_path: Path, subject: LoadedModel) -> None:
    write_task(tmp_path, "mine", [{"question": "q", "answer": "a"}], GENERATE.replace("toks: 4", "toks: 999"))
    evaluator = open_lm_eval(tmp_path, task="mine", metric="exact_match,whole")
    with pytest.raises(UserError, match=r"task 'mine': .*999.*128"):
        evaluator.score(subject, evaluator.items)


def test_generation_that_is_not_a_number(tasks: Path, subject: LoadedModel) -> None:
    evaluator = open_lm_eval(tasks, task="toy_gen", metric="exact_match,whole")
    with torch.no_grad():
        subject.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="task 'toy_gen', item 3: the model's output is not a number"):
        evaluator.score(subject, evaluator.items[3:5])


def test_options_are_those_of_the_table() -> None:
    assert EVALUATORS["lm_eval"].Options is LmEvalOptions
    dumped = json.loads(LmEvalOptions(task="x").model_dump_json(exclude_defaults=True))
    assert dumped == {"task": "x"}


def test_max_length_of_all_tasks_cuts_on_the_left(tasks: Path, subject: LoadedModel) -> None:
    options = LmEval.Options.model_validate({"task": "toy_text", "metric": "bits_per_byte"})
    whole, short = (LmEval(options, Shared(include_path=tasks, max_length=length)) for length in (None, 8))
    assert not torch.equal(whole.score(subject, whole.items), short.score(subject, short.items))

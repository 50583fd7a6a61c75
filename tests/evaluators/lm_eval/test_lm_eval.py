"""lm-eval tasks on a live model: the command line's numbers, and messages for what cannot be asked."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mergesearch.errors import UserError
from mergesearch.evaluators import EVALUATORS, LoadedModel, Shared, has_contributions
from mergesearch.evaluators.lm_eval.lm_eval import LmEval, LmEvalOptions

from ..conftest import GENERATE, MULTIPLE_CHOICE, choice_docs, write_task


@pytest.fixture(autouse=True)
def few_builtin_tasks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of lm-eval's own tasks the few in one folder: to read them all takes seconds."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    if "slow" not in request.keywords:
        folder = Path(lm_eval.__file__).parent / "tasks" / "hellaswag"
        few = TaskManager(include_path=str(folder), include_defaults=False)
        monkeypatch.setattr("mergesearch.evaluators.lm_eval.harness._builtin", lambda: few)


def opened(tasks: Path | None, group: str | None = None, **options: Any) -> LmEval:
    return LmEval(LmEvalOptions(**options), Shared(include_path=tasks, group=group))


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
    options: dict[str, Any], key: str, tasks: Path, printed: dict[str, Any], subject: LoadedModel
) -> None:
    evaluator = opened(tasks, **options)
    for _ in range(2):
        assert (
            evaluator.value(evaluator.items, evaluator.score(subject, evaluator.items)) == printed[options["task"]][key]
        )
    assert evaluator.metric.higher_is_better
    assert len(evaluator.items) == printed[options["task"]]["sample_len"]


def test_the_command_lines_numbers_say_something(printed: dict[str, Any]) -> None:
    assert 0 < printed["toy_mc"]["acc,none"] < 1
    assert 0 < printed["toy_word"]["acc,none"] < 1
    assert 0 < printed["toy_gen"]["exact_match,whole"] < 1
    assert printed["toy_shots"]["acc,none"] != printed["toy_shots"]["acc_norm,none"]


def test_bits_per_byte_of_a_task(tasks: Path, printed: dict[str, Any], subject: LoadedModel) -> None:
    evaluator = opened(tasks, task="toy_text", metric="bits_per_byte")
    value = evaluator.value(evaluator.items, evaluator.score(subject, evaluator.items))
    assert value == pytest.approx(printed["toy_text"]["bits_per_byte,none"], rel=1e-6)
    assert not evaluator.metric.higher_is_better


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_equal_those_of_a_fresh_model(
    dtype: torch.dtype, tasks: Path, saved: Path, subject: LoadedModel, monkeypatch: pytest.MonkeyPatch
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
    evaluator = opened(tasks, task="toy_mc")
    evaluator.score(subject, evaluator.items)
    subject.model.load_state_dict(weights)
    found: list[tuple[float, bool]] = []
    monkeypatch.setattr(
        evaluator, "_row", lambda _item, group: found.extend(one.filtered_resps["none"] for one in group) or [0.0]
    )
    evaluator.score(subject, evaluator.items)
    reference = HFLM(pretrained=fresh, tokenizer=subject.tokenizer, batch_size=5)
    instances = [one for group in evaluator._built["toy_mc"] for one in group]
    expected = reference.loglikelihood(instances, disable_tqdm=True)
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7
    assert [one[0] for one in found] == pytest.approx([one[0] for one in expected], rel=tolerance)
    agreeing = sum(a[1] == b[1] for a, b in zip(found, expected, strict=True))
    assert agreeing == len(expected)


def test_fingerprints_follow_content_or_group(tasks: Path) -> None:
    whole, grouped = opened(tasks, task="toy_mc"), opened(tasks, task="toy_mc", group="source")
    assert len({item.fingerprint for item in whole.items}) == 40
    assert len({item.fingerprint for item in grouped.items}) == 10


def test_metric_by_document_must_be_numbers(tasks: Path) -> None:
    with pytest.raises(UserError, match=r"'likelihood' of task 'toy_odd' is not told by numbers .* usable: acc, "):
        opened(tasks, task="toy_odd", metric="likelihood")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "toy_mx"}, "task: there is no lm-eval task 'toy_mx'; did you mean 'toy_mc'?"),
        ({"task": "hellaswagg"}, "did you mean 'hellaswag'?"),
        (
            {"task": "qqqqqqqqqqqqqq"},
            "; those in include_path: toy_bleu, toy_gen, toy_mc, toy_odd, toy_parts and 6 more",
        ),
        ({"task": "toy_group", "metric": "f1"}, "task 'toy_mc' has no metric 'f1'"),
        ({"task": "toy_mc", "metric": "acc_nrom"}, "has no metric 'acc_nrom'; did you mean 'acc_norm'?"),
        ({"task": "toy_mc", "metric": "acc,strict"}, "has no filter 'strict'; valid: none"),
        ({"task": "toy_gen", "metric": "exact_match"}, "say 'exact_match,whole' or 'exact_match,letters'"),
        ({"task": "toy_shots", "num_fewshot": 99}, "'toy_shots': its questions with num_fewshot 99 cannot be built"),
        ({"task": "toy_mc", "group": "sauce"}, "group: document 0 of task 'toy_mc' has no field 'sauce'"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, Any], message: str, tasks: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        opened(tasks, **options)


@pytest.mark.slow
def test_all_builtin_tasks_are_known() -> None:
    with pytest.raises(UserError, match="there is no lm-eval task 'arc_chalenge'; did you mean 'arc_challenge'"):
        opened(None, task="arc_chalenge")


def test_nothing_is_printed(tmp_path: Path, subject: LoadedModel, capfd: pytest.CaptureFixture[str]) -> None:
    docs = [{"question": f"why {number}", "answer": "so"} for number in range(3)]
    write_task(tmp_path, "fresh", docs, GENERATE)
    capfd.readouterr()
    evaluator = opened(tmp_path, task="fresh", metric="exact_match,whole")
    evaluator.score(subject, evaluator.items)
    assert capfd.readouterr() == ("", "")


def test_include_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"include_path: there is no folder '.*nowhere'"):
        opened(tmp_path / "nowhere", task="toy_mc")


OTHER = "task: other\noutput_type: loglikelihood_rolling\ndataset_path: json\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.yaml", "task: mine\n  metric_list: [", "ParserError|ScannerError.*line 2"),
        ("mine.yaml", "- task: mine\n", "AttributeError|TypeError|ValueError"),
        ("mine.yaml", OTHER, "the file holds 'other'"),
        ("mine.yaml", "task: mine\ninclude: _gone.yaml\n", "_gone.yaml"),
        ("mine.yml", "task: mine\n", "reads only files that end with .yaml"),
        ("mine.yaml", "task: mine\noutput_type: multiple_choice\ndataset_path: nowhere/at_all\n", "cannot be loaded"),
    ],
)
def test_task_files_with_mistakes(
    name: str, text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.load_dataset", unreachable)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"(?s)'mine'.*{message}"):
        opened(tmp_path, task="mine")


def unreachable(*_: Any, **__: Any) -> None:
    raise ConnectionError("Couldn't reach 'nowhere' on the Hub")


def test_unreachable_hub(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(UserError, match="'toy_mc' cannot be loaded: its data is not on this machine and the Hugging"):
        opened(tasks, task="toy_mc")


def test_missing_data_file(tmp_path: Path) -> None:
    write_task(tmp_path, "mine", [], MULTIPLE_CHOICE)
    (tmp_path / "mine.jsonl").unlink()
    with pytest.raises(UserError, match=r"task 'mine' cannot be loaded: FileNotFoundError: .*mine\.jsonl"):
        opened(tmp_path, task="mine")


def test_no_documents(tmp_path: Path) -> None:
    write_task(tmp_path, "mine", [], MULTIPLE_CHOICE)
    with pytest.raises(UserError, match="task 'mine' cannot be loaded: its split has no documents"):
        opened(tmp_path, task="mine")


def test_choices_that_are_missing_later(tmp_path: Path) -> None:
    docs = [{"question": "q", "choices": list("ab"), "gold": 0}, {"question": "q", "gold": 0}]
    write_task(tmp_path, "mine", docs, MULTIPLE_CHOICE)
    with pytest.raises(UserError, match="task 'mine', item 1: its choices are None, expected a list"):
        opened(tmp_path, task="mine")


@pytest.mark.parametrize("gold", [4, -1])
def test_answer_key_out_of_range(gold: int, tmp_path: Path) -> None:
    docs = [{"question": "q", "choices": list("abcd"), "gold": one} for one in (0, gold)]
    write_task(tmp_path, "mine", docs, MULTIPLE_CHOICE)
    with pytest.raises(UserError, match=f"task 'mine', item 1: the answer {gold} is none of its 4 choices"):
        opened(tmp_path, task="mine")


def test_field_that_is_missing(tmp_path: Path) -> None:
    write_task(tmp_path, "mine", [{"question": "q", "gold": 0}], MULTIPLE_CHOICE)
    with pytest.raises(UserError, match=r"'mine': its questions .* cannot be built|'mine' cannot be loaded"):
        opened(tmp_path, task="mine")


def test_items_longer_than_the_context_are_counted(tasks: Path, subject: LoadedModel) -> None:
    notes = opened(tasks, task="toy_mc").prepare(subject)
    assert notes == [
        "2 of 40 items are longer than the model's context of 128 tokens and lose their beginning, as in lm-eval"
    ]


def test_unsafe_code_runs_only_where_that_is_confirmed(tmp_path: Path) -> None:
    docs = [{"question": "q", "answer": "a"}]
    write_task(tmp_path, "mine", docs, GENERATE + "unsafe_code: true\n")
    with pytest.raises(UserError, match=r"task 'mine' runs code that the model writes.*confirm_run_unsafe_code: true"):
        opened(tmp_path, task="mine", metric="exact_match,whole")
    assert opened(tmp_path, task="mine", metric="exact_match,whole", confirm_run_unsafe_code=True).items


def test_tokenizer_without_a_chat_template(tasks: Path, subject: LoadedModel) -> None:
    evaluator = opened(tasks, task="toy_mc", apply_chat_template=True)
    with pytest.raises(UserError, match="apply_chat_template: the model's tokenizer has no chat template"):
        evaluator.score(subject, evaluator.items)


def test_tags_are_the_plain_mean_of_their_tasks(tmp_path: Path, subject: LoadedModel) -> None:
    draw = random.Random(4)
    for name, count in (("one", 5), ("two", 9)):
        write_task(tmp_path, name, choice_docs(draw, count), MULTIPLE_CHOICE + "tag: both\n")
    whole, parts = opened(tmp_path, task="both"), [opened(tmp_path, task=name) for name in ("one", "two")]
    values = [part.value(part.items, part.score(subject, part.items)) for part in parts]
    assert whole.value(whole.items, whole.score(subject, whole.items)) == sum(values) / 2
    assert [item.id for item in whole.items][4:6] == ["one/4", "two/0"]


def test_answer_without_tokens(tmp_path: Path, subject: LoadedModel) -> None:
    docs = [{"question": "q", "choices": ["a", answer], "gold": 0} for answer in ("b", "")]
    write_task(tmp_path, "mine", docs, MULTIPLE_CHOICE.replace("output_type", 'target_delimiter: ""\noutput_type'))
    evaluator = opened(tmp_path, task="mine")
    with pytest.raises(UserError, match="task 'mine', item 1: the answer '' has no tokens of its own"):
        evaluator.score(subject, evaluator.items)


def test_generation_longer_than_the_context(tmp_path: Path, subject: LoadedModel) -> None:
    write_task(tmp_path, "mine", [{"question": "q", "answer": "a"}], GENERATE.replace("toks: 4", "toks: 999"))
    evaluator = opened(tmp_path, task="mine", metric="exact_match,whole")
    with pytest.raises(UserError, match=r"task 'mine': .*999.*128"):
        evaluator.score(subject, evaluator.items)


def test_generation_that_is_not_a_number(tasks: Path, subject: LoadedModel) -> None:
    evaluator = opened(tasks, task="toy_gen", metric="exact_match,whole")
    with torch.no_grad():
        subject.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="task 'toy_gen', item 3: the model's output is not a number"):
        evaluator.score(subject, evaluator.items[3:5])


def test_options_are_those_of_the_table() -> None:
    assert EVALUATORS["lm_eval"].Options is LmEvalOptions
    kept = json.loads(LmEvalOptions(task="x").model_dump_json(exclude_defaults=True))
    assert kept == {"task": "x"}


@pytest.mark.parametrize(
    ("task", "metric", "chance"), [("toy_mc", "acc_norm", 0.25), ("toy_gen", "exact_match,whole", 0.0)]
)
def test_chance_is_one_in_so_many_choices(tasks: Path, task: str, metric: str, chance: float) -> None:
    options = LmEval.Options.model_validate({"task": task, "metric": metric})
    assert {item.chance for item in LmEval(options, Shared(include_path=tasks)).items} == {chance}


def test_chance_of_an_f1_is_not_known(tasks: Path) -> None:
    options = LmEval.Options.model_validate({"task": "toy_odd", "metric": "f1"})
    assert {item.chance for item in LmEval(options, Shared(include_path=tasks)).items} == {None}


def test_items_of_a_group_say_their_subtask(tasks: Path) -> None:
    items = opened(tasks, task="evenly").items
    assert {item.part for item in items} == {item.id.partition("/")[0] for item in items}
    assert len({item.part for item in items}) > 1
    assert {item.part for item in opened(tasks, task="toy_mc").items} == {""}


def test_a_median_has_a_value_and_no_contributions(tmp_path: Path) -> None:
    metric = "  - {metric: acc_norm, aggregation: median, higher_is_better: true}\n"
    settings = MULTIPLE_CHOICE.partition("  - {metric: acc_norm")[0] + metric + "num_fewshot: 0\n"
    write_task(tmp_path, "toy_median", choice_docs(random.Random(0), 9), settings)
    mean, median = (opened(tmp_path, task="toy_median", metric=metric) for metric in ("acc", "acc_norm"))
    scores = torch.tensor([0.0, 1, 1, 0, 1, 1, 0, 1, 0], dtype=torch.float64)
    assert median.value(median.items, scores) == 1.0
    assert mean.value(mean.items, scores) == pytest.approx(5 / 9)
    assert has_contributions(mean)
    assert not has_contributions(median)


def test_max_length_of_all_tasks_cuts_on_the_left(tasks: Path, subject: LoadedModel) -> None:
    options = LmEval.Options.model_validate({"task": "toy_text", "metric": "bits_per_byte"})
    whole, short = (LmEval(options, Shared(include_path=tasks, max_length=length)) for length in (None, 8))
    assert not torch.equal(whole.score(subject, whole.items), short.score(subject, short.items))


def test_what_is_packed_is_settled_before_the_first_candidate(tasks: Path, subject: LoadedModel) -> None:
    """A run that goes on meets other candidates first, and must not choose otherwise."""
    evaluator = opened(tasks, task="toy_shots", num_fewshot=2)
    evaluator.prepare(subject)
    assert evaluator._requests.scorer._width == 32
    with torch.no_grad():
        subject.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError):
        evaluator.score(subject, evaluator.items)
    assert evaluator._requests.scorer._width == 32

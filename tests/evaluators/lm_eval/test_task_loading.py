"""Tasks by name: where they are looked for, and what can be wrong with their files and data."""

import os
from pathlib import Path
from typing import Any

import pytest

from mergesearch.errors import UserError
from mergesearch.evaluators import LoadedModel

from ..lm_eval_tasks import GENERATE, MULTIPLE_CHOICE, write_task
from .helpers import open_lm_eval

OTHER = "task: other\noutput_type: loglikelihood_rolling\ndataset_path: json\n"


@pytest.mark.slow
def test_all_builtin_tasks_are_known() -> None:
    with pytest.raises(UserError, match="there is no lm-eval task 'arc_chalenge'; did you mean 'arc_challenge'"):
        open_lm_eval(None, task="arc_chalenge")


def test_include_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"include_path: there is no folder '.*nowhere'"):
        open_lm_eval(tmp_path / "nowhere", task="toy_mc")


@pytest.mark.parametrize("name", ["pipe.yaml", "inner/pipe.yml"])
def test_a_pipe_among_the_task_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: is a pipe, expected a file"):
        open_lm_eval(tmp_path, task="toy_mc")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.yaml", "task: mine\n  metric_list: [", "ParserError|ScannerError.*line 2"),
        ("mine.yaml", "- task: mine\n", "AttributeError|TypeError|ValueError"),
        ("mine.yaml", OTHER, "the file has the tasks 'other'"),
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
        open_lm_eval(tmp_path, task="mine")


def test_a_task_with_images_is_refused(tmp_path: Path) -> None:
    docs = [{"question": "what", "picture": "none", "choices": ["a", "b"], "gold": 0}] * 4
    write_task(tmp_path, "seen", docs, MULTIPLE_CHOICE + "doc_to_image: [picture]\n")
    with pytest.raises(UserError, match="task 'seen' needs images or audio; only text tasks are supported"):
        open_lm_eval(tmp_path, task="seen")


def test_a_folder_of_a_tasks_name_does_not_hide_it(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_mc").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(open_lm_eval(tasks, task="toy_mc", metric="acc").items) == 40


def test_a_description_that_the_template_has_no_role_for(saved_chat_model: Path, tmp_path: Path) -> None:
    """The template refuses system messages. lm-eval's own model then leaves the description out."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(saved_chat_model)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "[{{ m['role'] }}] {{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    live = LoadedModel(AutoModelForCausalLM.from_pretrained(saved_chat_model), tokenizer)
    messages = [{"role": "system", "content": "Answer well. "}, {"role": "user", "content": "Q: the cat 0 A:"}]
    expected = HFLM(pretrained=live.model, tokenizer=tokenizer).apply_chat_template(messages)
    docs = [{"question": f"the cat {n}", "choices": ["a", "dog"], "gold": 0} for n in range(4)]
    write_task(tmp_path, "described", docs, MULTIPLE_CHOICE + "num_fewshot: 0\ndescription: 'Answer well. '\n")
    evaluator = open_lm_eval(tmp_path, task="described", metric="acc", apply_chat_template=True)
    evaluator.prepare(live)
    ((first, *_), *_) = evaluator.instances["described"]
    assert first.args[0] == expected == "[user] Q: the cat 0 A:[assistant]"


def unreachable(*_: Any, **__: Any) -> None:
    raise ConnectionError("Couldn't reach 'nowhere' on the Hub")


def test_unreachable_hub(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(UserError, match="'toy_mc' cannot be loaded: its data is not on this machine and the Hugging"):
        open_lm_eval(tasks, task="toy_mc")


def test_missing_data_file(tmp_path: Path) -> None:
    write_task(tmp_path, "mine", [], MULTIPLE_CHOICE)
    (tmp_path / "mine.jsonl").unlink()
    with pytest.raises(UserError, match=r"task 'mine' cannot be loaded: FileNotFoundError: .*mine\.jsonl"):
        open_lm_eval(tmp_path, task="mine")


def test_data_whose_splits_have_other_fields_says_so(tmp_path: Path) -> None:
    write_task(tmp_path, "mine", [{"question": "a", "choices": ["b", "c"], "gold": 0}], MULTIPLE_CHOICE)
    (tmp_path / "train.jsonl").write_text('{"asked": "a"}\n')
    file = tmp_path / "mine.yaml"
    file.write_text(file.read_text().replace("{test: ", f"{{train: {tmp_path}/train.jsonl, test: "))
    with pytest.raises(UserError, match=r"'mine' cannot be loaded: its data cannot be read: (?s:.)*asked"):
        open_lm_eval(tmp_path, task="mine")


def test_no_documents(tmp_path: Path) -> None:
    write_task(tmp_path, "mine", [], MULTIPLE_CHOICE)
    with pytest.raises(UserError, match="task 'mine' cannot be loaded: its split has no documents"):
        open_lm_eval(tmp_path, task="mine")


def test_field_that_is_missing(tmp_path: Path) -> None:
    write_task(tmp_path, "mine", [{"question": "q", "gold": 0}], MULTIPLE_CHOICE)
    with pytest.raises(UserError, match=r"'mine': its prompts .* cannot be built|'mine' cannot be loaded"):
        open_lm_eval(tmp_path, task="mine")


def test_unsafe_code_runs_only_where_that_is_confirmed(tmp_path: Path) -> None:
    docs = [{"question": "q", "answer": "a"}]
    write_task(tmp_path, "mine", docs, GENERATE + "unsafe_code: true\n")
    with pytest.raises(UserError, match=r"task 'mine' runs code that the model writes.*confirm_run_unsafe_code: true"):
        open_lm_eval(tmp_path, task="mine", metric="exact_match,whole")
    assert open_lm_eval(tmp_path, task="mine", metric="exact_match,whole", confirm_run_unsafe_code=True).items

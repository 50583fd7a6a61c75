"""The demo's folder: what is in it, that nothing leaks from training into the items, and that it is made once."""

import json
import re
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from mergesearch.demo import LANGUAGES, TINY, Progress, Size, corpus, make
from mergesearch.demo.kinds import FOREIGN, FORMS, OPERATORS
from mergesearch.demo.words import KEYWORDS
from mergesearch.errors import UserError

_CHECKPOINTS = ("base", *LANGUAGES)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "one"
    make(folder, TINY)
    return folder


def _items(folder: Path, language: str) -> list[dict[str, Any]]:
    lines = (folder / "tasks" / f"demo_{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _bytes(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".yaml")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_everything_is_there(demo: Path) -> None:
    for name in _CHECKPOINTS:
        files = {path.name for path in (demo / name).iterdir()}
        assert files >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    for language in LANGUAGES:
        assert len(_items(demo, language)) == TINY.items
        assert len(list((demo / "text" / language).glob("*.txt"))) == TINY.texts
    assert {path.name for path in demo.iterdir()} == {*_CHECKPOINTS, "tasks", "text", "demo.json"}


def test_same_size_same_bytes(demo: Path, tmp_path: Path) -> None:
    make(tmp_path / "two", TINY)
    assert _bytes(tmp_path / "two") == _bytes(demo)


def test_whole_demo_is_left_alone(demo: Path) -> None:
    def never(*_: object) -> None:
        raise AssertionError("training was started again")

    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    make(demo, TINY, progress=never)
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before


@pytest.mark.parametrize("language", LANGUAGES)
def test_files_are_on_one_side(demo: Path, language: str) -> None:
    files = corpus.read(language, TINY)
    assert not files.training.keys() & files.held_out.keys()
    assert {item["source"] for item in _items(demo, language)} <= files.held_out.keys()


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_line_was_trained_on(demo: Path, language: str) -> None:
    training = corpus.read(language, TINY).training.values()
    trained = {line.strip() for text in training for line in text.splitlines()}
    lines = {item["choices"][item["answer"]].strip() for item in _items(demo, language)}
    assert not trained & lines


@pytest.mark.parametrize("language", LANGUAGES)
def test_right_choice_is_in_its_file(demo: Path, language: str) -> None:
    files = corpus.read(language, TINY).held_out
    for item in _items(demo, language):
        text = "\n".join(line.rstrip() for line in files[item["source"]].splitlines()) + "\n"
        assert item["context"] + item["choices"][item["answer"]] in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_items_share_contexts_and_no_two_are_the_same(demo: Path, language: str) -> None:
    items = _items(demo, language)
    questions = {(item["context"], *sorted(item["choices"])) for item in items}
    assert len(questions) == len(items)
    contexts = [item["context"] for item in items]
    shared = sum(later.startswith(earlier) for earlier, later in pairwise(contexts))
    assert shared > len(items) / 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_choices_differ_in_one_place_of_the_kind(demo: Path, language: str) -> None:
    for item in _items(demo, language):
        right, wrong = (_words(item["choices"][number]) for number in (item["answer"], 1 - item["answer"]))
        _, i, j, k, m = _difference(right, wrong)
        assert _is_meant(item["kind"], language, right[i:j], wrong[k:m])


def _words(line: str) -> list[str]:
    return re.findall(r"[A-Za-z_]\w*|\d+|\s+|->|::|&&|\|\||[=!<>]=|.", line)


def _difference(right: list[str], wrong: list[str]) -> tuple[str, int, int, int, int]:
    """From the first word in which the lines differ to the last one."""
    begin = next(n for n, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b)
    end = next(n for n, (a, b) in enumerate(zip(right[::-1], wrong[::-1], strict=False)) if a != b)
    return "replace", begin, len(right) - end, begin, len(wrong) - end


def _is_meant(kind: str, language: str, right: list[str], wrong: list[str]) -> bool:
    one, other, keywords = "".join(right), "".join(wrong), KEYWORDS[language]
    if kind in ("name", "word", "value"):
        return not {one, other} & keywords
    if kind in ("keyword", "function word"):
        return {one, other} <= keywords
    checks = {
        "foreign": lambda: FOREIGN[language][one] == other,
        "order": lambda: right[::-1] == wrong,
        "number": lambda: {one, other} in map(set, FORMS) or one.removesuffix("s") == other.removesuffix("s"),
        "key": lambda: one != other,
        "operator": lambda: any({one, other} <= set(family) for family in OPERATORS),
    }
    return checks[kind]()


def test_checkpoints_load_and_experts_differ(demo: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    weights = [AutoModelForCausalLM.from_pretrained(demo / name).lm_head.weight for name in _CHECKPOINTS]
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in weights)
    assert not any(torch.equal(weights[i], weights[j]) for i, j in combinations(range(len(weights)), 2))


def test_tokenizer_gives_text_back(demo: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo / "python")
    text = "def f(x):\n    return x -> 'é' // ∑\n\n#include <a.h>\t;"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")


@pytest.mark.filterwarnings("ignore")  # lm-eval's own
def test_lm_eval_reads_the_tasks(demo: Path) -> None:
    from lm_eval.tasks import TaskManager

    names = [f"demo_{language}" for language in LANGUAGES]
    tasks = TaskManager(include_path=str(demo / "tasks"), include_defaults=False).load(names)["tasks"]
    for language, name in zip(LANGUAGES, names, strict=True):
        docs = list(tasks[name].test_docs())
        assert docs == _items(demo, language)
        assert tasks[name].doc_to_text(docs[0]) == docs[0]["context"]
        assert tasks[name].doc_to_choice(docs[0]) == docs[0]["choices"]


class _KilledError(Exception):
    pass


def _killed_in(stage: str) -> Progress:
    def progress(name: str, _done: int, _total: int) -> None:
        if name == stage:
            raise _KilledError

    return progress


def test_a_killed_call_is_taken_up_again(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with pytest.raises(_KilledError):
        make(folder, TINY, progress=_killed_in("cpp"))
    assert not (folder / "demo.json").exists()
    (folder / ".python.1.tmp").mkdir()
    trained = _stages(folder, TINY)
    assert trained <= set(LANGUAGES)
    assert not list(folder.glob(".*"))
    assert _bytes(folder) == _bytes(demo)


def test_another_size_is_made_anew(tmp_path: Path) -> None:
    smaller = replace(TINY, base_steps=2, expert_steps=1)
    stages = [_stages(tmp_path, size) for size in (smaller, smaller, replace(smaller, seed=1))]
    assert stages == [set(_CHECKPOINTS), set(), set(_CHECKPOINTS)]


def _stages(folder: Path, size: Size) -> set[str]:
    trained: set[str] = set()
    make(folder, size, progress=lambda name, *_: trained.add(name))
    return trained


def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    with pytest.raises(UserError, match="holds something else"):
        make(tmp_path, TINY)
    assert (tmp_path / "base").exists()


def test_missing_sources_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setattr("mergesearch.demo.corpus.find_spec", lambda _: None)
    with pytest.raises(UserError, match=re.escape(str(tmp_path)) + ".*found 0 source files"):
        make(tmp_path / "demo", TINY)

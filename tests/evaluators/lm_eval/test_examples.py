"""Examples before questions: never a test item, never the question itself, and lm-eval's own wherever that holds."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from mergesearch.errors import UserError
from mergesearch.evaluators import Item, split_together
from mergesearch.evaluators.lm_eval.lm_eval import LmEval

from ..helpers import sentence
from ..lm_eval_tasks import MULTIPLE_CHOICE
from .helpers import open_lm_eval

Docs = list[dict[str, Any]]


def questions(count: int, seed: int = 0) -> Docs:
    rng = random.Random(seed)
    return [
        {"question": f"{sentence(rng, 9)} {seed} {n}", "choices": ["cat", "dog", "sun"], "gold": n % 3}
        for n in range(count)
    ]


def write(folder: Path, name: str, docs: Docs, train: Docs = (), settings: str = "") -> None:  # type: ignore[assignment]
    files = {"test": docs, **({"train": train} if train else {})}
    for split, rows in files.items():
        (folder / f"{name}.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = ", ".join(f"{split}: {folder}/{name}.{split}.jsonl" for split in files)
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{{named}}}}}\n"
        f"test_split: test\nnum_fewshot: 2\n{MULTIPLE_CHOICE}{settings}"
    )


def opened(folder: Path, name: str, group: str | None = None) -> tuple[LmEval, list[Item], list[Item], list[str]]:
    evaluator = open_lm_eval(folder, task=name, group=group)
    ((search, test),) = split_together([evaluator.items], 0.5, 0)
    return evaluator, search, test, list(evaluator.separate_examples(test))


def prompts(evaluator: LmEval) -> list[str]:
    """The prompt of each document, by its number."""
    return [instances[0].args[0] for instances in evaluator.subtasks[0].instances(None)]


def shown(prompt: str, docs: Docs) -> list[int]:
    """The numbers of the documents that are examples in a prompt, in their order."""
    *examples, _ = prompt.split("\n\n")
    return [number for example in examples for number, doc in enumerate(docs) if doc["question"] in example]


SAMPLERS = ["", "fewshot_config: {sampler: first_n}\n", "fewshot_split: test\n"]


@pytest.mark.parametrize("settings", SAMPLERS, ids=["random", "first", "the scored split by name"])
def test_examples_from_the_scored_split_are_other_search_items(tmp_path: Path, settings: str) -> None:
    docs = questions(24)
    write(tmp_path, "mine", docs, settings=settings)
    evaluator, search, test, notes = opened(tmp_path, "mine")
    searched = {int(item.id) for item in search}
    for number, prompt in enumerate(prompts(evaluator)):
        found = shown(prompt, docs)
        assert len(found) == len(set(found)) == 2
        assert set(found) <= searched - {number}
    (note,) = notes
    assert f"without the {len(test)} of its 24 documents that are test items" in note


def test_what_is_drawn_does_not_change_from_one_time_to_the_next(tmp_path: Path) -> None:
    write(tmp_path, "mine", questions(24))
    assert prompts(opened(tmp_path, "mine")[0]) == prompts(opened(tmp_path, "mine")[0])


@pytest.mark.parametrize("settings", ["fewshot_split: train\n", "training_split: train\n"])
def test_examples_from_a_split_of_their_own_are_lm_evals(tmp_path: Path, settings: str) -> None:
    write(tmp_path, "mine", questions(24), questions(30, seed=1), settings)
    evaluator, _, _, notes = opened(tmp_path, "mine")
    assert prompts(evaluator) == prompts(open_lm_eval(tmp_path, task="mine"))
    assert notes == ["2 examples before each item, from the split 'train'"]


def test_a_split_of_its_own_that_has_test_items_gives_the_others(tmp_path: Path) -> None:
    """The same documents in another split, as they are and with a word changed."""
    docs, others = questions(24), questions(6, seed=1)
    twins = [{**doc, "question": doc["question"].replace(" ", "  ").upper()} for doc in docs]
    write(tmp_path, "mine", docs, [*docs[:12], *twins[12:], *others], "fewshot_split: train\n")
    evaluator, _, test, _ = opened(tmp_path, "mine")
    forbidden = {int(item.id) for item in test}
    everything = [doc["question"] for doc in [*docs, *twins]]
    for number, prompt in enumerate(prompts(evaluator)):
        *examples, _ = prompt.split("\n\n")
        found = {everything.index(q) % 24 for example in examples for q in everything if q in example}
        assert len(examples) == 2
        assert not found & (forbidden | {number})


def test_prompts_without_a_conflict_are_lm_evals(tmp_path: Path) -> None:
    """Only examples that must not be there are replaced; the others stay where they are."""
    docs = questions(24)
    write(tmp_path, "mine", docs, [*docs[:2], *questions(60, seed=1)], "fewshot_split: train\n")
    evaluator, _, _, _ = opened(tmp_path, "mine")
    own = prompts(open_lm_eval(tmp_path, task="mine"))
    pairs = list(zip(prompts(evaluator), own, strict=True))
    changed = [(mine, theirs) for mine, theirs in pairs if mine != theirs]
    assert all(shown(theirs, docs[:2]) for _, theirs in changed)
    assert len(changed) < len(pairs)


def test_examples_of_the_items_own_group_are_kept_out(tmp_path: Path) -> None:
    docs = [{**doc, "page": n // 3} for n, doc in enumerate(questions(24))]
    write(tmp_path, "mine", docs)
    evaluator, search, _, _ = opened(tmp_path, "mine", group="page")
    pages = {int(item.id) // 3 for item in search}
    for number, prompt in enumerate(prompts(evaluator)):
        assert {one // 3 for one in shown(prompt, docs)} <= pages - {number // 3}


def test_too_few_documents_for_examples_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "mine", questions(24), questions(24)[:12], "fewshot_split: train\n")
    evaluator = open_lm_eval(tmp_path, task="mine")
    with pytest.raises(UserError, match="'mine' takes 2 examples from the split 'train', of which 0 of 12 documents"):
        evaluator.separate_examples(evaluator.items)


FIELDS = {
    "more fields": lambda doc, n: {**doc, "id": 1000 + n, "source": "the training split"},
    "an explanation": lambda doc, n: {**doc, "why": f"because it is so in the {n}th of all cases, as was shown before"},
    "other names": lambda doc, n: {"asked": doc["question"], "choices": doc["choices"], "gold": doc["gold"], "id": n},
}


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("length", [1, 9])
def test_examples_that_ask_what_test_items_ask_are_kept_out(tmp_path: Path, fields: str, length: int) -> None:
    """Whatever other fields they have."""
    rng = random.Random(1)
    docs = [
        {"question": f"{sentence(rng, length)} {n}?", "choices": ["cat", "dog", "sun"], "gold": n % 3}
        for n in range(16)
    ]
    samples = [FIELDS[fields](doc, n) for n, doc in enumerate(docs)]
    listed = "".join(f"    - {json.dumps(sample)}\n" for sample in samples)
    asked = '  doc_to_text: "Q: {{asked}} A:"\n' if fields == "other names" else ""
    write(tmp_path, "mine", docs, settings=f"fewshot_config:\n  sampler: first_n\n{asked}  samples:\n{listed}")
    evaluator, search, test, (note,) = opened(tmp_path, "mine")
    assert f"without the {len(test)} of its 16 documents that are test items" in note
    numbers = {int(item.id) for item in search}
    for number, prompt in enumerate(prompts(evaluator)):
        examples = shown(prompt, docs)
        assert len(examples) == 2
        assert set(examples) <= numbers - {number}


def test_equal_questions_do_not_tell_documents_apart(tmp_path: Path) -> None:
    docs = [{"question": "Which?", "choices": [f"cat {n}", f"dog {n}", f"sun {n}"], "gold": n % 3} for n in range(16)]
    others = [{**doc, "choices": [f"{animal} {animal} too" for animal in doc["choices"]]} for doc in docs]
    write(tmp_path, "mine", docs, others, "training_split: train\nfewshot_split: train\n")
    _, _, _, (note,) = opened(tmp_path, "mine")
    assert "without" not in note


def test_a_task_that_draws_examples_in_its_own_way_is_refused(tmp_path: Path) -> None:
    """As classes of lm-eval do that are not configured by YAML."""
    write(tmp_path, "mine", questions(20))
    evaluator = open_lm_eval(tmp_path, task="mine")
    del evaluator.subtasks[0]._task.sampler
    with pytest.raises(UserError, match="num_fewshot: task 'mine' draws its examples by code of its own"):
        evaluator.separate_examples(evaluator.items[:10])


def test_a_task_without_examples_says_nothing(tmp_path: Path) -> None:
    write(tmp_path, "mine", questions(24))
    text = (tmp_path / "mine.yaml").read_text().replace("num_fewshot: 2", "num_fewshot: 0")
    (tmp_path / "mine.yaml").write_text(text)
    assert opened(tmp_path, "mine")[3] == []

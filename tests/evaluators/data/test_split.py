"""Splits: groups stay together, the fraction is kept, the order does not matter."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from mergesearch.errors import UserError
from mergesearch.evaluators import Item, Shared, aggregate, split_items
from mergesearch.evaluators.data.near_duplicates import near_groups, plain
from mergesearch.evaluators.tasks.classification import Classification, ClassificationOptions
from mergesearch.evaluators.tasks.command import Command, CommandOptions
from mergesearch.evaluators.tasks.embedding import Embedding, EmbeddingOptions
from mergesearch.evaluators.tasks.function import Function, FunctionOptions

from ..conftest import write_rows


def made(task: str, sizes: list[int]) -> list[Item]:
    return [Item(f"{g}.{n}", task, f"print {g}") for g, size in enumerate(sizes) for n in range(size)]


def test_groups_stay_together() -> None:
    search, test = split_items(made("a", [3, 1, 4, 1, 5, 9, 2, 6]), 0.5, seed=3)
    assert not {item.fingerprint for item in search} & {item.fingerprint for item in test}


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_fraction_is_kept_in_each_task(fraction: float, seed: int) -> None:
    items = made("a", [1] * 40) + made("b", [2] * 30)
    counts = Counter(item.task for item in split_items(items, fraction, seed)[0])
    assert abs(counts["a"] - 40 * fraction) <= 0.5
    assert abs(counts["b"] - 60 * fraction) <= 1


def test_order_does_not_matter() -> None:
    items = made("a", [3, 1, 4, 1, 5, 9, 2, 6])
    shuffled = random.Random(0).sample(items, len(items))
    search = split_items(items, 0.4, seed=0)[0]
    assert set(split_items(shuffled, 0.4, seed=0)[0]) == set(search)
    assert split_items(shuffled, 0.4, seed=0)[0] == [item for item in shuffled if item in search]


def test_seed_matters_and_repeats() -> None:
    items = made("a", [1] * 40)
    assert split_items(items, 0.5, seed=1) == split_items(items, 0.5, seed=1)
    assert split_items(items, 0.5, seed=1) != split_items(items, 0.5, seed=2)


def test_a_large_group_does_not_swallow_the_split() -> None:
    search, test = split_items(made("a", [50, *[1] * 50]), 0.3, seed=0)
    assert len(search) == 30
    assert len(test) == 70


@pytest.mark.parametrize(("sizes", "fraction"), [([5], 0.5), ([1, 1, 1], 0.01), ([1, 1], 1.0), ([], 0.5)])
def test_an_empty_side_is_an_error(sizes: list[int], fraction: float) -> None:
    items = [*made("full", [1] * 10), *made("a", sizes)]
    if not sizes:
        assert split_items(items, fraction, seed=0)
        return
    with pytest.raises(UserError, match=f"(?s)task.*'.*fraction of {fraction:g}"):
        split_items(items, fraction, seed=0)


def test_aggregate_weights_items() -> None:
    assert aggregate([Item("0", "a", "x", 1.0), Item("1", "a", "y", 3.0)], [1.0, 2.0]) == 1.75


def documents() -> list[str]:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=5)) for _ in range(300)]
    return [" ".join(rng.choices(words, k=40)) for _ in range(60)]


def brute_force(texts: dict[str, str]) -> set[tuple[str, str]]:
    """Every pair whose shingles have a Jaccard index of 0.7 or more."""
    sets = {name: set(zip(*(text.lower().split()[i:] for i in range(5)), strict=False)) for name, text in texts.items()}
    return {(a, b) for a in sets for b in sets if a < b and len(sets[a] & sets[b]) >= 0.7 * len(sets[a] | sets[b])}


def test_near_duplicates_are_found_as_by_comparing_all_pairs() -> None:
    texts = {f"{number:03}": text for number, text in enumerate(documents())}
    rng = random.Random(1)
    for number in range(100, 140):
        copied = texts[f"{rng.randrange(60):03}"].split()
        for _ in range(rng.randrange(4)):
            copied[rng.randrange(40)] = "changed"
        texts[f"{number}"] = " ".join(copied).upper()
    groups, alike = near_groups(texts), brute_force(texts)
    assert len(alike) > 20
    assert all(groups[a] == groups[b] for a, b in alike)
    linked = {name for pair in alike for name in pair}
    assert all(groups[name] == name for name in texts if name not in linked)


def test_near_duplicates_stay_together() -> None:
    texts = documents()
    twins = [text.replace(text.split()[7], "Other,", 1) + " !" for text in texts]
    items = [Item(str(n), "a", f"print {n}", text=text) for n, text in enumerate([*texts, *twins])]
    for seed in range(5):
        search, test = split_items(items, 0.5, seed)
        assert {int(item.id) % 60 for item in search}.isdisjoint(int(item.id) % 60 for item in test)
        assert abs(len(search) - 60) <= 1


def items_of(kind: str, folder: Path, texts: list[str]) -> list[Item]:
    """What the evaluator makes of these texts; ids are their places."""
    rows = [
        {"text": text, "label": n % 2, "sentence1": text[:120], "sentence2": text[120:], "score": n}
        for n, text in enumerate(texts)
    ]
    data = str(write_rows(folder / "rows.jsonl", rows))
    if kind == "classification":
        return list(Classification(ClassificationOptions(task="t", data=data), Shared()).items)
    if kind == "embedding":
        return list(Embedding(EmbeddingOptions(task="t", data=data), Shared()).items)
    if kind == "command":
        (folder / "items.txt").write_text("\n".join(texts))
        options = CommandOptions(task="t", command="cat {model}", items=str(folder / "items.txt"))
        return [replace(item, id=str(n)) for n, item in enumerate(Command(options, Shared()).items)]
    code = f"def judge(model, tokenizer): pass\njudge.items = {dict(enumerate(texts))!r}\n"
    (folder / "judge.py").write_text(code.replace("= {", "= {str(n): {'text': text} for n, text in {") + "")
    code = f"texts = {texts!r}\n\ndef judge(model, tokenizer):\n    pass\n\n"
    code += "judge.items = {str(n): {'text': text, 'answer': n} for n, text in enumerate(texts)}\n"
    (folder / "judge.py").write_text(code)
    return list(Function(FunctionOptions(task="t", function=f"{folder}/judge.py:judge"), Shared()).items)


@pytest.mark.parametrize("kind", ["classification", "embedding", "function", "command"])
def test_near_duplicates_stay_together_in_every_evaluator(kind: str, tmp_path: Path) -> None:
    """One word of forty changed, planted for each of sixty texts: the two have different fingerprints."""
    texts = documents()
    items = items_of(kind, tmp_path, texts + [text.replace(text.split()[30], "other", 1) for text in texts])
    assert len({item.fingerprint for item in items}) == 120
    for seed in range(3):
        search, test = split_items(items, 0.5, seed)
        assert {int(item.id) % 60 for item in search}.isdisjoint(int(item.id) % 60 for item in test)


def test_a_group_settles_what_stays_together(tmp_path: Path) -> None:
    """Near-duplicates are not looked for then."""
    data = write_rows(tmp_path / "rows.jsonl", [{"text": text, "label": 0, "of": n} for n, text in enumerate("ab")])
    found = Classification(ClassificationOptions(task="t", data=str(data)), Shared(group="of")).items
    assert [item.text for item in found] == ["", ""]


def test_short_questions_of_one_form_are_no_duplicates() -> None:
    texts = {str(n): f"What is {n} plus {m}?" for n in range(10) for m in range(3)}
    assert near_groups(texts) == {name: name for name in texts}


def test_a_form_that_all_questions_share_makes_no_duplicates() -> None:
    form = "Read the question with care, think step by step, and answer with the letter of the one right choice: {}"
    texts = {f"{number:03}": form.format(text[:20]) for number, text in enumerate(documents())}
    assert near_groups(texts) == {name: name for name in texts}


def test_what_a_document_says() -> None:
    assert plain({"b": ["two", 3], "a": {"c": "one"}}) == "one\ntwo\n3"

"""Splits: groups stay together, the fraction is kept, the order does not matter."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mergesearch.errors import UserError
from mergesearch.evaluators import Item, Shared, split_items, split_together, without_shared
from mergesearch.evaluators.data.content import content_hash
from mergesearch.evaluators.tasks.classification import Classification, ClassificationOptions
from mergesearch.evaluators.tasks.command import Command, CommandOptions
from mergesearch.evaluators.tasks.embedding import Embedding, EmbeddingOptions
from mergesearch.evaluators.tasks.function import Function, FunctionOptions

from ..helpers import random_documents, write_rows


def items_of_groups(task: str, sizes: list[int]) -> list[Item]:
    return [Item(f"{g}.{n}", task, f"print {g}") for g, size in enumerate(sizes) for n in range(size)]


def test_groups_stay_together() -> None:
    search, test = split_items(items_of_groups("a", [3, 1, 4, 1, 5, 9, 2, 6]), 0.5, seed=3)
    assert not {item.fingerprint for item in search} & {item.fingerprint for item in test}


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_fraction_is_kept_in_each_task(fraction: float, seed: int) -> None:
    items = items_of_groups("a", [1] * 40) + items_of_groups("b", [2] * 30)
    counts = Counter(item.task for item in split_items(items, fraction, seed)[0])
    assert abs(counts["a"] - 40 * fraction) <= 0.5
    assert abs(counts["b"] - 60 * fraction) <= 1


def test_order_does_not_matter() -> None:
    items = items_of_groups("a", [3, 1, 4, 1, 5, 9, 2, 6])
    shuffled = random.Random(0).sample(items, len(items))
    search = split_items(items, 0.4, seed=0)[0]
    assert set(split_items(shuffled, 0.4, seed=0)[0]) == set(search)
    assert split_items(shuffled, 0.4, seed=0)[0] == [item for item in shuffled if item in search]


def test_seed_matters_and_repeats() -> None:
    items = items_of_groups("a", [1] * 40)
    assert split_items(items, 0.5, seed=1) == split_items(items, 0.5, seed=1)
    assert split_items(items, 0.5, seed=1) != split_items(items, 0.5, seed=2)


def test_a_large_group_does_not_swallow_the_split() -> None:
    search, test = split_items(items_of_groups("a", [50, *[1] * 50]), 0.3, seed=0)
    assert len(search) == 30
    assert len(test) == 70


@pytest.mark.parametrize(("sizes", "fraction"), [([5], 0.5), ([1, 1, 1], 0.01), ([1, 1], 1.0), ([], 0.5)])
def test_an_empty_side_is_an_error(sizes: list[int], fraction: float) -> None:
    items = [*items_of_groups("full", [1] * 10), *items_of_groups("a", sizes)]
    if not sizes:
        assert split_items(items, fraction, seed=0)
        return
    with pytest.raises(UserError, match=f"(?s)task.*'.*fraction of {fraction:g}"):
        split_items(items, fraction, seed=0)


def test_near_duplicates_stay_together() -> None:
    texts = random_documents()
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
    code = f"texts = {texts!r}\n\ndef judge(model, tokenizer):\n    pass\n\n"
    code += "judge.items = {str(n): {'text': text, 'answer': n} for n, text in enumerate(texts)}\n"
    (folder / "judge.py").write_text(code)
    return list(Function(FunctionOptions(task="t", function=f"{folder}/judge.py:judge"), Shared()).items)


@pytest.mark.parametrize("kind", ["classification", "embedding", "function", "command"])
def test_near_duplicates_stay_together_in_every_evaluator(kind: str, tmp_path: Path) -> None:
    """One word of forty changed, planted for each of sixty texts: the two have different fingerprints."""
    texts = random_documents()
    items = items_of(kind, tmp_path, texts + [text.replace(text.split()[30], "other", 1) for text in texts])
    assert len({item.fingerprint for item in items}) == 120
    for seed in range(3):
        search, test = split_items(items, 0.5, seed)
        assert {int(item.id) % 60 for item in search}.isdisjoint(int(item.id) % 60 for item in test)


def test_a_group_settles_what_stays_together(tmp_path: Path) -> None:
    """Near-duplicates are not looked for then."""
    data = write_rows(tmp_path / "rows.jsonl", [{"text": text, "label": 0, "of": n} for n, text in enumerate("ab")])
    items = Classification(ClassificationOptions(task="t", data=str(data)), Shared(group="of")).items
    assert [item.text for item in items] == ["", ""]


def named(task: str, texts: list[str]) -> list[Item]:
    return [Item(str(n), task, content_hash(text), text=text) for n, text in enumerate(texts)]


def on(side: list[Item]) -> set[str]:
    return {item.text for item in side}


def test_tasks_that_share_nothing_are_split_as_if_each_were_alone() -> None:
    texts = random_documents()
    parts = [named("a", texts[:30]), named("b", texts[30:])]
    assert split_together(parts, 0.4, 1) == [split_items(part, 0.4, 1) for part in parts]


@pytest.mark.parametrize("change", [str, lambda text: text.replace(text.split()[30], "other", 1)])
def test_one_document_in_two_tasks_is_on_one_side(change: Callable[[str], str]) -> None:
    texts = random_documents()
    parts = [named("a", texts[:40]), named("b", [*map(change, texts[20:40]), *texts[40:]])]
    for seed in range(3):
        (search, test), (search_b, test_b) = split_together(parts, 0.5, seed)
        assert {change(text) for text in on(search)}.isdisjoint(on(test_b))
        assert {change(text) for text in on(test)}.isdisjoint(on(search_b))
        assert abs(len(search_b) - 20) <= 3


def test_a_document_in_three_tasks_is_on_one_side() -> None:
    """The third has documents of both the others, and so links them."""
    texts = random_documents()
    parts = [named("a", texts[:20]), named("b", texts[20:40]), named("c", texts[:40])]
    both = split_together(parts, 0.5, 0)
    searched, tested = (set().union(*(on(sides[n]) for sides in both)) for n in (0, 1))
    assert not searched & tested


def test_a_text_that_has_an_item_in_it_is_on_the_items_side() -> None:
    texts = random_documents()
    pages = [f"page {n} begins {texts[n]} and ends" * (n % 3 + 1) for n in range(20)]
    (search, test), (pages_searched, pages_tested) = split_together([named("a", texts), named("b", pages)], 0.5, 0)
    for texts_of, others in ((search, pages_tested), (test, pages_searched)):
        assert not any(text in page for text in on(texts_of) for page in on(others))


def test_what_a_calibration_text_has_is_searched_on() -> None:
    texts = random_documents()
    ((search, test),) = split_together([named("a", texts)], 0.5, 0, ["\n".join(texts[:10])])
    assert set(texts[:10]) <= on(search)
    assert len(search) == len(test)


def test_what_is_in_the_calibration_text_as_a_whole_cannot_be_split() -> None:
    texts = random_documents()
    with pytest.raises(UserError, match="60 of which are in another task or a calibration text too"):
        split_together([named("a", texts)], 0.5, 0, ["\n".join(texts)])


def test_names_of_items_that_two_tasks_have_by_chance_link_nothing() -> None:
    parts = [named(task, [str(n) for n in range(10)]) for task in "ab"]
    assert split_together(parts, 0.5, 0) == [split_items(part, 0.5, 0) for part in parts]
    assert without_shared(parts[:1], parts[1:]) == [parts[0]]


def test_search_items_that_are_test_items_elsewhere_are_left_out() -> None:
    texts = random_documents()
    ((kept),) = without_shared([named("a", texts[:40])], [named("b", texts[30:])])
    assert on(kept) == set(texts[:30])


@pytest.mark.parametrize(("search", "test"), [(0.1, 0.2), (0.25, 0.5), (0.3, 0.7)])
def test_items_may_be_left_unused(search: float, test: float) -> None:
    items = items_of_groups("a", [1] * 100)
    ((searched, tested),) = split_together([items], search, 0, test=test)
    assert (len(searched), len(tested)) == (100 * search, 100 * test)
    assert not set(searched) & set(tested)


def test_each_fraction_leaves_the_other_side_as_it_is() -> None:
    items = items_of_groups("a", [1] * 100)
    ((searched, tested),) = split_together([items], 0.1, 0, test=0.2)
    ((more, same),) = split_together([items], 0.5, 0, test=0.2)
    ((first, larger),) = split_together([items], 0.1, 0, test=0.6)
    assert (same, first) == (tested, searched)
    assert set(more) > set(searched)
    assert set(larger) > set(tested)
    assert ((searched, [item for item in items if item not in searched]),) == (*split_together([items], 0.1, 0),)


def test_what_is_like_an_unused_item_is_unused() -> None:
    """In its task, and in others that have items like it."""
    texts = random_documents()
    twins = [text.replace(text.split()[7], "Other,", 1) + " !" for text in texts]
    parts = [named("a", texts), named("b", twins), named("c", texts)]
    for seed in range(3):
        found = split_together(parts, 0.2, seed, test=0.3)
        sides = [[{int(item.id) for item in side} for side in part] for part in found]
        assert sides[0] == sides[1] == sides[2]
        assert (len(sides[0][0]), len(sides[0][1])) == (12, 18)


def test_a_side_of_a_small_split_is_not_empty() -> None:
    with pytest.raises(UserError, match=r"search fraction of 0.5 with a test fraction of 0.001 leaves one side empty"):
        split_together([items_of_groups("a", [1] * 10)], 0.5, 0, test=0.001)

"""Limits: the items are chosen by their contents alone, in each subtask the same share."""

import random
from collections import Counter
from pathlib import Path

import pytest

from mergesearch.evaluators import Item, Shared, limited
from mergesearch.evaluators.tasks.classification import Classification, ClassificationOptions

from ..helpers import write_rows


def items_of(sizes: dict[str, int]) -> list[Item]:
    return [
        Item(f"{name}/{n}", "task", f"{name} {n}", subtask=name) for name, size in sizes.items() for n in range(size)
    ]


@pytest.mark.parametrize("limit", [2, 10, 57, 100, 0.1, 0.5])
def test_each_subtask_keeps_its_share(limit: float) -> None:
    sizes = {"law": 60, "art": 30, "sums": 10}
    kept = limited(items_of(sizes), limit)
    wanted = limit if isinstance(limit, int) else 100 * limit
    assert len(kept) == wanted
    counts = Counter(item.subtask for item in kept)
    assert all(abs(counts[name] - wanted * size / 100) < 1 for name, size in sizes.items())


def test_no_more_than_all_are_kept() -> None:
    items = items_of({"a": 5})
    assert limited(items, 100) == items


def test_the_order_of_the_items_and_other_items_do_not_matter() -> None:
    items = items_of({"a": 100})
    kept = limited(items, 20)
    shuffled = random.Random(0).sample(items, len(items))
    assert limited(shuffled, 20) == [item for item in shuffled if item in kept]
    assert set(kept) < set(limited(items, 60)), "a larger limit keeps what a smaller one keeps"
    assert set(limited(items[:80], 20)) & set(kept) >= {item for item in kept if item in items[:80]}


def test_a_field_that_groups_items_does_not_matter(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": n % 2, "of": n // 10} for n in range(60)]
    options = ClassificationOptions(task="t", data=str(write_rows(tmp_path / "rows.jsonl", rows)))
    alone, grouped = (limited(Classification(options, Shared(group=group)).items, 12) for group in (None, "of"))
    assert [item.id for item in alone] == [item.id for item in grouped]
    assert len({item.fingerprint for item in grouped}) > 3, "groups are not kept as wholes"

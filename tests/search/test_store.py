"""What a run keeps of its candidates: scores of any shape, read back as they were."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mergesearch.evaluators import Item
from mergesearch.search.store import RunFolder

NAN = float("nan")


@pytest.mark.parametrize(
    "scores",
    [
        {"one": [0.5, 1.0, 0.0], "several": [[1.0, 2.0], [3.0, NAN], [0.1, -7.0]], "another": [1 / 3]},
        {"several": [[1.0, 2.0, 3.0]], "one": [0.25]},
        {"one": [NAN, 1e-300]},
        {"column": [[1.0], [2.0]], "one": [1.0, 2.0]},
        {"none": [], "one": [1.0]},
        {"none": []},
        {},
    ],
)
def test_scores_come_back_as_they_were(scores: dict[str, list[float]], tmp_path: Path) -> None:
    given = {task: torch.tensor(values, dtype=torch.float64) for task, values in scores.items()}
    items = {task: [Item(f"item {n}", task, str(n)) for n in range(len(values))] for task, values in given.items()}
    folder = RunFolder(tmp_path)
    folder.save_scores("trial", given, items)
    found = folder.load_scores("trial")
    assert list(found) == [task for task, values in given.items() if len(values)]
    for task, values in found.items():
        assert_same(values, given[task])


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert found.dtype == torch.float64


def test_scores_without_their_items_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="longer"):
        RunFolder(tmp_path).save_scores("trial", {"one": torch.zeros(2)}, {"one": [Item("0", "one", "x")]})

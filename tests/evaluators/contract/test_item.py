"""The mean of items' scores."""

import pytest

from mergesearch.evaluators import Item, aggregate


def test_aggregate_weights_items() -> None:
    assert aggregate([Item("0", "a", "x", 1.0), Item("1", "a", "y", 3.0)], [1.0, 2.0]) == 1.75


def test_every_item_needs_a_score() -> None:
    with pytest.raises(ValueError, match="zip"):
        aggregate([Item("0", "a", "x"), Item("1", "a", "y")], [1.0])

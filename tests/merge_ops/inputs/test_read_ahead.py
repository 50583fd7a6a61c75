"""Tensors that are read before they are asked for."""

import threading
from collections import Counter

import pytest
import torch
from torch import Tensor

from mergesearch.merge_ops.inputs.read_ahead import ReadAhead

SIZES = {"a": 4, "b": 4, "c": 8, "d": 2, "e": 2, "f": 2}
GROUPS = [[("m", name) for name in group] for group in ("a", "bc", "d", "e", "f")]


class Reader:
    """Counts reads, and waits for one where a test asks for it."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.read_all = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, _: str, name: str) -> Tensor:
        with self._lock:
            self.counts[name] += 1
            if set("def") <= self.counts.keys():
                self.read_all.set()
        return torch.full((1,), float(ord(name)))

    def ahead(self) -> ReadAhead:
        return ReadAhead(GROUPS, lambda key: SIZES[key[1]], self)


def test_each_is_read_once_and_ahead_within_the_memory_of_the_largest_group() -> None:
    reader = Reader()
    with reader.ahead() as ahead:
        for group in GROUPS[:2]:
            ahead.advance()
            for key in group:
                assert ahead.tensor(*key).item() == ord(key[1])
        assert set(reader.counts) == set("abc")  # the largest group leaves room for nothing else
        ahead.advance()
        assert reader.read_all.wait(60)
        for index in (2, 3, 4):
            assert ahead.tensor(*GROUPS[index][0]).item() == ord(GROUPS[index][0][1])
            if index < 4:
                ahead.advance()
    assert set(reader.counts.values()) == {1}


def test_what_is_asked_for_again_or_is_not_expected_is_read_then() -> None:
    reader = Reader()
    with reader.ahead() as ahead:
        ahead.advance()
        assert [ahead.tensor("m", name).item() for name in "aaf"] == [ord(name) for name in "aaf"]
    assert reader.counts["a"] == 2


def test_an_error_is_that_of_the_tensor_that_is_asked_for() -> None:
    def fails(_: str, name: str) -> Tensor:
        raise ValueError(name)

    with ReadAhead(GROUPS, lambda key: SIZES[key[1]], fails) as ahead:
        ahead.advance()
        with pytest.raises(ValueError, match=r"^a$"):
            ahead.tensor("m", "a")

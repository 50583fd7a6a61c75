"""What long work says of itself."""

import threading

import pytest

from mergesearch.steps import Meter, followed, metered, part, reached, step, units


def at(meter: Meter) -> list[tuple[str, float, int]]:
    return [(each.what, each.done, each.of) for each in meter.steps]


def test_steps_stand_within_each_other() -> None:
    with metered() as meter:
        assert at(meter) == []
        with step("trial 3"):
            with step("scoring", 10, "items"):
                assert at(meter) == [("trial 3", 0, 0), ("scoring", 0, 10)]
            assert at(meter) == [("trial 3", 0, 0)]
        with pytest.raises(KeyError), step("building"):
            raise KeyError
        assert at(meter) == []
        with metered() as inner:
            assert inner is meter


def test_units_and_their_shares() -> None:
    with metered() as meter, step("scoring", 20, "items"):
        now = meter.steps[-1]
        with units(10):
            reached(0.5)
            assert now.done == 5
            reached(0.2)
            assert now.done == 5, "what is done stays done"
        assert now.done == 10
        with units(10):
            for number in followed([1, 2]):
                assert now.done == 10 + 5 * (number - 1)
            assert now.done == 20
        assert now.done == 20


def test_parts() -> None:
    with metered() as meter, step("scoring", 8, "items"), units(8):
        now = meter.steps[-1]
        with part(0.25):
            with part(0.5):
                reached(1.0)
                assert now.done == 1
            assert now.done == 1
        assert now.done == 2
        reached(0.75)
        assert now.done == 6


def test_nobody_listens() -> None:
    with step("scoring", 3), units(3), part(0.5):
        reached(1.0)
    assert list(followed("ab")) == ["a", "b"]
    seen: list[object] = []
    with metered() as meter:
        thread = threading.Thread(target=lambda: (reached(1.0), seen.append(list(followed("ab")))))
        with step("scoring", 1, "items"), units(1):
            thread.start()
            thread.join()
            assert meter.steps[-1].done == 0
    assert seen == [["a", "b"]]

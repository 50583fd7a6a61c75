"""How many threads a run takes: what the config says, else what is free; and afterwards as before."""

import os
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from mergesearch.search.config import Config
from mergesearch.search.rehearsal import expected_cost
from mergesearch.search.scoring import threads
from mergesearch.search.scoring.threads import chosen_threads, free_processors

from ..helpers import Data
from ..test_rehearsal import plan_of


@pytest.mark.parametrize(
    ("wanted", "variable", "free", "count", "why"),
    [
        (3, "8", 0.0, 3, "the config says so"),
        (None, "8", 0.0, 8, "as OMP_NUM_THREADS says"),
        (None, None, 7.8, 8, "7.8 processors are free"),
        (None, None, 6.9, 4, "of 8, because 6.9 processors are free"),
        (None, None, 1.2, 1, "of 8, because 1.2 processors are free"),
        (None, None, 0.0, 1, "of 8, because 0.0 processors are free"),
    ],
)
def test_what_is_taken(  # noqa: PLR0917
    monkeypatch: pytest.MonkeyPatch, wanted: int | None, variable: str | None, free: float, count: int, why: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    before, said = torch.get_num_threads(), list[str]()
    monkeypatch.setattr(threads, "free_processors", lambda: free)
    torch.set_num_threads(8)
    try:
        with chosen_threads(wanted, said.append):
            assert torch.get_num_threads() == count
        assert torch.get_num_threads() == 8
    finally:
        torch.set_num_threads(before)
    assert said[0].startswith(f"threads: {count}, {why}")


def test_small_matrices_wait_for_no_threads() -> None:
    def numpys() -> set[int]:
        return {found["num_threads"] for found in threadpool_info() if found["prefix"] == threads.NUMPY}

    with threadpool_limits(3, user_api="blas"):
        before = numpys()
        with chosen_threads(2, lambda _: None):
            assert numpys() <= {1}
            assert torch.get_num_threads() == 2
        assert numpys() == before


def test_no_more_processors_are_free_than_there_are() -> None:
    assert 0 <= free_processors() <= (os.cpu_count() or 1)


def test_a_container_has_its_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text("1000 100000\n")
    assert free_processors() <= 0.01
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert 0 <= free_processors() <= (os.cpu_count() or 1)


def test_check_says_it(config: Data) -> None:
    said: list[str] = []
    expected_cost(plan_of({**config, "threads": 1}), False, said.append)
    assert "threads: 1, the config says so" in said
    with pytest.raises(ValueError, match="threads"):
        Config.model_validate({**config, "threads": 0})

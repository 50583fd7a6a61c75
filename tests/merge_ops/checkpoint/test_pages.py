"""Memory that is used again: never while a tensor needs it."""

import mmap
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mergesearch.merge_ops.checkpoint import pages
from mergesearch.merge_ops.checkpoint.pages import HUGE, MOST_KEPT, allocated

kept = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="memory is kept on Linux only")


@pytest.mark.parametrize("count", [0, 1, HUGE - 1, HUGE, HUGE + 5])
def test_memory_has_the_size_that_is_asked_for(count: int) -> None:
    memory = allocated(count)
    assert memory.shape == (count,)
    assert memory.dtype == torch.uint8
    assert memory.fill_(7).sum(dtype=torch.int64) == 7 * count


@kept
def test_dropped_memory_is_used_again_by_a_tensor_of_its_size() -> None:
    first = allocated(HUGE + 4096)
    place = first.data_ptr()
    view = first[100:200]
    del first
    assert allocated(HUGE + 4096).data_ptr() != place, "a view still needs it"
    del view
    other = allocated(HUGE + 8192)
    again = [allocated(HUGE + 4096) for _ in range(3)]
    assert place in [each.data_ptr() for each in again]
    assert len({each.data_ptr() for each in (other, *again)}) == 4


@kept
def test_no_more_is_kept_than_said() -> None:
    many = [allocated(HUGE) for _ in range(2 * MOST_KEPT // HUGE)]
    del many
    allocated(MOST_KEPT + 1)
    assert sum(map(len, pages._kept._pages)) <= MOST_KEPT


def test_threads_never_share_memory() -> None:
    def use(number: int) -> bool:
        memory = allocated(HUGE + number % 2)
        memory.fill_(number)
        return bool((memory == number).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(100)))

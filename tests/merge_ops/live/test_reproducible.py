from collections.abc import Iterator

import pytest
import torch
from torch import nn

from mergesearch.merge_ops.live.reproducible import reproducible


def gradient() -> bytes:
    """Of an index that names every row thousands of times."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 64, generator=generator))
    chosen = torch.randint(8, (40_000,), generator=generator)
    (weight[chosen] * torch.randn(40_000, 64, generator=generator)).sum().backward()
    assert weight.grad is not None
    return weight.grad.numpy().tobytes()


@pytest.fixture
def _four_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_four_threads")
def test_threads_do_not_change_gradients() -> None:
    with reproducible():
        assert len({gradient() for _ in range(10)}) == 1


@pytest.mark.filterwarnings("error")
def test_what_torch_cannot_do_in_order_is_no_warning_and_the_caller_keeps_its_settings() -> None:
    with reproducible():
        assert torch.are_deterministic_algorithms_enabled()
        nn.functional.max_unpool2d(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1, dtype=torch.int64), 2)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory

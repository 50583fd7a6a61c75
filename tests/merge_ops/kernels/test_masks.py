"""Masks are fair and independent, and depend only on the key and the element's index."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.masks import fingerprint, keep_mask, mask_key
from mergesearch.merge_ops.kernels.plans import GRAIN, rounded
from mergesearch.merge_ops.methods import METHODS

from ...tolerances import assert_close
from ..helpers import case_of, ours

COUNT = 1 << 20
CPU = torch.device("cpu")


def mask(key: int = mask_key(7, "model", "tensor"), probability: float = 0.5, count: int = COUNT) -> Tensor:
    return keep_mask(key, 0, count, probability, CPU)


def correlation(a: Tensor, b: Tensor) -> float:
    """The correlation in standard deviations of that of independent masks."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return float(a @ b / (a.norm() * b.norm())) * math.sqrt(a.numel())


@pytest.mark.parametrize("probability", [1e-4, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("seed", range(3))
def test_mean(probability: float, seed: int) -> None:
    drawn = mask(mask_key(seed, "model", "tensor"), probability).double()
    p = rounded(probability)
    assert abs(drawn.mean().item() - p) < 5 * math.sqrt(p * (1 - p) / COUNT)


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("lag", [1, 2, 3, 4, 64, 4096, 1 << 16, (1 << 16) + 1])
def test_no_correlation_with_what_follows(probability: float, lag: int) -> None:
    drawn = mask(probability=probability)
    assert abs(correlation(drawn[:-lag], drawn[lag:])) < 5


def test_counts_in_windows_vary_as_independent_draws_do() -> None:
    """Chi-squared over windows of 256 elements, for masks that are too even or too uneven."""
    for probability in (0.1, 0.5):
        counts = mask(probability=probability).view(-1, 256).sum(1).double()
        p = rounded(probability)
        chi = ((counts - 256 * p) ** 2 / (256 * p * (1 - p))).sum().item()
        assert abs(chi - counts.numel()) < 5 * math.sqrt(2 * counts.numel())


def test_eight_neighbours_take_every_pattern_equally_often() -> None:
    patterns = (mask().view(-1, 8) * torch.tensor([1 << i for i in range(8)])).sum(1)
    seen = torch.bincount(patterns, minlength=256).double()
    wish = COUNT / 8 / 256
    assert ((seen - wish) ** 2 / wish).sum().item() < 255 + 5 * math.sqrt(2 * 255)


OTHERS = {
    "seed": mask_key(8, "model", "tensor"),
    "checkpoint": mask_key(7, "model2", "tensor"),
    "tensor": mask_key(7, "model", "tensor2"),
    "next key": mask_key(7, "model", "tensor") + 1,
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("shift", [0, 1, 2, 7, 256])
def test_other_keys_give_independent_masks(other: int, shift: int) -> None:
    one, two = mask(), mask(other)
    assert abs(correlation(one[: COUNT - shift], two[shift:])) < 5


def test_many_keys_are_independent_pairwise() -> None:
    drawn = torch.stack([mask(mask_key(seed, "model", "tensor"), count=1 << 14) for seed in range(40)]).double() - 0.5
    products = drawn @ drawn.T / (0.25 * math.sqrt(1 << 14))
    assert products.triu(1).abs().max().item() < 5


def test_keys_join_their_parts_without_confusion() -> None:
    keys = [mask_key(1, "a", "b.c"), mask_key(1, "a.b", "c"), mask_key(11, "a", "b.c"), mask_key(1, "b.c", "a")]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 1 << 64 for key in keys)


@pytest.mark.parametrize(("start", "count"), [(0, 1), (0, 999), (2, 5), (500, 499), (1 << 12, 3), (998, 1)])
def test_a_piece_is_a_slice_of_the_whole(start: int, count: int) -> None:
    whole = mask(probability=0.3, count=10_000)
    assert torch.equal(keep_mask(mask_key(7, "model", "tensor"), start, count, 0.3, CPU), whole[start : start + count])


def test_places_beyond_32_bits_have_masks_of_their_own() -> None:
    key, far = mask_key(7, "model", "tensor"), 1 << 33
    assert abs(correlation(keep_mask(key, far, COUNT, 0.5, CPU), mask(key))) < 5
    before = keep_mask(key, far - 1000, 1000, 0.5, CPU)
    assert torch.equal(keep_mask(key, far - 500, 500, 0.5, CPU), before[500:])


@pytest.mark.parametrize(
    ("probability", "expected"),
    [(0.0, 0.0), (1e-9, 1 / GRAIN), (0.5, 0.5), (0.1, 6554 / GRAIN), (0.999999, 1.0), (1.0, 1.0)],
)
def test_probabilities_are_rounded_but_never_to_nothing(probability: float, expected: float) -> None:
    assert rounded(probability) == expected


@pytest.mark.parametrize("probability", [0.0, 0.999999, 1.0])
def test_certainties(probability: float) -> None:
    assert mask(probability=probability, count=1001).sum().item() == round(probability) * 1001


def test_more_is_kept_as_the_probability_grows() -> None:
    masks = [mask(probability=p, count=5000) for p in (0.1, 0.4, 0.7, 1.0)]
    assert all((less <= more).all() for less, more in pairwise(masks))


def test_global_random_state_is_neither_used_nor_changed() -> None:
    torch.manual_seed(1)
    before, one = torch.get_rng_state(), mask(count=100)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(one, mask(count=100))


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("rescale", ["inverse", "l1"])
def test_block_size_does_not_change_a_merge(name: str, rescale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(METHODS[name], (1001,), 3, density=0.4, rescale=rescale)
    results = []
    for block in (2, 64, 998, 1 << 16):
        monkeypatch.setattr("mergesearch.merge_ops.kernels.combine.BLOCK", block)
        results.append(ours(METHODS[name], case))
    for result in results:
        # The L1 norm is summed block by block in float64, so that the factor may differ by one rounding in float32.
        assert_close(result, results[0], 4 if rescale == "l1" else 0)


@pytest.mark.parametrize("shape", [(3,), (4096,), (300, 77), (4097,), (0,)])
def test_a_fingerprint_is_of_the_values_alone(shape: tuple[int, ...]) -> None:
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert fingerprint(weights) == fingerprint(weights.clone()) == fingerprint(weights.t().contiguous().t())


def test_a_fingerprint_sees_changes_anywhere() -> None:
    """Models whose embeddings have the same first and last rows have different fingerprints."""
    weights = torch.zeros(1000, 64)
    changed = [weights.clone() for _ in range(10)]
    for number, rows in enumerate(changed):
        rows[100 * number : 100 * (number + 1)] = 1e-3
    assert len({fingerprint(rows) for rows in (weights, *changed)}) == 11


def test_masks_never_change() -> None:
    """A recipe's bytes depend on these: a change here breaks every published DARE recipe."""
    assert mask_key(42, "org/model", "model.layers.0.mlp.up_proj.weight") == KNOWN_KEY
    bits = keep_mask(KNOWN_KEY, 0, 64, 0.5, CPU)
    assert "".join("01"[int(bit)] for bit in bits) == KNOWN_HALF
    bits = keep_mask(KNOWN_KEY, (1 << 33) + 10, 64, 0.2, CPU)
    assert "".join("01"[int(bit)] for bit in bits) == KNOWN_FIFTH


KNOWN_KEY = 0x45BEA7E57EA6FC12
KNOWN_HALF = "1110011101011101101000000101100101000000110100010010010001010010"
KNOWN_FIFTH = "1000000100001000100100000010000000000000100001010100010010000000"

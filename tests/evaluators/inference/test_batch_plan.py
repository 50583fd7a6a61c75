"""Plans of batches: every continuation is scored once, and batches keep their limits."""

from mergesearch.evaluators.inference.batch_plan import BatchLimits, Request, plan_batches

from .helpers import CPU, WIDTH, questions, random_requests


def test_batches_keep_their_limits() -> None:
    plan = plan_batches(random_requests(50), BatchLimits(64, 5, tokens=64), CPU)
    assert sum(len(batch.ids) for batch in plan.batches) == 50
    for batch in plan.batches:
        assert len(batch.ids) == 1 or (batch.ids.numel() <= 64 and len(batch.positions) <= 16)
        assert len(batch.ids) <= 5


def test_requests_with_the_same_input_share_a_row() -> None:
    requests = [Request((3, 4, 5), (end,)) for end in (6, 7, 8)] + [Request((3, 4), (5, 9))]
    (batch,) = plan_batches(requests, BatchLimits(64, 8, 512), CPU).batches
    assert batch.ids.tolist() == [[3, 4, 5]]
    assert batch.positions.tolist() == [1, 2]


def test_common_examples_go_through_the_model_once() -> None:
    requests = [request for choices in questions(6, shots=40) for request in choices]
    packed, alone = (plan_batches(requests, BatchLimits(128, 8, 16_384), CPU, width) for width in (WIDTH * 64, None))
    tokens = [sum(batch.ids.numel() for batch in plan.batches) for plan in (packed, alone)]
    assert 4 * tokens[0] < tokens[1]


def test_only_the_largest_batches_are_kept() -> None:
    plan = plan_batches(random_requests(50), BatchLimits(64, 5, tokens=64), CPU)
    largest = plan.largest().batches
    assert len(largest) == 3
    assert max(batch.ids.numel() for batch in largest) == max(batch.ids.numel() for batch in plan.batches)
    assert max(len(batch.positions) for batch in largest) == max(len(batch.positions) for batch in plan.batches)

"""Statistics of whole models."""

import pytest
import torch

from mergesearch.merge_ops.kernels.combine import combine
from mergesearch.merge_ops.kernels.plans import SignConsensus
from mergesearch.merge_ops.methods import METHODS, Values
from mergesearch.merge_ops.statistics.model_statistics import JointQuantiles, WholeModels
from mergesearch.merge_ops.statistics.tensor_statistics import QuantileTable, Source, TensorStatistics

from ..helpers import Counter, tensor

TENSORS = [tensor((31, 7), 1), tensor((1,), 2), tensor((400,), 3, spread=0.01), torch.zeros(0), torch.zeros(5)]


def tables() -> list[QuantileTable]:
    return [QuantileTable.of(values, torch.zeros_like(values)) for values in TENSORS]


def test_several_tables_answer_as_one() -> None:
    joint, together = JointQuantiles(tables()), torch.cat([values.flatten() for values in TENSORS])
    alone = QuantileTable.of(together, torch.zeros_like(together))
    assert joint.size == alone.size == together.numel()
    assert joint.total == pytest.approx(alone.total)
    for rank in range(1, joint.size + 1):
        assert joint.largest(rank) == alone.largest(rank)
    for threshold in (0.0, 0.01, 0.5, 99.0):
        assert joint.sum_from(threshold) == pytest.approx(alone.sum_from(threshold))
        assert joint.count_from(threshold) == int((together.abs() >= threshold).sum())


def test_ties_trims_over_the_whole_model_where_asked() -> None:
    """A tensor of small changes keeps few of them, and one of large ones nearly all."""
    counted = Counter(lambda *_: [(torch.zeros_like(values), values) for values in TENSORS])
    whole = WholeModels(counted, lambda *_: {})
    together = torch.cat([values.flatten() for values in TENSORS]).abs()
    cut = together.sort(descending=True).values[int(0.4 * together.numel()) - 1].item()
    for values in TENSORS[:3]:
        base = Source("base", torch.zeros_like(values))
        statistics = TensorStatistics("w", base, [Source("m", values)], {}, whole)
        shared = {p.name: p.default for p in METHODS["ties"].parameters if p.default is not None}
        each = {"weight": (1.0,), "density": (0.4,)}
        plan = METHODS["ties"].decide(statistics, Values({**shared, "scope": "global"}, each, lambda _: (1,)))
        assert isinstance(plan, SignConsensus)
        assert plan.sparsity[0].threshold == pytest.approx(cut)
    assert counted.calls == 1


@pytest.mark.parametrize("mode", ["cosineA", "cosineB"])
def test_cosine_add_scales_similarities_over_the_whole_model(mode: str) -> None:
    """In a model of a tensor whose columns differ and of one whose columns hardly do, the second stays the base's."""
    far = tensor((40, 30), 1), tensor((40, 30), 2)
    near = far[0], far[0] + 0.01 * far[1]
    whole = WholeModels(lambda *_: [far, near], lambda *_: {})
    kept = []
    for base, model in (far, near):
        statistics = TensorStatistics("w" + str(id(base)), Source("b", base), [Source("m", model)], {}, whole)
        plan = METHODS["cosine_add"].decide(statistics, Values({"alpha": 0.0, "mode": mode}, {}, lambda _: (1,)))
        merged = torch.empty_like(base)
        combine(plan, base, [model], merged)
        kept.append(((merged - model).norm() / (base - model).norm()).item())
    assert kept[0] < 0.3
    assert kept[1] > 0.99

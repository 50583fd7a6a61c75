"""Statistics of whole models."""

import pytest
import torch

from mergesearch.merge_ops.kernels.combine import combine
from mergesearch.merge_ops.kernels.plans import SignConsensus
from mergesearch.merge_ops.methods import METHODS, ParameterValues
from mergesearch.merge_ops.statistics.model_statistics import ModelStatistics
from mergesearch.merge_ops.statistics.tensor_statistics import InputTensor, TensorStatistics

from ..helpers import Counter, tensor

TENSORS = [tensor((31, 7), 1), tensor((1,), 2), tensor((400,), 3, spread=0.01), torch.zeros(0), torch.zeros(5)]


def test_ties_trims_over_the_whole_model_where_asked() -> None:
    """A tensor with small changes keeps few of them, and a tensor with large changes nearly all."""
    counted = Counter(lambda *_: [(torch.zeros_like(values), values) for values in TENSORS])
    whole = ModelStatistics(counted, lambda *_: {})
    together = torch.cat([values.flatten() for values in TENSORS]).abs()
    cut = together.sort(descending=True).values[int(0.4 * together.numel()) - 1].item()
    for values in TENSORS[:3]:
        base = InputTensor("base", torch.zeros_like(values))
        statistics = TensorStatistics("w", base, [InputTensor("m", values)], {}, whole)
        shared = {p.name: p.default for p in METHODS["ties"].parameters if p.default is not None}
        each = {"weight": (1.0,), "density": (0.4,)}
        plan = METHODS["ties"].decide(statistics, ParameterValues({**shared, "scope": "global"}, each, lambda _: (1,)))
        assert isinstance(plan, SignConsensus)
        assert plan.sparsity[0].threshold == cut
    assert counted.calls <= 2, "a table, and the range in which the rank falls"


@pytest.mark.parametrize("mode", ["cosineA", "cosineB"])
def test_cosine_add_scales_similarities_over_the_whole_model(mode: str) -> None:
    """Of a tensor with different columns and one with similar columns, the second stays close to the base."""
    far = tensor((40, 30), 1), tensor((40, 30), 2)
    near = far[0], far[0] + 0.01 * far[1]
    whole = ModelStatistics(lambda *_: [far, near], lambda *_: {})
    kept = []
    for base, model in (far, near):
        statistics = TensorStatistics("w" + str(id(base)), InputTensor("b", base), [InputTensor("m", model)], {}, whole)
        plan = METHODS["cosine_add"].decide(
            statistics, ParameterValues({"alpha": 0.0, "mode": mode}, {}, lambda _: (1,))
        )
        merged = torch.empty_like(base)
        combine(plan, base, [model], merged)
        kept.append(((merged - model).norm() / (base - model).norm()).item())
    assert kept[0] < 0.3
    assert kept[1] > 0.99

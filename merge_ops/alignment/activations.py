"""Activation matching: what two models compute on the same data, unit by unit.

Ainsworth et al., Git Re-Basin, arXiv:2209.04836, section 3.1; Li et al., Convergent Learning, arXiv:1511.07543. Units
are compared by the correlation of their outputs. The sums of a module are kept, not its outputs: n² products for n
units.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.merge_ops.alignment.matching import Source
from mergesearch.merge_ops.alignment.models import run_as_traced
from mergesearch.merge_ops.alignment.spec import Axes, AxisGroups, Part, blocks, groups_in
from mergesearch.merge_ops.live.calibration_data import Batch

Labels = tuple[str, ...]


class Products:
    """The sums of two models' outputs, for one block of a module's output: of all units, over all rows, float64."""

    def __init__(self) -> None:
        self.rows = 0
        self.sums: list[Tensor] = []

    def add(self, anchor: Tensor, model: Tensor) -> None:
        """Adds the outputs [rows, units] of both models on the same data."""
        one, two = anchor.double(), model.double()
        new = [one.T @ two, one.sum(0), two.sum(0), one.square().sum(0), two.square().sum(0)]
        self.sums = [old.add_(own) for old, own in zip(self.sums, new, strict=True)] if self.sums else new
        self.rows += len(anchor)

    @property
    def correlations(self) -> Tensor:
        """The correlation of each unit of the anchor with each of the model, 0 where one is constant."""
        products, one, two, squares_of_one, squares_of_two = (total / self.rows for total in self.sums)
        covariances = products - one[:, None] * two
        spreads = (squares_of_one - one.square())[:, None] * (squares_of_two - two.square())
        return torch.where(spreads > 0, covariances / spreads.clamp(min=1e-300).sqrt(), 0.0)

    @property
    def cosines(self) -> Tensor:
        """The inner products of the anchor's units and the model's, relative to the norms of all outputs."""
        norm = (self.sums[3].sum() * self.sums[4].sum()).sqrt()
        return self.sums[0] / norm if norm > 0 else self.sums[0]


def output_products(
    outputs: Mapping[str, Axes], anchor: nn.Module, model: nn.Module, batches: Iterable[Batch]
) -> dict[tuple[str, Labels], Products]:
    """Runs both models on the same data; returns the products of outputs, by the module and the groups of a block.

    Args:
        outputs: the axes of modules' outputs, by the module's name.
        anchor: the live model that the other is aligned to.
        model: the other live model.
        batches: the data. Outputs of one batch at a time are in memory.
    """
    found: dict[tuple[str, Labels], Products] = {}
    run_as_traced(anchor)
    run_as_traced(model)
    for batch in batches:
        pair = [_outputs(each, outputs, batch) for each in (anchor, model)]
        for name in outputs.keys() & pair[0].keys() & pair[1].keys():
            _add(found, name, outputs[name], *(own[name] for own in pair))
    return {key: found[key] for key in sorted(found)}


def activation_sources(spec: AxisGroups, products: Mapping[tuple[str, Labels], Products]) -> dict[str, Source]:
    """Returns what the models are matched by: the sums of the correlations of all outputs with the same groups.

    Outputs in which entries of a group stand without those that they belong to, as units without their experts, do not
    count.
    """
    totals: dict[Labels, Tensor] = {}
    for (_, labels), own in products.items():
        if all(set(spec.groups[name].parents) <= set(labels) for name in labels):
            totals[labels] = totals.get(labels, 0) + own.correlations
    return {"activations of " + ", ".join(labels): _source(spec, labels, total) for labels, total in totals.items()}


def weights_of_the_rest(
    spec: AxisGroups, found: Mapping[str, Source], weights: Mapping[str, Source]
) -> dict[str, Source]:
    """Returns the weights that tell of groups of which no activations do, so small that they decide on no others."""
    told = {name for source in found.values() for axis in source.axes for name in groups_in(axis)}
    where = {name for group in spec.groups.keys() - told for name in spec.where(group)}
    return {name: _small(source) for name, source in weights.items() if name in where}


def _small(source: Source) -> Source:
    norm = float(source.anchor.norm() * source.model.norm()) or 1.0
    return Source(source.axes, source.anchor / norm, source.model)


def _source(spec: AxisGroups, labels: Labels, correlations: Tensor) -> Source:
    """Returns two tables whose inner products of rows are the correlations."""
    sizes = [spec.groups[name].size for name in labels]
    count = prod(sizes)
    axes = (*(Part(size, name) for size, name in zip(sizes, labels, strict=True)), Part(count))
    shape = (*sizes, count)
    return Source(axes, torch.eye(count, dtype=torch.float64).view(shape), correlations.T.cpu().reshape(shape))


def _outputs(model: nn.Module, wanted: Mapping[str, Axes], batch: Batch) -> dict[str, Tensor]:
    """Returns the outputs of modules. A module that runs several times counts the first time."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, result: Any) -> None:
        if isinstance(result, Tensor):
            outputs.setdefault(name, result)

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name in wanted:
                handle = module.register_forward_hook(lambda _, __, result, name=name: keep(name, result))
                stack.callback(handle.remove)
        batch.run(model)
    return outputs


def _add(found: dict[tuple[str, Labels], Products], name: str, axes: Axes, anchor: Tensor, model: Tensor) -> None:
    for labels, (one, two) in _unit_blocks(axes, anchor, model):
        found.setdefault((name, labels), Products()).add(one, two)


def _unit_blocks(axes: Axes, anchor: Tensor, model: Tensor) -> Iterator[tuple[Labels, tuple[Tensor, Tensor]]]:
    """Yields the groups of each block, and both outputs as [rows, units]; what no group orders belongs to the rows.

    Outputs whose batch and units share an axis have none.
    """
    ordered = [(dim, axis.size) for dim, axis in enumerate(axes) if any(True for _ in groups_in(axis))]
    if any(output.dim() != len(axes) or output.shape[d] != size for output in (anchor, model) for d, size in ordered):
        return
    for (one, labels), (two, _) in zip(blocks(anchor, axes), blocks(model, axes), strict=True):
        dims = [dim for dim, label in enumerate(labels) if label is not None]
        names = tuple(label for label in labels if label is not None)
        if names and len(set(names)) == len(names) and one.shape == two.shape:
            count = prod(one.shape[dim] for dim in dims)
            last = list(range(-len(dims), 0))
            yield names, (one.movedim(dims, last).reshape(-1, count), two.movedim(dims, last).reshape(-1, count))

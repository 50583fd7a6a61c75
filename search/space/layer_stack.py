"""Searched stacks of layers, ``slices: {search: ...}``: which layers of which models, in what order.

This is the data-flow search of Akiba et al. (arXiv:2403.13187, section 3.2), or, with ``preset: depth_upscaling``,
SOLAR's depth up-scaling (arXiv:2312.15166).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any, Protocol

from optuna.distributions import CategoricalDistribution, IntDistribution

from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.search.space.checks import check_integer, check_keys
from mergesearch.search.space.dimension import METHOD, Dimension
from mergesearch.search.space.dimension_group import Draft, Usual
from mergesearch.search.space.paths import model_labels
from mergesearch.search.space.seams import Seams, read_seams
from mergesearch.search.space.stack_encoding import LENGTH, LayerRun, StackShape, layer_runs, merge_adjacent
from mergesearch.text import quoted

PRESETS = ("depth_upscaling",)
STACK_KEYS = ("models", "length", "block", "repeats", "scale")
UPSCALING_KEYS = ("models", "preset", "drop", "scale")


class StackLayout(Protocol):
    """How the layers of a candidate follow from the values of dimensions."""

    @property
    def dimensions(self) -> Sequence[Dimension]: ...

    @property
    def most_layers(self) -> int:
        """The largest number of layers that a candidate has."""
        ...

    def start(self) -> dict[str, Scalar]:
        """The values that the search starts from."""
        ...

    def runs(self, values: Mapping[str, Scalar]) -> list[LayerRun]:
        """The layers, from the bottom up."""
        ...


@dataclass(frozen=True)
class IndicatorLayout:
    """Any stack of blocks, by indicators (``stack_encoding``). ``size``: layers a block; ``labels``: of the models."""

    shape: StackShape
    size: int
    labels: Sequence[str]

    @property
    def dimensions(self) -> list[Dimension]:
        limit = f"most blocks, of {self.size} layer{'s' * (self.size != 1)} each"
        dimensions = [Dimension(LENGTH, self.shape.distributions[LENGTH], meaning=limit)]
        for name, block in self.shape.indicators.items():
            first = block.number * self.size
            meaning = f"{self.labels[block.model]} layers [{first}, {first + self.size}]"
            dimensions.append(Dimension(name, IntDistribution(0, 1), meaning=meaning))
        return dimensions

    @property
    def most_layers(self) -> int:
        return self.shape.longest * self.size

    def start(self) -> dict[str, Scalar]:
        """The first model."""
        values = self.shape.encode(self.shape.whole(0))
        assert values is not None, "a whole model fits by construction"
        return {**values}

    def runs(self, values: Mapping[str, Scalar]) -> list[LayerRun]:
        return layer_runs(self.shape.decode(values), self.size)


@dataclass(frozen=True)
class UpscalingLayout:
    """A model without its last m layers below one without its first m. ``drop``: the range of m."""

    labels: Sequence[str]
    layers: int
    drop: tuple[int, int]

    @property
    def dimensions(self) -> list[Dimension]:
        names = [f"upscaling.{part}" for part in ("lower", "upper")] if len(self.labels) > 1 else []
        models = [Dimension(name, CategoricalDistribution(self.labels)) for name in names]
        return [*models, Dimension("upscaling.drop", IntDistribution(*self.drop), meaning="layers")]

    @property
    def most_layers(self) -> int:
        return 2 * (self.layers - self.drop[0])

    def start(self) -> dict[str, Scalar]:
        return {dimension.name: dimension.middle for dimension in self.dimensions}

    def runs(self, values: Mapping[str, Scalar]) -> list[LayerRun]:
        chosen = (str(values.get(f"upscaling.{part}", self.labels[0])) for part in ("lower", "upper"))
        lower, upper = map(self.labels.index, chosen)
        drop = int(values["upscaling.drop"])
        return merge_adjacent([LayerRun(lower, 0, self.layers - drop), LayerRun(upper, drop, self.layers)])


@dataclass(frozen=True)
class StackSpace:
    """The dimensions of ``slices: {search: ...}``, and the slices that they make.

    Attributes:
        models: the checkpoints.
        base: the recipe's ``base_model``; None for the first of the models.
        layout: which layers a candidate has.
        seams: the factors between them.
    """

    models: Sequence[str]
    base: str | None
    layout: StackLayout
    seams: Seams

    @cached_property
    def dimensions(self) -> Sequence[Dimension]:
        return [*self.layout.dimensions, *self.seams.dimensions]

    @property
    def deepest(self) -> int:
        """The largest number of layers that a candidate has."""
        return self.layout.most_layers

    @property
    def shape(self) -> StackShape | None:
        """The set of stacks, where they are encoded by indicators."""
        return self.layout.shape if isinstance(self.layout, IndicatorLayout) else None

    @property
    def writers(self) -> Sequence[str]:
        """Texts in the names of the tensors that seams scale; empty without seams."""
        return self.seams.writers

    def applies_to(self, _: Method) -> bool:
        return True

    def fill(self, draft: Draft) -> None:
        runs = self.layout.runs(draft.values)
        scales = self.seams.scales(runs, draft.values)
        draft.data["slices"] = [self._slice(run, scale) for run, scale in zip(runs, scales, strict=True)]
        # The config, the tokenizer and the generation config of every candidate come from the same model.
        draft.data["base_model"] = self.base or self.models[0]

    def start(self, _: Usual) -> dict[str, Scalar]:
        return {**self.layout.start(), **self.seams.start()}

    def _slice(self, run: LayerRun, scale: float) -> dict[str, Any]:
        source = {"model": self.models[run.model], "layer_range": [run.start, run.end]}
        parameters = self.seams.parameters(scale)
        return {"sources": [{**source, "parameters": parameters} if parameters else source]}


def is_stack(recipe: Mapping[str, Any]) -> bool:
    """Whether the recipe searches a stack of layers."""
    slices = recipe.get("slices")
    return isinstance(slices, dict) and "search" in slices


def stack_models(recipe: Mapping[str, Any]) -> list[Any]:
    """The entries of ``models`` of a searched stack, unchecked; none where the recipe has no such stack."""
    spec = recipe["slices"]["search"] if is_stack(recipe) else None
    models = spec.get("models") if isinstance(spec, dict) else None
    return models if isinstance(models, list) else []


def read_stack(recipe: Mapping[str, Any], methods: Sequence[Method], layers: int, where: str) -> StackSpace:
    """``slices: {search: {models, length, block, repeats, scale}}``, or with ``preset: depth_upscaling``.

    ``layers`` is the number of layers of each of the models.
    """
    at, spec = f"{where}: slices.search", recipe["slices"]["search"]
    if [method.name for method in methods] != ["passthrough"]:
        raise UserError(
            f"{where}: {METHOD}: found {quoted(recipe[METHOD])}, expected passthrough beside slices.search, "
            "a stack of unmerged layers"
        )
    if not isinstance(spec, dict):
        raise UserError(f"{at}: found {quoted(spec)}, expected keys: {', '.join(STACK_KEYS)}")
    check_keys(recipe["slices"], ("search",), f"{where}: slices")
    models = _read_models(spec, at)
    base = recipe.get("base_model")
    if not isinstance(base, str | None):
        raise UserError(f"{where}: base_model: found {quoted(base)}, expected one model beside slices.search")
    seams = read_seams(spec, models, at)
    labels = list(model_labels(models).values())
    read_layout = _read_upscaling if "preset" in spec else _read_indicators
    return StackSpace(models, base, read_layout(spec, labels, layers, at), seams)


def _read_models(spec: Mapping[str, Any], where: str) -> list[str]:
    models = spec.get("models")
    if not isinstance(models, list) or not models or not all(isinstance(model, str) for model in models):
        raise UserError(f"{where}.models: found {quoted(models)}, expected a list of checkpoints")
    if len(set(models)) < len(models):
        raise UserError(
            f"{where}.models: found {quoted(models)}, expected each checkpoint once; repeats: N allows a layer N times"
        )
    return models


def _read_indicators(spec: Mapping[str, Any], labels: Sequence[str], layers: int, where: str) -> StackLayout:
    check_keys(spec, STACK_KEYS, where)
    size = check_integer(spec.get("block", 1), 1, layers, f"{where}.block")
    if layers % size:
        raise UserError(f"{where}.block: found {size}, expected a divisor of the models' {layers} layers")
    passes = check_integer(spec.get("repeats", 2), 1, 100, f"{where}.repeats")
    shortest, longest = _read_lengths(spec, size, layers * len(labels) * passes, where)
    return IndicatorLayout(StackShape((layers // size,) * len(labels), passes, shortest, longest), size, labels)


def _read_lengths(spec: Mapping[str, Any], size: int, most: int, where: str) -> tuple[int, int]:
    """The least and the largest number of blocks."""
    length = spec.get("length")
    if not isinstance(length, list) or len(length) != 2:
        raise UserError(f"{where}.length: found {quoted(length)}, expected [fewest layers, most layers]")
    low, high = (check_integer(value, 1, most, f"{where}.length[{i}]") for i, value in enumerate(length))
    shortest, longest = ceil(low / size), high // size
    if shortest > longest:
        raise UserError(f"{where}.length: found {quoted(length)}, expected a range with a multiple of block, {size}")
    return shortest, longest


def _read_upscaling(spec: Mapping[str, Any], labels: Sequence[str], layers: int, where: str) -> StackLayout:
    if spec["preset"] not in PRESETS:
        raise UserError(f"{where}.preset: found {quoted(spec['preset'])}{nearest(str(spec['preset']), PRESETS)}")
    check_keys(spec, UPSCALING_KEYS, where)
    drop = spec.get("drop", [1, layers // 2])
    low, high = drop if isinstance(drop, list) and len(drop) == 2 else (drop, drop)
    for value in (low, high):
        check_integer(value, 0, layers - 1, f"{where}.drop")
    if low > high:
        raise UserError(f"{where}.drop: found {quoted(drop)}, expected the lower number first")
    return UpscalingLayout(labels, layers, (low, high))

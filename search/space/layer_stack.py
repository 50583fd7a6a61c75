"""Layer stacks: which layers of which models, in what order, as in data-flow search (arXiv:2403.13187, section 3.2).

The paper also scales a layer's input by a factor W_ij where it comes behind another layer than in its own model. A
saved model has no such parameter. But where layers normalise their input first (RMSNorm or LayerNorm), f(c·h) = f(h),
so c·h + Σ f_k(h_k) = c · (h + Σ f_k(h_k) / c): to multiply what all following layers write to the residual stream by
1/c gives the same model, but for the normalisations' epsilon. That is what ``scale`` does here, by filters on the
tensors that write. There is one factor for each pair of models: for jumps from the one to the other, and within one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise, product
from math import ceil
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.search.space.dimension import AUTO, SCALE_KEYS, Hole, check_count, check_keys, number_range
from mergesearch.search.space.parameters import Draft
from mergesearch.search.space.paths import model_labels
from mergesearch.search.space.stack_encoding import LENGTH, Run, StackShape, joined, runs_of

WRITERS = ("o_proj", "down_proj")
"""What writes to the residual stream in Llama, Mistral, Qwen, Gemma and their like."""
SEAMS = FloatDistribution(0.5, 2.0, log=True)
PRESETS = ("depth_upscaling",)
STACK_KEYS = ("models", "length", "block", "repeats", "scale")
UPSCALING_KEYS = ("models", "preset", "drop", "scale")


def seam_name(before: int, after: int) -> str:
    return f"seam.{before}.{after}"


@dataclass
class StackSpace:
    """The dimensions of ``slices: {search: ...}``, and the slices that they make.

    ``runs`` makes the layers of a candidate from its values; ``begin`` is the point to start from, ``deepest`` the most
    layers that a candidate has. ``shape`` is there where the stack is one of indicators.
    """

    models: Sequence[str]
    base: str | None
    holes: Sequence[Hole]
    runs: Callable[[Mapping[str, Scalar]], list[Run]]
    begin: Mapping[str, Scalar]
    deepest: int
    shape: StackShape | None = None
    writers: Sequence[str] = ()
    seams: Sequence[Hole] = field(default_factory=list)

    def asked_by(self, _: Method) -> bool:
        return True

    def fill(self, draft: Draft) -> None:
        runs = self.runs(draft.values)
        draft.data["slices"] = [
            self._slice(run, scale) for run, scale in zip(runs, self._scales(runs, draft.values), strict=True)
        ]
        # The config, tokenizer and generation config of every candidate are of one model.
        draft.data["base_model"] = self.base or self.models[0]

    def start(self, _: Mapping[str, Scalar]) -> dict[str, Scalar]:
        return {**self.begin, **{hole.name: hole.nearest(1.0) for hole in self.seams}}

    def _scales(self, runs: Sequence[Run], values: Mapping[str, Scalar]) -> list[float]:
        """What each run writes to the residual stream is multiplied by this: one over the seams' factors below it."""
        if not self.seams:
            return [1.0] * len(runs)
        factors = [float(values[seam_name(below.model, above.model)]) for below, above in pairwise(runs)]
        return list(accumulate(factors, lambda scale, factor: scale / factor, initial=1.0))

    def _slice(self, run: Run, scale: float) -> dict[str, Any]:
        source: dict[str, Any] = {"model": self.models[run.model], "layer_range": [run.start, run.end]}
        if scale != 1.0:
            written = [{"filter": writer, "value": scale} for writer in self.writers]
            source["parameters"] = {"scale": [*written, {"value": 1.0}]}
        return {"sources": [source]}


def is_stack(recipe: Mapping[str, Any]) -> bool:
    """Whether the recipe's slices are searched for."""
    slices = recipe.get("slices")
    return isinstance(slices, dict) and "search" in slices


def stack_models(recipe: Mapping[str, Any]) -> list[Any]:
    """What is listed as the models of a stack."""
    spec = recipe["slices"]["search"] if is_stack(recipe) else None
    models = spec.get("models") if isinstance(spec, dict) else None
    return models if isinstance(models, list) else []


def stack_space(recipe: Mapping[str, Any], methods: Sequence[Method], layers: int, where: str) -> StackSpace:
    """``slices: {search: {models, length, block, repeats, scale}}``, or with ``preset: depth_upscaling``."""
    here, spec = f"{where}: slices.search", recipe["slices"]["search"]
    if [method.name for method in methods] != ["passthrough"]:
        raise UserError(f"{where}: merge_method: found {recipe['merge_method']!r}, a stack of layers needs passthrough")
    if not isinstance(spec, dict):
        raise UserError(f"{here}: found {spec!r}, expected keys: {', '.join(STACK_KEYS)}")
    check_keys(recipe["slices"], ("search",), f"{where}: slices")
    models = _models(spec, here)
    base = recipe.get("base_model")
    if not isinstance(base, str | None):
        raise UserError(f"{where}: base_model: found {base!r}, expected one model beside a stack of layers")
    seams, writers = _seams(spec, models, here)
    if "preset" in spec:
        return _upscaling(spec, models, base, layers, seams, writers, here)
    check_keys(spec, STACK_KEYS, here)
    size = check_count(spec.get("block", 1), 1, layers, f"{here}.block")
    if layers % size:
        raise UserError(f"{here}.block: found {size}, expected a divisor of the models' {layers} layers")
    passes = check_count(spec.get("repeats", 2), 1, 100, f"{here}.repeats")
    shortest, longest = _lengths(spec, size, layers * len(models) * passes, here)
    shape = StackShape((layers // size,) * len(models), passes, shortest, longest)
    begin = shape.encode(shape.whole(0))
    assert begin is not None, "a whole model fits by construction"
    labels = list(model_labels(models).values())
    holes = [Hole(LENGTH, shape.distributions[LENGTH], meaning=f"blocks at most, {size} layer(s) each")]
    for name, block in shape.places.items():
        first = block.number * size
        hole = Hole(name, IntDistribution(0, 1), meaning=f"{labels[block.model]} layers [{first}, {first + size}]")
        holes.append(hole)
    return StackSpace(
        models,
        base,
        [*holes, *seams],
        lambda values: runs_of(shape.decode(values), size),
        begin,
        longest * size,
        shape,
        writers,
        seams,
    )


def _models(spec: Mapping[str, Any], where: str) -> list[str]:
    models = spec.get("models")
    if not isinstance(models, list) or not models or not all(isinstance(model, str) for model in models):
        raise UserError(f"{where}.models: found {models!r}, expected a list of checkpoints")
    if len(set(models)) < len(models):
        raise UserError(f"{where}.models: found {models!r}, expected each checkpoint once; repeats: says how often")
    return models


def _lengths(spec: Mapping[str, Any], size: int, most: int, where: str) -> tuple[int, int]:
    length = spec.get("length")
    if not isinstance(length, list) or len(length) != 2:
        raise UserError(f"{where}.length: found {length!r}, expected [fewest layers, most layers]")
    low, high = (check_count(value, 1, most, f"{where}.length[{i}]") for i, value in enumerate(length))
    shortest, longest = ceil(low / size), high // size
    if shortest > longest:
        raise UserError(f"{where}.length: found {length!r}, no number of blocks of {size} layers lies between them")
    return shortest, longest


def _seams(spec: Mapping[str, Any], models: Sequence[str], where: str) -> tuple[list[Hole], Sequence[str]]:
    """A factor for each pair of models, and the tensors that it is put into."""
    if "scale" not in spec:
        return [], ()
    scale, here = spec["scale"], f"{where}.scale"
    if not isinstance(scale, dict) or "search" not in scale:
        raise UserError(f"{here}: found {scale!r}, expected {{search: [low, high]}} or {{search: auto}}")
    check_keys(scale, ("search", "tensors", *SCALE_KEYS[:2]), here)
    tensors = scale.get("tensors", list(WRITERS))
    if not isinstance(tensors, list) or not tensors or not all(isinstance(name, str) for name in tensors):
        raise UserError(f"{here}.tensors: found {tensors!r}, expected texts in tensors' names")
    distribution = SEAMS if scale["search"] == AUTO else _seam_range(scale, here)
    labels = list(model_labels(models).values())
    holes = [
        Hole(seam_name(i, j), distribution, (), "scale", f"at jumps from {labels[i]} to {labels[j]}")
        for i, j in product(range(len(models)), repeat=2)
    ]
    return holes, tensors


def _seam_range(scale: Mapping[str, Any], where: str) -> BaseDistribution:
    if not isinstance(scale["search"], list) or len(scale["search"]) != 2:
        raise UserError(f"{where}: search: found {scale['search']!r}, expected [low, high] or auto")
    found = number_range(scale, where)
    if found.low <= 0:
        raise UserError(f"{where}: search: the range begins at {found.low:g}, expected a number above 0")
    return found


def _upscaling(  # noqa: PLR0913, PLR0917 - what the reader of a stack has read already
    spec: Mapping[str, Any],
    models: Sequence[str],
    base: str | None,
    layers: int,
    seams: Sequence[Hole],
    writers: Sequence[str],
    where: str,
) -> StackSpace:
    """SOLAR's depth up-scaling (arXiv:2312.15166): a model without its last m layers under one without its first m."""
    if spec["preset"] not in PRESETS:
        raise UserError(f"{where}.preset: found {spec['preset']!r}{nearest(str(spec['preset']), PRESETS)}")
    check_keys(spec, UPSCALING_KEYS, where)
    drop = spec.get("drop", [1, layers // 2])
    low, high = drop if isinstance(drop, list) and len(drop) == 2 else (drop, drop)
    for value in (low, high):
        check_count(value, 0, layers - 1, f"{where}.drop")
    if low > high:
        raise UserError(f"{where}.drop: found {drop!r}, expected the lower number first")
    labels = list(model_labels(models).values())
    chosen = [Hole(f"upscaling.{part}", CategoricalDistribution(labels)) for part in ("lower", "upper")]
    dropped = Hole("upscaling.drop", IntDistribution(low, high), meaning="layers")
    holes = [*(chosen if len(models) > 1 else []), dropped]

    def runs(values: Mapping[str, Scalar]) -> list[Run]:
        lower, upper = (labels.index(str(values.get(hole.name, labels[0]))) for hole in chosen)
        count = int(values[dropped.name])
        return joined([Run(lower, 0, layers - count), Run(upper, count, layers)])

    begin = {hole.name: hole.middle for hole in holes}
    return StackSpace(models, base, [*holes, *seams], runs, begin, 2 * (layers - low), None, writers, seams)

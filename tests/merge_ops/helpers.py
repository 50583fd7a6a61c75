"""Helpers of the tests of merge_ops: random cases from a method's declaration, their merges, and distances."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.kernels.combine import combine
from mergesearch.merge_ops.kernels.masks import mask_key
from mergesearch.merge_ops.kernels.plans import Plan
from mergesearch.merge_ops.methods import METHODS, Method, Parameter, ParameterValues, Scalar
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.statistics.model_statistics import ModelStatistics
from mergesearch.merge_ops.statistics.tensor_statistics import InputTensor, TensorStatistics
from mergesearch.parsing import read_yaml

from ..tolerances import assert_close, tolerance
from .references import REFERENCES, Case

GOLDEN = Path(__file__).parent / "golden"
INPUTS = GOLDEN / "inputs"
GRID = 1 << 12
OPERATIONS = 16
"""The float32 operations of a merge of three models, one after the other: for each model the difference, the product,
the sum and the rounded factor, then the divisor, λ, the base and the result."""


def tensor(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float32, spread: float = 1.0) -> Tensor:
    """Random values on a grid. Task vectors are exact, so that the method alone rounds."""
    values = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread
    return (values * GRID).round().div(GRID).to(dtype)


def inputs(
    shape: Sequence[int], seed: int, count: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, list[Tensor]]:
    base = tensor(shape, seed, dtype)
    return base, [(base + tensor(shape, seed + 1 + i, dtype, 0.3)).to(dtype) for i in range(count)]


def count_of(method: Method, wish: int = 3) -> int:
    return max(method.min_models, min(wish, method.max_models or wish))


def numbers(method: Method, count: int, seed: int, **fixed: Any) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """Random values for every parameter of a method from its declaration, with the values in ``fixed``."""
    dice, shared, each = random.Random(seed), {}, {}
    for p in method.parameters:
        drawn = [fixed[p.name] if p.name in fixed else draw(p, dice) for _ in range(count)]
        if p.per_model:
            each[p.name] = tuple(fixed[p.name]) if isinstance(fixed.get(p.name), list | tuple) else tuple(drawn)
        else:
            shared[p.name] = drawn[0]
    return shared, each


def draw(parameter: Parameter, dice: random.Random) -> Scalar:
    if parameter.kind == "switch":
        return dice.random() < 0.5
    if parameter.kind == "choice":
        return dice.choice(parameter.choices)
    if parameter.kind == "file":
        return "text.txt"
    if parameter.kind == "integer":
        return dice.randrange(1000)
    low, high = (float(bound) for bound in parameter.search or (0.0, 1.0))
    return dice.uniform(low, high)


def case_of(method: Method, shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float32, **fixed: Any) -> Case:
    """A random tensor and random parameters for a method."""
    count = count_of(method)
    base, models = inputs(shape, 100 * seed, count, dtype)
    return with_numbers(method, base, models, seed, **fixed)


def with_numbers(method: Method, base: Tensor, models: list[Tensor], seed: int, **fixed: Any) -> Case:
    shared, each = numbers(method, len(models), seed, **fixed)
    keys = tuple(mask_key(int(shared.get("seed", 0)), f"m{i}", "w") for i in range(len(models)))
    based = method.base != "optional" or seed % 2 == 0
    return Case(base, models, shared, each, keys, based, tuple(shown(method, x, i) for i, x in enumerate(models)))


def shown(method: Method, model: Tensor, seed: int) -> Tensor | None:
    """A plausible calibration statistic of the model."""
    if method.name == "fisher":
        return tensor(model.shape, seed).square() * 1e-6
    if method.name == "regmean" and model.dim() == 2:
        activations = tensor((3 * model.shape[1] + 1, model.shape[1]), seed)
        gram = activations.t() @ activations
        return (gram + gram.t()) / 2  # a product is rounded on either side of the diagonal as the processor likes
    return None


def ours(method: Method, case: Case, out: Tensor | None = None) -> Tensor:
    """The merge of the case by ``decide`` and ``combine``."""
    plan, base = decided(method, case)
    result = torch.full_like(case.models[0], float("nan")) if out is None else out
    combine(plan, base, case.models, result)
    return result


def decided(method: Method, case: Case) -> tuple[Plan, Tensor | None]:
    """The plan of the case, and the base for the kernels."""
    sources = [InputTensor(f"m{i}", model) for i, model in enumerate(case.models)]
    base = case.base if method.base != "input" and case.based else None
    origin = InputTensor("base", base) if base is not None else None
    statistics = TensorStatistics("w", origin, sources, {}, whole(case))
    return method.decide(statistics, ParameterValues(case.shared, case.each, lambda _: case.keys)), base


def whole(case: Case) -> ModelStatistics:
    """Statistics of models that have this tensor only."""
    numbers = {f"m{i}": i for i in range(len(case.models))}
    return ModelStatistics(
        lambda _, model: [(case.base, case.models[numbers[model]])],
        lambda _, model, *__: {} if case.shown[numbers[model]] is None else {"w": case.shown[numbers[model]]},
    )


def ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance between neighboring numbers of ``dtype`` at these float64 values."""
    info = torch.finfo(dtype)
    exponent = values.abs().clamp(min=info.tiny).log2().floor()
    return torch.exp2(exponent) * info.eps


def apart(a: Tensor, b: Tensor) -> Tensor:
    """The distance between the elements of two bf16 tensors, in bf16 numbers."""
    return (_ordinal(a) - _ordinal(b)).abs()


def _ordinal(values: Tensor) -> Tensor:
    bits = values.contiguous().view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def far_off(result: Tensor, reference: Tensor) -> Tensor:
    """True where a result differs from the float64 reference by more than one rounding and float32's own."""
    assert result.shape == reference.shape
    size = max(1.0, reference.abs().max().item()) if reference.numel() else 1.0
    room = ulp(reference, result.dtype) * 1.001 + tolerance(OPERATIONS, torch.float32, size)
    return ~((result.double() - reference).abs() <= room)


def check(method: Method, case: Case, out: Tensor | None = None, spared: float = 0.0) -> None:
    reference = REFERENCES[method.name](case)
    result = ours(method, case, out)
    wrong = far_off(result, reference)
    assert wrong.sum().item() <= spared * wrong.numel(), f"{case.shared} {case.each}"


def read(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, from all shards."""
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def save(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes a checkpoint that is a single file. Returns its path."""
    save_file(dict(tensors), path)
    return str(path)


def same_bytes(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(as_bytes(a), as_bytes(b))


def as_bytes(values: Tensor) -> Tensor:
    return values.detach().contiguous().reshape(-1).view(torch.uint8)


def recipe_data(method: Method, base: str, models: Sequence[str], seed: int = 3, **fixed: Any) -> dict[str, Any]:
    """A recipe of a method with random parameters, as parsed YAML."""
    chosen = list(models)[: count_of(method)]
    shared, each = numbers(method, len(chosen), seed, **fixed)
    entries = [
        {"model": model, "parameters": {name: values[i] for name, values in each.items()}}
        for i, model in enumerate(chosen)
    ]
    own = {"base_model": base} if method.base != "input" else {}
    return {"merge_method": method.name, "models": entries, "parameters": shared, **own}


class Counter:
    """Wraps a function and counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        return self.function(*arguments, **options)


EVERY_METHOD = sorted(METHODS)
WITHOUT_TEXT = [name for name in EVERY_METHOD if METHODS[name].parameter("calibration") is None]
"""The methods that need no calibration text."""


def loaded(folder: Path) -> Any:
    """The model as transformers loads it."""
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def assert_same_as_mergekit(name: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merges a golden case whose result has other shapes, and compares it with mergekit's result."""
    case = GOLDEN / "shapes" / name
    monkeypatch.chdir(GOLDEN)
    merge(Recipe.read(read_yaml(case / "config.yml")), out)
    ours, theirs = read(out), load_file(case / "out.safetensors")
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert_close(ours[key], value, OPERATIONS)

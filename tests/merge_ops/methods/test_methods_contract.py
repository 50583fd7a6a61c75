"""The contract of merge methods. The tests run on every method in METHODS."""

from dataclasses import replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from click import ClickException
from torch import Tensor

from mergesearch.merge_ops.kernels.combine import BLOCK
from mergesearch.merge_ops.methods import METHODS, Method, ParameterValues

from ...tolerances import tolerance
from .. import helpers
from ..endpoints import BIT_EXACT, ENDPOINTS, IDENTITY, Endpoint
from ..helpers import EVERY_METHOD, OPERATIONS, case_of, check, far_off, inputs, ours, with_numbers
from ..references import REFERENCES

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SMALL_BLOCK = 64
SHAPES = [(0,), (0, 3), (), (1,), (7,), (5, 1), (3, 67), (2, 3, 32)]

methods = pytest.mark.parametrize("method", [METHODS[name] for name in EVERY_METHOD], ids=EVERY_METHOD)
OF_SEVERAL_MODELS = [name for name in EVERY_METHOD if helpers.count_of(METHODS[name]) > 1]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergesearch.merge_ops.kernels.combine.BLOCK", SMALL_BLOCK)
    monkeypatch.setattr("mergesearch.merge_ops.statistics.gram.BLOCK", SMALL_BLOCK)


def test_every_method_has_a_reference_and_endpoints() -> None:
    assert set(REFERENCES) == set(ENDPOINTS) == set(METHODS)


@methods
def test_declaration_says_what_documentation_needs(method: Method) -> None:
    assert method.summary
    assert "https://" in method.paper or method.name == "passthrough"
    assert "θ" in method.formula
    assert METHODS[method.name] is method
    assert len({p.name for p in method.parameters}) == len(method.parameters)
    for parameter in method.parameters:
        assert parameter.help
        for value in (*parameter.search, *parameter.choices):
            parameter.read(value)
        if parameter.default is not None:
            assert parameter.read(parameter.default) == parameter.default


@methods
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.usefixtures("small_blocks")
def test_is_the_papers_formula(method: Method, seed: int) -> None:
    check(method, case_of(method, (13, 77), seed))


@methods
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("small_blocks")
def test_any_shape(method: Method, shape: tuple[int, ...]) -> None:
    for seed in range(3):
        check(method, case_of(method, shape, seed))


@methods
def test_larger_than_a_block_with_a_remainder(method: Method) -> None:
    check(method, case_of(method, (BLOCK + 77,), 5, density=0.4))


@methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures("small_blocks")
def test_rounds_once(method: Method, dtype: torch.dtype) -> None:
    for seed in range(3):
        check(method, case_of(method, (9, 55), seed, dtype))


@methods
@pytest.mark.parametrize("out", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_writes_another_dtype_than_it_reads(method: Method, out: torch.dtype) -> None:
    case = case_of(method, (9, 55), 1, torch.bfloat16)
    check(method, case, torch.full((9, 55), float("nan"), dtype=out))


@methods
def test_float64_stays_float64(method: Method) -> None:
    case = case_of(method, (9, 55), 2, torch.float64)
    reference = REFERENCES[method.name](case)
    # Norms, inner products and decompositions are sums over the tensor. All else is a few operations per element.
    room = tolerance(OPERATIONS + reference.numel(), torch.float64, float(reference.abs().max()))
    assert (ours(method, case) - reference).abs().max().item() <= room


@methods
def test_inputs_of_several_dtypes(method: Method) -> None:
    case = case_of(method, (9, 55), 1, torch.bfloat16)
    mixed = replace(case, base=case.base.float(), models=[case.models[0].half(), *case.models[1:]])
    check(method, mixed, torch.empty(9, 55))


@methods
def test_inputs_and_output_need_not_be_contiguous(method: Method) -> None:
    case = case_of(method, (9, 55), 1)
    turned = replace(case, base=turn(case.base), models=[turn(model) for model in case.models])
    assert not turned.models[0].is_contiguous()
    out = torch.empty(55, 9).t()
    ours(method, turned, out)
    assert torch.equal(out, ours(method, case))


def turn(values: Tensor) -> Tensor:
    return values.t().contiguous().t()


@methods
def test_does_not_change_its_inputs(method: Method) -> None:
    case = case_of(method, (9, 55), 1)
    before = [tensor.clone() for tensor in (case.base, *case.models)]
    ours(method, case)
    assert all(torch.equal(a, b) for a, b in zip(before, (case.base, *case.models), strict=True))


@methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equal_models_give_themselves(method: Method, dtype: torch.dtype) -> None:
    base = helpers.tensor((9, 55), 4, dtype)
    models = [base.clone() for _ in range(helpers.count_of(method))]
    for seed in range(4):
        case = with_numbers(method, base, models, seed, **IDENTITY.get(method.name, {}))
        error = (ours(method, case).double() - base.double()).abs()
        assert (error <= helpers.ulp(base.double(), dtype)).all()


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [(n, e) for n in ENDPOINTS for e in ENDPOINTS[n]],
    ids=lambda v: v if isinstance(v, str) else v[0],
)
def test_endpoints(name: str, endpoint: Endpoint) -> None:
    _, settings, index = endpoint
    case = case_of(METHODS[name], (9, 55), 3, **settings)
    expected = case.base if index < 0 else case.models[index]
    result = ours(METHODS[name], case)
    if name in BIT_EXACT:
        assert helpers.same_bytes(result, expected)
    else:
        assert not far_off(result, expected.double()).any()


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [(n, e) for n in ENDPOINTS for e in ENDPOINTS[n]],
    ids=lambda v: v if isinstance(v, str) else v[0],
)
@pytest.mark.parametrize("seed", [2, 3])
def test_what_is_called_a_copy_is_one(name: str, endpoint: Endpoint, seed: int) -> None:
    """A method may know less than its endpoints: others are computed."""
    method, (_, settings, index) = METHODS[name], endpoint
    case = case_of(method, (9, 55), seed, **settings)
    values = ParameterValues(case.shared, case.each, lambda _: case.keys)
    has_base = method.base != "input" and case.based
    assert method.copied(values, len(case.models), has_base) in (None, index)


@methods
def test_a_copy_is_what_the_method_computes(method: Method) -> None:
    """With every number of a method at 0 and at 1, one after the other."""
    numbers = [p.name for p in method.parameters if p.kind in ("number", "integer") and p.name != "seed"]
    for seed, (name, value) in enumerate(product(numbers, (0.0, 1.0))):
        if not all(p.low <= value <= p.high for p in method.parameters if p.name == name):
            continue
        case = case_of(method, (9, 55), seed, **{name: value})
        index = method.copied(
            ParameterValues(case.shared, case.each, lambda _, case=case: case.keys),
            len(case.models),
            method.base != "input" and case.based,
        )
        if index is not None:
            expected = case.base if index < 0 else case.models[index]
            assert not far_off(ours(method, case), expected.double()).any(), (name, value)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("linear", {"weight": (2.0,)}), ("slerp", {"t": 1.0}), ("slerp", {"t": 0.0})],
    ids=["linear", "slerp 1", "slerp 0"],
)
def test_negative_zeros_survive_an_endpoint(name: str, settings: dict[str, Any]) -> None:
    base, (model,) = inputs((9, 55), 3, 1)
    base[0], model[0] = -0.0, -0.0
    case = with_numbers(METHODS[name], base, [model], 3, **{"normalize": True, **settings})
    assert helpers.same_bytes(ours(METHODS[name], case), base if settings.get("t") == 0 else model)


@pytest.mark.parametrize("name", OF_SEVERAL_MODELS)
def test_order_of_models_matters_only_where_declared(name: str) -> None:
    method = METHODS[name]
    case = case_of(method, (9, 55), 6)
    turned = replace(
        case,
        models=case.models[::-1],
        each={name: values[::-1] for name, values in case.each.items()},
        keys=case.keys[::-1],
        shown=case.shown[::-1],
    )
    result = ours(method, case)
    difference = (result - ours(method, turned)).abs().max().item()
    # Another order rounds differently. If the order matters, the difference is much larger.
    room = tolerance(OPERATIONS, torch.float32, float(result.abs().max()))
    assert difference <= room if method.symmetric else difference > 100 * room


@methods
def test_zero_tensors_give_zero(method: Method) -> None:
    zero = torch.zeros(9, 55)
    case = with_numbers(method, zero, [zero] * helpers.count_of(method), 2)
    assert torch.equal(ours(method, case), zero)


@methods
def test_zero_base_and_models_that_are_zero(method: Method) -> None:
    base, models = inputs((9, 55), 8, helpers.count_of(method))
    check(method, with_numbers(method, torch.zeros_like(base), models, 2))
    check(method, with_numbers(method, base, [torch.zeros_like(base), *models[1:]], 2))


def weighted(*choices: tuple[float, float, float]) -> pytest.MarkDecorator:
    """Each method with the weights that it accepts, one for each model."""
    cases = {}
    for name, method in METHODS.items():
        parameter = method.parameter("weight")
        for weight in choices:
            if parameter is not None and min(weight) >= parameter.low:
                cases[f"{name}-{weight}"] = (name, weight[: helpers.count_of(method)])
    return pytest.mark.parametrize(("name", "weight"), cases.values(), ids=cases)


@weighted((-0.5, 0.8, 0.4), (-0.5, -0.8, -0.4), (0.0, 0.0, 0.0), (0.0, 0.9, -0.3))
@pytest.mark.parametrize("normalize", [False, True])
def test_negative_and_zero_weights(name: str, weight: tuple[float, ...], normalize: bool) -> None:
    for seed in range(3):
        method = METHODS[name]
        check(method, case_of(method, (13, 77), seed, weight=weight, normalize=normalize))


@weighted((0.5, -0.5, 0.0), (0.1, 0.6, -0.7), (0.3, 0.4, -0.7))
def test_weights_that_sum_to_zero_are_not_divided_by_their_rounding(name: str, weight: tuple[float, ...]) -> None:
    case = case_of(METHODS[name], (13, 77), 1, weight=weight, normalize=True)
    # The elements of the first two models grow and those of the third shrink, so that all agree with the elected sign.
    steps = [(model - case.base).abs() for model in case.models]
    towards = [step if w >= 0 else -step for step, w in zip(steps, weight, strict=True)]
    check(METHODS[name], replace(case, models=[case.base + step for step in towards]))


def test_every_method_has_a_floor_in_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = import_module("merge_methods")
    benchmark.check_covered()
    for name, setting in benchmark.SETTINGS.items():
        known = {p.name for p in METHODS[name].parameters}
        assert setting.varied.keys() | setting.fixed.keys() <= known
    monkeypatch.setitem(METHODS, "another", METHODS["linear"])
    with pytest.raises(ClickException, match="another"):
        benchmark.check_covered()

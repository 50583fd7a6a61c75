"""Edge cases of single methods, and results computed by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mergesearch.merge_ops.kernels.plans import rounded
from mergesearch.merge_ops.methods import METHODS

from ...tolerances import assert_close, close
from .. import helpers
from ..helpers import OPERATIONS, case_of, check, inputs, ours, with_numbers
from ..references import Case


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "ties"])
@pytest.mark.parametrize("density", [0.0, 1e-9, 1e-5, 0.5, 0.999, 0.999999, 1.0])
@pytest.mark.parametrize("rescale", ["none", "inverse", "l1", True, False])
def test_any_density(name: str, density: float, rescale: Any) -> None:
    check(METHODS[name], case_of(METHODS[name], (13, 77), 4, density=density, rescale=rescale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ties_with_many_equal_magnitudes(dtype: torch.dtype) -> None:
    base = torch.zeros(13, 77, dtype=dtype)
    models = [helpers.tensor((13, 77), i, dtype).sign() * (i + 1) * 0.25 for i in range(3)]
    check(METHODS["ties"], with_numbers(METHODS["ties"], base, models, 3))


@pytest.mark.parametrize("seed", range(4))
def test_dare_keeps_the_task_vector_in_the_mean(seed: int) -> None:
    """The scale is one over the probability of the mask, also if the density had to be rounded."""
    density = (1e-6, 0.01, 0.3, 0.7)[seed]
    method, count = METHODS["dare_linear"], 1 << 20
    settings = {"weight": 1.0, "lambda": 1.0, "normalize": False, "rescale": "inverse", "density": density}
    case = with_numbers(method, torch.zeros(count), [torch.ones(count)], seed, **settings)
    probability = rounded(density)
    deviation = ((1 - probability) / probability / count) ** 0.5
    assert abs(ours(method, case).double().mean().item() - 1) < 4 * deviation


def test_slerp_keeps_the_length_of_unit_vectors() -> None:
    base, (model,) = inputs((500,), 3, 1)
    base, model = base / base.norm(), (model - base) / (model - base).norm()
    for t in (0.2, 0.5, 0.9):
        length = ours(METHODS["slerp"], Case(base, [model], {"t": t})).double().norm().item()
        assert length == close(1.0, OPERATIONS, torch.float32)


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 1.0), (1.001, 1.0003), (-1.0, 0.4)])
def test_slerp_is_a_straight_line_where_the_angle_vanishes(scale: float, expected: float) -> None:
    base = helpers.tensor((500,), 3)
    result = ours(METHODS["slerp"], Case(base, [base * scale], {"t": 0.3}))
    assert_close(result, base * expected, OPERATIONS)


def test_ties_keeps_the_largest_and_averages_those_that_agree() -> None:
    """Computed by hand. With a density of one half, each model keeps its two largest of four elements."""
    models = [torch.tensor(x) for x in ([4.0, -1.0, 3.0, 0.5], [-2.0, 3.0, 1.0, 0.0], [1.0, 5.0, 6.0, 2.0])]
    shared = {"lambda": 1.0, "normalize": True, "rescale": "none", "scope": "tensor", "sign": "mass"}
    each = {"weight": (1.0, 1.0, 2.0), "density": (0.5, 0.5, 0.5)}
    result = ours(METHODS["ties"], Case(torch.zeros(4), models, shared, each))
    assert_close(result, torch.tensor([4.0, (3 + 2 * 5) / 3, (3 + 2 * 6) / 3, 0.0]), OPERATIONS)


def settings(name: str, **given: Any) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """A method's defaults with these values. Tuples have a value for each model."""
    parameters = METHODS[name].parameters
    shared = {p.name: given.get(p.name, p.default) for p in parameters if not p.per_model}
    each = {p.name: given.get(p.name, (p.default,) * 9) for p in parameters if p.per_model}
    return shared, each


def merged(name: str, base: Tensor, models: list[Tensor], **given: Any) -> Tensor:
    shared, each = settings(name, **given)
    cut = {parameter: values[: len(models)] for parameter, values in each.items()}
    return ours(METHODS[name], Case(base, models, shared, cut, keys=tuple(range(1, len(models) + 1))))


def test_ties_by_count_elects_the_sign_that_most_models_have() -> None:
    base, models = torch.zeros(2), [torch.tensor(x) for x in ([9.0, 1.0], [-1.0, 1.0], [-2.0, -9.0])]
    assert merged("ties", base, models, weight=(1.0, 1.0, 1.0)).tolist() == [9.0, -9.0]
    assert merged("ties", base, models, weight=(1.0, 1.0, 1.0), sign="count").tolist() == [-1.5, 1.0]


@pytest.mark.parametrize("name", ["della", "della_linear"])
@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
def test_della_keeps_an_element_by_its_rank(name: str, rescale: str) -> None:
    """Rows of the same four magnitudes: the fraction of kept elements grows with the rank."""
    rows = 1 << 14
    model = torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat(rows, 1)
    result = merged(name, torch.zeros(rows, 4), [model], weight=(1.0,), density=(0.5,), epsilon=(0.3,), rescale=rescale)
    kept, expected = (result != 0).double().mean(0), torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    assert ((kept - expected).abs() < 4 * (0.25 / rows) ** 0.5).all()
    if rescale == "inverse":
        # In each column a fraction p is kept and divided by p. The tolerance is four standard deviations of the mean.
        deviation = model[0].double() * ((1 - expected) / expected / rows).sqrt()
        assert ((result.double().mean(0) - model[0]).abs() < 4 * deviation).all()
    if rescale == "l1":
        assert result.double().abs().sum().item() == close(model.double().sum().item(), OPERATIONS, torch.float32)


def test_della_of_one_column_is_dare() -> None:
    """In a row of one element, the probability is the density."""
    result = merged("della_linear", torch.zeros(1 << 16, 1), [torch.ones(1 << 16, 1)], weight=(1.0,), density=(0.3,))
    assert result.isfinite().all()
    deviation = (0.3 * 0.7 / (1 << 16)) ** 0.5
    assert (result != 0).double().mean().item() == pytest.approx(0.3, abs=4 * deviation)


@pytest.mark.parametrize(
    ("density", "gamma", "kept"),
    [
        (0.5, 0.0, [6, 7, 8, 9, 10]),
        (0.5, 0.2, [4, 5, 6, 7, 8]),
        (0.9, 0.5, range(1, 10)),
        (0.01, 0.1, [9]),
        (0.2, 0.04, [9, 10]),
    ],
)
def test_breadcrumbs_drops_both_ends(density: float, gamma: float, kept: Any) -> None:
    """The fourth case keeps less than one element, and the last drops less than one outlier."""
    model = torch.arange(1.0, 11.0)
    result = merged("breadcrumbs", torch.zeros(10), [model], weight=(1.0,), density=(density,), gamma=(gamma,))
    assert result[result != 0].tolist() == list(kept)


def test_model_stock_stays_between_the_base_and_the_average() -> None:
    base = torch.zeros(2)
    opposite = [torch.tensor([1.0, 0.1]), torch.tensor([-1.0, 0.1])]
    same = [torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0])]
    assert merged("model_stock", base, opposite).tolist() == [0.0, 0.0]
    assert merged("model_stock", base, same).tolist() == close([2.0, 2.0], OPERATIONS, torch.float32)
    rows = [torch.stack([a, b]) for a, b in zip(opposite, same, strict=True)]
    by_filter = merged("model_stock", torch.zeros(2, 2), rows, filter_wise=True)
    assert by_filter.flatten().tolist() == close([0.0, 0.0, 2.0, 2.0], OPERATIONS, torch.float32)


@pytest.mark.parametrize("name", ["multislerp", "karcher"])
def test_directions_that_cancel_out_are_averaged(name: str) -> None:
    models = [torch.tensor([1.0, 0.0]), torch.tensor([-3.0, 0.0])]
    result = merged(name, torch.zeros(2), models, weight=(0.5, 0.5))
    assert result.tolist() == close([-1.0, 0.0], OPERATIONS, torch.float32)


def test_karcher_is_in_the_middle_of_an_arc() -> None:
    models = [torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])]
    middle = [3 / 2**0.5, 3 / 2**0.5]
    assert merged("karcher", torch.zeros(2), models).tolist() == close(middle, OPERATIONS, torch.float32)


def test_nuslerp_of_rows_and_of_columns() -> None:
    """Quarter turns of unit vectors in single rows and columns."""
    one, two = torch.eye(2), torch.eye(2).flip(0)
    half = [0.5**0.5] * 4
    for row_wise in (False, True):
        given = {"nuslerp_flatten": False, "nuslerp_row_wise": row_wise, "weight": (1.0, 1.0)}
        result = merged("nuslerp", torch.zeros(2, 2), [one, two], **given)
        assert result.flatten().tolist() == close(half, OPERATIONS, torch.float32)


def test_tasks_in_orthogonal_subspaces_are_simply_added_by_tsv() -> None:
    base, one, two = torch.zeros(4, 4), torch.zeros(4, 4), torch.zeros(4, 4)
    one[0, 0], one[1, 1], two[2, 2], two[3, 3] = 5.0, 2.0, 4.0, 1.0
    assert_close(merged("tsv", base, [one, two]), one + two, OPERATIONS)


def test_tsv_of_a_task_twice_is_the_task_once() -> None:
    one = helpers.tensor((6, 4), 1)
    result = merged("tsv", torch.zeros(6, 4), [one, one])
    u, s, vt = torch.linalg.svd(one.double(), full_matrices=False)
    assert_close(result, ((u[:, :2] * s[:2]) @ vt[:2]).float(), OPERATIONS)


def test_iso_c_has_one_singular_value() -> None:
    base, models = inputs((9, 6), 3, 2)
    s = torch.linalg.svdvals(merged("iso_c", base, models).double() - base)
    total = torch.linalg.svdvals(sum(model.double() - base for model in models))
    # Rounding the elements of the merge moves no singular value by more than the norm of all roundings.
    rounding = float(base.double().norm() + total.norm())
    assert_close(s.float(), total.mean().expand(6).float(), OPERATIONS, rounding)


def test_regmean_is_the_least_squares_fit_to_the_models_outputs() -> None:
    """Two models with different inputs: the solution is that of a solver on all inputs and outputs together."""
    models, xs = [helpers.tensor((3, 5), i) for i in (1, 2)], [helpers.tensor((40, 5), i) for i in (3, 4)]
    shared, _ = settings("regmean", alpha=1.0, calibration="text.txt")
    case = Case(torch.zeros(3, 5), models, shared, shown=tuple(x.t() @ x for x in xs))
    outputs = torch.cat([x.double() @ model.double().t() for x, model in zip(xs, models, strict=True)])
    expected = torch.linalg.lstsq(torch.cat(xs).double(), outputs).solution.t()
    # Beside rounding, the method adds 1e-6 of the mean diagonal to the Gram matrices, so that they can be inverted.
    assert_close(ours(METHODS["regmean"], case), expected.float(), OPERATIONS + 40)


def test_sce_with_tiny_changes_is_the_papers_only_without_the_smallest_energy() -> None:
    base, models = torch.zeros(2), [torch.tensor([1e-4, 1e-4]), torch.tensor([3e-4, 3e-4])]
    assert merged("sce", base, models).tolist() == close([2e-4, 2e-4], OPERATIONS, torch.float32)
    energetic = merged("sce", base, models, smallest_energy=0.0)
    assert energetic.tolist() == close([2.8e-4, 2.8e-4], OPERATIONS, torch.float32)

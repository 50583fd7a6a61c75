"""NaN and infinite values in inputs and results are errors that name the tensor, unless they are allowed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mergesearch
from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.kernels.finite import is_finite
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import dump_yaml

from ..helpers import INPUTS, save

BASE, TUNED = str(INPUTS / "base"), str(INPUTS / "ft1")


def recipe(models: list[str], weight: float = 1.0, dtype: str = "float32", **more: object) -> Recipe:
    entries = [{"model": model, "parameters": {"weight": weight}} for model in models]
    parameters = {"normalize": False}
    return Recipe.read({"merge_method": "linear", "models": entries, "parameters": parameters, "dtype": dtype, **more})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_kind_is_found_wherever_it_is(value: float, dtype: torch.dtype) -> None:
    for place in (0, 500, 999):
        tensor = torch.linspace(-2, 2, 1000, dtype=dtype)
        assert is_finite(tensor)
        tensor[place] = value
        assert not is_finite(tensor)


@pytest.mark.parametrize("tensor", [torch.empty(0), torch.arange(3), torch.full((2,), torch.finfo().max)])
def test_other_tensors_are_finite(tensor: Tensor) -> None:
    assert is_finite(tensor)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_input_is_named(value: float, tmp_path: Path) -> None:
    good = save(tmp_path / "good.safetensors", {"a": torch.ones(3), "b": torch.ones(3)})
    bad = save(tmp_path / "bad.safetensors", {"a": torch.ones(3), "b": torch.tensor([1, value, 1])})
    with pytest.raises(UserError, match=r"bad\.safetensors: b has 1 (NaN|Inf) among 3 values.*--allow-nan"):
        merge(recipe([good, bad], 0.0), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    mergesearch.merge(recipe([good, bad], 0.5), tmp_path / "out", allow_nan=True)
    assert not is_finite(load_file(tmp_path / "out" / "model.safetensors")["b"])


def test_an_overflow_of_the_result_is_named(tmp_path: Path) -> None:
    one = save(tmp_path / "one.safetensors", {"a": torch.full((3,), 4e4), "b": torch.ones(3)})
    with pytest.raises(UserError, match=r"a: the merge of \S+one\.safetensors has 3 Inf among .*float16, ±65504"):
        merge(recipe([one], 2.0, "float16"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge(recipe([one], 2.0, "bfloat16"), tmp_path / "out")


def test_an_input_of_a_search_is_an_error_at_the_beginning(tmp_path: Path) -> None:
    model = with_nan(tmp_path)
    for models in ([BASE, model], [model, BASE]):
        with pytest.raises(UserError, match=r"model: model\.norm\.weight has 1 NaN"):
            Engine(models, models[0])


def test_a_candidate_fails() -> None:
    engine = Engine([BASE, TUNED], BASE)
    with pytest.raises(FloatingPointError, match=r"^\S+ of the merged model has \d+ Inf among"):
        engine.build(recipe([BASE, TUNED], 3e38))
    assert engine.built is None
    engine.build(recipe([BASE, TUNED], 0.5))


def test_the_command_line_allows_it(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from mergesearch.search.cli import main

    file, out = tmp_path / "recipe.yml", tmp_path / "out"
    file.write_text(dump_yaml({"merge_method": "passthrough", "models": [{"model": with_nan(tmp_path)}]}))
    refused = CliRunner().invoke(main, ["merge", str(file), str(out)])
    assert refused.exit_code == 2
    assert not out.exists()
    assert CliRunner().invoke(main, ["merge", str(file), str(out), "--allow-nan"]).exit_code == 0


def with_nan(folder: Path) -> str:
    """A copy of the base with one value that is not a number."""
    import shutil

    shutil.copytree(BASE, folder / "model", dirs_exist_ok=True)
    tensors = load_file(folder / "model" / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, folder / "model" / "model.safetensors", {"format": "pt"})
    return str(folder / "model")

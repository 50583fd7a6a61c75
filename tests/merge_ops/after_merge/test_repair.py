"""Repair against a float64 reference that knows the network, and merges to disk against live models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.live.built import Builder
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.trust import trust_code

from ...tolerances import assert_close
from ..helpers import INPUTS
from ..live.families import GPT

SHARES = (0.25, 0.75)
ROWS = 64
OPERATIONS = 4 * ROWS
"""The sums over the rows, of the mean and of the variance, on both sides; all other sums are shorter."""


def network(bias: bool = True, norm: bool = False) -> nn.Sequential:
    norms = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(5, 8, bias=bias), *norms, nn.ReLU(), nn.Linear(8, 3, bias=bias))


def written(folder: Path, model: nn.Module, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.rand(t.shape, generator=generator) + 0.1 for name, t in model.state_dict().items()}
    tensors = {
        name: t.long() if name.endswith("tracked") else t - 0.6 * ("weight" in name) for name, t in tensors.items()
    }
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(7))
    save_file({"input": rows}, tmp_path / "data.safetensors")
    return str(tmp_path / "data.safetensors")


def two_models(folder: Path, model: nn.Module) -> tuple[list[str], Builder]:
    return [written(folder / name, model, seed) for seed, name in enumerate("ab")], lambda _: model


def recipe(models: list[str], data: str, **keys: Any) -> Recipe:
    entries = [{"model": m, "parameters": {"weight": share}} for m, share in zip(models, SHARES, strict=True)]
    return Recipe.read({"merge_method": "linear", "models": entries, "repair": {"data": data}, **keys})


def double(path: str) -> dict[str, Tensor]:
    return {name: t.double() for name, t in load_file(Path(path) / "model.safetensors").items()}


def outputs(tensors: dict[str, Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """What both linear layers compute, in float64."""
    first = rows @ tensors["0.weight"].T + tensors.get("0.bias", torch.zeros(8))
    return first, first.relu() @ tensors["2.weight"].T + tensors.get("2.bias", torch.zeros(3))


def moments(layer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean, the deviation and the root mean square of each unit."""
    return layer.mean(0), layer.std(0, correction=0), layer.square().mean(0).sqrt()


def goals(models: list[str], rows: Tensor) -> list[tuple[Tensor, ...]]:
    """The moments of both layers, averaged by the shares."""
    each = [[moments(layer) for layer in outputs(double(model), rows)] for model in models]
    one, two = ([tuple(share * m for m in layer) for layer in own] for share, own in zip(SHARES, each, strict=True))
    return [tuple(x + y for x, y in zip(a, b, strict=True)) for a, b in zip(one, two, strict=True)]


@pytest.mark.parametrize("bias", [True, False])
def test_units_have_the_moments_of_the_models(tmp_path: Path, data: str, bias: bool) -> None:
    """Without a bias only the root mean square can be set."""
    models, _ = two_models(tmp_path, network(bias))
    merged = Engine(models, models[0], builder=lambda _: network(bias)).build(recipe(models, data))
    rows = load_file(data)["input"].double()
    layers = outputs({name: t.double() for name, t in merged.state_dict().items()}, rows)
    for layer, expected in zip(layers, goals(models, rows), strict=True):
        for index in (0, 1) if bias else (2,):
            assert_close(moments(layer)[index].float(), expected[index].float(), OPERATIONS, 10.0)


def test_batch_norm_gets_the_statistics_of_its_inputs(tmp_path: Path, data: str) -> None:
    models, _ = two_models(tmp_path, network(norm=True))
    merged = Engine(models, models[0], builder=lambda _: network(norm=True)).build(recipe(models, data))
    rows = (
        load_file(data)["input"].double() @ merged.state_dict()["0.weight"].double().T + merged.state_dict()["0.bias"]
    )
    assert_close(merged.state_dict()["1.running_mean"], rows.mean(0).float(), OPERATIONS, 10.0)
    assert_close(merged.state_dict()["1.running_var"], rows.var(0).float(), OPERATIONS, 10.0)
    merged_weight = sum(share * double(model)["3.weight"] for share, model in zip(SHARES, models, strict=True))
    assert_close(merged.state_dict()["3.weight"], merged_weight.float(), 4)


@pytest.fixture(scope="module")
def gpts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folders = [tmp_path_factory.mktemp("models") / name for name in "ab"]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        GPT2LMHeadModel(GPT2Config(**{**GPT, "vocab_size": 64})).save_pretrained(folder)
        for file in (INPUTS / "ft1").glob("tokenizer*"):
            (folder / file.name).write_bytes(file.read_bytes())
    return [str(folder) for folder in folders]


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text("a few words, and some more of them " * 4)
    return str(tmp_path / "text.txt")


def test_merge_writes_what_the_live_model_has(gpts: list[str], text: str, tmp_path: Path) -> None:
    engine = Engine(gpts, gpts[0])
    plain, repaired = recipe(gpts, text, repair=None), recipe(gpts, text)
    engine.build(plain)
    before = engine.digest()
    engine.build(repaired)
    assert engine.digest() != before
    merge(repaired, tmp_path / "merged")
    assert Checkpoint(str(tmp_path / "merged")).digest() == engine.digest()
    engine.build(plain)
    assert engine.digest() == before
    engine.write(repaired, tmp_path / "written")
    assert Checkpoint(str(tmp_path / "written")).digest() == Checkpoint(str(tmp_path / "merged")).digest()


def test_one_model_stays_as_it_is(gpts: list[str], text: str) -> None:
    """The merged units have the moments already: a scale of one, up to rounding."""
    entries = [{"model": gpts[0], "parameters": {"weight": 1.0}}]
    engine = Engine(gpts, gpts[0])
    engine.build(Recipe.read({"merge_method": "linear", "models": entries, "repair": {"data": text}}))
    checkpoint = Checkpoint(gpts[0])
    for name, view in engine.views.items():
        assert_close(view, checkpoint.tensor(name).view(view.shape), 64 * OPERATIONS, 10.0)


def test_frozen_layers_stay(gpts: list[str], text: str) -> None:
    engine = Engine(gpts, gpts[0])
    engine.build(recipe(gpts, text, base_model=gpts[0], frozen=["h.0.mlp"]))
    checkpoint = Checkpoint(gpts[0])
    mlps = {name: view for name, view in engine.views.items() if ".mlp." in name and name.endswith("weight")}
    same = {name for name, view in mlps.items() if torch.equal(view, checkpoint.tensor(name))}
    assert same == {name for name in mlps if "h.0.mlp" in name} != set()


def test_phenotype_depends_on_the_content_of_the_data(gpts: list[str], text: str) -> None:
    engine = Engine(gpts, gpts[0])
    plain, repaired = (engine.phenotype(recipe(gpts, text, **keys), {}) for keys in ({"repair": None}, {}))
    Path(text).write_text("other words")
    assert len({plain, repaired, engine.phenotype(recipe(gpts, text), {})}) == 3


def test_a_recipe_with_steps_has_no_coefficients(gpts: list[str], text: str) -> None:
    engine = Engine(gpts, gpts[0])
    assert engine.coefficients(recipe(gpts, text)) is None
    assert not engine.is_linear(recipe(gpts, text))
    assert engine.input_weights(recipe(gpts, text)) is None


def test_models_without_a_tokenizer_need_inputs(tmp_path: Path, text: str) -> None:
    models, builder = two_models(tmp_path, network())
    with pytest.raises(UserError, match=r"has no tokenizer, but .*text.txt is a text; expected a .safetensors file"):
        Engine(models, models[0], builder=builder).build(recipe(models, text))


def test_inputs_of_another_shape(tmp_path: Path) -> None:
    models, builder = two_models(tmp_path, network())
    save_file({"input": torch.zeros(2, 4)}, tmp_path / "wrong.safetensors")
    with pytest.raises(UserError, match=r"calibration: Sequential cannot run on input \[2, 4\]: "):
        Engine(models, models[0], builder=builder).build(recipe(models, str(tmp_path / "wrong.safetensors")))


def test_merge_builds_models_of_other_libraries(tmp_path: Path, data: str) -> None:
    models, _ = two_models(tmp_path, network())
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\n\ndef build(path):\n"
        "    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))\n"
    )
    step = {"data": data, "builder": f"{tmp_path / 'own.py'}:build"}
    with pytest.raises(UserError, match=r"repair: builder: needs code, .*own.py:build, which runs with your rights"):
        merge(recipe(models, data, repair=step), tmp_path / "merged")
    with trust_code():
        merge(recipe(models, data, repair=step), tmp_path / "merged")
    engine = Engine(models, models[0], builder=lambda _: network())
    engine.build(recipe(models, data))
    assert Checkpoint(str(tmp_path / "merged")).digest() == engine.digest()

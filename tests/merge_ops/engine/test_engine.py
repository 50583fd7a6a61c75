"""From recipes to models: the live model equals the written one."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.assembly.assembly import Assembly
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import Engine, Merger, check_output, merge
from mergesearch.merge_ops.kernels import ranking
from mergesearch.merge_ops.kernels.masks import fingerprint, mask_key
from mergesearch.merge_ops.methods import METHODS
from mergesearch.merge_ops.recipe.recipe import Recipe

from ...tolerances import aligned
from ..helpers import INPUTS, WITHOUT_TEXT, Counter, far_off, loaded, read, recipe_data, same_bytes, save, tensor
from ..references import REFERENCES, Case
from ..references.selection import undecided

BASE = str(INPUTS / "base")
TUNED = [str(INPUTS / name) for name in ("ft1", "ft2", "ft3")]
BF16 = [str(INPUTS / f"bf16-{name}") for name in ("base", "ft1", "ft2", "ft3")]
TOKENS = torch.arange(24).view(2, 12) % 64


def recipe(name: str, seed: int = 3, **fixed: Any) -> Recipe:
    return Recipe.read(recipe_data(METHODS[name], BASE, TUNED, seed, **fixed))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine([BASE, *TUNED], BASE)


def contents(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        answer: Tensor = aligned(model)(TOKENS).logits
        return answer


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(same_bytes(value, two[name]) for name, value in one.items())


# The live model and the disk


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_the_live_model_is_what_is_written(name: str, engine: Engine, tmp_path: Path) -> None:
    built = contents(engine.build(recipe(name)))
    merge(recipe(name), tmp_path / "out")
    assert_same(read(tmp_path / "out"), built)


@pytest.mark.parametrize("name", ["ties", "dare_ties"])
def test_the_live_model_answers_as_the_folder_does_when_loaded(name: str, engine: Engine, tmp_path: Path) -> None:
    engine.write(recipe(name), tmp_path / "out")
    live = logits(engine.build(recipe(name)))
    assert torch.equal(live, logits(loaded(tmp_path / "out")))
    assert not torch.equal(live, logits(engine.build(recipe("linear"))))


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_where_the_checkpoints_lie_changes_nothing(name: str, tmp_path: Path) -> None:
    moved = [str(shutil.copytree(path, tmp_path / f"moved-{i}")) for i, path in enumerate((BASE, *TUNED))]
    merge(recipe(name), tmp_path / "here")
    merge(Recipe.read(recipe_data(METHODS[name], moved[0], moved[1:], 3)), tmp_path / "there")
    assert_same(read(tmp_path / "here"), read(tmp_path / "there"))


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_building_another_candidate_leaves_no_trace(name: str, engine: Engine) -> None:
    first = contents(engine.build(recipe(name)))
    engine.build(recipe("ties", 11))
    engine.build(recipe(name, 12))
    assert_same(contents(engine.build(recipe(name))), first)


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_a_tensor_is_the_methods_formula(name: str, engine: Engine) -> None:
    one, tensors = recipe(name, scope="tensor"), {path: read(Path(path)) for path in (BASE, *TUNED)}
    built = contents(engine.build(one))
    for part in one.resolve(engine.names):
        models = [tensors[model][part.name] for model in part.models]
        keys = tuple(mask_key(int(part.shared.get("seed", 0)), fingerprint(model), part.name) for model in models)
        each: dict[str, Any] = dict(part.each)
        others = tuple((t, tensors[part.models[0]][n]) for n, t in tensors[BASE].items() if n != part.name)
        case = Case(tensors[BASE][part.name], models, dict(part.shared), each, keys, others=others)
        far = far_off(built[part.name], REFERENCES[name](case))
        assert not (far & ~undecided(case) if name == "arcee_fusion" else far).any()


def test_engine_and_merge_write_the_same_files(engine: Engine, tmp_path: Path) -> None:
    engine.write(recipe("dare_ties"), tmp_path / "a" / "out")
    merge(recipe("dare_ties"), tmp_path / "b" / "out")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / x / "out").iterdir()} for x in "ab")
    assert one == two


def test_an_embedding_that_is_tied_and_stored_twice_is_one_tensor(tmp_path: Path) -> None:
    """This holds for the live model, its gradients, and the written folder."""
    base, tuned = (str(copied_with_head(INPUTS / name, tmp_path)) for name in ("tied-base", "tied-ft1"))
    engine = Engine([base, tuned], base)

    def weighed(weight: float) -> Recipe:
        models = [{"model": tuned, "parameters": {"weight": [{"filter": "embed", "value": weight}, {"value": 0.5}]}}]
        return Recipe.read({"merge_method": "task_arithmetic", "base_model": base, "models": models})

    _, gradients = engine.coefficient_gradients(weighed(0.5), lambda: loss_of(engine, backward=True))
    engine.build(weighed(0.52))
    high = loss_of(engine)
    engine.build(weighed(0.48))
    # The error of the difference is of the order of the step's square, about 0.03 % of the gradient.
    assert gradients["model.embed_tokens.weight"][1] == pytest.approx((high - loss_of(engine)) / 0.04, rel=1e-3)
    assert "lm_head.weight" not in gradients
    engine.build(weighed(0.5))
    engine.write(weighed(0.5), tmp_path / "out")
    assert "lm_head.weight" not in Checkpoint(str(tmp_path / "out")).tensors
    assert Checkpoint(str(tmp_path / "out")).digest() == engine.digest()


def copied_with_head(source: Path, target: Path) -> Path:
    """The model in float64, which is precise enough for differences of losses."""
    shutil.copytree(source, target / source.name)
    tensors = {name: value.double() for name, value in load_file(source / "model.safetensors").items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    (target / source.name / "model.safetensors").unlink()
    save_file(tensors, target / source.name / "model.safetensors", {"format": "pt"})
    return target / source.name


def loss_of(engine: Engine, backward: bool = False) -> float:
    loss = engine.model(TOKENS, labels=TOKENS).loss
    if backward:
        loss.backward()
    return float(loss.item())


def test_random_masks_depend_on_seed_model_and_tensor(engine: Engine) -> None:
    settings: dict[str, Any] = {"density": 0.5, "weight": 1.0, "lambda": 1.0, "normalize": False, "rescale": "none"}
    first = contents(engine.build(recipe("dare_linear", seed=1, **settings)))
    name, other = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"
    again = contents(engine.build(recipe("dare_linear", seed=2, **settings)))
    assert not torch.equal(first[name], again[name])
    base = read(INPUTS / "base")
    assert not torch.equal(first[name] == base[name], first[other] == base[other])


def test_tied_embeddings_are_written_once_and_stay_tied(tmp_path: Path) -> None:
    tied = [str(INPUTS / name) for name in ("tied-base", "tied-ft1")]
    engine = Engine(tied, tied[0])
    one = Recipe.read(recipe_data(METHODS["linear"], tied[0], tied))
    model: Any = engine.build(one)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    merge(one, tmp_path / "out")
    written = read(tmp_path / "out")
    assert "lm_head.weight" not in written
    assert same_bytes(model.lm_head.weight, written["model.embed_tokens.weight"])
    assert torch.equal(logits(model), logits(loaded(tmp_path / "out")))


@pytest.mark.parametrize("name", WITHOUT_TEXT)
@pytest.mark.parametrize("references", [[BASE, *TUNED], BF16], ids=["from float32", "from bfloat16"])
def test_bfloat16(name: str, references: list[str], tmp_path: Path) -> None:
    one = Recipe.read({**recipe_data(METHODS[name], references[0], references[1:]), "dtype": "bfloat16"})
    engine = Engine(references, references[0], dtype="bfloat16")
    built = contents(engine.build(one))
    merge(one, tmp_path / "out")
    assert_same(read(tmp_path / "out"), built)
    assert {value.dtype for value in built.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


# Tensors that are not float32 matrices


def mixed(seed: int) -> dict[str, Tensor]:
    return {
        "bf16": tensor((9, 5), seed, torch.bfloat16),
        "bool": torch.tensor([seed == 1, True]),
        "empty": torch.empty(0, 3),
        "f16": tensor((3,), seed, torch.float16),
        "f32": tensor((7, 1), seed),
        "int64": torch.tensor([seed, 1 << 40]),
        "scalar": torch.tensor(float(seed)),
    }


@pytest.fixture
def bare(tmp_path: Path) -> list[str]:
    return [save(tmp_path / f"{seed}.safetensors", mixed(seed)) for seed in range(1, 5)]


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_bare_files_of_every_kind_of_tensor(name: str, bare: list[str], tmp_path: Path) -> None:
    merge(Recipe.read(recipe_data(METHODS[name], bare[0], bare[1:])), tmp_path / "out")
    written = read(tmp_path / "out")
    assert {n: (v.shape, v.dtype) for n, v in written.items()} == {n: (v.shape, v.dtype) for n, v in mixed(1).items()}
    assert all(value.isfinite().all() for value in written.values())
    # Copied from the base, or from the first model if there is no base.
    first = mixed(2 if METHODS[name].base == "input" else 1)
    assert same_bytes(written["int64"], first["int64"])
    assert same_bytes(written["bool"], first["bool"])


def test_without_a_dtype_the_widest_of_the_inputs_is_kept(tmp_path: Path) -> None:
    one = save(tmp_path / "one", {"w": tensor((9,), 1, torch.bfloat16), "v": tensor((9,), 1, torch.float16)})
    two = save(tmp_path / "two", {"w": tensor((9,), 2), "v": tensor((9,), 2, torch.float16)})
    read_recipe = Recipe.read(recipe_data(METHODS["linear"], one, [one, two]))
    dtypes = {name: info.dtype for name, info in Assembly(Merger([one, two]), read_recipe).infos.items()}
    assert dtypes == {"w": torch.float32, "v": torch.float16}


@pytest.mark.parametrize("resident", [False, True])
def test_a_merger_reads_and_counts_each_tensor_once_if_it_keeps_them(
    resident: bool, bare: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    merger = Merger(bare, resident=resident)
    reads = [Counter(checkpoint.tensor) for checkpoint in merger.checkpoints.values()]
    for checkpoint, counter in zip(merger.checkpoints.values(), reads, strict=True):
        monkeypatch.setattr(checkpoint, "tensor", counter)
    one = Recipe.read(recipe_data(METHODS["ties"], bare[0], bare[1:]))
    assembly = Assembly(merger, one)
    passes = Counter(ranking.count_keys)
    monkeypatch.setattr(ranking, "count_keys", passes)
    monkeypatch.setattr(ranking, "SORTED", 0)
    assembly.write_tensor("f32", torch.empty(7, 1))
    once = passes.calls
    for _ in range(2):
        assembly.write_tensor("f32", torch.empty(7, 1))
    assert [counter.calls for counter in reads] == [1 if resident else 3] * 4
    assert 3 <= once <= 6, "two passes at most for each of three models"
    assert passes.calls == once * (1 if resident else 3)


# The folder


def test_the_folder_holds_what_transformers_needs_and_the_recipe(tmp_path: Path) -> None:
    import transformers

    one = recipe("dare_ties")
    merge(one, tmp_path / "my-model")
    folder = tmp_path / "my-model"
    sides = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == sides | {
        "model.safetensors",
        "README.md",
        "mergesearch_recipe.yml",
    }
    assert all((folder / name).read_bytes() == (INPUTS / "base" / name).read_bytes() for name in sides)
    assert Recipe.read(yaml.safe_load((folder / "mergesearch_recipe.yml").read_text())) == one
    assert transformers.AutoTokenizer.from_pretrained(folder)("a").input_ids


def test_the_written_recipe_rebuilds_the_same_bytes(tmp_path: Path) -> None:
    merge(recipe("dare_ties"), tmp_path / "one")
    again = Recipe.read(yaml.safe_load((tmp_path / "one" / "mergesearch_recipe.yml").read_text()))
    merge(again, tmp_path / "two")
    name = "model.safetensors"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_folder_that_is_not_empty_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match="already exists; choose another path or remove it"):
            merge(recipe("ties"), out)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_is_no_folder_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    for out in (tmp_path / "pipe", tmp_path / "link", Path("/dev/null")):
        with pytest.raises(UserError, match="already exists; choose another path or remove it"):
            check_output(out)
    assert (tmp_path / "pipe").is_fifo()


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    merge(recipe("ties"), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_merge_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("mergesearch.merge_ops.assembly.assembly.combine", fail)
    with pytest.raises(MemoryError):
        merge(recipe("ties"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_without_a_number_fails_before_anything_is_written(tmp_path: Path) -> None:
    data = recipe_data(METHODS["ties"], BASE, TUNED)
    data["models"][1]["parameters"]["weight"] = [{"filter": "mlp", "value": 1}]
    with pytest.raises(UserError, match=r"'weight' of .*ft2 is missing for the tensor lm_head\.weight"):
        merge(Recipe.read(data), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_of_another_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tied-ft1"):
        merge(Recipe.read(recipe_data(METHODS["linear"], BASE, [BASE, str(INPUTS / "tied-ft1")])), tmp_path / "out")


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", ["tsv", "iso_c", "arcee_fusion"])
def test_threads_do_not_change_what_tensors_are_planned_with(name: str, tmp_path: Path) -> None:
    """Live, several tensors are planned at once; on the disk, one after the other."""
    engine = Engine([BASE, *TUNED], BASE)
    engine.build(recipe(name))
    merge(recipe(name), tmp_path / "out")
    two, written = {key: view.clone() for key, view in engine.views.items()}, read(tmp_path / "out")
    torch.set_num_threads(1)
    engine = Engine([BASE, *TUNED], BASE)
    engine.build(recipe(name))
    assert_same(two, {key: written[key] for key in two})
    assert_same(two, dict(engine.views))

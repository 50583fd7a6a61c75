"""Which files of a folder are the model's: indexes of shards, other names, variants, links, and accidents with them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.weight_files import INDEX, SINGLE
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.recipe.recipe import Recipe

from ..helpers import INPUTS, read, same_bytes, tensor

A, B = tensor((3, 2), 1), tensor((4,), 2)


def copy_of(folder: Path, **values: dict[str, Tensor]) -> Path:
    """Writes a file of tensors for each keyword."""
    folder.mkdir(exist_ok=True)
    for stem, tensors in values.items():
        save_file(tensors, folder / f"{stem}.safetensors")
    return folder


def write_index(folder: Path, weight_map: Any, name: str = INDEX, **more: Any) -> Path:
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map, **more}))
    return folder


def fail(folder: Path, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        _ = Checkpoint(str(folder)).tensors
    for part in parts:
        assert part in str(caught.value), caught.value


# The index


def test_the_index_says_which_tensors_count(tmp_path: Path) -> None:
    """Each from the shard that it names, whatever else is in the shards and beside them."""
    folder = copy_of(tmp_path, one={"a": A, "b": B + 1, "old": B}, two={"a": A + 1, "b": B}, stale={"a": A + 2, "c": B})
    checkpoint = Checkpoint(str(write_index(folder, {"a": "one.safetensors", "b": "two.safetensors"})))
    assert list(checkpoint.tensors) == ["a", "b"]
    assert same_bytes(checkpoint.tensor("a"), A)
    assert same_bytes(checkpoint.tensor("b"), B)
    plain = Checkpoint(str(copy_of(tmp_path / "plain", model={"a": A, "b": B})))
    assert checkpoint.samples() == plain.samples()


def test_a_tensor_that_no_shard_has(tmp_path: Path) -> None:
    folder = write_index(copy_of(tmp_path, one={"a": A}), {"a": "one.safetensors", "b": "one.safetensors"})
    fail(folder, f"{folder}/{INDEX}: names the tensor b in one.safetensors, which does not have it")


def test_a_tensor_in_another_shard_than_the_index_says(tmp_path: Path) -> None:
    folder = copy_of(tmp_path, one={"a": A}, two={"b": B})
    fail(write_index(folder, {"a": "two.safetensors", "b": "two.safetensors"}), "names the tensor a in two.safetensors")
    fail(write_index(folder, {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}), "1 more")
    fail(write_index(folder, {"a": "two.safetensors", "b": "one.safetensors"}), "found it in one.safetensors")


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({}, "found an empty weight_map"),
        (None, "found the weight_map None"),
        ([["a", "one.safetensors"]], "found the weight_map"),
        ({"a": 3}, "found 3 for a"),
        ({"a": None}, "found None for a"),
        ({"a": ""}, "found '' for a"),
        ({"a": "../one.safetensors"}, "found '../one.safetensors' for a, expected the name of a file in this folder"),
        ({"a": "x/../../one.safetensors"}, "expected the name of a file in this folder"),
        ({"a": "/etc/passwd"}, "found '/etc/passwd' for a"),
        ({"a": "one\0.safetensors"}, "expected the name of a file in this folder"),
        ({"a": "none.safetensors"}, "names shards that do not exist: none.safetensors"),
        ({"a": "."}, "names shards that do not exist"),
    ],
    ids=repr,
)
def test_a_damaged_index(weight_map: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").write_bytes(b"")
    folder = copy_of(tmp_path / "model", one={"a": A})
    fail(write_index(folder, weight_map), f"{folder}/{INDEX}: ", said)


@pytest.mark.parametrize("content", ["", "3", "[]", '{"weight_map"', "[" * 100_000, "\0"], ids=lambda text: text[:20])
def test_an_index_that_is_not_json(content: str, tmp_path: Path) -> None:
    folder = copy_of(tmp_path, one={"a": A})
    (folder / INDEX).write_text(content)
    fail(folder, INDEX, "JSON")


@pytest.mark.parametrize("metadata", [{}, {"total_size": -1}, {"total_size": "many"}, 3, None])
def test_the_metadata_do_not_matter(metadata: Any, tmp_path: Path) -> None:
    folder = write_index(copy_of(tmp_path, one={"a": A}), {"a": "one.safetensors"}, metadata=metadata)
    assert list(Checkpoint(str(folder)).tensors) == ["a"]


def test_shards_may_be_in_folders_of_the_folder(tmp_path: Path) -> None:
    copy_of(tmp_path / "parts", one={"a": A})
    assert list(Checkpoint(str(write_index(tmp_path, {"a": "parts/one.safetensors"}))).tensors) == ["a"]


def test_a_single_file_comes_before_an_index_as_in_transformers(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    shutil.copytree(INPUTS / "base", folder)
    names = read(folder)
    save_file({name: value + 1 for name, value in names.items()}, folder / "old.safetensors")
    write_index(folder, dict.fromkeys(names, "old.safetensors"))
    checkpoint = Checkpoint(str(folder))
    assert all(same_bytes(checkpoint.tensor(name), value) for name, value in read(INPUTS / "base").items())
    live.bind(live.load(checkpoint, "cpu")[0], checkpoint)


def test_the_live_model_has_the_tensors_of_the_index(tmp_path: Path) -> None:
    """transformers itself takes whatever the named shards have, the last one first."""
    folder, tensors = tmp_path / "x", read(INPUTS / "base")
    shutil.copytree(INPUTS / "base", folder)
    (folder / SINGLE).unlink()
    first = sorted(tensors)[: len(tensors) // 2]
    save_file(tensors, folder / "model-00001-of-00002.safetensors")
    save_file({name: value + 1 for name, value in tensors.items()}, folder / "model-00002-of-00002.safetensors")
    weight_map = {name: f"model-0000{1 + (name not in first)}-of-00002.safetensors" for name in tensors}
    checkpoint = Checkpoint(str(write_index(folder, weight_map)))
    expected = {name: value if name in first else value + 1 for name, value in tensors.items()}
    model, tokenizer = live.load(checkpoint, "cpu")
    assert (model.generation_config.eos_token_id, tokenizer is None) == (2, False)
    for name, value in live.bind(model, checkpoint).items():
        assert torch.equal(value, expected[name]), name
    reference = str(folder)
    recipe = Recipe.read({"merge_method": "linear", "models": [{"model": reference, "parameters": {"weight": 1.0}}]})
    Engine([reference], reference).build(recipe)
    merge(recipe, tmp_path / "out")
    assert all(torch.equal(value, expected[name]) for name, value in read(tmp_path / "out").items())


# Names of files


@pytest.mark.parametrize(
    "name", ["model.fp16", "consolidated", "pytorch_model", "diffusion_pytorch_model", "names with spaces & ünïcode"]
)
def test_the_only_file_is_the_models_whatever_its_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    shutil.copytree(INPUTS / "base", folder)
    (folder / SINGLE).rename(folder / f"{name}.safetensors")
    checkpoint = Checkpoint(str(folder))
    live.bind(live.load(checkpoint, "cpu")[0], checkpoint)


def test_variants_and_other_formats_beside_the_weights_do_not_count(tmp_path: Path) -> None:
    others = {"model.fp16": {"z": A}, "consolidated": {"y": A}, "diffusion_pytorch_model": {"x": A}}
    folder = copy_of(tmp_path, model={"a": A}, **others)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert list(Checkpoint(str(folder)).tensors) == ["a"]
    (folder / SINGLE).unlink()
    copy_of(folder, one={"b": B})
    assert list(Checkpoint(str(write_index(folder, {"b": "one.safetensors"}))).tensors) == ["b"]


@pytest.mark.parametrize("is_sharded", [False, True])
def test_weights_of_diffusers_keep_their_name(is_sharded: bool, tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        copy_of(folder, diffusion_pytorch_model={"a": A, "b": B})
        if is_sharded:
            (folder / "diffusion_pytorch_model.safetensors").rename(folder / "part.safetensors")
            index = "diffusion_pytorch_model.safetensors.index.json"
            write_index(folder, {"a": "part.safetensors", "b": "part.safetensors"}, index)
        (folder / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in ("one", "two")]
    merge(Recipe.read({"merge_method": "linear", "models": models}), tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").glob("*.safetensors")] == ["diffusion_pytorch_model.safetensors"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["_class_name"] == "UNet2DModel"


def test_a_file_that_the_config_names(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    shutil.copytree(INPUTS / "base", folder)
    save_file({name: value + 1 for name, value in read(folder).items()}, folder / "mine.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "mine.safetensors"}))
    checkpoint = Checkpoint(str(folder))
    assert same_bytes(checkpoint.tensor("model.norm.weight"), read(INPUTS / "base")["model.norm.weight"] + 1)
    live.bind(live.load(checkpoint, "cpu")[0], checkpoint)
    models = [{"model": str(folder), "parameters": {"weight": 1.0}}]
    merge(Recipe.read({"merge_method": "linear", "models": models}), tmp_path / "out")
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(written.model.norm.weight, checkpoint.tensor("model.norm.weight"))
    (folder / "mine.safetensors").unlink()
    fail(folder, "config.json: transformers_weights: there is no file 'mine.safetensors'")
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "../mine.safetensors"}))
    fail(folder, "found '../mine.safetensors', expected a file in this folder")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], f"without {INDEX}, nothing says"),
        (["model-00001-of-00002.safetensors"], f"without {INDEX}, nothing says"),
        (["one.safetensors", "two.safetensors"], f"give the path of one of the files, or rename it to {SINGLE}"),
        (["model.fp16.safetensors", "model.bf16.safetensors"], "give the path of one of the files"),
        (["pytorch_model.bin"], "pytorch_model.bin has pickles, which may run code and are never read: convert it"),
        (["pytorch_model-00001-of-00002.bin", "model.ckpt", "x.pth"], "has pickles"),
        (["0_Transformer/model.safetensors", "modules.json"], "there are weights in 0_Transformer: give one of these"),
        (["tf_model.h5", "model.gguf"], "found: model.gguf, tf_model.h5"),
        ([], "found: nothing"),
    ],
    ids=str,
)
def test_a_folder_without_weights_says_what_to_do(files: list[str], said: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_file({"a": A}, tmp_path / name)
    fail(tmp_path, f"{tmp_path}: expected {SINGLE} or {INDEX}", said)


@pytest.mark.parametrize(
    "metadata", [None, {}, {"format": "mlx"}, {"format": "pt", "training": "{}"}, {"format": "np"}]
)
def test_the_metadata_of_a_file_do_not_matter(metadata: Any, tmp_path: Path) -> None:
    tensors = read(INPUTS / "base")
    for name in ("one", "two"):
        shutil.copytree(INPUTS / "base", tmp_path / name)
        save_file(tensors, tmp_path / name / SINGLE, metadata)
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in ("one", "two")]
    merge(Recipe.read({"merge_method": "linear", "models": models}), tmp_path / "out")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded.model.norm.weight, tensors["model.norm.weight"])


# Links and permissions


def hub_cache(folder: Path, source: Path) -> Path:
    """Copies a checkpoint as the Hub's cache keeps it: links to read-only blobs. Returns the snapshot."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / ("a" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(source.iterdir())):
        shutil.copy(file, blobs / f"{number:064x}")
        (blobs / f"{number:064x}").chmod(0o444)
        (snapshot / file.name).symlink_to(f"../../blobs/{number:064x}")
    snapshot.chmod(0o555)
    return snapshot


def test_results_of_a_cache_are_files_that_their_owner_may_change(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "cache", INPUTS / "base")
    models = [{"model": str(snapshot), "parameters": {"weight": 1.0}}]
    merge(Recipe.read({"merge_method": "linear", "models": models}), tmp_path / "out")
    assert read(tmp_path / "out").keys() == read(INPUTS / "base").keys()
    files = list((tmp_path / "out").iterdir())
    assert {file.name for file in (INPUTS / "base").iterdir()} <= {file.name for file in files}
    assert not any(file.is_symlink() for file in files)
    assert all(file.stat().st_mode & 0o600 == 0o600 for file in [*files, tmp_path / "out"])


def test_shards_may_be_links_that_leave_the_folder(tmp_path: Path) -> None:
    copy_of(tmp_path / "blobs", one={"a": A})
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "one.safetensors").symlink_to("../blobs/one.safetensors")
    assert list(Checkpoint(str(write_index(folder, {"a": "one.safetensors"}))).tensors) == ["a"]


@pytest.mark.parametrize("name", [SINGLE, INDEX, "model.fp16.safetensors"])
def test_weights_that_are_a_broken_link(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("/nowhere/blob")
    fail(tmp_path, f"{tmp_path}/{name}: is a link to /nowhere/blob, which does not exist")


def test_a_shard_that_is_a_broken_link(tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").symlink_to("/nowhere/blob")
    fail(write_index(tmp_path, {"a": "one.safetensors"}), "one.safetensors: is a link to /nowhere/blob")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"])
def test_a_file_beside_the_weights_that_is_a_broken_link(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    shutil.copytree(INPUTS / "base", folder)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/nowhere/blob")
    models = [{"model": str(folder), "parameters": {"weight": 1.0}}]
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        merge(Recipe.read({"merge_method": "linear", "models": models}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_reference_that_is_a_broken_link(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("/nowhere/model")
    fail(tmp_path / "x", f"{tmp_path}/x: is a link to /nowhere/model, which does not exist")


@pytest.mark.parametrize("name", ["a b", "ünï+code", "[x]*?", "new\nline", "{model}", "@home"])
def test_folders_of_any_name(name: str, tmp_path: Path) -> None:
    folder = copy_of(tmp_path / name, one={"a": A}, two={"b": B})
    checkpoint = Checkpoint(str(write_index(folder, {"a": "one.safetensors", "b": "two.safetensors"})))
    assert list(checkpoint.tensors) == ["a", "b"]

"""References to paths and to names on the Hugging Face Hub, in the Hub's cache on disk."""

import os
import shutil
from pathlib import Path

import pytest

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.locations import locate
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.recipe.recipe import Recipe

from ..helpers import INPUTS, read, same_bytes

REVISIONS = {"main": "a" * 40, "v1.0": "b" * 40, "refs/pr/1": "b" * 40}
SOURCES = {"a" * 40: INPUTS / "ft1", "b" * 40: INPUTS / "ft2"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, and a cache of the Hub that has acme/tiny and tiny, as links to blobs, in two revisions."""
    for name in ("models--acme--tiny", "models--tiny"):
        home = tmp_path / "hub" / name
        (home / "blobs").mkdir(parents=True)
        for commit, source in SOURCES.items():
            snapshot = home / "snapshots" / commit
            snapshot.mkdir(parents=True)
            for file in source.iterdir():
                blob = f"{commit[0]}{file.name}"
                shutil.copy(file, home / "blobs" / blob)
                (snapshot / file.name).symlink_to(f"../../blobs/{blob}")
        for revision, commit in REVISIONS.items():
            (home / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
            (home / "refs" / revision).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def is_model(path: Path, source: str) -> bool:
    ours, theirs = read(path), read(INPUTS / source)
    return ours.keys() == theirs.keys() and all(same_bytes(ours[name], theirs[name]) for name in theirs)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("reference", "source"),
    [
        ("acme/tiny", "ft1"),
        ("acme/tiny@main", "ft1"),
        ("acme/tiny/", "ft1"),
        ("acme/tiny@v1.0", "ft2"),
        ("acme/tiny@refs/pr/1", "ft2"),
        (f"acme/tiny@{'b' * 40}", "ft2"),
        ("tiny", "ft1"),
        ("tiny@v1.0", "ft2"),
    ],
)
def test_names_and_revisions_in_the_cache(reference: str, source: str) -> None:
    assert is_model(locate(reference), source)


def test_a_folder_with_the_owners_name_hides_nothing(hub: Path) -> None:
    (hub / "acme").mkdir()
    assert is_model(locate("acme/tiny"), "ft1")
    (hub / "acme" / "other").mkdir()
    assert is_model(locate("acme/tiny"), "ft1")
    assert is_model(locate("acme/tiny@v1.0"), "ft2")
    models = [{"model": "acme/tiny", "parameters": {"weight": 1.0}}]
    merge(Recipe.read({"merge_method": "linear", "models": models}), hub / "out")
    assert is_model(hub / "out", "ft1")


def test_a_path_that_exists_is_meant(hub: Path) -> None:
    shutil.copytree(INPUTS / "base", hub / "acme" / "tiny")
    assert is_model(locate("acme/tiny"), "base")
    assert is_model(locate("acme/tiny@v1.0"), "ft2")
    shutil.copytree(INPUTS / "ft3", hub / "acme" / "tiny@v1.0")
    assert is_model(locate("acme/tiny@v1.0"), "ft3")


def test_the_long_form_with_a_revision(hub: Path) -> None:
    model = {"model": {"path": "acme/tiny", "revision": "v1.0"}}
    recipe = Recipe.read({"merge_method": "linear", "models": [{"model": model, "parameters": {"weight": 1.0}}]})
    merge(recipe, hub / "out")
    assert is_model(hub / "out", "ft2")


@pytest.mark.parametrize("reference", ["~/models/tiny", "~/models/tiny/", "~/models/../models/tiny"])
def test_a_path_in_the_home_folder(reference: str, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(hub))
    shutil.copytree(INPUTS / "base", hub / "models" / "tiny")
    assert is_model(Checkpoint(reference).path, "base")


@pytest.mark.parametrize("name", ["a@b", "tiny/", "./tiny", "x/../tiny", "über ~ model"])
def test_paths_as_they_are_written(name: str, hub: Path) -> None:
    (hub / "x").mkdir()
    shutil.copytree(INPUTS / "base", hub / os.path.normpath(name))
    assert is_model(Checkpoint(name).path, "base")
    assert is_model(Checkpoint(f"{hub}/{name}").path, "base")


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("acme/tiny@v9", "acme/tiny@v9: there is no such folder, and the Hugging Face Hub gave an error"),
        ("acme/tinny", "acme/tinny: there is no such folder, and the Hugging Face Hub gave an error"),
        ("mine/tinny", "mine/tinny: there is no such folder; in mine: tiny, and the Hugging Face Hub gave an error"),
        ("./mine/tinny", "./mine/tinny: there is no such checkpoint; in mine: tiny"),
        ("./mine/tiny@v1", "revisions are for the Hugging Face Hub, but ./mine/tiny is a path"),
        ("a/b/c", "a/b/c: there is no such checkpoint, nor the folder a/b"),
        ("~nobody-has-this-name/x", "is not a path"),
        ("x" * 5000, "is not a path"),
        ("a\0b", "a\0b: "),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_nowhere(reference: str, said: str, hub: Path) -> None:
    (hub / "mine" / "tiny").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        locate(reference)
    assert said in str(caught.value)

"""Recipe files of several documents, which use each other's results."""

from pathlib import Path

import pytest
import yaml

from mergesearch.errors import UserError
from mergesearch.merge_ops.engine.documents import merge_file, read_recipes

from ...tolerances import assert_close
from ..helpers import INPUTS, OPERATIONS, read

PAIR = """
name: pair
merge_method: linear
models: [{{model: {ft1}}}, {{model: {ft2}}}]
parameters: {{weight: 1}}
"""
LAST = """
merge_method: task_arithmetic
base_model: {base}
models: [{{model: pair, parameters: {{weight: 0.5}}}}, {{model: {ft3}, parameters: {{weight: 0.25}}}}]
"""


def written(tmp_path: Path, *documents: str) -> Path:
    paths = {name: INPUTS / name for name in ("base", "ft1", "ft2", "ft3")}
    file = tmp_path / "recipe.yml"
    file.write_text("---\n".join(document.format(**paths) for document in documents))
    return file


@pytest.mark.parametrize("order", [(PAIR, LAST), (LAST, PAIR)], ids=["in order", "the result first"])
def test_a_later_part_uses_an_earlier_result(order: tuple[str, str], tmp_path: Path) -> None:
    merge_file(written(tmp_path, *order), tmp_path / "out")
    base, one, two, three = (read(INPUTS / name) for name in ("base", "ft1", "ft2", "ft3"))
    for name, tensor in read(tmp_path / "out").items():
        pair = (one[name] + two[name]) / 2
        expected = base[name] + 0.5 * (pair - base[name]) + 0.25 * (three[name] - base[name])
        assert_close(tensor, expected, OPERATIONS)
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yml", "out"}


def test_the_kept_recipe_has_all_documents_and_rebuilds_the_result(tmp_path: Path) -> None:
    merge_file(written(tmp_path, PAIR, LAST), tmp_path / "out")
    kept = tmp_path / "out" / "mergesearch_recipe.yml"
    assert [recipe.name for recipe in read_recipes(kept)] == ["pair", None]
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text().replace(str(INPUTS), "")
    merge_file(kept, tmp_path / "again")
    weights = "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (tmp_path / "out" / weights).read_bytes()


def test_where_all_have_a_name_the_last_is_the_result(tmp_path: Path) -> None:
    file = written(tmp_path, PAIR, LAST + "name: whole\n")
    assert [recipe.name for recipe in read_recipes(file)] == ["pair", "whole"]
    merge_file(file, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_old_files_name_a_part_by_where_it_goes(tmp_path: Path) -> None:
    first, last = PAIR.replace("name: pair", "out_path: ./made/pair"), LAST.replace("pair", "./made/pair")
    merge_file(written(tmp_path, first, last + "out_path: ./made/last\n"), tmp_path / "old")
    merge_file(written(tmp_path, PAIR, LAST), tmp_path / "new")
    old, new = (tmp_path / place / "model.safetensors" for place in ("old", "new"))
    assert old.read_bytes() == new.read_bytes()
    assert not (tmp_path / "made").exists()


def test_one_document_is_a_recipe(tmp_path: Path) -> None:
    (recipe,) = read_recipes(written(tmp_path, PAIR))
    assert recipe.merge_method == "linear"
    assert "name: pair" in recipe.to_yaml()
    assert yaml.safe_load(recipe.to_yaml())["name"] == "pair"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    file = written(tmp_path, PAIR, LAST.replace("{ft3}", "{base}/nothing"))
    with pytest.raises(UserError, match="there is no such checkpoint"):
        merge_file(file, tmp_path / "deep" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yml"]


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ((PAIR, PAIR, LAST), "found 2 documents with the name 'pair', expected one"),
        ((LAST, LAST), "found 2 documents with no name, expected one"),
        ((PAIR, LAST.replace("pair", "{ft1}")), "the result of 'pair' is not used by the last document"),
        ((PAIR.replace("{ft1}", "other"), LAST.replace("{base}", "pair") + "name: other\n"), "in a cycle"),
        ((PAIR, "[1]"), "document 2: found [1], expected keys"),
        ((PAIR, "{{merge_method: liner}}"), "document 2: merge_method: there is no method 'liner'"),
        (("",), "recipe.yml: is empty, expected keys"),
    ],
    ids=["a name twice", "two results", "not used", "circle", "not a mapping", "wrong recipe", "nothing"],
)
def test_what_is_wrong_is_said(documents: tuple[str, ...], said: str, tmp_path: Path) -> None:
    file = written(tmp_path, *documents)
    with pytest.raises(UserError) as caught:
        read_recipes(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize("content", ["a: [", "a: b: c"])
def test_a_file_that_is_not_yaml(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text(content)
    with pytest.raises(UserError, match=r"x\.yml: is not YAML"):
        read_recipes(tmp_path / "x.yml")
    with pytest.raises(UserError, match=r"y\.yml: there is no such file"):
        read_recipes(tmp_path / "y.yml")

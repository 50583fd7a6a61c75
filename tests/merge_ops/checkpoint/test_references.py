"""References to models with and without adapters, as texts and in mergekit's long form."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.references import ModelName, ModelReference, parse_reference, with_references

LONG = TypeAdapter(ModelName)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"model": "a", "lora": "b"}, ModelReference("a", "b")),
        ({"model": {"path": "a"}, "adapter": {"path": "b"}}, ModelReference("a", "b")),
        ({"model": {"path": "a", "revision": "x"}, "lora": None}, ModelReference("a@x")),
        ({"model": {"path": "C++ model"}, "lora": {"path": "b"}}, ModelReference("C++ model", "b")),
        ({"model": {"path": "a"}, "lora": {"path": "b+c"}}, ModelReference("a", "b+c")),
        ({"model": {"path": "a+b"}}, ModelReference("a+b")),
        ({"model": "+", "lora": "+"}, ModelReference("+", "+")),
        ("a+b", ModelReference("a", "b")),
        (r"C\+\+ model+b", ModelReference("C++ model", "b")),
    ],
    ids=str,
)
def test_parts_of_references(form: Any, expected: ModelReference) -> None:
    text = LONG.validate_python(form)
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


def test_a_path_that_exists_is_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "a+b"
    folder.mkdir()
    assert parse_reference(str(folder)) == ModelReference(str(folder))
    assert str(ModelReference(str(folder))) == LONG.validate_python({"model": str(folder)}) == str(folder)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"model": "a", "lroa": "b"}, "unknown key 'lroa'; did you mean 'lora'?"),
        ({"model": {"path": "a", "revison": "b"}}, "unknown key 'model.revison'; did you mean 'revision'?"),
        ({"model": {"revision": "b"}}, "model: found None, expected a path or a name"),
        ({"model": "a", "lora": {"path": 3}}, "lora: found 3, expected a path or a name"),
        ({"model": "a", "lora": "b", "adapter": "c"}, "lora, adapter: found both, expected one"),
    ],
    ids=str,
)
def test_long_forms_that_say_nothing(form: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        LONG.validate_python(form)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["a+b+c", "+a", "a+", "+"])
def test_texts_of_too_many_or_few_parts(text: str) -> None:
    with pytest.raises(UserError, match=r"expected MODEL or MODEL\+ADAPTER; a \+ in a path is written"):
        parse_reference(text)


def test_recipes_with_long_forms() -> None:
    long = {"model": {"path": "a+b"}, "lora": "c"}
    slices = [{"sources": [{"model": long, "layer_range": [0, 1]}]}]
    recipe = {
        "base_model": {"search": [long, "d"]},
        "models": [{"model": long, "parameters": {"weight": {"search": [0, 1]}}}, {"model": "e"}, "no entry"],
        "modules": {"text": {"slices": slices}},
    }
    text = r"a\+b+c"
    expected = {
        "base_model": {"search": [text, "d"]},
        "models": [{"model": text, "parameters": {"weight": {"search": [0, 1]}}}, {"model": "e"}, "no entry"],
        "modules": {"text": {"slices": [{"sources": [{"model": text, "layer_range": [0, 1]}]}]}},
    }
    assert with_references(recipe) == expected
    assert with_references(expected) == expected

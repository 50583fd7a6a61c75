"""JSON beside the weights that is not what it should be: refused in one line, or without effect."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mergesearch.errors import UserError
from mergesearch.parsing import dump_yaml
from mergesearch.reading import read_json_object

from .command import Ending, ending
from .values import JSON_TEXTS

NO_OBJECTS = {name: text for name, text in JSON_TEXTS.items() if name not in ("mark", "NUL")}


@pytest.mark.parametrize("name", NO_OBJECTS)
def test_no_object(name: str) -> None:
    Path("x.json").write_bytes(NO_OBJECTS[name])
    with pytest.raises(UserError, match=r"^x\.json: (is not JSON|is not UTF-8|found .*, expected a JSON object)"):
        read_json_object(Path("x.json"))


def test_half_a_surrogate_pair_is_no_text_and_a_whole_one_is() -> None:
    Path("x.json").write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json_object(Path("x.json")) == {"a": chr(0x1F600)}
    Path("x.json").write_text('{"a": "\\ud83d"}')
    with pytest.raises(UserError, match="surrogates not allowed"):
        read_json_object(Path("x.json"))


@pytest.fixture
def model(models: Path) -> Path:
    """A copy of a model, to be damaged."""
    return Path(shutil.copytree(models / "one", "model"))


def merged(models: Path, **keys: Any) -> Ending:
    """How a merge of the damaged model with a good one ends."""
    entries = [{"model": str(path), "parameters": {"weight": 1}} for path in ("model", models / "two")]
    Path("x.yml").write_text(dump_yaml({"merge_method": "linear", "models": entries, **keys}))
    return ending("merge", "x.yml", "out")


FILES = ["config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"]


@pytest.mark.parametrize("name", ["list", "null", "cut", "deep", "binary", "UTF-16", "huge integer"])
@pytest.mark.parametrize("file", FILES)
def test_files_of_a_model(models: Path, model: Path, file: str, name: str) -> None:
    (model / file).write_bytes(JSON_TEXTS[name])
    result = merged(models, tokenizer={"source": "union"}, chat_template="auto")
    assert result.kind == "refused", result.text
    assert len(result.text.splitlines()) == 1
    assert "model" in result.text
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("config.json", {"vocab_size": "30"}, "vocab_size: found '30', expected a whole number above 0"),
        ("config.json", {"vocab_size": -1}, "vocab_size: found -1, expected a whole number above 0"),
        ("config.json", {"vocab_size": True}, "vocab_size: found True, expected a whole number above 0"),
        ("config.json", {"architectures": "Llama"}, "architectures: found 'Llama', expected a list of names"),
        ("config.json", {"architectures": [3]}, "architectures: found [3], expected a list of names"),
        ("config.json", {"model_type": ["llama"]}, "model_type: found ['llama'], expected a name"),
        ("config.json", {"hidden_size": "wide"}, "transformers cannot load the model"),
        ("config.json", {"num_attention_heads": 10**30}, "transformers cannot load the model"),
        ("config.json", {"rope_parameters": [1]}, "transformers cannot load the model"),
        ("tokenizer_config.json", {"model_max_length": "x"}, "model_max_length: found 'x', expected a number"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "transformers cannot read the tokenizer"),
        ("special_tokens_map.json", None, "transformers cannot read the tokenizer"),
    ],
)
def test_values_that_transformers_cannot_take(
    model: Path, config: dict[str, Any], file: str, changes: dict[str, Any] | None, said: str
) -> None:
    content = json.loads((model / file).read_text()) if (model / file).exists() else {}
    (model / file).write_text(json.dumps([1] if changes is None else {**content, **changes}))
    Path("x.yml").write_text(dump_yaml(config))
    result = ending("eval", "model", "x.yml")
    assert result.kind == "refused", result.text
    assert said in result.text
    assert len([line for line in result.text.splitlines() if not line.startswith("threads: ")]) == 1


def test_a_file_whose_reading_fails(recipe: dict[str, Any], config: dict[str, Any]) -> None:
    """``/proc/self/mem`` is a file, of which nothing can be read at its beginning."""
    unreadable = "/proc/self/mem"
    if not Path(unreadable).is_file():
        pytest.skip("there is no /proc here")
    recipe["base_model"] = unreadable
    config["evaluate"]["tasks"][0]["files"] = [unreadable]
    for command, data, more in (("merge", recipe, ["out"]), ("check", config, [])):
        Path("x.yml").write_text(dump_yaml(data))
        result = ending(command, "x.yml", *more)
        assert result.kind == "refused", result.text
        assert f"{unreadable}: cannot be read: Input/output error" in result.text


def test_an_output_that_is_no_text(recipe: dict[str, Any]) -> None:
    Path("x.yml").write_text(dump_yaml(recipe))
    assert "is no path in UTF-8" in ending("merge", "x.yml", "out\udcff").text


def test_a_model_without_an_output_layer(config: dict[str, Any], models: Path) -> None:
    shutil.copytree(models / "base", "model")
    content = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps({**content, "architectures": None}))
    config["recipe"]["base_model"] = "model"
    Path("x.yml").write_text(dump_yaml(config))
    result = ending("check", "x.yml")
    assert result.kind == "refused"
    assert "LlamaModel gives no logits: `architectures`" in result.text


def test_a_special_token_without_an_embedding(config: dict[str, Any], models: Path) -> None:
    shutil.copytree(models / "base", "model")
    content = json.loads(Path("model/tokenizer_config.json").read_text())
    Path("model/tokenizer_config.json").write_text(json.dumps({**content, "bos_token": "<new>"}))
    Path("x.yml").write_text(dump_yaml(config))
    result = ending("eval", "model", "x.yml")
    assert result.kind == "refused"
    assert "gives a token the number 30, and the model has 30 embeddings" in result.text


@pytest.mark.parametrize("count", [10**30, 10**9])
def test_a_number_of_layers_that_no_model_has(recipe: dict[str, Any], models: Path, count: int) -> None:
    shutil.copytree(models / "base", "model")
    content = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps({**content, "num_hidden_layers": count}))
    Path("x.yml").write_text(dump_yaml({**recipe, "base_model": "model"}))
    result = ending("merge", "x.yml", "out")
    assert result.kind == "refused"
    assert "model/config.json: num_hidden_layers: found 1000" in result.text

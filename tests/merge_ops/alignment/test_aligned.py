"""Models of a recipe that are aligned before the merge."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, OlmoConfig, OlmoForCausalLM

from mergesearch.errors import UserError
from mergesearch.merge_ops.alignment.models import symmetries
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.references import Alignment
from mergesearch.merge_ops.engine.aligned_output import write_aligned
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.engine.options import MergeOptions
from mergesearch.merge_ops.recipe.recipe import Recipe

from ...tolerances import assert_close, path_length
from ..live.families import KEYS
from . import families
from .test_symmetries import shuffled

SAVED = ["LlamaForCausalLM", "MixtralForCausalLM", "GPT2LMHeadModel", "T5ForConditionalGeneration"]


def pair(name: str, folder: Path) -> tuple[Path, Path]:
    """Folders of a model and of a permuted copy."""
    model = families.transformers_model(name).float()
    model.save_pretrained(folder / "one")
    spec = symmetries(model.config.to_dict())
    model.load_state_dict(spec.apply(shuffled(spec), model.state_dict()))
    model.save_pretrained(folder / "two")
    return folder / "one", folder / "two"


def mean(one: Path, two: Path, **keys: Any) -> Recipe:
    """The mean of two models, the second of which is aligned."""
    align = {"align": keys.pop("align", "weights")}
    models = [{"model": str(one), "parameters": {"weight": 0.5}}]
    models += [{"model": str(two), **align, "parameters": {"weight": 0.5}}]
    return Recipe.read({"merge_method": "linear", "models": models, **keys})


def tensors(folder: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint(str(folder))
    return {name: checkpoint.tensor(name) for name in checkpoint.tensors}


@pytest.mark.parametrize("name", SAVED)
def test_mean_with_a_permuted_copy_is_the_model(name: str, tmp_path: Path) -> None:
    one, two = pair(name, tmp_path)
    merge(mean(one, two), tmp_path / "merged")
    merge(mean(one, two, align="none"), tmp_path / "naive")
    expected, merged, naive = tensors(one), tensors(tmp_path / "merged"), tensors(tmp_path / "naive")
    assert merged.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(merged[key], expected[key])] == []
    assert [key for key in expected if not torch.equal(naive[key], expected[key])] != []


def test_written_recipe_says_it_and_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = pair("LlamaForCausalLM", tmp_path)
    merge(mean(one, two, dtype="bfloat16"), tmp_path / "first")
    text = (tmp_path / "first" / "mergesearch_recipe.yml").read_text()
    assert yaml.safe_load(text)["models"][1]["align"] == "weights"
    merge(Recipe.read(yaml.safe_load(text)), tmp_path / "second")
    files = [tmp_path / name / "model.safetensors" for name in ("first", "second")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_live_model_is_the_written_one(tmp_path: Path) -> None:
    one, two = pair("LlamaForCausalLM", tmp_path)
    recipe = mean(one, two)
    engine = Engine(recipe.references, recipe.references[0])
    engine.build(recipe)
    digest = engine.digest()
    merge(recipe, tmp_path / "merged")
    assert Checkpoint(str(tmp_path / "merged")).digest() == digest == Checkpoint(str(one)).digest()


def test_base_is_what_models_are_aligned_to(tmp_path: Path) -> None:
    one, two = pair("LlamaForCausalLM", tmp_path)
    models = [{"model": str(two), "align": "weights", "parameters": {"weight": 1.0}}]
    recipe = Recipe.read({"merge_method": "task_arithmetic", "base_model": str(one), "models": models})
    assert recipe.references == [str(one), f"{two} aligned to {one} by weights"]
    merge(recipe, tmp_path / "merged")
    assert Checkpoint(str(tmp_path / "merged")).digest() == Checkpoint(str(one)).digest()


def smaller(folder: Path, **sizes: int) -> Path:
    """A Llama of other sizes."""
    import transformers

    config = transformers.LlamaConfig(
        **{**families.TEXT, **families.SPECIAL, "num_key_value_heads": 3, "head_dim": 4, **sizes}
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (
            {"intermediate_size": 36},
            "other: model.layers.0.mlp.gate_proj.weight: axis 0: found 36 entries, expected 40 as in",
        ),
        ({"num_hidden_layers": 1}, "other: has no tensor model.layers.1."),
        ({"num_hidden_layers": 3}, "has no tensor model.layers.2."),
    ],
)
def test_models_of_other_sizes_are_refused(sizes: dict[str, int], expected: str, tmp_path: Path) -> None:
    one, other = smaller(tmp_path / "one"), smaller(tmp_path / "other", **sizes)
    with pytest.raises(UserError) as error:
        merge(mean(one, other), tmp_path / "merged")
    assert expected in str(error.value)
    assert not (tmp_path / "merged").exists()


def plain_pair(folder: Path) -> tuple[Path, Path]:
    """Files of a plain CNN and of a permuted copy."""
    state = families.randomized(families.Cnn()).float().state_dict()
    order, other = torch.randperm(8), torch.randperm(6)
    copy = {name: tensor[order] if name[0] in "01" and tensor.ndim else tensor for name, tensor in state.items()}
    copy["4.weight"], copy["4.bias"] = state["4.weight"][other][:, order], state["4.bias"][other]
    copy["7.weight"] = state["7.weight"].view(10, 6, 49)[:, other].reshape(10, -1)
    for name, own in (("one", state), ("two", copy)):
        save_file({key: tensor.contiguous() for key, tensor in own.items()}, folder / f"{name}.safetensors")
    return folder / "one.safetensors", folder / "two.safetensors"


GROUPS = {
    "first": {
        **dict.fromkeys(("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"), 0),
        "4.weight": 1,
    },
    "second": {"4.weight": 0, "4.bias": 0, "7.weight": {"axis": 1, "inner": 49}},
}


def test_groups_of_a_file_align_plain_tensors(tmp_path: Path) -> None:
    one, two = plain_pair(tmp_path)
    spec = tmp_path / "spec.yml"
    spec.write_text(yaml.safe_dump({"groups": GROUPS}))
    merge(mean(one, two, align={"by": "weights", "spec": str(spec)}), tmp_path / "merged")
    merged, expected = load_file(tmp_path / "merged" / "model.safetensors"), load_file(one)
    assert [key for key in expected if not torch.equal(merged[key], expected[key])] == []


@pytest.mark.usefixtures("trusted")
def test_module_of_a_builder_is_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = plain_pair(tmp_path)
    module = type(sys)("own_models")
    module.cnn = lambda _: built  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_models", module)
    built = families.Cnn()
    with pytest.raises(UserError, match="dummy_inputs: found None"):
        merge(mean(one, two, align={"spec": "own_models:cnn"}), tmp_path / "merged")
    built.dummy_inputs = (torch.zeros(2, 3, 16, 16),)  # type: ignore[assignment]
    merge(mean(one, two, align={"spec": "own_models:cnn"}), tmp_path / "merged")
    merged, expected = load_file(tmp_path / "merged" / "model.safetensors"), load_file(one)
    assert [key for key in expected if not torch.equal(merged[key], expected[key])] == []


def test_functions_of_a_recipe_run_only_if_they_are_trusted(tmp_path: Path) -> None:
    one, two = plain_pair(tmp_path)
    with pytest.raises(UserError, match="align: spec: needs code, own_models:cnn, which runs with your rights"):
        merge(mean(one, two, align={"spec": "own_models:cnn"}), tmp_path / "merged")


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"a": {"0.wight": 0}}, "groups.a: the model has no tensor '0.wight'"),
        ({"a": {"0.weight": 4}}, "groups.a.0.weight: axis: found 4, expected one below 4"),
        ({"a": {"0.weight": 0, "4.bias": 0}}, "groups.a: found 8 in 0.weight, axis 0 and 6 in 4.bias, axis 0"),
        ({"a": {"7.weight": {"axis": 1, "inner": 50}}}, "axis 1 has 294 entries, expected a multiple of 50"),
        ({"a": {"4.bias": 0}, "b": {"4.bias": 0}}, "groups.b.4.bias: axis 0 is that of another group already"),
    ],
)
def test_wrong_groups(groups: Any, expected: str, tmp_path: Path) -> None:
    one, two = plain_pair(tmp_path)
    spec = tmp_path / "spec.yml"
    spec.write_text(yaml.safe_dump({"groups": groups}))
    with pytest.raises(UserError) as error:
        merge(mean(one, two, align={"spec": str(spec)}), tmp_path / "merged")
    assert expected in str(error.value)


def test_align_writes_a_folder_that_computes_the_same(tmp_path: Path) -> None:
    one, two = pair("BertForSequenceClassification", tmp_path)
    (two / "chat_template.jinja").write_text("{{ messages }}")
    lines: list[str] = []
    options = MergeOptions(lines.append, lines.append, verify=True)
    write_aligned(str(two), Alignment(str(one), "weights"), tmp_path / "out", options)
    assert Checkpoint(str(tmp_path / "out")).digest() == Checkpoint(str(one)).digest()
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert type(Checkpoint(str(tmp_path / "out")).config["architectures"]) is list
    assert lines == [lines[0]]
    assert "10 groups of entries in the order of" in lines[0]
    assert lines[0].endswith("1.0000 after")


def test_align_writes_a_file(tmp_path: Path) -> None:
    one, two = plain_pair(tmp_path)
    (tmp_path / "spec.yml").write_text(yaml.safe_dump({"groups": GROUPS}))
    write_aligned(str(two), Alignment(str(one), "weights", str(tmp_path / "spec.yml")), tmp_path / "out.safetensors")
    out, expected = load_file(tmp_path / "out.safetensors"), load_file(one)
    assert [key for key in expected if not torch.equal(out[key], expected[key])] == []


def test_file_without_groups_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config.json that says what the model computes; give `spec`"):
        merge(mean(*plain_pair(tmp_path)), tmp_path / "merged")


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    ids = torch.randint(30, (40, 12), generator=torch.Generator().manual_seed(2))
    save_file({"input_ids": ids}, tmp_path / "tokens.safetensors")
    return str(tmp_path / "tokens.safetensors")


@pytest.mark.parametrize("name", SAVED)
def test_a_permuted_copy_is_found_by_activations(name: str, tmp_path: Path, tokens: str) -> None:
    one, two = pair(name, tmp_path)
    if name.startswith("T5"):
        ids = load_file(tokens)["input_ids"]
        save_file({"input_ids": ids, "decoder_input_ids": ids.flip(1)}, tokens)
    recipe = mean(one, two, align={"by": "activations", "data": tokens})
    merge(recipe, tmp_path / "merged")
    expected, merged = tensors(one), tensors(tmp_path / "merged")
    assert [key for key in expected if not torch.equal(merged[key], expected[key])] == []
    text = (tmp_path / "merged" / "mergesearch_recipe.yml").read_text()
    assert Recipe.read(yaml.safe_load(text)) == recipe


@pytest.mark.parametrize("has_data", [True, False])
def test_a_permuted_copy_is_found_by_rotation(has_data: bool, tmp_path: Path, tokens: str) -> None:
    """Up to rounding: a permutation is a rotation, and norms are folded into what reads them."""
    one, two = pair("LlamaForCausalLM", tmp_path)
    data = {"data": tokens} if has_data else {}
    merge(mean(one, two, align={"by": "orthogonal", **data}), tmp_path / "merged")
    expected, merged = tensors(one), tensors(tmp_path / "merged")
    for key, tensor in expected.items():
        assert_close(merged[key], tensor, 1000)


def test_a_stream_through_other_operations_is_not_rotated(tmp_path: Path) -> None:
    """These layers subtract the mean of the stream, and have no weights by which that could be seen."""
    config = OlmoConfig(**KEYS, tie_word_embeddings=False)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        OlmoForCausalLM(config).save_pretrained(tmp_path / name)
    with pytest.raises(UserError, match="align: orthogonal: the aligned model computes something else"):
        merge(mean(tmp_path / "one", tmp_path / "two", align="orthogonal"), tmp_path / "merged")


@pytest.mark.parametrize(
    ("align", "message"),
    [
        ("activations", "align.*data: is missing: activations need a text"),
        ({"by": "weights", "data": "text.txt"}, "align.*data: found .*text.txt.* with weights"),
    ],
)
def test_data_is_for_activations(align: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mean(Path("one"), Path("two"), align=align)


def test_missing_data(tmp_path: Path) -> None:
    one, two = pair("LlamaForCausalLM", tmp_path)
    recipe = mean(one, two, align={"by": "activations", "data": str(tmp_path / "none.txt")})
    with pytest.raises(UserError, match=r"none.txt: there is no such file"):
        merge(recipe, tmp_path / "merged")


@pytest.mark.usefixtures("trusted")
def test_a_module_of_the_user_by_activations(tmp_path: Path) -> None:
    """Its inputs are those of a file."""
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef build(path):\n"
        "    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))\n"
        "    model.dummy_inputs = (torch.zeros(2, 1, 4, 4),)\n    return model\n"
    )
    shapes = {"0.weight": (6, 1, 3, 3), "0.bias": (6,), "3.weight": (3, 24), "3.bias": (3,)}
    generator = torch.Generator().manual_seed(0)
    own = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    order = torch.randperm(6, generator=generator)
    wide = own["3.weight"].view(3, 6, 4)[:, order].reshape(3, 24)
    copy = {**own, "0.weight": own["0.weight"][order], "0.bias": own["0.bias"][order], "3.weight": wide}
    for name, stored in (("one", own), ("two", copy)):
        save_file(stored, tmp_path / f"{name}.safetensors")
    save_file({"images": torch.randn(20, 1, 4, 4, generator=generator)}, tmp_path / "images.safetensors")
    align = {"by": "activations", "data": str(tmp_path / "images.safetensors"), "spec": f"{tmp_path / 'own.py'}:build"}
    recipe = mean(tmp_path / "one.safetensors", tmp_path / "two.safetensors", align=align)
    merge(recipe, tmp_path / "merged")
    merged = tensors(tmp_path / "merged")
    assert all(torch.equal(merged[name], tensor) for name, tensor in own.items())


def test_tied_embeddings_are_two_after_a_rotation(tmp_path: Path) -> None:
    """Rounding of float32 apart, the aligned model computes the same."""
    config, ids = LlamaConfig(**KEYS, tie_word_embeddings=True), torch.arange(24).view(2, 12)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        model.model.norm.weight.data.uniform_(0.5, 1.5)
        model.save_pretrained(tmp_path / name)
    one, two, out = (tmp_path / name for name in ("one", "two", "aligned"))
    write_aligned(str(two), Alignment(str(one), "orthogonal"), out)
    before, after = (LlamaForCausalLM.from_pretrained(folder).eval() for folder in (two, out))
    assert not after.config.tie_word_embeddings
    assert not torch.equal(after.model.embed_tokens.weight, before.model.embed_tokens.weight)
    with torch.no_grad():
        found, expected = after(ids).logits, before(ids).logits
    assert_close(found, expected, 10 * path_length(before, 12))
    merge(mean(one, two, align="orthogonal"), tmp_path / "merged")
    both = (tensors(folder) for folder in (one, out))
    first, second = ({"lm_head.weight": own["model.embed_tokens.weight"], **own} for own in both)
    for key, tensor in tensors(tmp_path / "merged").items():
        assert_close(tensor, (first[key] + second[key]) / 2, 4, 1.5)

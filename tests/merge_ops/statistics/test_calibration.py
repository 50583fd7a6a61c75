"""Statistics from a calibration text, and the methods that use them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from mergesearch.errors import UserError
from mergesearch.merge_ops.assembly.assembly import Assembly
from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.live import calibration_data
from mergesearch.merge_ops.live.live import load
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.statistics import calibration
from mergesearch.merge_ops.statistics.calibration import calibrated

from ...tolerances import assert_close, path_length, tolerance
from ..helpers import INPUTS, OPERATIONS, Counter, read
from ..live.families import GPT, as_live, as_saved, bare, saved

MODEL, OTHER = str(INPUTS / "ft1"), str(INPUTS / "ft2")


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("a few words, and some more of them " * 4)
    return str(path)


def tokens_of(text: str, count: int) -> list[Tensor]:
    tokenizer = load(Checkpoint(MODEL), "cpu")[1]
    known = tokenizer(Path(text).read_text())["input_ids"][:count]
    return list(torch.tensor(known).split(8))


@pytest.fixture
def short_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_data, "SEQUENCE_LENGTH", 8)


@pytest.mark.usefixtures("short_sequences")
def test_fisher_is_the_mean_squared_gradient(text: str) -> None:
    found = calibrated("fisher", Checkpoint(MODEL), text, 20, "cpu")
    model: Any = load(Checkpoint(MODEL), "cpu")[0].double().requires_grad_(True)
    expected: dict[str, Tensor] = {}
    sequences = tokens_of(text, 20)
    for sequence in sequences:
        model.zero_grad()
        model(input_ids=sequence[None], labels=sequence[None]).loss.backward()
        for name, parameter in model.named_parameters():
            square = parameter.grad.square() / len(sequences)
            expected[name] = expected.get(name, 0) + square
    assert found.keys() == expected.keys() == Checkpoint(MODEL).tensors.keys()
    for name, square in expected.items():
        # Root mean squares differ no more than the gradients, which a forward and a backward pass round.
        assert_close(found[name].sqrt(), square.sqrt().float(), 2 * path_length(model, 8))


@pytest.mark.usefixtures("short_sequences")
def test_inputs_are_the_gram_matrices_of_linear_layers(text: str) -> None:
    found = calibrated("inputs", Checkpoint(MODEL), text, 20, "cpu")
    model = load(Checkpoint(MODEL), "cpu")[0]
    first = torch.cat(
        [model(input_ids=s[None], output_hidden_states=True).hidden_states[0][0] for s in tokens_of(text, 20)]
    )
    rows = model.model.layers[0].input_layernorm(first).double()
    expected = (rows.t() @ rows / len(rows)).float()
    # Each row is divided by its norm, and the products are summed over the rows.
    assert_close(found["model.layers.0.self_attn.q_proj.weight"], expected, rows.shape[1] + len(rows) + OPERATIONS)
    assert "model.embed_tokens.weight" not in found
    assert all(gram.shape == (Checkpoint(MODEL).tensors[name].shape[1],) * 2 for name, gram in found.items())


def test_inputs_are_found_whatever_the_file_calls_the_layers(text: str, tmp_path: Path) -> None:
    found = []
    for layout in (as_saved, bare, as_live):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(**{**GPT, "vocab_size": 300, "n_positions": 256}))
        folder = saved(tmp_path / layout.__name__, model, layout)
        for file in INPUTS.joinpath("ft1").glob("*token*"):
            shutil.copy(file, folder)
        grams = calibrated("inputs", Checkpoint(folder), text, 20, "cpu")
        found.append({name.removeprefix("transformer."): gram for name, gram in grams.items()})
    assert len(found[0]) == 8
    assert all(other.keys() == found[0].keys() for other in found)
    assert all(torch.equal(other[name], gram) for other in found for name, gram in found[0].items())


def recipe(method: str, text: str, models: list[str], **parameters: Any) -> Recipe:
    return Recipe.read(
        {
            "merge_method": method,
            "models": [{"model": model} for model in models],
            "parameters": {"calibration": text, "calibration_tokens": 16, **parameters},
        }
    )


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_each_model_runs_once_for_all_tensors(
    method: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counter(calibrated)
    monkeypatch.setattr(calibration, "calibrated", counted)
    merge(recipe(method, text, [MODEL, OTHER]), tmp_path / "out")
    assert counted.calls == 2
    one, two, result = read(Path(MODEL)), read(Path(OTHER)), read(tmp_path / "out")
    assert all(tensor.isfinite().all() for tensor in result.values())

    def far(name: str) -> float:
        """The distance from the plain mean, in roundings."""
        mean = (one[name] + two[name]) / 2
        return float((result[name] - mean).abs().max()) / tolerance(OPERATIONS, torch.float32, float(mean.abs().max()))

    assert far("model.layers.0.mlp.up_proj.weight") > 100
    # A layer norm is not a linear layer.
    norm = far("model.layers.0.input_layernorm.weight")
    assert norm <= 1 if method == "regmean" else norm > 100


def test_a_text_that_is_not_there_is_found_before_anything_runs(text: str) -> None:
    wrong = str(Path(text).with_name("txet.txt"))
    with pytest.raises(
        UserError, match=r"parameters: calibration: there is no file .*txet.txt; did you mean 'text.txt'"
    ):
        Assembly(Merger([MODEL, OTHER]), recipe("fisher", wrong, [MODEL, OTHER]))


def test_a_phenotype_tells_texts_apart_by_what_they_say(text: str, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(Path(text).read_text())

    def phenotype(path: object) -> str:
        return recipe("fisher", str(path), [MODEL, OTHER]).phenotype(["w"])

    before = phenotype(text)
    assert phenotype(other) == before
    other.write_text("something else, and more of it")
    assert phenotype(other) != before


def test_an_empty_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="expected at least 2"):
        calibrated("fisher", Checkpoint(MODEL), str(tmp_path / "empty.txt"), 20, "cpu")


def test_regmean_of_layers_with_a_row_for_every_input(text: str, tmp_path: Path) -> None:
    """GPT-2's Conv1D: the outputs of the merge are closer to the models' outputs than those of the average."""
    paths = [gpt2(tmp_path / name, seed) for name, seed in (("one", 1), ("two", 2))]
    merge(recipe("regmean", text, paths, alpha=1.0), tmp_path / "out")
    one, two, result = (read(Path(path)) for path in (*paths, tmp_path / "out"))
    name = "transformer.h.0.attn.c_attn.weight"
    grams = [calibrated("inputs", Checkpoint(path), text, 16, "cpu")[name][0].double() for path in paths]

    def loss(weight: Tensor) -> float:
        misses = [(weight - own[name]).double() for own in (one, two)]
        return sum(torch.trace(miss.t() @ gram @ miss).item() for miss, gram in zip(misses, grams, strict=True))

    assert loss(result[name]) < 0.99 * loss((one[name] + two[name]) / 2)


def gpt2(path: Path, seed: int) -> str:
    import transformers

    torch.manual_seed(seed)
    config = transformers.GPT2Config(vocab_size=128, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    transformers.GPT2LMHeadModel(config).save_pretrained(path)
    for file in Path(MODEL).glob("tokenizer*"):
        shutil.copy(file, path)
    return str(path)

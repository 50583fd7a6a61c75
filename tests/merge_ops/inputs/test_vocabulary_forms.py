"""Every form in which a folder tells its vocabulary: read for merges, and compared where a recipe says nothing."""

import json
import shutil
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.engine.options import MergeOptions
from mergesearch.merge_ops.inputs.stored_tokens import stored_tokens
from mergesearch.merge_ops.inputs.tokenizer import load_tokenizer
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.recipe.recipe import Recipe

from ..helpers import INPUTS, read

Vocabulary = dict[str, int]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BPE: Vocabulary = {token: row for row, token in enumerate([*LETTERS, "th", "the", "Ġ", "<|endoftext|>"])}
WORDS: Vocabulary = {
    token: row for row, token in enumerate([*SPECIAL, *LETTERS, *(f"##{letter}" for letter in "abcd")])
}
MERGES = ["t h", "th e"]


def moved(vocabulary: Vocabulary, by: int = 7) -> Vocabulary:
    """The same tokens, with other rows."""
    return {token: (row + by) % len(vocabulary) for token, row in vocabulary.items()}


def write_bpe(folder: Path, vocabulary: Vocabulary) -> None:
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")


def write_bpe_with_added(folder: Path, vocabulary: Vocabulary) -> None:
    write_bpe(folder, {token: row for token, row in vocabulary.items() if token != "<|endoftext|>"})
    (folder / "added_tokens.json").write_text(json.dumps({"<|endoftext|>": vocabulary["<|endoftext|>"]}))


def write_words(folder: Path, vocabulary: Vocabulary) -> None:
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.__getitem__)))


def write_tokenizer(folder: Path, model: dict[str, Any]) -> None:
    added = [{"id": model["vocab"]["<|endoftext|>"], "content": "<|endoftext|>", "special": True}] if model else []
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content = {"version": "1.0", "added_tokens": [{**token, **flags} for token in added], "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def write_tokenizer_json(folder: Path, vocabulary: Vocabulary) -> None:
    write_tokenizer(folder, {"type": "BPE", "vocab": vocabulary, "merges": [merge.split() for merge in MERGES]})


WRITERS: dict[str, tuple[Callable[[Path, Vocabulary], None], Vocabulary]] = {
    "vocab.json and merges.txt": (write_bpe, BPE),
    "vocab.json, merges.txt and added_tokens.json": (write_bpe_with_added, BPE),
    "vocab.txt": (write_words, WORDS),
    "tokenizer.json": (write_tokenizer_json, BPE),
}
EMBEDDINGS = {"gpt2": "transformer.wte.weight", "bert": "embeddings.word_embeddings.weight"}


def save_model(folder: Path, seed: int, rows: int, kind: str) -> None:
    sizes = {"vocab_size": rows, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "bert":
            bert = transformers.BertConfig(**sizes, intermediate_size=8, max_position_embeddings=8)
            transformers.BertModel(bert).save_pretrained(folder)
        else:
            ends = {"bos_token_id": BPE["<|endoftext|>"], "eos_token_id": BPE["<|endoftext|>"]}
            gpt2 = transformers.GPT2Config(**sizes, n_positions=8, **ends)
            transformers.GPT2LMHeadModel(gpt2).save_pretrained(folder)


def save_pair(tmp_path: Path, form: str, change: Callable[[Vocabulary], Vocabulary]) -> tuple[str, str]:
    """Two models of one shape in this form. The second numbers its tokens otherwise."""
    write, vocabulary = WRITERS[form]
    kind = "bert" if form == "vocab.txt" else "gpt2"
    for seed, (name, tokens) in enumerate({"a": vocabulary, "b": change(vocabulary)}.items()):
        save_model(tmp_path / name, seed, len(vocabulary), kind)
        write(tmp_path / name, tokens)
    return str(tmp_path / "a"), str(tmp_path / "b")


def recipe(a: str, b: str, **more: Any) -> Recipe:
    models = [{"model": model, "parameters": {"weight": 0.5}} for model in (a, b)]
    return Recipe.read({"merge_method": "linear", "base_model": a, "models": models, **more})


def vocabulary_of(folder: str) -> Vocabulary:
    """The vocabulary as transformers reads it."""
    return dict(transformers.AutoTokenizer.from_pretrained(folder).get_vocab())


@pytest.mark.parametrize("source", ["base", "union"])
@pytest.mark.parametrize("form", WRITERS)
def test_each_tokens_rows_are_merged_wherever_they_are(form: str, source: str, tmp_path: Path) -> None:
    a, b = save_pair(tmp_path, form, moved)
    merge(recipe(a, b, tokenizer_source=source), tmp_path / "out")
    first, second, result = map(vocabulary_of, (a, b, str(tmp_path / "out")))
    assert first != second
    name = EMBEDDINGS["bert" if form == "vocab.txt" else "gpt2"]
    mine, theirs, merged = (read(tmp_path / folder)[name] for folder in ("a", "b", "out"))
    for token in WRITERS[form][1]:
        expected = (mine[first[token]].double() + theirs[second[token]].double()) / 2
        torch.testing.assert_close(merged[result[token]].double(), expected)


@pytest.mark.parametrize("form", WRITERS)
def test_other_rows_without_a_tokenizer_in_the_recipe_are_an_error(form: str, tmp_path: Path) -> None:
    a, b = save_pair(tmp_path, form, moved)
    with pytest.raises(UserError, match=r"different vocabularies: \d+ of \d+ rows.*`tokenizer_source: base`"):
        merge(recipe(a, b), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def renamed(vocabulary: Vocabulary) -> Vocabulary:
    """One token has another name, as fine-tunes name a token that was reserved."""
    return {"renamed" if token == "z" else token: row for token, row in vocabulary.items()}


@pytest.mark.parametrize("form", WRITERS)
def test_a_renamed_token_is_a_warning(form: str, tmp_path: Path) -> None:
    a, b = save_pair(tmp_path, form, renamed)
    said: list[str] = []
    merge(recipe(a, b), tmp_path / "out", options=MergeOptions(said.append, said.append))
    row = WRITERS[form][1]["z"]
    assert any(f"1 of {len(WRITERS[form][1])} rows" in line and f"row {row}: 'z'" in line for line in said)
    assert len(said) == 2


@pytest.mark.parametrize("form", WRITERS)
def test_equal_vocabularies_are_no_warning(form: str, tmp_path: Path) -> None:
    a, b = save_pair(tmp_path, form, dict)
    said: list[str] = []
    merge(recipe(a, b), tmp_path / "out", options=MergeOptions(said.append, said.append))
    assert len(said) == 1


@pytest.mark.parametrize("form", WRITERS)
def test_tokens_are_read_as_transformers_reads_them(form: str, tmp_path: Path) -> None:
    a, _ = save_pair(tmp_path, form, dict)
    tokens = stored_tokens(Checkpoint(a))
    assert tokens is not None
    assert vocabulary_of(a).items() >= tokens.items()


def test_one_vocabulary_in_two_forms_is_no_warning(tmp_path: Path) -> None:
    a, b = save_pair(tmp_path, "vocab.json and merges.txt", dict)
    for file in ("vocab.json", "merges.txt"):
        (Path(b) / file).unlink()
    write_tokenizer_json(Path(b), BPE)
    said: list[str] = []
    merge(recipe(a, b), tmp_path / "out", options=MergeOptions(said.append, said.append))
    assert len(said) == 1


def test_unigram_and_tekken_vocabularies(tmp_path: Path) -> None:
    shutil.copytree(INPUTS / "base", tmp_path / "x")
    folder, checkpoint = tmp_path / "x", Checkpoint(str(tmp_path / "x"))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    tekken = {
        "config": {"default_num_special_tokens": 2},
        "vocab": [{"rank": 0, "token_bytes": "YQ==", "token_str": "a"}],
        "special_tokens": [{"rank": 0, "token_str": "<s>"}],
    }
    (folder / "tekken.json").write_text(json.dumps(tekken))
    assert stored_tokens(checkpoint) == {"<s>": 0, "a": 2}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": [["a", 0], ["b", -1]]}}))
    assert stored_tokens(checkpoint) == {"a": 0, "b": 1}


def test_tekken_and_tokenizer_json_have_the_same_tokens(tmp_path: Path) -> None:
    """Both write bytes, one in base64, the other in the alphabet of GPT-2."""
    tokens = ["Ġthe", "Ċ", "é", "!", "ĳ"]
    alphabet = {char: byte for byte, char in bytes_to_unicode().items()}
    entries = [
        {"rank": rank, "token_bytes": b64encode(bytes(alphabet[char] for char in token)).decode(), "token_str": None}
        for rank, token in enumerate(tokens)
    ]
    content = {"config": {"default_num_special_tokens": 0}, "vocab": entries}
    (tmp_path / "tekken.json").write_text(json.dumps(content))
    assert stored_tokens(Checkpoint(str(tmp_path))) == {token: rank for rank, token in enumerate(tokens)}


def without_tokenizer(folder: str) -> str:
    for file in Path(folder).glob("tokenizer*"):
        file.unlink()
    return folder


def test_models_without_a_tokenizer_are_told(tmp_path: Path) -> None:
    a, b = save_pair(tmp_path, "tokenizer.json", dict)
    said: list[str] = []
    merge(recipe(a, without_tokenizer(b)), tmp_path / "out", options=MergeOptions(warn=said.append))
    assert said == []
    merge(recipe(b, a), tmp_path / "out2", options=MergeOptions(warn=said.append))
    assert said == [f"{b} has no tokenizer, so the result has none; {a} has one"]
    merge(recipe(a, b, tokenizer_source="base"), tmp_path / "out3", options=MergeOptions(warn=said.append))
    assert said[1:] == [f"{b} has no tokenizer: its rows are taken for {a}'s tokens"]


def test_a_layer_from_a_model_of_another_vocabulary_is_no_mixture(tmp_path: Path) -> None:
    a, b = save_pair(tmp_path, "tokenizer.json", moved)
    slices = [{"sources": [{"model": model, "layer_range": [0, 1]}]} for model in (a, b)]
    said: list[str] = []
    merge(
        Recipe.read({"merge_method": "passthrough", "slices": slices}),
        tmp_path / "out",
        options=MergeOptions(said.append, said.append),
    )
    assert len(said) == 1


# Tokenizers that cannot be read


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"])
def test_a_form_without_its_library_is_refused_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergesearch.merge_ops.inputs.tokenizer.find_spec", lambda _: None)
    folder = tmp_path / "x"
    shutil.copytree(INPUTS / "base", folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    (folder / name).write_bytes(b"\x0a\x0e\x0a\x05<unk>")
    with pytest.raises(UserError, match=rf"cannot read the tokenizer \({name}\): the package sentencepiece"):
        live.load(Checkpoint(str(folder)), "cpu")
    with pytest.raises(UserError, match=rf"cannot read the tokenizer \({name}\): the package sentencepiece"):
        merge(recipe(str(folder), str(INPUTS / "ft1"), tokenizer_source="base"), tmp_path / "out")


def test_vocabularies_that_cannot_be_compared_are_a_warning(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        shutil.copytree(INPUTS / "base", folder)
        for file in folder.glob("tokenizer*"):
            file.unlink()
        (folder / "tokenizer.model").write_bytes(folder.name.encode())
    said: list[str] = []
    merge(recipe(*map(str, folders)), tmp_path / "out", options=MergeOptions(said.append, said.append))
    assert "is not known" in said[1]
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == b"a"


def test_an_empty_tokenizer_is_not_made_up(tmp_path: Path) -> None:
    save_model(tmp_path, 0, len(BPE), "gpt2")
    checkpoint = Checkpoint(str(tmp_path))
    assert load_tokenizer(checkpoint) is None
    (tmp_path / "special_tokens_map.json").write_text("{}")
    assert load_tokenizer(checkpoint) is None
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    with pytest.raises(UserError, match=r"without a vocabulary, expected tokenizer\.json"):
        load_tokenizer(checkpoint)


def test_a_tokenizer_of_bytes_needs_no_vocabulary(tmp_path: Path) -> None:
    shutil.copytree(INPUTS / "base", tmp_path / "x")
    for file in (tmp_path / "x").glob("tokenizer*"):
        file.unlink()
    (tmp_path / "x" / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert len(load_tokenizer(Checkpoint(str(tmp_path / "x")))) > 256


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": 3}', '{"model": {"vocab": {"a": "b"}}}', "\udcff"])
def test_a_damaged_vocabulary(content: str, tmp_path: Path) -> None:
    shutil.copytree(INPUTS / "vocabA", tmp_path / "x")
    (tmp_path / "x" / "tokenizer.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"tokenizer\.json: is not (a readable vocabulary|UTF-8)"):
        stored_tokens(Checkpoint(str(tmp_path / "x")))


def test_a_model_without_embeddings_that_are_merged_is_not_asked(tmp_path: Path) -> None:
    for name in "ab":
        save_file({"layers.0.weight": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    said: list[str] = []
    a, b = (str(tmp_path / f"{name}.safetensors") for name in "ab")
    merge(recipe(a, b), tmp_path / "out", options=MergeOptions(said.append, said.append))
    assert len(said) == 1

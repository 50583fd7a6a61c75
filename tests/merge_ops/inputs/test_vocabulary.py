"""Models with different vocabularies: the tokenizer of the result, and its embeddings."""

import gc
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.inputs.missing_tokens import text_of
from mergesearch.merge_ops.inputs.vocabulary import Vocabulary
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.recipe.vocabulary_config import TokenizerConfig

from ...tolerances import assert_close
from ..checkpoint.adapters import Q, a_and_b, adapter
from ..helpers import INPUTS, OPERATIONS, assert_same_as_mergekit, read

A, B = str(INPUTS / "vocabA"), str(INPUTS / "vocabB")
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def recipe(base: str = A, **more: Any) -> Recipe:
    models = [{"model": model, "parameters": {"weight": 0.5}} for model in (A, B)]
    return Recipe.read({"merge_method": "linear", "base_model": base, "models": models, **more})


@pytest.mark.parametrize("name", ["vocab-union", "vocab-base-task"])
def test_same_as_mergekit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_as_mergekit(name, tmp_path / "out", monkeypatch)


@pytest.mark.parametrize(("source", "rows"), [("union", 62), ("base", 60), (B, 62)])
def test_what_is_written_is_loaded(source: str, rows: int, tmp_path: Path) -> None:
    merge(recipe(tokenizer_source=source), tmp_path / "out")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == model.config.vocab_size == model.get_input_embeddings().weight.shape[0] == rows
    with torch.no_grad():
        assert model(tokenizer("the dog", return_tensors="pt").input_ids).logits.shape[-1] == rows


def test_rows_are_padded_with_the_mean(tmp_path: Path) -> None:
    merge(recipe(tokenizer={"source": "union", "pad_to_multiple_of": 16}), tmp_path / "out")
    written = read(tmp_path / "out")
    for name in (EMBED, HEAD):
        assert written[name].shape[0] == 64
        rows = written[name][:62]
        assert_close(written[name][62:], rows.mean(0).expand(2, -1), 62, float(rows.abs().max()))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 64


def test_special_tokens_keep_their_meaning_where_they_move(tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(INPUTS / "vocabA", moved)
    content = json.loads((moved / "tokenizer.json").read_text())
    swap = {"</s>": 4, "b": 2}
    content["model"]["vocab"] |= swap
    content["added_tokens"] = [{**t, "id": swap.get(t["content"], t["id"])} for t in content["added_tokens"]]
    content.pop("post_processor", None)
    (moved / "tokenizer.json").write_text(json.dumps(content))
    merge(recipe(tokenizer_source=str(moved)), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 4)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == 4
    first, second = read(Path(A))[EMBED], read(Path(B))[EMBED]
    assert_close(read(tmp_path / "out")[EMBED][4], (first[2] + second[2]) / 2, OPERATIONS)


def test_tokens_of_the_base_without_an_embedding_are_dropped(tmp_path: Path) -> None:
    short = tmp_path / "short"
    shutil.copytree(INPUTS / "vocabB", short)
    tensors = {n: t[:61] if n in (EMBED, HEAD) else t for n, t in read(short).items()}
    save_file(tensors, short / "model.safetensors", metadata={"format": "pt"})
    (short / "config.json").write_text(
        json.dumps({**json.loads((short / "config.json").read_text()), "vocab_size": 61})
    )
    models = [{"model": model, "parameters": {"weight": 0.5}} for model in (str(short), A)]
    data = {"merge_method": "linear", "base_model": str(short), "models": models, "tokenizer_source": "union"}
    merge(Recipe.read(data), tmp_path / "out")
    assert read(tmp_path / "out")[EMBED].shape[0] == 61
    assert "<|y|>" not in transformers.AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()


def test_the_live_model_refuses_a_vocabulary() -> None:
    with pytest.raises(UserError, match="another vocabulary than the live model"):
        Engine([A], A).build(recipe(tokenizer_source="union"))


def test_without_a_tokenizer_part_the_difference_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"model\.embed_tokens\.weight \(\[60, 32\] in .*vocabA; \[62, 32\] in"
    ) as caught:
        merge(recipe(), tmp_path / "out")
    assert "set `tokenizer_source: base`" in str(caught.value)


# Single rows


def vocabulary(tokens: dict[str, Any], out: str, **own: str) -> Vocabulary:
    """A vocabulary whose tokens are letters. Each model's rows are in the order of its letters."""
    config = TokenizerConfig.model_validate({"tokens": tokens})
    rows = {model: {letter: i for i, letter in enumerate(letters)} for model, letters in own.items()}
    return Vocabulary(config, None, {letter: i for i, letter in enumerate(out)}, rows, rows, frozenset())


def aligned(tokens: dict[str, Any], out: str, base: str | None = None, **own: str) -> dict[str, list[float]]:
    """The aligned rows of each model. The own rows of m are 1, 2, ..., those of n are 10, 20, ..."""
    tensors: dict[str, Tensor] = {
        model: torch.arange(1.0, len(letters) + 1)[:, None] * 10**i for i, (model, letters) in enumerate(own.items())
    }
    made = vocabulary(tokens, out, **own).aligned(tensors, base)
    return {model: tensor[:, 0].tolist() for model, tensor in made.items()}


def test_a_token_keeps_its_own_row_wherever_it_moves() -> None:
    assert aligned({}, "cab", m="abc", n="bca") == {"m": [3, 1, 2], "n": [20, 30, 10]}


def test_the_only_model_that_has_a_token_gives_it_to_the_others() -> None:
    assert aligned({}, "ax", m="a", n="ax") == {"m": [1, 20], "n": [10, 20]}


def test_else_the_base_does_else_it_is_the_mean() -> None:
    three = {"m": "a", "n": "ax", "o": "xa"}
    assert aligned({}, "ax", "n", **three) == {"m": [1, 20], "n": [10, 20], "o": [200, 100]}
    assert aligned({}, "ax", None, **three) == {"m": [1, 60], "n": [10, 20], "o": [200, 100]}


def test_what_no_model_has_is_zero() -> None:
    assert aligned({}, "ax", m="a", n="a") == {"m": [1, 0], "n": [10, 0]}


@pytest.mark.parametrize(
    ("source", "row"),
    [
        ("n", 20),
        ({"kind": "zero"}, 0),
        ({"kind": "model_token", "model": "n", "token": "a"}, 10),
        ({"kind": "model_token", "model": "n", "token_id": 1}, 20),
    ],
    ids=str,
)
def test_a_source_fills_what_is_missing_or_with_force_everything(source: Any, row: float) -> None:
    own = {"m": "a", "n": "ax"}
    assert aligned({"x": {"source": source}}, "ax", **own) == {"m": [1, row], "n": [10, 20]}
    assert aligned({"x": {"source": source, "force": True}}, "ax", **own) == {"m": [1, row], "n": [10, row]}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("o", "tokenizer.tokens.x: o is not among the models: m, n"),
        ("m", "tokenizer.tokens.x: m has no embedding of 'x'"),
        ({"kind": "model_token", "model": "m", "token": "z"}, "m has no embedding of the token 'z'"),
        ({"kind": "model_token", "model": "m", "token_id": 7}, "m has no embedding of the token_id 7"),
    ],
    ids=str,
)
def test_sources_that_are_not_there(source: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        aligned({"x": {"source": source}}, "ax", m="a", n="ax")
    assert said in str(caught.value)


def test_a_source_that_is_not_there_is_found_before_anything_is_written() -> None:
    tokens = {"<|new|>": {"source": {"kind": "model_token", "model": A, "token_id": 60}}}
    one = recipe(tokenizer={"source": "union", "tokens": tokens})
    with pytest.raises(UserError, match=r"tokenizer\.tokens\.<\|new\|>: .*vocabA has no embedding of the token_id 60"):
        Merger(one.references, tokenizer=one.vocabulary)


# Missing tokens


def word_pieces(tokens: list[str]) -> Any:
    """A tokenizer of words and their parts."""
    model = models.WordPiece({token: row for row, token in enumerate(tokens)}, unk_token="[UNK]")
    made = Tokenizer(model)
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")


WORDS = {"m": ["[UNK]", "sun", "##day", "day", "##s", "x"], "n": ["[UNK]", "sunday", "##days", "day", "x", "q", "sun"]}


def of_words(tokens: dict[str, Any] | None = None, **config: Any) -> Vocabulary:
    """The vocabulary of m and n, whose tokens are words and parts of words."""
    rows = {model: {token: row for row, token in enumerate(words)} for model, words in WORDS.items()}
    union = {token: row for row, token in enumerate(dict.fromkeys(WORDS["m"] + WORDS["n"]))}
    tokenizers = {model: word_pieces(words) for model, words in WORDS.items()}
    found = TokenizerConfig.model_validate({"tokens": tokens or {}, **config})
    return Vocabulary(found, None, union, rows, rows, frozenset(), tokenizers)


def embeddings(width: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {model: torch.randn(len(words), width, generator=generator) for model, words in WORDS.items()}


def test_a_missing_token_is_the_mean_of_its_subtokens() -> None:
    given, made = embeddings(), of_words(missing="subtokens")
    found, row = made.aligned(given, None)["m"], made.tokens
    m = given["m"].double()
    assert torch.equal(found[row["sunday"]], ((m[1] + m[2]) / 2).float())
    assert torch.equal(found[row["##days"]], ((m[3] + m[4]) / 2).float())
    assert torch.equal(found[row["q"]], given["n"][5])  # m knows nothing of it
    assert torch.equal(found[row["sun"]], given["m"][1])


def test_the_text_of_a_token_has_the_space_before_a_word() -> None:
    tokens = {"[UNK]": 0, "▁sun": 1, "day": 2, "Ġmoon": 3, "light": 4, "##s": 5, "Ã": 6}
    kinds = {
        "▁sun": (decoders.Metaspace(), " sun"),
        "day": (decoders.Metaspace(), "day"),
        "Ġmoon": (decoders.ByteLevel(), " moon"),
        "light": (decoders.ByteLevel(), "light"),
        "Ã": (decoders.ByteLevel(), ""),
        "##s": (decoders.WordPiece(), "s"),
    }
    for token, (decoder, text) in kinds.items():
        made = Tokenizer(models.WordLevel(tokens, unk_token="[UNK]"))
        made.decoder = decoder
        assert text_of(tokens[token], transformers.PreTrainedTokenizerFast(tokenizer_object=made)) == text


def test_a_rule_for_one_token() -> None:
    given, made = embeddings(), of_words({"sunday": {"missing": "subtokens"}})
    found, row = made.aligned(given, None)["m"], made.tokens
    assert torch.equal(found[row["sunday"]], of_words(missing="subtokens").aligned(given, None)["m"][row["sunday"]])
    assert torch.equal(found[row["##days"]], given["n"][2])


def test_biases_are_means_of_subtokens_too_and_are_not_combined() -> None:
    given = {model: tensor[:, 0] for model, tensor in embeddings().items()}
    row = of_words().tokens["sunday"]
    parts = of_words(missing="subtokens").aligned(given, None)["m"][row]
    assert_close(parts, (given["m"][1] + given["m"][2]) / 2, OPERATIONS)
    assert of_words(missing="omp").aligned(given, None)["m"][row] == given["n"][1]


def test_a_combination_of_shared_tokens_is_found_again() -> None:
    """n's rows of shared tokens are m's in another basis; one more is made of those of two tokens."""
    basis = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    given = embeddings()
    given["n"] = torch.randn(7, 4, generator=torch.Generator().manual_seed(2))
    shared = ["[UNK]", "day", "x", "sun"]
    for token in shared:
        given["n"][WORDS["n"].index(token)] = given["m"][WORDS["m"].index(token)] @ basis
    day, x = (given["m"][WORDS["m"].index(token)] for token in ("day", "x"))
    given["n"][1] = (2 * day - 3 * x) @ basis
    for k in (None, 4):
        made = of_words(missing="omp", k=k)
        found = made.aligned(given, None)["m"][made.tokens["sunday"]]
        assert_close(found, 2 * day - 3 * x, 100, 10.0)


def test_no_token_in_common() -> None:
    rows = {"m": {"a": 0}, "n": {"b": 0, "c": 1}}
    made = Vocabulary(TokenizerConfig(missing="omp"), None, {"a": 0, "b": 1, "c": 2}, rows, rows, frozenset())
    with pytest.raises(UserError, match=r"tokenizer\.missing: omp: m and n have no token in common, expected one"):
        made.check({"m": 1, "n": 2}, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"missing": "means"}, r"tokenizer\.missing: found 'means'.*mean.*subtokens.*omp"),
        ({"k": 3}, r"tokenizer.*k: is for missing: omp"),
        ({"missing": "omp", "k": 0}, r"tokenizer\.k: found 0"),
        ({"tokens": {"a": {"missing": "omp", "force": True}}}, r"tokens\.a: found missing beside source or force"),
        ({"tokens": {"a": {"missing": "omp", "source": {"kind": "zero"}}}}, "found missing beside source or force"),
    ],
    ids=str,
)
def test_rules_that_are_not_valid(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        recipe(tokenizer=given)


def test_embeddings_of_other_widths(tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    shutil.copytree(INPUTS / "vocabB", wide)
    tensors = {n: torch.cat([t, t], 1) if n in (EMBED, HEAD) else t for n, t in read(wide).items()}
    save_file(tensors, wide / "model.safetensors", metadata={"format": "pt"})
    models = [{"model": model, "parameters": {"weight": 0.5}} for model in (A, str(wide))]
    data = {"merge_method": "linear", "models": models, "tokenizer_source": "union", "on_mismatch": "base"}
    with pytest.raises(UserError, match=r"lm_head\.weight: found rows of \[32\] in .*A and \[64\] in .*wide"):
        merge(Recipe.read(data), tmp_path / "out")


def test_models_with_adapters(tmp_path: Path) -> None:
    changed = f"{A}+{adapter(tmp_path / 'adapter', a_and_b(Q, (4, 32), (32, 4)))}"
    data = recipe().model_dump(exclude_defaults=True) | {"tokenizer_source": "union"}
    merge(Recipe.read(data), tmp_path / "plain")
    data["base_model"] = data["models"][0]["model"] = changed
    merge(Recipe.read(data), tmp_path / "out")
    plain, found, name = read(tmp_path / "plain"), read(tmp_path / "out"), f"{Q}.weight"
    wanted = (Checkpoint(changed).tensor(name) + read(Path(B))[name]) / 2
    assert_close(found.pop(name), wanted, OPERATIONS)
    assert not torch.equal(plain.pop(name), wanted)
    assert found.keys() == plain.keys()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in found.items())


def test_copies_are_removed_when_nobody_holds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    merger = Merger([A, B], tokenizer=TokenizerConfig())
    again = Merger([A, B], tokenizer=TokenizerConfig())
    assert again.copies is merger.copies
    [folder] = tmp_path.iterdir()
    assert sum(file.stat().st_size for file in folder.rglob("*") if not file.is_symlink()) < 100_000
    del merger, again
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_changed_has_another_copy(tmp_path: Path) -> None:
    mine = Path(shutil.copytree(B, tmp_path / "mine"))
    first = Merger([A, str(mine)], tokenizer=TokenizerConfig())
    save_file({name: 2 * tensor for name, tensor in read(mine).items()}, mine / "model.safetensors", {"format": "pt"})
    second = Merger([A, str(mine)], tokenizer=TokenizerConfig())
    assert not torch.equal(first.tensor(str(mine), HEAD), second.tensor(str(mine), HEAD))


def test_models_that_do_not_count_are_no_models_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.models: found .*vocabA, expected .*vocabB too"):
        merge(recipe(tokenizer={"models": [A]}), tmp_path / "out")


def test_more_models_than_are_merged_count(tmp_path: Path) -> None:
    one = {"merge_method": "linear", "models": [{"model": A, "parameters": {"weight": 1.0}}]}
    merge(Recipe.read({**one, "tokenizer": {"models": [A, B]}}), tmp_path / "out")
    written, (a, b) = read(tmp_path / "out"), (read(Path(model)) for model in (A, B))
    tokens = [transformers.AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (tmp_path / "out", B)]
    assert torch.equal(written[EMBED][:60], a[EMBED])
    for token in tokens[0].keys() - transformers.AutoTokenizer.from_pretrained(A).get_vocab().keys():
        assert torch.equal(written[EMBED][tokens[0][token]], b[EMBED][tokens[1][token]])


def test_the_wider_dtype_is_taken() -> None:
    tensors = {"m": torch.ones(1, 2, dtype=torch.bfloat16), "n": torch.ones(1, 2)}
    made = vocabulary({}, "a", m="a", n="a").aligned(tensors, None)
    assert {tensor.dtype for tensor in made.values()} == {torch.float32}


# Chat templates

CHAT = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("name", ["alpaca", "chatml", "exaone", "llama3", "mistral", "{{ messages[0]['content'] }}!"])
def test_a_chat_template_by_name_or_as_it_is(name: str, tmp_path: Path) -> None:
    merge(recipe(A, chat_template=name, tokenizer_source="base"), tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert "hi" in text
    assert (text == "hi!") == (name[0] == "{")


def test_the_commonest_template_of_the_models(tmp_path: Path) -> None:
    paths = []
    for i, template in enumerate(["one", "two", "two"]):
        shutil.copytree(INPUTS / "base", tmp_path / str(i))
        (tmp_path / str(i) / "chat_template.jinja").write_text(f"{{# {template} #}}")
        paths.append(str(tmp_path / str(i)))
    models = [{"model": path, "parameters": {"weight": 1}} for path in paths]
    merge(Recipe.read({"merge_method": "linear", "models": models, "chat_template": "auto"}), tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{# two #}"


def test_no_such_template(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"chat_template: 'chatlm' is neither a Jinja template.*did you mean 'chatml'"):
        merge(recipe(A, chat_template="chatlm", tokenizer_source="base"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []

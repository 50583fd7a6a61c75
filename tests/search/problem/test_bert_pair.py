"""BERTs from different places: one in lower case, one cased, each with its own words, and heads that do not match."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.config import Config
from mergesearch.search.problem.problem import open_problem
from mergesearch.search.scoring.live_model import open_engine
from mergesearch.search.study import trials as t

from ..helpers import go, study_of

Data = dict[str, Any]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PARTS = [f"##{letter}" for letter in LETTERS]
WORDS = {
    "bio": [*SPECIAL, *LETTERS, *PARTS, "gene", "cell", "##osis", "protein"],
    "legal": [*SPECIAL, "court", *LETTERS.upper(), *LETTERS, *PARTS, "Court", "law", "##ed", "cell"],
}
LABELS = {"bio": ["no", "yes"], "legal": ["contract", "tort", "crime"]}
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def tokenizer_of(name: str) -> Any:
    words = WORDS[name]
    made = Tokenizer(models.WordPiece({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=name == "bio")
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    ends = [(token, words.index(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    roles = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    named = {f"{role}_token": token for role, token in roles.items()}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **named)


def saved(folder: Path, name: str, kind: str, seed: int) -> str:
    config = transformers.BertConfig(vocab_size=len(WORDS[name]), max_position_embeddings=32, **SIZES)
    if kind == "ForSequenceClassification":
        config.id2label = dict(enumerate(LABELS[name]))
        config.label2id = {label: number for number, label in enumerate(LABELS[name])}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        getattr(transformers, f"Bert{kind}")(config).save_pretrained(folder)
    tokenizer_of(name).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def berts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bio and legal with heads for classes, and bio-words and legal-words with those that BERT is trained with."""
    folder = tmp_path_factory.mktemp("berts")
    for seed, name in enumerate(WORDS):
        saved(folder / name, name, "ForSequenceClassification", seed)
        saved(folder / f"{name}-words", name, "ForPreTraining", seed + 5)
    return folder


def recipe(one: Path, two: Path, **more: Any) -> Data:
    weights = [{"model": str(model), "parameters": {"weight": 0.5}} for model in (one, two)]
    return {"merge_method": "linear", "base_model": str(one), "models": weights, **more}


@pytest.mark.parametrize("missing", ["mean", "subtokens", "omp"])
@pytest.mark.parametrize("source", ["base", "union"])
def test_all_of_pretrained_berts_is_merged(source: str, missing: str, berts: Path, tmp_path: Path) -> None:
    data = recipe(berts / "bio-words", berts / "legal-words", tokenizer={"source": source, "missing": missing})
    merge(Recipe.read(data), tmp_path / "out")
    model, info = transformers.BertForPreTraining.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == len({*WORDS["bio"], *(WORDS["legal"] if source == "union" else ())})
    own = transformers.BertForPreTraining.from_pretrained(berts / "legal-words")
    shared, rows = (each.get_vocab()["cell"] for each in (tokenizer, tokenizer_of("legal")))
    bio = transformers.BertForPreTraining.from_pretrained(berts / "bio-words")
    for part in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
        wanted = (bio.get_parameter(part)[WORDS["bio"].index("cell")] + own.get_parameter(part)[rows]) / 2
        torch.testing.assert_close(model.get_parameter(part)[shared], wanted)


def test_heads_that_do_not_match_need_a_word(berts: Path, tmp_path: Path) -> None:
    data = recipe(berts / "bio", berts / "legal", tokenizer_source="base")
    with pytest.raises(UserError, match=r"classifier\.bias.*on_mismatch: base"):
        merge(Recipe.read(data), tmp_path / "out")


def search(berts: Path, other: str, folder: Path) -> Data:
    """A search over weights of bio and another BERT, on texts with bio's labels."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(["gene", "Cell", "Court", "law", "osteosis"], k=5)) for _ in range(40)]
    rows = [{"text": text, "label": rng.choice(LABELS["bio"])} for text in texts]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = recipe(berts / "bio", berts / other, tokenizer={"source": "base", "missing": "subtokens"})
    for entry in given["models"]:
        entry["parameters"]["weight"] = {"search": [0.1, 1.0]}
    return {
        "recipe": {**given, "on_mismatch": "base"},
        "evaluate": {
            "tasks": [{"evaluator": "classification", "task": "genes", "data": str(folder / "texts.jsonl")}],
            "split": {"search": 0.5, "test": 0.5},
        },
        "search": {"trials": 10, "sampler": "random"},
        "output": {"name": "berts"},
    }


def test_a_search_over_berts_with_other_heads(berts: Path, tmp_path: Path) -> None:
    data = search(berts, "legal", tmp_path)
    verdict = go(data, tmp_path)
    [failed] = [
        trial for trial in study_of(tmp_path / "berts").trials if t.kind_of(trial) == t.BASELINE and trial.value is None
    ]
    assert failed.user_attrs[t.NAME] == "legal"
    assert "the label 'yes', which the model does not have; valid: 'contract'" in failed.user_attrs[t.REASON]
    assert [line for line in verdict.warnings if "its head is left out for that of" in line]
    problem = open_problem(Config.model_validate(data), "config")
    engine = open_engine(problem, takes_gradients=False)
    method = problem.space.methods[0]
    candidate = problem.space.fill(method, problem.space.start(method, {}))
    engine.build(candidate)
    merge(candidate, tmp_path / "out")
    assert engine.digest() == Checkpoint(str(tmp_path / "out")).digest()
    loaded = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert list(loaded.config.id2label.values()) == LABELS["bio"]
    bio = transformers.BertForSequenceClassification.from_pretrained(berts / "bio")
    assert torch.equal(loaded.classifier.weight, bio.classifier.weight)


def test_a_bert_without_the_head_is_scored_with_that_of_the_base(berts: Path, tmp_path: Path) -> None:
    verdict = go(search(berts, "legal-words", tmp_path), tmp_path)
    assert [row.name for row in verdict.baselines][:2] == ["bio", "legal-words"]

"""Recovery in memory: distillation and surgery by the models that a merge is made of."""

import builtins
import json
import random
import shutil
import string
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.after_merge.recovery import distill as distillation
from mergesearch.merge_ops.after_merge.recovery import recoverer
from mergesearch.merge_ops.after_merge.recovery.record import RecoveryRecord
from mergesearch.merge_ops.after_merge.recovery.recover import recover
from mergesearch.merge_ops.after_merge.recovery.surgery import linear_layers
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.merge_ops.engine.engine import Engine, merge
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.output.folder import RECOVERY
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.recipe.recovery import Recovery
from mergesearch.parsing import dump_yaml, parse_yaml

from ...tolerances import close
from ..helpers import INPUTS

ONE, TWO = str(INPUTS / "ft1"), str(INPUTS / "ft2")
WAYS = [{"steps": 3}, {"steps": 3, "full": True}, {"steps": 2, "hidden": 1.0}, {"how": "surgery", "tokens": 256}]


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, str]:
    words = {ONE: "a few words, and some more of them ", TWO: "def other(words): return None; "}
    for name, text in words.items():
        (tmp_path / f"{Path(name).name}.txt").write_text("\n".join(f"{text} {n}" for n in range(60)))
    return {name: str(tmp_path / f"{Path(name).name}.txt") for name in words}


def model_of(reference: str) -> tuple[nn.Module, Any]:
    return live.load(Checkpoint(reference), "cpu", torch.float32)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def differing(one: dict[str, Tensor], two: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in one.items() if not torch.equal(tensor, two[name])]


def averaged() -> tuple[nn.Module, Any]:
    model, tokenizer = model_of(ONE)
    other = model_of(TWO)[0].state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_((tensor + other[name]) / 2)
    return model, tokenizer


def recovered(texts: dict[str, str], **settings: Any) -> tuple[dict[str, Tensor], RecoveryRecord]:
    model, tokenizer = averaged()
    data = settings.pop("data", texts)
    record = recover(model, tokenizer, {r: Checkpoint(r) for r in texts}, Recovery(data=data, length=16, **settings))
    return weights(model), record


@pytest.mark.parametrize("way", WAYS)
def test_a_model_is_not_changed_by_itself(texts: dict[str, str], way: dict[str, Any]) -> None:
    model, tokenizer = model_of(ONE)
    before = weights(model)
    record = recover(model, tokenizer, {ONE: Checkpoint(ONE)}, Recovery(data={ONE: texts[ONE]}, length=16, **way))
    assert differing(before, weights(model)) == []
    assert set(record.losses) == {0.0}


@pytest.mark.parametrize("way", [{"full": True, "learning_rate": 0.01}, {"rank": 4, "learning_rate": 0.02}])
def test_the_loss_falls(texts: dict[str, str], way: dict[str, Any]) -> None:
    _, record = recovered(texts, steps=25, **way)
    assert len(record.losses) == 25
    assert sum(record.losses[-5:]) < 0.8 * sum(record.losses[:5])
    assert record.tokens == 25 * 2 * 4 * 16
    assert record.parents.keys() == texts.keys()


@pytest.mark.parametrize("way", WAYS)
def test_the_same_seed_gives_the_same_bytes(
    texts: dict[str, str], way: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, record = recovered(texts, **way)
    assert differing(first, weights(averaged()[0]))
    torch.manual_seed(5)  # whatever else draws numbers
    monkeypatch.setattr(distillation, "TARGET_BYTES", 1)  # parents' outputs step by step
    again, other = recovered(texts, **way)
    assert differing(first, again) == []
    assert record == other
    if "steps" in way:
        assert differing(first, recovered(texts, seed=1, **way)[0])


def test_lora_leaves_what_is_not_linear(texts: dict[str, str]) -> None:
    after, _ = recovered(texts, steps=3)
    model = averaged()[0]
    changed = differing(weights(model), after)
    assert set(changed) == {f"{name}.weight" for name in linear_layers(model)}


def test_one_text_is_taught_by_who_predicts_it_best(texts: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("x y z " * 200)
    after, record = recovered(texts, data=str(own), steps=2, batch_size=2)
    assert differing(weights(averaged()[0]), after)
    assert 0 < sum(record.sequences.values()) <= 8
    assert record.sequences.keys() <= texts.keys()


def test_surgery_removes_what_was_added_in_low_rank(tmp_path: Path) -> None:
    letters = tmp_path / "letters.txt"
    letters.write_text("".join(random.Random(0).choices(string.printable, k=8_000)))
    model, tokenizer = model_of(ONE)
    ids = torch.tensor([tokenizer(letters.read_text())["input_ids"][:100]])
    expected = model(input_ids=ids).logits
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, module in linear_layers(model).items():
            if not name.endswith(("o_proj", "down_proj")):
                continue
            weight: Any = module.weight
            left, right = (torch.randn(size, 2, generator=generator) for size in weight.shape)
            weight.add_(0.02 * left @ right.T)
    before = (model(input_ids=ids).logits - expected).norm()
    for rank, share in ((1, 0.9), (2, 0.02)):
        operated = deepcopy(model)
        settings = Recovery(how="surgery", data={ONE: str(letters)}, rank=rank, length=16, tokens=4096, ridge=1e-12)
        recover(operated, tokenizer, {ONE: Checkpoint(ONE)}, settings)
        after = (operated(input_ids=ids).logits - expected).norm()
        assert after < share * before


def test_a_classifier_is_recovered_by_its_head(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    config = BertConfig(
        vocab_size=13, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        BertForSequenceClassification(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "text.jsonl").write_text("".join(f'{{"text": "{"a b c d e f"[: 3 + n % 8]}"}}\n' for n in range(30)))
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    model, own = model_of(two)
    settings = Recovery(data={one: str(tmp_path / "text.jsonl")}, steps=30, full=True, learning_rate=0.003)
    record = recover(model, own, {one: Checkpoint(one)}, settings)
    assert record.losses[-1] < 0.5 * record.losses[0]


def test_texts_are_files_and_folders_of_passages(texts: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    shutil.copy(texts[ONE], folder / "inner" / "a.txt")
    as_folder, record = recovered({**texts, ONE: str(folder)}, steps=2)
    as_file, same = recovered(texts, steps=2)
    assert differing(as_folder, as_file) == []
    assert record.data == same.data
    with pytest.raises(UserError, match=r"recover\.digest: the texts are others"):
        recovered({**texts, ONE: texts[TWO]}, steps=2, digest=record.data)


def test_messages(texts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, broken = tmp_path / "empty.txt", tmp_path / "broken.jsonl"
    empty.write_text(" \n")
    broken.write_text('{"no": 1}\n')
    with pytest.raises(UserError, match=r"empty.txt has no text"):
        recovered({**texts, ONE: str(empty)})
    with pytest.raises(UserError, match=r"broken.jsonl, line 1: has no field text"):
        recovered({**texts, ONE: str(broken)})
    with pytest.raises(FloatingPointError, match="take a lower learning_rate than 1e"):
        recovered(texts, steps=8, full=True, learning_rate=1e30)
    importing = builtins.__import__

    def without_peft(name: str, *rest: Any, **options: Any) -> Any:
        if name == "peft":
            raise ImportError
        return importing(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_peft)
    with pytest.raises(UserError, match="pip install 'mergesearch\\[recover\\]'"):
        recovered(texts, steps=1)


def test_a_temperature_keeps_the_scale_of_the_loss() -> None:
    one, two = torch.tensor([[1.0, 0.0, 0.5]]), torch.tensor([[0.0, 1.0, 0.5]])
    expected = nn.functional.kl_div(one.log_softmax(-1), two.softmax(-1), reduction="batchmean")
    assert distillation.divergence(one, two, 1.0).item() == close(expected.item(), 20, torch.float32)
    assert 0.5 < distillation.divergence(one, two, 10.0).item() / expected.item() < 2


def recipe_of(texts: dict[str, str], **settings: Any) -> dict[str, Any]:
    models = [{"model": name, "parameters": {"weight": 0.5}} for name in texts]
    recover_ = {"steps": 3, "length": 16, "data": texts, **settings}
    return {"merge_method": "linear", "models": models, "recover": recover_}


def test_merge_and_engine_recover_alike(texts: dict[str, str], tmp_path: Path) -> None:
    recipe = Recipe.read(recipe_of(texts))
    merge(recipe, tmp_path / "out")
    engine = Engine([ONE, TWO], ONE)
    engine.keep_recovered(tmp_path / "kept")
    engine.build(recipe)
    assert engine.digest() == Checkpoint(str(tmp_path / "out")).digest()
    plain = Recipe.read({key: value for key, value in recipe_of(texts).items() if key != "recover"})
    assert engine.phenotype(recipe, {}) != engine.phenotype(plain, {})
    engine.build(plain)
    assert engine.digest() != Checkpoint(str(tmp_path / "out")).digest()
    engine.save(tmp_path / "plain")
    assert not (tmp_path / "plain" / RECOVERY).exists()


def killed(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def test_what_was_recovered_is_kept(texts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.read(recipe_of(texts))
    engine = Engine([ONE, TWO], ONE)
    engine.keep_recovered(tmp_path / "kept")
    with monkeypatch.context() as patch:
        patch.setattr(recoverer, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            engine.build(recipe)  # before the result has its name
    assert list((tmp_path / "kept").iterdir()) == []
    engine.build(recipe)
    first = engine.digest()
    monkeypatch.setattr(recoverer, "recover", None)  # not called again
    engine.build(recipe)
    assert engine.digest() == first
    other = Engine([ONE, TWO], ONE)
    other.keep_recovered(tmp_path / "kept")
    other.build(recipe)
    assert other.digest() == first


def test_a_recovered_folder_says_so(texts: dict[str, str], tmp_path: Path) -> None:
    recipe = Recipe.read(recipe_of(texts, seed=7))
    merge(recipe, tmp_path / "out")
    record = json.loads((tmp_path / "out" / RECOVERY).read_text())
    assert record["settings"]["seed"] == 7
    assert record["parents"] == {name: Checkpoint(name).digest() for name in texts}
    assert record["tokens"] == 3 * 2 * 4 * 16
    card = (tmp_path / "out" / "README.md").read_text()
    assert record["data"] in card
    assert "no recipe gives these bytes from the weights alone" in card
    assert str(tmp_path) not in card
    assert str(INPUTS) not in card
    again = Recipe.read({**recipe_of(texts, seed=7, digest=record["data"])})
    merge(again, tmp_path / "again")
    assert Checkpoint(str(tmp_path / "again")).digest() == Checkpoint(str(tmp_path / "out")).digest()


def test_documents_use_recovered_ones(texts: dict[str, str], tmp_path: Path) -> None:
    def outer(inner: str) -> dict[str, Any]:
        models = [{"model": name, "parameters": {"weight": 1.0}} for name in (inner, ONE)]
        return {"merge_method": "linear", "models": models}

    documents = [{**recipe_of(texts), "name": "inner"}, outer("inner")]
    (tmp_path / "both.yml").write_text("---\n".join(map(dump_yaml, documents)))
    merge_file(tmp_path / "both.yml", tmp_path / "out")
    merge(Recipe.read(recipe_of(texts)), tmp_path / "inner")
    merge(Recipe.read(outer(str(tmp_path / "inner"))), tmp_path / "by_hand")
    assert Checkpoint(str(tmp_path / "out")).digest() == Checkpoint(str(tmp_path / "by_hand")).digest()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 2, "full": True}, "found both rank and full"),
        ({"how": "surgery"}, "steps: is not for how: surgery"),
        ({"tokens": 5}, "tokens: is not for how: distill"),
        ({"from": ["stranger"]}, r"recover\.from: stranger: no model of the recipe, which has "),
        ({"data": {ONE: "a.txt"}}, r"recover\.data: has no text for .*ft2; give it one"),
        ({"data": {ONE: "a.txt", TWO: "b.txt", "x": "c.txt"}}, r"recover\.data: x: no parent; the parents are"),
        ({"stepz": 5}, "unknown key 'stepz'.*steps"),
    ],
)
def test_settings_that_are_wrong(texts: dict[str, str], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe.read(recipe_of(texts, **settings))


def test_settings_survive_yaml(texts: dict[str, str]) -> None:
    recipe = Recipe.read(recipe_of(texts, **{"from": [ONE], "data": {ONE: texts[ONE]}}))
    assert Recipe.read(parse_yaml(recipe.to_yaml())) == recipe
    assert recipe.recovery_parents == [ONE]

"""Runs whose winner is recovered: a candidate of the verdict beside the same merge without recovery."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mergesearch.errors import UserError
from mergesearch.evaluators import Document, Item
from mergesearch.merge_ops.after_merge.recovery import recoverer
from mergesearch.merge_ops.after_merge.recovery.texts import name_of, passages_of
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.merge_ops.output.folder import RECOVERY
from mergesearch.merge_ops.recipe.recovery import Recovery
from mergesearch.parsing import parse
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.problem.recovery_texts import open_recovery
from mergesearch.search.report.recovery_plan import recovery_lines
from mergesearch.search.study import trials as t
from mergesearch.search.verdict.result import Verdict, held_verdict

from ..helpers import Data, go, kill, killed, llama_of_letters, study_of

DOMAINS = {"one": "abcd", "two": "wxyz"}


def words(letters: str, count: int, seed: object) -> str:
    """Words that begin anywhere in the letters and go on round them: all but the first letter can be foretold."""
    rng = random.Random(f"{letters}{seed}")
    starts = [rng.randrange(4) for _ in range(count)]
    return " ".join(letters[n:] + letters[:n] for n in starts)


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, one and two, which were trained on a domain each; tasks' texts, and others, of each domain."""
    folder = tmp_path_factory.mktemp("domains")
    make, tokenizer = llama_of_letters("abcdefghijklmnopqrstuvwxyz .\n", layers=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        start = {name: value.clone() for name, value in model.state_dict().items()}
        for name, letters in {"base": "", **DOMAINS}.items():
            model.load_state_dict(start)
            if letters:
                train(model, tokenizer, letters)
                for number in range(16):
                    file = folder / "items" / name / f"{number:02}.txt"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(words(letters, 14, number))
                text = "\n".join(words(letters, 14, ("text", number)) for number in range(80))
                (folder / f"{name}.txt").write_text(text)
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
    return folder


def train(model: Any, tokenizer: Any, letters: str) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(150):
        ids = torch.tensor([tokenizer(words(letters, 10, (step, n)))["input_ids"] for n in range(8)])
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def config_of(domains: Path, **recover: Any) -> Data:
    models = [{"model": str(domains / name), "parameters": {"weight": {"search": [0.2, 0.8]}}} for name in DOMAINS]
    tasks = [
        {"evaluator": "bits_per_byte", "task": name, "files": [str(domains / "items" / name / "*.txt")]}
        for name in DOMAINS
    ]
    texts = {str(domains / name): str(domains / f"{name}.txt") for name in DOMAINS}
    settings = {"full": True, "steps": 40, "length": 32, "learning_rate": 0.01, "data": texts, **recover}
    return {
        "recipe": {"merge_method": "task_arithmetic", "base_model": str(domains / "base"), "models": models},
        "recover": settings,
        "evaluate": {"tasks": tasks, "split": {"search": 0.5, "test": 0.5}, "ensemble": True},
        "search": {"trials": 13, "sampler": "random", "start": "none", "levels": "none"},
        "output": {"name": "small"},
    }


@pytest.fixture(scope="module")
def good(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose recovered winner is better than everything else. Only to be read."""
    results = tmp_path_factory.mktemp("good")
    go(config_of(domains), results)
    return results / "small"


def test_a_recovered_winner_is_recommended(good: Path) -> None:
    verdict = held_verdict(good)
    assert verdict.recovery is not None
    assert verdict.recommended == verdict.recovery.row.name == f"{verdict.winner.name} recovered"
    assert verdict.sentence.startswith(f"Use {verdict.recommended} (task_arithmetic): it is proven better than every")
    assert verdict.recovery.claim.is_proven
    assert verdict.recovery.gain.difference.value > 0.1
    assert verdict.recovery.claim.difference.value <= verdict.recovery.gain.difference.value
    assert verdict.recovery.from_ensemble is not None
    assert verdict.ensemble is not None
    found = verdict.recovery.row.test.value - verdict.ensemble.test.value
    assert verdict.recovery.from_ensemble.value == pytest.approx(found)
    assert verdict.test_looks == 1
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_a_recovered_model_is_written_whole(good: Path, tmp_path: Path) -> None:
    record = json.loads((good / "model" / RECOVERY).read_text())
    assert record["settings"]["digest"] == record["data"]
    assert record["tokens"] == 2 * 40 * 4 * 32
    assert "After the merge it was distilled" in (good / "model" / "README.md").read_text()
    merge_file(good / "recommended.yml", tmp_path / "again")
    assert Checkpoint(str(tmp_path / "again")).digest() == Checkpoint(str(good / "model")).digest()
    assert "recover:" not in (good / "best.yml").read_text()
    assert "after recovery" in (good / "recommended.yml").read_text().splitlines()[0]


def test_it_is_no_candidate_of_the_search(good: Path) -> None:
    study = study_of(good)
    (recovered,) = t.of_kind(study, t.RECOVERED)
    assert recovered.number == 13
    assert recovered.number not in {trial.number for trial in (*t.contenders(study), *t.completed(study))}
    assert recovered.value > max(trial.value for trial in t.completed(study))


def test_a_finished_run_is_only_read(good: Path, domains: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recoverer, "recover", kill)
    assert go(config_of(domains), good.parent) == held_verdict(good)


def test_the_report_has_the_recovered_winner(good: Path) -> None:
    verdict = held_verdict(good)
    page = (good / "report.html").read_text()
    assert page.count(verdict.recommended) > 2
    assert "minus the ensemble" in page


def test_a_recovery_that_makes_the_model_worse_is_not_recommended(domains: Path, tmp_path: Path) -> None:
    verdict = go(config_of(domains, learning_rate=3.0, steps=4), tmp_path)
    assert verdict.recovery is not None
    assert verdict.recovery.gain.difference.value < 0
    assert verdict.recommended in (verdict.winner.name, verdict.best_baseline)
    assert "recovered" not in verdict.recommended
    assert not (tmp_path / "small" / "model" / RECOVERY).exists()
    assert "recovered" not in verdict.sentence
    note = "It is not recommended: it is worse than the same merge without recovery"
    assert note in (tmp_path / "small" / "report.html").read_text()


def test_a_recovery_that_fails_is_left_out(domains: Path, tmp_path: Path) -> None:
    verdict = go(config_of(domains, learning_rate=1e30, steps=4), tmp_path)
    assert verdict.recovery is None
    assert [each.what for each in verdict.left_out] == [f"{verdict.winner.name} recovered"]
    assert "take a lower learning_rate" in verdict.left_out[0].reason
    assert go(config_of(domains, learning_rate=1e30, steps=4), tmp_path) == verdict


@pytest.mark.parametrize("place", ["the recovery", "the verdict"])
def test_a_run_that_is_killed_goes_on(
    place: str, good: Path, domains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "the recovery":
        killed(monkeypatch, "recover", 1, config_of(domains), tmp_path, recoverer)
    else:
        killed(monkeypatch, "write_verdict", 1, config_of(domains), tmp_path)
    assert not (tmp_path / "small" / "verdict.json").exists()
    verdict = go(config_of(domains), tmp_path)
    expected = held_verdict(good)
    assert verdict.recovery is not None
    assert expected.recovery is not None
    assert verdict.recovery.row.test == expected.recovery.row.test
    digests = {Checkpoint(str(folder / "model")).digest() for folder in (good, tmp_path / "small")}
    assert len(digests) == 1


@pytest.mark.slow
def test_a_recovered_winner_takes_no_trial_from_the_search(domains: Path, tmp_path: Path) -> None:
    config = config_of(domains, steps=5)
    go(config, tmp_path)
    config["search"]["trials"] = 16
    after = go(config, tmp_path)
    trials = t.finished(study_of(tmp_path / "small"))
    assert len(trials) - len(t.of_kind(study_of(tmp_path / "small"), t.RECOVERED)) == 16
    assert after.recovery is not None
    assert after.recovery.row.name == f"{after.winner.name} recovered"


def test_texts_that_overlap_with_items_are_left_out(domains: Path, tmp_path: Path) -> None:
    items = [file.read_text() for file in sorted((domains / "items" / "one").iterdir())]
    mixed = tmp_path / "mixed.jsonl"
    clean = [words("abcd", 14, ("other", n)) for n in range(100)]
    mixed.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*items[:5], *clean]))
    data = {str(domains / "one"): str(mixed), str(domains / "two"): str(domains / "two.txt")}
    plan = open_plan(Config.model_validate(config_of(domains, data=data, steps=30)), "config")
    texts = plan.problem.recovery
    assert texts is not None
    assert set(texts.left_out[str(domains / "one")]) >= {name_of(text) for text in items[:5]}
    assert not set(texts.kept[str(domains / "one")]) & set(items)
    assert texts.notes[0].startswith(f"recover: {len(texts.left_out[str(domains / 'one')])} of 1")
    recipe = texts.after(plan.problem.space.fill(plan.problem.space.methods[0], {"one.weight": 0.5, "two.weight": 0.5}))
    assert recipe.recover is not None
    assert set(recipe.recover.without) >= {name_of(text) for text in items[:5]}
    lines = recovery_lines(plan.problem)
    assert lines[0].startswith("recovery of the winner: 30 steps of all weights on up to 7,680 tokens of 2 parents")
    assert lines[1:] == texts.notes


class Grouped:
    """Items of lm-eval that a field of their documents groups: they have no text of their own."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.items = [Item(str(n), "task", "group") for n in range(len(texts))]
        self._texts = texts

    def describe(self, items: Sequence[Item]) -> list[Document]:
        return [Document(self._texts[int(item.id)][:40], self._texts[int(item.id)][40:]) for item in items]


def test_items_without_a_text_for_the_split_count_by_their_document(tmp_path: Path) -> None:
    items = [words("abcd", 20, n) for n in range(60)]
    clean = [words("wxyz", 20, n) for n in range(60)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in (*items[:9], *clean)))
    tasks: Any = [SimpleNamespace(evaluator=Grouped(items))]
    settings = Recovery(full=True, data={"one": str(tmp_path / "text.jsonl")}, steps=500, length=32)
    texts = open_recovery(settings, ["one"], None, tasks)
    assert set(texts.left_out["one"]) == {name_of(text) for text in items[:9]}
    assert set(texts.kept["one"]) == set(clean)


def test_nothing_but_items_is_refused(domains: Path) -> None:
    data = {str(domains / name): str(domains / "items" / name) for name in DOMAINS}
    with pytest.raises(UserError, match=r"recover\.data: all \d+ passages of .*items.one share content with items"):
        open_plan(Config.model_validate(config_of(domains, data=data)), "config")
    assert len(passages_of(domains / "items" / "one")) == 16


def test_messages(domains: Path) -> None:
    config = config_of(domains)
    with pytest.raises(UserError, match=r"recipe\.recover: put it beside recipe"):
        parse(Config, {**config, "recipe": {**config["recipe"], "recover": config["recover"]}}, "config")
    del config["recover"]["data"][str(domains / "two")]
    with pytest.raises(UserError, match=r"recover\.data: has no text for .*two; give it one"):
        open_plan(Config.model_validate(config), "config")

"""Whole runs of a small search: what is left behind, that they repeat, and that they can be stopped anywhere."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from optuna.trial import TrialState

from mergesearch.errors import UserError
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.run import run
from mergesearch.search.samplers import SAMPLERS
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import JOURNAL, RunFolder

from .helpers import Data, course, go, killed, study_of


def test_what_a_run_leaves(config: Data, tmp_path: Path) -> None:
    verdict = go(config, tmp_path)
    folder = tmp_path / "small"
    for name in ("config.yml", JOURNAL, "best.yml", "verdict.json", "report.html", "model/model.safetensors"):
        assert (folder / name).exists(), name
    assert json.loads((folder / "verdict.json").read_text())["sentence"] == verdict.sentence
    assert verdict.trials == config["search"]["trials"]
    assert not list(folder.glob(".*")), "temporary files"
    merge(Recipe.read(yaml.safe_load((folder / "recommended.yml").read_text())), tmp_path / "again")
    again, model = ((tmp_path / place / "model.safetensors").read_bytes() for place in ("again", "small/model"))
    assert again == model


def test_baselines_come_first_each_methods_usual_settings_among_them(config: Data, tmp_path: Path) -> None:
    go(config, tmp_path)
    kinds = [t.kind_of(trial) for trial in t.finished(study_of(tmp_path / "small"))]
    assert kinds == [t.BASELINE] * 12 + [t.SAMPLED] * 5


def test_what_leaves_the_base_is_the_base(config: Data, tmp_path: Path) -> None:
    """By three methods: nothing is scored again, and each candidate says whose scores it has."""
    for model in config["recipe"]["models"]:
        model["parameters"] = {"weight": 0.0, "density": {"search": [0.1, 1.0]}}
    config["search"]["trials"] = 14
    go(config, tmp_path)
    finished = t.finished(study_of(tmp_path / "small"))
    base, zeros = finished[0], [trial for trial in finished[1:] if trial.params]
    assert len(zeros) == 5
    for trial in zeros:
        assert trial.user_attrs[t.PHENOTYPE] == base.user_attrs[t.PHENOTYPE]
        assert (trial.value, t.items_of(trial), trial.user_attrs[t.SAME_AS]) == (base.value, 0, "base")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_same_seed_same_run(config: Data, tmp_path: Path, sampler: str) -> None:
    config["search"]["sampler"] = sampler
    for name in ("a", "b"):
        go(config, tmp_path / name)
    assert course(tmp_path / "a" / "small") == course(tmp_path / "b" / "small")
    left = [(tmp_path / name / "small" / "best.yml").read_bytes() for name in ("a", "b")]
    assert left[0] == left[1]


def test_another_seed_another_run(config: Data, tmp_path: Path) -> None:
    go(config, tmp_path / "a")
    config["search"]["seed"] = 1
    go(config, tmp_path / "b")
    assert course(tmp_path / "a" / "small") != course(tmp_path / "b" / "small")


@pytest.mark.parametrize("call", [1, 5, 10, 14])
@pytest.mark.parametrize("place", ["score", "tell", "save_scores", "suggest_float"])
def test_killed_and_resumed_is_as_if_nothing_had_happened(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, place: str
) -> None:
    whole = tmp_path / "whole"
    go(config, whole)
    killed(monkeypatch, place, call, config, tmp_path / "torn")
    go(config, tmp_path / "torn")
    assert course(tmp_path / "torn" / "small") == course(whole / "small")
    trials = study_of(tmp_path / "torn" / "small").get_trials()
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.FAIL}
    assert len(trials) == config["search"]["trials"] + 1
    for name in ("best.yml", "model/model.safetensors"):
        assert (tmp_path / "torn" / "small" / name).read_bytes() == (whole / "small" / name).read_bytes()


@pytest.mark.parametrize("place", ["score", "suggest_float"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_goes_on_where_it_was_killed(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, place: str
) -> None:
    config["search"] |= {"sampler": sampler, "trials": 18}
    config["recipe"]["merge_method"] = "ties"
    go(config, tmp_path / "whole")
    for call in ({"score": (12, 2), "suggest_float": (16, 7)})[place]:
        killed(monkeypatch, place, call, config, tmp_path / "torn")
    go(config, tmp_path / "torn")
    assert course(tmp_path / "torn" / "small") == course(tmp_path / "whole" / "small")


def test_killed_twice_in_the_same_trial(config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for call in (13, 1):
        killed(monkeypatch, "score", call, config, tmp_path)
    go(config, tmp_path)
    states = [trial.state for trial in study_of(tmp_path / "small").get_trials()]
    assert states.count(TrialState.COMPLETE) == config["search"]["trials"]
    assert TrialState.RUNNING not in states
    assert TrialState.WAITING not in states


def test_a_torn_journal_is_mended(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 10
    go(config, tmp_path)
    before = course(tmp_path / "small")
    with (tmp_path / "small" / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code": 6, "work')
    (tmp_path / "small" / f"{JOURNAL}.lock").symlink_to("left behind")
    (tmp_path / "small" / ".model.1.tmp").mkdir()
    config["search"]["trials"] = 12
    go(config, tmp_path)
    assert course(tmp_path / "small")[:10] == before
    assert not list((tmp_path / "small").glob(".*"))
    assert len(course(tmp_path / "small")) == 12


def test_trials_is_the_runs_total(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 11
    go(config, tmp_path)
    config["search"]["trials"] = 17
    go(config, tmp_path)
    go(config, tmp_path)
    config["search"]["trials"] = 4
    go(config, tmp_path)
    assert len(course(tmp_path / "small")) == 17


def test_more_trials_later_are_the_trials_of_a_longer_run(config: Data, tmp_path: Path) -> None:
    go(config, tmp_path / "once")
    config["search"]["trials"] = 12
    go(config, tmp_path / "twice")
    config["search"]["trials"] = 17
    go(config, tmp_path / "twice")
    assert course(tmp_path / "twice" / "small") == course(tmp_path / "once" / "small")


def test_looks_at_the_test_items_are_counted(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 10
    assert go(config, tmp_path).test_looks == 1
    assert go(config, tmp_path).test_looks == 1
    first = go(config, tmp_path)
    config["search"]["trials"] = 11
    longer = go(config, tmp_path)
    judged = [{row.name for row in (verdict.winner, *verdict.baselines)} for verdict in (first, longer)]
    assert longer.test_looks == 1 + (judged[0] != judged[1]), "the same decision is the same look"


def test_a_candidate_that_fails_is_told_so_and_the_search_goes_on(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, calls = BitsPerByte.score, 0

    def sometimes(self: BitsPerByte, *args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls in (3, 12):
            raise FloatingPointError("item 3 of text is not a number")
        return score(self, *args)

    monkeypatch.setattr(BitsPerByte, "score", sometimes)
    go(config, tmp_path)
    trials = t.finished(study_of(tmp_path / "small"))
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert [trial.user_attrs[t.REASON] for trial in failed] == [
        "FloatingPointError: item 3 of text is not a number"
    ] * 2
    assert len(trials) == config["search"]["trials"]


def failing(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """Lets every candidate fail with a message, which may have the ``{n}`` of its call."""
    calls = iter(range(10**6))

    def never(*_: Any) -> torch.Tensor:
        raise RuntimeError(message.format(n=97 + next(calls)))

    monkeypatch.setattr(BitsPerByte, "score", never)


def test_where_the_first_candidates_all_fail_for_one_reason_the_run_ends_there(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config["search"]["trials"] = 80
    with monkeypatch.context() as patch:
        failing(patch, "no memory for {n} bytes")
        for _ in range(2):
            with pytest.raises(
                UserError, match=r"the first 12 candidates all failed for one reason, .*: no memory for"
            ):
                go(config, tmp_path)
            assert len(course(tmp_path / "small")) == 12
    config["search"]["trials"] = 14
    assert go(config, tmp_path).trials == 14
    assert None not in [value for *_, value in course(tmp_path / "small")]


def test_where_nothing_can_be_scored_for_several_reasons_the_first_is_given(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "{n:c}")
    config["search"]["trials"] = 13
    said = "no candidate could be scored; the first one's reason: RuntimeError: "
    with pytest.raises(UserError, match=said):
        go(config, tmp_path)
    assert len(course(tmp_path / "small")) == 13


def test_another_config_under_the_same_name_is_refused(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 9
    go(config, tmp_path)
    config["recipe"]["models"][0]["parameters"]["density"] = {"search": [0.2, 1.0]}
    with pytest.raises(UserError, match=r"was begun with another config: recipe\.models.*--name"):
        go(config, tmp_path)


def test_a_database_as_storage(config: Data, tmp_path: Path) -> None:
    config["search"]["storage"] = f"sqlite:///{tmp_path / 'study.db'}"
    config["search"]["trials"] = 10
    go(config, tmp_path)
    study = RunFolder(tmp_path / "small").open_study(config["search"]["storage"])
    assert len(t.finished(study)) == 10
    assert not (tmp_path / "small" / JOURNAL).exists()


def test_a_storage_that_cannot_be_opened(config: Data, tmp_path: Path) -> None:
    config["search"]["storage"] = "nosuch://host/db"
    with pytest.raises(UserError, match="storage: cannot open 'nosuch://host/db'"):
        go(config, tmp_path)


def test_identical_candidates_are_scored_once(config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config["search"]["trials"] = 9
    score, calls = BitsPerByte.score, []

    def counted(self: BitsPerByte, *args: Any) -> torch.Tensor:
        calls.append(1)
        return score(self, *args)

    monkeypatch.setattr(BitsPerByte, "score", counted)
    plan = open_plan(Config.model_validate(config), "config")
    searched: list[int] = []
    from mergesearch.search.optimize.callbacks import Watcher

    run(plan, tmp_path, Watcher(trial=lambda *_: searched.append(len(calls))))
    assert searched == [1, 2, 3, 4, 5, 6, 7, 7, 7], "the soups of two were scored as the uniform soup or an endpoint"
    values = {row[1]: row[4] for row in course(tmp_path / "small")}
    assert (
        values["soup of one + two"] == values["uniform soup"] or values["soup of two + one"] == values["uniform soup"]
    )

"""The verdict: looks are on record before they happen, the simpler recipe is recommended, many tests are corrected."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.search.candidates.baselines import Baselines, Endpoints
from mergesearch.search.config import Config
from mergesearch.search.evaluate import evaluate_model
from mergesearch.search.signal.signal import Signal
from mergesearch.search.statistics import Array, Contrast, Estimate, Stratum, difference_of, sign_flip_test
from mergesearch.search.study import trials as t
from mergesearch.search.verdict.comparison import Claim, Evidence, Power, deciding
from mergesearch.search.verdict.result import ConstraintResult, Verdict
from mergesearch.search.verdict.wording import headline, looks_in_words, marked_name, optimism_in_words, shown_baselines

from ...tolerances import close
from ..helpers import Data, go, killed, row, searched, study_of, written


def looks(results: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((results / "small" / "test_looks.json").read_text())
    return found


@pytest.mark.parametrize(
    ("killed_in", "call", "rescored"), [("score", 9, 6), ("save_scores", 12, 5), ("write_verdict", 1, 0)]
)
def test_a_killed_verdict_goes_on_with_its_scores_and_is_one_look(  # noqa: PLR0917
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str, call: int, rescored: int
) -> None:
    """The run scores 7 distinct candidates on the search items, and then on the test items."""
    config["search"]["trials"] = 9
    whole = go(config, tmp_path / "whole")
    killed(monkeypatch, killed_in, call, config, tmp_path / "torn")
    assert not (tmp_path / "torn" / "small" / "verdict.json").exists()
    assert len(looks(tmp_path / "torn")) == 1
    calls, score = [], BitsPerByte.score
    monkeypatch.setattr(BitsPerByte, "score", lambda self, *args: calls.append(1) or score(self, *args))
    assert go(config, tmp_path / "torn") == whole
    assert (len(calls), len(looks(tmp_path / "torn")), whole.test_looks) == (rescored, 1, 1)
    names = ("verdict.json", "best.yml", "recommended.yml")
    one, two = ([(tmp_path / run / "small" / name).read_bytes() for name in names] for run in ("whole", "torn"))
    assert one == two


def test_a_verdict_on_another_winner_is_another_look(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 1
    assert go(config, tmp_path).test_looks == 1
    config["search"]["trials"] = 9
    assert go(config, tmp_path).test_looks == 2
    assert [look["trials"] for look in looks(tmp_path)] == [1, 9]


@pytest.fixture
def counted_scores(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many items each call of the evaluator scores."""
    calls, score = [], BitsPerByte.score
    monkeypatch.setattr(BitsPerByte, "score", lambda self, *args: calls.append(len(args[1])) or score(self, *args))
    return calls


def test_a_verdict_that_was_deleted_is_the_same_look(config: Data, tmp_path: Path, counted_scores: list[int]) -> None:
    config["search"]["trials"] = 10
    go(config, tmp_path)
    folder = tmp_path / "small"
    before = (folder / "verdict.json").read_bytes()
    for name in ("verdict.json", "report.html", "best.yml"):
        (folder / name).unlink()
    counted_scores.clear()
    assert go(config, tmp_path).test_looks == 1
    assert (folder / "verdict.json").read_bytes() == before
    assert not counted_scores, "the saved scores are taken"


def test_further_trials_that_change_no_finalist_are_the_same_look(
    config: Data, tmp_path: Path, counted_scores: list[int]
) -> None:
    """An extended run says of its finalists, byte by byte, what it said before."""
    config["search"] |= {"trials": 14, "sampler": "random"}
    first = go(config, tmp_path)
    before = first.to_json()
    counted_scores.clear()
    config["search"]["trials"] = 16
    second = go(config, tmp_path)
    if second.winner.trial == first.winner.trial:
        assert second.test_looks == 1
        assert len(counted_scores) <= 2 * 12, "of the search alone"
    now = second.to_json()
    assert now["baselines"] == before["baselines"]


def test_the_same_run_with_other_numbers_of_trials_has_the_same_intervals(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted trial shifts the numbers of all that follow it; intervals do not depend on them."""
    config["search"]["trials"] = 9
    whole = go(config, tmp_path / "whole")
    killed(monkeypatch, "score", 1, config, tmp_path / "shifted")
    shifted = go(config, tmp_path / "shifted")
    assert [row.trial for row in shifted.baselines] != [row.trial for row in whole.baselines]
    assert [(row.search, row.test) for row in shifted.baselines] == [(row.search, row.test) for row in whole.baselines]


def test_scoring_a_model_on_a_runs_config_is_a_look(config: Data, models: Path, tmp_path: Path) -> None:
    config["search"]["trials"] = 1
    told: list[str] = []
    parsed = Config.model_validate(config)
    evaluate_model(str(models / "one"), parsed, "config", told.append, tmp_path)
    assert not any("test items" in note for note in told), "there is no run yet"
    go(config, tmp_path)
    for _ in range(2):
        evaluate_model(str(models / "one"), parsed, "config", told.append, tmp_path)
    assert sum("scores the test items of the run in" in note for note in told) == 2
    assert [sorted(look) for look in looks(tmp_path)][1:] == [["eval", "items"]]
    config["search"]["trials"] = 9
    assert go(config, tmp_path).test_looks == 3


def test_what_a_second_look_is_called() -> None:
    assert "before" in looks_in_words(0)
    assert "once before" in looks_in_words(1)
    assert "3 times before" in looks_in_words(3)


@pytest.mark.parametrize(
    ("low", "high", "p", "begins"),
    [
        (
            0.01,
            0.03,
            0.001,
            "Use trial 9 (ties): it is proven better than every baseline; its gain over the best of them, base, is",
        ),
        (-0.01, 0.03, 0.2, "Use base: the best candidate of the search, trial 9 (ties), is not proven better"),
        (
            -0.03,
            0.01,
            0.2,
            "Use base: on the test items it is above the best candidate of the search, trial 9 (ties), ",
        ),
        (-0.05, -0.01, 0.001, "Use base: it is proven better than the best candidate of the search, trial 9 (ties), "),
    ],
)
def test_the_headline(low: float, high: float, p: float, begins: str) -> None:
    claim = Claim(Estimate((low + high) / 2, low, high), p)
    assert headline(row("trial 9", 9), row("base", 0), claim, 100).startswith(begins)


def test_the_headline_names_the_baseline_than_which_the_winner_is_not_proven_better() -> None:
    """It may be proven better than the best one alone: then the headline must not say the contrary."""
    steady, erratic = np.full(40, 0.05), np.tile([0.9, -0.7], 20)
    steady[:4] = -0.01
    outcomes = sign_flip_test([_gain_of(steady), _gain_of(erratic)], 0)
    assert outcomes[0].estimate.value < outcomes[1].estimate.value
    assert outcomes[0].p_together < 0.05 < outcomes[1].p
    claim = Claim.of(outcomes, ["base", "other"])
    sentence = headline(row("trial 9", 9), row("base", 0), claim, 40)
    assert sentence.startswith(
        "Use base: the best candidate of the search, trial 9 (ties), is not proven better than every baseline, the "
        "least so than other; its gain over the best of them is +0.0"
    )
    alone = headline(row("trial 9", 9), row("other", 0), Claim.of(outcomes[1:], ["other"]), 40)
    assert "trial 9 (ties), is not proven better; its gain is" in alone
    none = Claim.of(sign_flip_test([_gain_of(np.zeros(40)), _gain_of(erratic)], 0), ["base", "other"])
    assert "trial 9 (ties), is not proven better; its gain is" in headline(row("trial 9", 9), row("other", 0), none, 40)


def test_sentence_interval_and_p_never_contradict_each_other() -> None:
    rng = np.random.default_rng(0)
    begins = {True: "Use trial 9 (ties): it is proven better", False: "Use base: "}
    found = []
    for seed in range(60):
        gains = rng.normal(rng.choice([-0.8, 0.0, 0.8]), 1.0, (3, 20))
        claim = Claim.of(sign_flip_test([_gain_of(row) for row in gains], seed))
        sentence = headline(row("trial 9", 9), row("base", 0), claim, 20)
        assert sentence.startswith(begins[claim.is_proven])
        assert ("is proven better" in sentence) == (claim.p < 0.05) == (claim.is_proven or claim.is_refuted)
        assert claim.is_proven == (claim.difference.low > 0)
        assert claim.is_refuted == (claim.difference.high < 0)
        assert ConstraintResult([]).allow(claim.is_proven) == claim.is_proven
        found.append((claim.is_proven, claim.is_refuted))
    assert len(set(found)) == 3, "all three cases"


def test_what_the_test_items_cannot_prove_is_said_where_a_gain_is_not_proven() -> None:
    close_call = Claim(Estimate(0.01, -0.01, 0.03), 0.3)
    sentence = headline(row("trial 9", 9), row("base", 0), close_call, 640, Power(0.031, 6200))
    assert sentence.endswith(
        "p = 0.3000. With 640 test items a gain below 0.0310 cannot be counted on to be proven; 6,200 would do for "
        "+0.0100."
    )
    proven = headline(row("trial 9", 9), row("base", 0), Claim(Estimate(0.01, 0.001, 0.02), 0.03), 640, Power(0.031))
    assert "proven;" not in proven


def test_as_many_items_as_would_do_prove_the_gain_four_times_in_five() -> None:
    rng, gain, items = np.random.default_rng(0), 0.2, 100
    found = Power.of(_gain_of(gain + rng.permutation(np.linspace(-1.7, 1.7, items))), items)
    assert found is not None
    assert found.items is not None
    proven = [
        Claim.of(sign_flip_test([_gain_of(rng.normal(gain, 1.0, found.items))], seed)).is_proven for seed in range(200)
    ]
    assert 0.7 < np.mean(proven) < 0.9
    assert Power.of(_gain_of(np.linspace(-2.0, 1.0, items)), items).items is None, "there is no gain"
    assert Power.of(_gain_of(np.zeros(items)), items) is None


def test_the_best_of_the_search_is_shown_where_a_baseline_wins(config: Data, tmp_path: Path) -> None:
    config["search"]["trials"] = 20
    verdict = go(config, tmp_path)
    folder, study = tmp_path / "small", study_of(tmp_path / "small")
    baselines = [one.trial for one in verdict.baselines]
    assert verdict.winner.trial not in baselines
    assert verdict.recommended in verdict.sentence
    model = Checkpoint(str(folder / "model")).digest()
    merge_file(folder / "recommended.yml", tmp_path / "again")
    assert Checkpoint(str(tmp_path / "again")).digest() == model
    comments = {name: (folder / name).read_text().splitlines()[:2] for name in ("best.yml", "recommended.yml")}
    assert comments["best.yml"][0].startswith("# The best candidate of the search (")
    assert f"{verdict.difference.value:+.4f}" in comments["best.yml"][1]
    assert comments["recommended.yml"][0].startswith("# Recommended: the ")
    named = [marked_name(verdict, one) for one in [*shown_baselines(verdict), verdict.winner]]
    assert sum(name.endswith(", recommended") for name in named) == 1
    assert study.get_trials()[verdict.winner.trial].user_attrs[t.RECIPE] == written(folder / "best.yml")


def _gain_of(gains: Array) -> Contrast:
    names = [f"{n:02d}" for n in range(len(gains))]
    one, two = (Stratum.of(names, [1.0] * len(names), values.tolist()) for values in (gains, 0 * gains))
    return difference_of([one], [two], lambda values: values[0])


def test_the_simpler_recipe_is_recommended_unless_the_winner_is_better(config: Data, tmp_path: Path) -> None:
    verdict = go(config, tmp_path)
    folder = tmp_path / "small"
    best, recommended = (written(folder / name) for name in ("best.yml", "recommended.yml"))
    assert verdict.recommended == (verdict.winner.name if verdict.beyond_chance else verdict.best_baseline)
    assert (best == recommended) == (verdict.recommended == verdict.winner.name)
    assert Verdict.from_json(json.loads((folder / "verdict.json").read_text())) == verdict
    base = next(one for one in verdict.baselines if one.name == "base")
    beaten = replace(verdict, winner=base, best_baseline="base")
    assert base not in shown_baselines(beaten), "it is shown once, as the winner"
    again = replace(verdict, soups=[row("uniform soup", 90), row("pruned soup", 91)])
    shown = [one.name for one in shown_baselines(again)]
    assert len(set(shown)) == len(shown)
    assert shown[-1] == "pruned soup"


def test_the_winner_is_compared_with_every_baseline(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the models and their soups as baselines, a sampled candidate wins."""
    monkeypatch.setattr(Baselines, "_standard", Endpoints._standard)
    verdict = go(config, tmp_path)
    assert verdict.winner.name not in [row.name for row in verdict.baselines]
    best = [max(getattr(row, side).value for row in verdict.baselines) for side in ("search", "test")]
    gains = [verdict.winner.search.value - best[0], verdict.winner.test.value - best[1]]
    size = abs(verdict.winner.search.value)
    assert verdict.search_difference.value == close(gains[0], 4, magnitude=size)
    assert verdict.optimism == close(gains[0] - gains[1], 8, magnitude=size)
    words = optimism_in_words(verdict)
    assert f"over the best baseline on the same items is {verdict.search_difference.value:+.4f} on the search" in words
    assert next(row for row in verdict.baselines if row.name == verdict.best_baseline).test.value == best[1]
    assert [one.baseline for one in verdict.comparisons] == [row.name for row in verdict.baselines]
    assert min(one.difference.value for one in verdict.comparisons) == verdict.difference.value
    if verdict.difference.value > 0:
        assert max(one.p for one in verdict.comparisons) == verdict.p
    assert verdict.beyond_chance == (verdict.p < 0.05 and verdict.difference.low > 0)
    (only,) = verdict.evidence
    assert (only.items, only.variance_share) == (verdict.test_items, 1.0)


def test_the_winner_is_the_best_by_the_signal(config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one with the highest score, and the sealed items are scored for that one alone."""
    config["search"]["trials"] = 17
    monkeypatch.setattr(Signal, "best", lambda _, trials: sorted(trials, key=t.rank)[2])
    verdict = go(config, tmp_path)
    folder = tmp_path / "small"
    ranked = sorted(searched(study_of(folder)), key=t.rank)
    assert verdict.winner.trial == ranked[2].number
    assert written(folder / "best.yml") == t.recipe_of(ranked[2]).to_yaml()
    assert (looks(tmp_path)[0])["winner"] == ranked[2].user_attrs[t.PHENOTYPE]


def test_a_small_task_that_decides_is_named() -> None:
    small, large = Evidence("files", 123, 25, 0.7), Evidence("python", 2000, 2000, 0.3)
    assert deciding([large, small]) == small
    assert deciding([replace(small, variance_share=0.4), replace(large, variance_share=0.6)]) is None
    assert deciding([replace(small, variance_share=0.1), replace(large, variance_share=0.9)]) is None
    assert deciding([replace(small, variance_share=None)]) is None
    assert deciding([]) is None

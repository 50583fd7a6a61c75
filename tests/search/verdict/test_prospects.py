"""What there is to win after the baselines, and what the test items can prove."""

from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config
from mergesearch.search.optimize.callbacks import Watcher
from mergesearch.search.run import run
from mergesearch.search.study import trials as t
from mergesearch.search.verdict.outlook import Prospects, TaskProspect
from mergesearch.search.verdict.prospects import Noise

from ..helpers import Data, study_of

SMALL = TaskProspect("arc", 123, 25, 0.6, 0.5, "one", 0.7, 0.25)
LARGE = TaskProspect("copa", 2000, 2000, 0.4, 0.6, "two", 0.65, 0.75)
FOUND = Prospects("uniform soup", 0.6, 0.7, 0.02, [SMALL, LARGE])


def test_a_small_task_that_decides_is_warned_of() -> None:
    assert any("task arc decides" in line and "123 of the 2123 test items" in line for line in FOUND.warnings)
    even = [replace(SMALL, variance_share=0.4), replace(LARGE, variance_share=0.6)]
    assert not replace(FOUND, tasks=even).warnings, "copa has most of the items"
    assert not replace(FOUND, tasks=[replace(SMALL, weight=1.0, variance_share=1.0)]).warnings, "it is the only one"


def test_what_cannot_be_proven_is_warned_of() -> None:
    few = replace(FOUND, detectable=0.2, tasks=[LARGE])
    assert few.warnings == ["warning: what there is to win is less than the test items can prove: add test items"]
    assert "little to win" in replace(few, ceiling=0.6).warnings[0]
    assert not replace(few, detectable=None).warnings


def test_a_run_tells_it_once_and_keeps_it(config: Data, tmp_path: Path) -> None:
    files = sorted((tmp_path / "texts").glob("*.txt"))
    entry = {"evaluator": "bits_per_byte"}
    config["evaluate"]["tasks"] = [
        {**entry, "task": "even", "files": [str(file) for file in files[::2]], "weight": 1.0},
        {**entry, "task": "odd", "files": [str(file) for file in files[1::2]], "weight": 3.0},
    ]
    config["evaluate"]["ensemble"] = True
    config["search"]["trials"] = 12
    lines: list[str] = []
    verdict = run(open_plan(Config.model_validate(config), "config"), tmp_path, Watcher(stage=lines.append))
    found = verdict.prospects
    assert found is not None
    assert [line for line in lines if line in found.in_words] == found.in_words
    study = study_of(tmp_path / "small")
    trials = {str(trial.user_attrs[t.NAME]): trial for trial in t.of_kind(study, t.BASELINE)}
    best = t.best([*trials.values()])
    assert (found.baseline, found.score) == (best.user_attrs[t.NAME], t.score_of(best))
    singles = [trials[name] for name in ("base", "one", "two")]
    lowest = [min(trial.user_attrs[t.VALUES][task] for trial in singles) for task in ("even", "odd")]
    assert found.ceiling == pytest.approx(-(lowest[0] + 3 * lowest[1]) / 4)
    assert [each.expert_value for each in found.tasks] == lowest
    assert [each.weight for each in found.tasks] == [0.25, 0.75]
    assert sum(each.variance_share or 0 for each in found.tasks) == pytest.approx(1)
    assert verdict.ensemble is not None
    assert found.ensemble == pytest.approx(verdict.ensemble.search.value)
    assert found.detectable is not None
    assert found.detectable > 0
    assert "What there was to win" in (tmp_path / "small" / "report.html").read_text(encoding="utf-8")


def test_what_can_be_said_before_a_run() -> None:
    """A quarter of the weight on 100 items, the rest on 900: 0.25²/100 against 0.75²/900 is 1 to 1."""
    noise = Noise({"arc": 0.25**2 * 0.15 / 100, "copa": 0.75**2 * 0.15 / 900}, inf)
    assert noise.share("arc") == pytest.approx(0.5)
    assert noise.detectable == pytest.approx(2.8016 * (0.15 * 0.00125) ** 0.5, rel=1e-4)

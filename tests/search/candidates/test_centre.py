"""The centre of the sampler's distribution as a candidate: when it is due, and that a run scores it."""

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import Study

from mergesearch.parsing import parse
from mergesearch.search.candidates.centre_source import EVERY, CentreSource
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.candidates.source import Candidate, Done
from mergesearch.search.config import Config, Search
from mergesearch.search.run import run
from mergesearch.search.samplers.schedule import Strategy
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder

from ..samplers.test_samplers import Shape, ranges


def centres(sampler: str, trials: int) -> list[int]:
    """The numbers of the trials at which a run of so many trials scores a centre."""
    strategy = Strategy(Shape(ranges(3)), Search(sampler=sampler, trials=trials))  # type: ignore[arg-type]
    study, source = optuna.create_study(direction="maximize"), CentreSource(strategy, trials)
    for number in range(trials):
        centre = _centre(source, study)
        _add(study, t.SAMPLED if centre is None else t.CENTRE, _spread(number) if centre is None else centre)
    return [trial.number for trial in study.trials if t.kind_of(trial) == t.CENTRE]


def _centre(source: CentreSource, study: Study) -> dict[str, Any] | None:
    """The centre that the source offers; None where none is due, or it is known."""
    offer = source.next(study)
    if not isinstance(offer, Candidate):
        return None
    found = offer.find(0) if offer.find else offer.point
    return None if found is None else dict(found)


def _spread(number: int) -> dict[str, float]:
    return {f"x{index}": random.Random(3 * number + index).uniform(0, 1.5) for index in range(3)}


def _add(study: Study, kind: str, params: dict[str, Any]) -> None:
    distributions = dict.fromkeys(params, FloatDistribution(0, 1.5))
    noise = random.Random(len(study.trials)).gauss(0, 0.3)
    value = noise - sum((value - 0.6) ** 2 for value in params.values())
    study.add_trial(
        optuna.trial.create_trial(params=params, distributions=distributions, value=value, user_attrs={t.KIND: kind})
    )


def test_a_centre_is_scored_from_time_to_time_and_at_the_end() -> None:
    assert centres("local", 50) == [EVERY, 2 * EVERY + 1, 49]


def test_a_centre_near_a_scored_point_is_not_scored_again() -> None:
    strategy = Strategy(Shape(ranges(3)), Search(sampler="local", trials=50))  # type: ignore[arg-type]
    study, source = optuna.create_study(direction="maximize"), CentreSource(strategy, 50)
    for number in range(EVERY):
        _add(study, t.SAMPLED, _spread(number))
    centre = _centre(source, study)
    assert centre
    _add(study, t.SAMPLED, {name: float(value) + 0.001 for name, value in centre.items()})
    assert _centre(source, study) is None


def test_a_sampler_without_a_centre_has_none() -> None:
    assert centres("random", 30) == []


def test_nothing_is_due_before_the_sampler_had_its_turn() -> None:
    strategy = Strategy(Shape(ranges(3)), Search(sampler="local", trials=1))  # type: ignore[arg-type]
    assert isinstance(CentreSource(strategy, 1).next(optuna.create_study()), Done)


@pytest.mark.parametrize("sampler", ["cmaes", "local"])
def test_a_run_ends_with_the_centre_also_where_it_goes_on(config: dict[str, Any], sampler: str, tmp_path: Path) -> None:
    for trials in (19, 24):
        search = {"trials": trials, "sampler": sampler, "start": "none", "racing": False}
        search |= {"population": 4} if sampler == "cmaes" else {}
        run(open_plan(parse(Config, config | {"search": search}, "config"), "config"), tmp_path)
        ended = t.finished(RunFolder(tmp_path / "small").open_study(None))
        assert len(ended) == trials
        assert t.kind_of(ended[-1]) == t.CENTRE
    assert [t.kind_of(trial) for trial in ended].count(t.CENTRE) == 2

"""Which source has its turn: candidates first, sources that wait, and those that may overtake them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import optuna
import pytest
from optuna.study import Study
from optuna.trial import TrialState

from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.sampler_source import SamplerSource
from mergesearch.search.candidates.source import Candidate, Done, Wait
from mergesearch.search.optimize.ask import Asker
from mergesearch.search.samplers import SamplerRequest
from mergesearch.search.samplers.schedule import Turn
from mergesearch.search.study import trials as t

DONE = Done("nothing left")


@dataclass
class Scripted:
    """A source whose offers are given beforehand; the last one is repeated."""

    offers: list[Candidate | Wait | Done]
    may_overtake: bool = False
    asked: int = 0

    def next(self, study: Study) -> Candidate | Wait | Done:  # noqa: ARG002
        self.asked += 1
        return self.offers.pop(0) if len(self.offers) > 1 else self.offers[0]


@dataclass
class Random:
    """Stands for the sampler."""

    may_overtake: bool = False
    asked: list[int] = field(default_factory=list)

    def next(self, study: Study) -> Candidate | Wait | Done:  # noqa: ARG002
        return Candidate(t.SAMPLED)

    def turn(self, study: Study) -> Turn:
        self.asked.append(len(study.get_trials(deepcopy=False)))
        return Turn("random", SamplerRequest([], 0), None)


def never() -> Recipe:
    raise AssertionError("recipes are made by the loop, so that a failure is the trial's")


def baseline(name: str) -> Candidate:
    return Candidate(t.BASELINE, name, recipe=never)


def asked(sources: Sequence[Scripted], times: int) -> list[str | None]:
    """The names of the candidates that are asked for; None where everything waits."""
    sampler = Random()
    asker, study = Asker([*sources, sampler], cast(SamplerSource, sampler)), optuna.create_study()
    names: list[str | None] = []
    for _ in range(times):
        found = asker.ask(study)
        names.append(found and (found.candidate.name or found.candidate.kind))
        if found:
            assert found.trial.user_attrs.get(t.KIND, t.SAMPLED) == found.candidate.kind
            study.tell(found.trial, 0.0)
    return names


def test_sources_have_their_turns_in_order() -> None:
    one, two = Scripted([baseline("a"), baseline("b"), DONE]), Scripted([baseline("c"), DONE])
    assert asked([one, two], 5) == ["a", "b", "c", "sampled", "sampled"]
    assert two.asked == 3, "it is not asked while the first has candidates"


def test_what_depends_on_a_source_that_waits_waits_too() -> None:
    one, two = Scripted([Wait(), Wait(), DONE]), Scripted([baseline("a"), DONE])
    assert asked([one, two], 4) == [None, None, "a", "sampled"]


@pytest.mark.parametrize("may_overtake", [True, False])
def test_only_sources_that_may_overtake_go_ahead(may_overtake: bool) -> None:
    one, two = Scripted([Wait(), DONE]), Scripted([baseline("a"), DONE], may_overtake)
    assert asked([one, two], 2) == (["a", "sampled"] if may_overtake else [None, "a"])


def test_a_point_is_asked_of_the_sampler_whole() -> None:
    sampler, study = Random(), optuna.create_study()
    source = Scripted([Candidate(t.LEVEL, "ties", point={"x": 0.25}), DONE])
    asked = Asker([source, sampler], cast(SamplerSource, sampler)).ask(study) or pytest.fail("nothing")
    trial, candidate = asked.trial, asked.candidate
    assert (candidate.kind, trial.user_attrs) == (t.LEVEL, {t.KIND: t.LEVEL, t.NAME: "ties"})
    assert trial.suggest_float("x", 0, 1) == 0.25


def test_an_enqueued_trial_comes_before_every_source() -> None:
    sampler, study, source = Random(), optuna.create_study(), Scripted([baseline("a")])
    study.enqueue_trial({"x": 0.5}, user_attrs={t.RETRY_OF: 3})
    asked = Asker([source, sampler], cast(SamplerSource, sampler)).ask(study) or pytest.fail("nothing")
    trial, candidate = asked.trial, asked.candidate
    assert (candidate, trial.user_attrs, source.asked) == (Candidate(t.SAMPLED), {t.RETRY_OF: 3}, 0)
    assert study.get_trials(states=(TrialState.RUNNING,))[0].number == trial.number


def test_the_last_source_says_why_nothing_is_left() -> None:
    assert Asker([Scripted([baseline("a")]), Scripted([DONE])], None).exhausted(optuna.create_study()) == "nothing left"
    assert Asker([Scripted([DONE]), Scripted([Wait()])], None).exhausted(optuna.create_study()) is None

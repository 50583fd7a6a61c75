"""Which sampler asks for which trial: the stages of a run, decided by the count of trials that were begun."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from optuna.samplers import BaseSampler
from optuna.study import Study
from pydantic import AfterValidator, Field, model_validator

from mergesearch.errors import UserError, nearest
from mergesearch.parsing import Strict
from mergesearch.search.samplers import (
    METHOD,
    SAMPLERS,
    Branch,
    Order,
    SearchSpace,
    branches_of,
    grid_size,
    is_sequence,
    make_sampler,
)
from mergesearch.search.study import trials as t

GP_DIMENSIONS = SAMPLERS["gp"].dimensions
GP_TRIALS = 250
"""Trials beyond which a Gaussian process takes longer to ask than is worth it, and has little left to find."""
FREED = ((6, 5, 40), (20, 3, 80))
"""How many dimensions are freed step by step: so many, for one in so many trials, but no more than so many."""
FRONT_GP_TRIALS = 120
"""The same with several objectives, where asking takes longer still."""
GENETIC_TRIALS = 1000
"""Trials beyond which a genetic algorithm has generations enough for a front."""
AUTO = "auto"


def _known_sampler(name: str) -> str:
    if name not in SAMPLERS:
        raise ValueError(f"there is no sampler {name!r}{nearest(name, SAMPLERS)}")
    return name


class Tuning(Strict):
    """Settings of single samplers: cmaes' ``sigma`` (a part of each range) and ``population``, grid's ``points``."""

    sigma: float | None = Field(None, gt=0, le=1)
    population: int | None = Field(None, ge=4)
    points: int | None = Field(None, ge=2)

    def check_owner(self, sampler: str) -> None:
        """Raises ValueError where a setting is given that this sampler does not have."""
        for key, owner in (("sigma", "cmaes"), ("population", "cmaes"), ("points", "grid")):
            if getattr(self, key) is not None and sampler != owner:
                raise ValueError(f"{key}: is a setting of {owner}, found with {sampler}")


class Stage(Tuning):
    """One sampler for so many trials (the last stage: for the rest), beside the baselines and what was enqueued.

    ``dimensions``: tie the numbered dimensions of one name together until no more than about so many are left;
    ``start`` is where cmaes begins.
    """

    sampler: Annotated[str, AfterValidator(_known_sampler)]
    trials: int | None = Field(None, ge=1)
    dimensions: int | Literal["all"] = Field("all")
    start: Literal["best", "middle"] = "best"

    @model_validator(mode="after")
    def _fits(self) -> "Stage":
        if isinstance(self.dimensions, int) and self.dimensions < 1:
            raise ValueError(f"dimensions: found {self.dimensions}, expected a number from 1, or all")
        if self.dimensions != "all" and is_sequence(self.sampler):
            tying = ", ".join(name for name in SAMPLERS if not is_sequence(name))
            raise ValueError(f"dimensions: {self.sampler} takes all; those that can take fewer: {tying}")
        self.check_owner(self.sampler)
        return self

    @property
    def described(self) -> str:
        """In words."""
        tied = "" if self.dimensions == "all" else f" in about {self.dimensions} tied dimensions"
        return f"{self.sampler}{tied}{f' for {self.trials} trials' if self.trials else ''}"


class Wishes(Protocol):
    """What the config's ``search`` says."""

    @property
    def trials(self) -> int: ...
    @property
    def sampler(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def schedule(self) -> Sequence[Stage] | None: ...
    @property
    def sigma(self) -> float | None: ...
    @property
    def population(self) -> int | None: ...
    @property
    def points(self) -> int | None: ...


@dataclass(frozen=True)
class Plan:
    """The stages of a run, and why they are those."""

    stages: tuple[Stage, ...]
    why: str

    def __str__(self) -> str:
        return f"{', then '.join(stage.described for stage in self.stages)} ({self.why})"


def plan(space: SearchSpace, wishes: Wishes, several: bool = False, gradient: bool = False) -> Plan:
    """The stages that the config asks for, or those that suit the space and the budget.

    ``several``: there are several objectives to follow. ``gradient``: a descent goes before.
    """
    if wishes.schedule:
        return Plan(tuple(wishes.schedule), "the config's schedule")
    if wishes.sampler != AUTO:
        given = {key: getattr(wishes, key) for key in Tuning.model_fields}
        return Plan((Stage(sampler=wishes.sampler, **given),), "the config's sampler")
    if several:
        return _suited_to_several(branches_of(space), wishes.trials)
    if space.is_stack:
        return Plan((Stage(sampler="stack"),), "the space is a stack of layers")
    return _suited(branches_of(space), wishes, gradient)


def _suited(branches: Sequence[Branch], wishes: Wishes, gradient: bool) -> Plan:
    dimensions, trials = max(len(branch.free) for branch in branches), wishes.trials
    evolution = Stage(sampler="cmaes", sigma=wishes.sigma, population=wishes.population)
    if _has_choices(branches, beside=METHOD):
        return Plan((Stage(sampler="tpe"),), "the space has choices")
    why = f"{dimensions} smooth dimensions and {trials} trials{_staying(branches)}"
    if dimensions > GP_DIMENSIONS and gradient:
        return Plan((evolution,), f"{why}, from where the gradient leads")
    if dimensions > GP_DIMENSIONS:
        few = (Stage(sampler="gp", trials=min(max(trials // n, 1), most), dimensions=d) for d, n, most in FREED)
        return Plan((*few, evolution), why)
    if trials <= GP_TRIALS:
        return Plan((Stage(sampler="gp"),), why)
    return Plan((Stage(sampler="gp", trials=GP_TRIALS // 2), evolution), why)


def check_follow_several(stages: Plan) -> None:
    """Raises UserError where a stage's sampler can follow one objective alone."""
    able = [name for name, kind in SAMPLERS.items() if kind.objectives]
    for stage in stages.stages:
        if stage.sampler not in able:
            raise UserError(
                f"search: with aggregate: pareto there are several objectives, and {stage.sampler} follows one alone; "
                f"those that follow several: auto, {', '.join(able)}"
            )


def _suited_to_several(branches: Sequence[Branch], trials: int) -> Plan:
    """A genetic algorithm spends its first generation at random, and needs many more to be ahead of the models."""
    dimensions = max(len(branch.free) for branch in branches)
    if trials > GENETIC_TRIALS or dimensions > SAMPLERS["tpe"].dimensions:
        return Plan((Stage(sampler="nsgaii"),), f"several objectives, {dimensions} dimensions and {trials} trials")
    if _has_choices(branches) or dimensions > GP_DIMENSIONS or trials > FRONT_GP_TRIALS:
        return Plan((Stage(sampler="tpe"),), "several objectives, with choices, many dimensions or many trials")
    return Plan((Stage(sampler="gp"),), f"several objectives, {dimensions} smooth dimensions and {trials} trials")


def _has_choices(branches: Sequence[Branch], beside: str | None = None) -> bool:
    """Whether something other than a number is to be found; ``beside``: the name of a choice that does not count."""
    from optuna.distributions import CategoricalDistribution

    found = [(name, distribution) for branch in branches for name, distribution in branch.free.items()]
    chosen = [name for name, distribution in found if isinstance(distribution, CategoricalDistribution)]
    return (len(branches) > 1 and beside is None) or any(name != beside for name in chosen)


def _staying(branches: Sequence[Branch]) -> str:
    return f", staying with the best of {len(branches)} methods" if len(branches) > 1 else ""


class Strategy:
    """A plan at work on a study."""

    def __init__(self, space: SearchSpace, wishes: Wishes, several: bool = False, gradient: bool = False) -> None:
        self.plan = plan(space, wishes, several, gradient)
        self._branches = branches_of(space)
        self._seed = wishes.seed
        self._kept: dict[int, BaseSampler] = {}

    def sampler(self, study: Study) -> BaseSampler:
        """The sampler of the next trial."""
        number = self._stage(study)
        if number in self._kept:
            return self._kept[number]
        stage = self.plan.stages[number]
        sampler = make_sampler(stage.sampler, self._order(number, len(t.begun(study))))
        if is_sequence(stage.sampler):
            self._kept[number] = sampler
        return sampler

    def is_exhausted(self, study: Study) -> bool:
        """Whether there is nothing left to ask for: every point of a grid, which is the last stage, has been."""
        last = self.plan.stages[-1]
        if last.sampler != "grid":
            return False
        before = sum(stage.trials or 0 for stage in self.plan.stages[:-1])
        return _sampled(study) >= before + grid_size(self._branches, self._order(len(self.plan.stages) - 1, 0).points)

    def _stage(self, study: Study) -> int:
        done = _sampled(study)
        for number, stage in enumerate(self.plan.stages):
            if stage.trials is None or done < stage.trials:
                return number
            done -= stage.trials
        return len(self.plan.stages) - 1

    def _order(self, number: int, finished: int) -> Order:
        stage = self.plan.stages[number]
        given = {key: getattr(stage, key) for key in ("sigma", "population", "points", "start")}
        return Order(
            self._branches,
            self._seed,
            finished,
            label=f"/{number}" if number else "",
            dimensions=None if stage.dimensions == "all" else stage.dimensions,
            **{key: value for key, value in given.items() if value is not None},
        )


def _sampled(study: Study) -> int:
    return sum(t.kind_of(trial) == t.SAMPLED for trial in t.begun(study))

"""Schedules: which sampler asks for which trial, decided by the number of trials that have begun."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Protocol

from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from pydantic import AfterValidator, Field, model_validator

from mergesearch.errors import UserError, listed, nearest
from mergesearch.parsing import Strict
from mergesearch.search.samplers import (
    METHOD,
    SAMPLERS,
    Branch,
    HasCentre,
    ItemScores,
    SamplerRequest,
    SearchSpace,
    branches_of,
    grid_size,
    is_sequence,
    make_sampler,
    takes_whole_space,
    to_unit,
)
from mergesearch.search.samplers.branches import Point, all_dimensions
from mergesearch.search.study import trials as t
from mergesearch.seeds import derive

AUTO = "auto"
"""The sampler's name in the config that stands for a schedule which suits the space and the budget."""
NEAR = 0.01
"""Points that are no further apart in any dimension, as a fraction of its range, are as good as the same."""
EVOLUTIONS = ("cmaes", "catcma", "niches")
"""The samplers that have a population."""
GP_DIMENSIONS = SAMPLERS["gp"].dimensions
LOCAL_TRIALS = 500
"""Beyond this many trials, those of a Gaussian process are followed by an evolution, which needs less time to ask."""
GP_TRIALS_OF_SEVERAL = 120
"""Beyond this many trials with several objectives, their Gaussian processes take long to ask."""
ATTEMPTS = 3
"""How often a sampler draws a point that another worker is not at, before points are random ones."""
GENETIC_TRIALS = 1000
"""Beyond this many trials a genetic algorithm has enough generations for a front."""


def _check_sampler(name: str) -> str:
    if name not in SAMPLERS:
        raise ValueError(f"there is no sampler {name!r}{nearest(name, SAMPLERS)}")
    return name


class Tuning(Strict):
    """Settings: ``sigma`` (a fraction of each range), ``population`` of evolutions, and grid's ``points``."""

    sigma: float | None = Field(None, gt=0, le=1)
    population: int | None = Field(None, ge=4)
    points: int | None = Field(None, ge=2)

    def check_owner(self, sampler: str) -> None:
        """Raises ValueError for a setting that this sampler does not have."""
        for key, owners in (("sigma", (*EVOLUTIONS, "local")), ("population", EVOLUTIONS), ("points", ("grid",))):
            if getattr(self, key) is not None and sampler not in owners:
                raise ValueError(f"{key}: is a setting of {listed(owners)}, found with {sampler}")


class Stage(Tuning):
    """One sampler for a number of trials, in the last stage for all others; baselines and enqueued trials do not count.

    ``dimensions``: reduce the space to about so many, with numbered dimensions of one name on a curve. ``start``:
    where cmaes and catcma start.
    """

    sampler: Annotated[str, AfterValidator(_check_sampler)]
    trials: int | None = Field(None, ge=1)
    dimensions: int | Literal["all"] = Field("all")
    start: Literal["best", "middle"] = "best"

    @model_validator(mode="after")
    def _check_settings(self) -> "Stage":
        if isinstance(self.dimensions, int) and self.dimensions < 1:
            raise ValueError(f"dimensions: found {self.dimensions}, expected a number from 1, or all")
        if self.dimensions != "all" and takes_whole_space(self.sampler):
            able = ", ".join(name for name in SAMPLERS if not takes_whole_space(name))
            raise ValueError(
                f"dimensions: found {self.dimensions} with {self.sampler}, expected all, or another sampler: {able}"
            )
        self.check_owner(self.sampler)
        return self

    @property
    def described(self) -> str:
        """For display."""
        reduced = "" if self.dimensions == "all" else f" in about {self.dimensions} dimensions"
        return f"{self.sampler}{reduced}{f' for {self.trials} trials' if self.trials else ''}"


class SearchSettings(Protocol):
    """The keys of the config's ``search`` that a schedule follows from."""

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
class Schedule:
    """The stages of a run; ``why`` says what they follow from."""

    stages: tuple[Stage, ...]
    why: str

    def __str__(self) -> str:
        return f"{', then '.join(stage.described for stage in self.stages)} ({self.why})"


def plan(space: SearchSpace, settings: SearchSettings, several: bool = False) -> Schedule:
    """The schedule that the config gives, or one that suits the space and the budget.

    Args:
        space: the search space.
        settings: the config's ``search``.
        several: whether there are several objectives.
    """
    if settings.schedule:
        return Schedule(tuple(settings.schedule), "the config's schedule")
    if settings.sampler != AUTO:
        tuning = {key: getattr(settings, key) for key in Tuning.model_fields}
        return Schedule((Stage(sampler=settings.sampler, **tuning),), "the config's sampler")
    if several:
        return _plan_for_several(branches_of(space), settings.trials)
    if space.is_stack:
        return Schedule((Stage(sampler="stack"),), "the space is a stack of layers")
    return _plan_for_one(branches_of(space), settings)


def _plan_for_one(branches: Sequence[Branch], settings: SearchSettings) -> Schedule:
    """For one objective."""
    if _has_choices(branches, ignoring=METHOD):
        return Schedule((Stage(sampler="tpe"),), "the space has choices")
    dimensions, trials = max(len(branch.free) for branch in branches), settings.trials
    stays = f", staying with the best of {len(branches)} methods" if len(branches) > 1 else ""
    why = f"{dimensions} smooth dimensions and {trials} trials{stays}"
    if trials <= LOCAL_TRIALS:
        return Schedule((Stage(sampler="local", sigma=settings.sigma),), why)
    local = Stage(sampler="local", sigma=settings.sigma, trials=LOCAL_TRIALS // 2)
    return Schedule((local, Stage(sampler="cmaes", sigma=settings.sigma, population=settings.population)), why)


def _plan_for_several(branches: Sequence[Branch], trials: int) -> Schedule:
    """For several objectives.

    A genetic algorithm spends its first generation on random points and needs many more to be ahead of the models.
    """
    dimensions = max(len(branch.free) for branch in branches)
    if trials > GENETIC_TRIALS or dimensions > SAMPLERS["tpe"].dimensions:
        return Schedule((Stage(sampler="nsgaii"),), f"several objectives, {dimensions} dimensions and {trials} trials")
    if _has_choices(branches) or dimensions > GP_DIMENSIONS or trials > GP_TRIALS_OF_SEVERAL:
        return Schedule((Stage(sampler="tpe"),), "several objectives, with choices, many dimensions or many trials")
    return Schedule((Stage(sampler="gp"),), f"several objectives, {dimensions} smooth dimensions and {trials} trials")


def _has_choices(branches: Sequence[Branch], ignoring: str | None = None) -> bool:
    """Whether a dimension is a choice, the method among them; ``ignoring``: the name of one that does not count."""
    dimensions = [entry for branch in branches for entry in branch.free.items()]
    choices = [name for name, distribution in dimensions if isinstance(distribution, CategoricalDistribution)]
    return (len(branches) > 1 and ignoring is None) or any(name != ignoring for name in choices)


def check_follow_several(schedule: Schedule) -> None:
    """Raises UserError for a stage whose sampler cannot follow several objectives."""
    able = [name for name, traits in SAMPLERS.items() if traits.objectives]
    for stage in schedule.stages:
        if stage.sampler not in able:
            raise UserError(
                f"search: found the sampler {stage.sampler} with aggregate: pareto, expected one that follows several "
                f"objectives: auto, {', '.join(able)}"
            )


@dataclass(frozen=True)
class Turn:
    """Which sampler asks for the next trial. ``kept``: the one object of a sampler whose points are a sequence."""

    name: str
    request: SamplerRequest
    kept: BaseSampler | None

    @property
    def is_slow(self) -> bool:
        """Whether it may take long to ask."""
        return SAMPLERS[self.name].slow

    def sampler(self, attempt: int = 0) -> BaseSampler:
        """The sampler. At a further ``attempt`` it draws anew, and after a few at random."""
        if self.kept is not None:
            return self.kept
        seed = derive(self.request.seed, "again", attempt) if attempt else self.request.seed
        return make_sampler(self.name if attempt < ATTEMPTS else "random", replace(self.request, seed=seed))


class Strategy:
    """A schedule that is applied to a study. Arguments as for ``plan``; ``item_scores``: see ``ItemScores``."""

    def __init__(
        self,
        space: SearchSpace,
        settings: SearchSettings,
        several: bool = False,
        item_scores: ItemScores | None = None,
    ) -> None:
        self.schedule = plan(space, settings, several)
        self._branches = branches_of(space)
        self._seed = settings.seed
        self._item_scores = item_scores
        self._sequences: dict[int, BaseSampler] = {}

    def sampler(self, study: Study) -> BaseSampler:
        """The sampler of the next trial."""
        return self.turn(study).sampler()

    def turn(self, study: Study) -> Turn:
        """Whose turn the next trial is."""
        number = self._current_stage(study)
        name, request = self.schedule.stages[number].sampler, self._request(number, len(t.begun(study)))
        if is_sequence(name) and number not in self._sequences:
            self._sequences[number] = make_sampler(name, request)
        return Turn(name, request, self._sequences.get(number))

    def centre(self, study: Study) -> Point | None:
        """The centre of the next trial's sampler; None where it has none, or a point near it was scored in full."""
        sampler = self.sampler(study)
        centre = sampler.centre(study) if isinstance(sampler, HasCentre) else None
        is_known = centre is not None and any(self._is_near(centre, trial.params) for trial in t.completed(study))
        return None if is_known else centre

    def _is_near(self, one: Point, two: Point) -> bool:
        found = all_dimensions(self._branches)
        return one.keys() <= two.keys() and all(
            abs(to_unit(found[name], value) - to_unit(found[name], two[name])) <= NEAR for name, value in one.items()
        )

    def is_exhausted(self, study: Study) -> bool:
        """Whether the last stage is a grid, and every point of it has been asked for."""
        *before, last = self.schedule.stages
        if last.sampler != "grid":
            return False
        points = self._request(len(before), 0).points
        return _count_sampled(study) >= sum(stage.trials or 0 for stage in before) + grid_size(self._branches, points)

    def _current_stage(self, study: Study) -> int:
        """The index of the stage of the next trial."""
        left = _count_sampled(study)
        for number, stage in enumerate(self.schedule.stages):
            if stage.trials is None or left < stage.trials:
                return number
            left -= stage.trials
        return len(self.schedule.stages) - 1

    def _request(self, number: int, finished: int) -> SamplerRequest:
        stage = self.schedule.stages[number]
        tuning = {key: getattr(stage, key) for key in ("sigma", "population", "points", "start")}
        return SamplerRequest(
            self._branches,
            self._seed,
            finished,
            label=f"/{number}" if number else "",
            dimensions=None if stage.dimensions == "all" else stage.dimensions,
            item_scores=self._item_scores,
            **{key: value for key, value in tuning.items() if value is not None},
        )


def _count_sampled(study: Study) -> int:
    """The number of trials that samplers have asked for."""
    return len(t.of_kind(study, t.SAMPLED)) + sum(t.kind_of(trial) == t.SAMPLED for trial in t.running(study))

"""CMA-ES over a study.

Each candidate has a position (restart, generation, index) that is written on its trial, and the optimizer's state is
replayed from the trials that have ended: nothing is pickled. A candidate is drawn with a seed of its own from the state
at the start of its generation, so that it can be drawn again from the generations before it.

What a generation was told is written on the trials of the next one. A replay tells the same again, though the values of
the trials may be read otherwise by then: their candidates would not be drawn again from other ranks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Literal

from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from mergesearch.search.samplers._cmaes_backend import EvolutionStart, evolve, usual_population
from mergesearch.search.samplers._replayable import ReplayableSampler
from mergesearch.search.samplers._study_views import as_told, best_first, enqueued_point
from mergesearch.search.samplers._unit_cube import from_unit, to_unit
from mergesearch.search.samplers.branches import Branch, Point, branch_of
from mergesearch.search.study import trials as t
from mergesearch.search.study.trials import Position
from mergesearch.seeds import derive

SIGMA_OF_RESULT, SIGMA_OF_USUAL, SIGMA_OF_UNKNOWN = 0.05, 0.12, 0.3
"""Sigma around a point that a sampler or a gradient led to, around any other point, and where nothing is known."""
RESULTS = (t.SAMPLED, t.GRADIENT, t.CENTRE)
SPREAD = 3.0
"""The largest factor by which the first sigma of a dimension may differ from the mean."""
NO_ORIGIN = -1
AFTER = "after"
"""Where a candidate's slot has the ranks of the generation before its own."""
Ranks = Sequence[tuple[int, float]]
"""The candidates of a generation and their costs, the best first."""


@dataclass(frozen=True)
class CmaEsSettings:
    """What a config may set.

    Attributes:
        sigma: the first standard deviation, as a fraction of each range; None: by the point to start from.
        population: the number of candidates of a generation; None: by the number of dimensions.
        start: whether to start from the best trial so far or from the middle of the ranges.
        mixed: whether to use CatCMAwM even where all dimensions are continuous.
    """

    sigma: float | None = None
    population: int | None = None
    start: Literal["best", "middle"] = "best"
    mixed: bool = False


class CmaEsSampler(ReplayableSampler):
    """Searches around the best trial so far, in its branch; from the middle of the ranges where there is none.

    The first sigmas of the dimensions are in proportion to the spread of the points that gradients led to, if the study
    has any. A generation is told when as many of its candidates have ended as the population is large. Candidates that
    failed are ranked last; those that were stopped early count with their estimates. When a stopping criterion of the
    package is met, a new evolution starts at a random point with twice the population (IPOP, Auger and Hansen 2005).
    """

    def __init__(
        self, branches: Sequence[Branch], seed: int, label: str = "cmaes", settings: CmaEsSettings = CmaEsSettings()
    ) -> None:
        super().__init__(seed, label)
        self._branches = branches
        self._settings = settings
        self._replay: _Replay | None = None

    def space(self, study: Study) -> Mapping[str, BaseDistribution]:
        return self._current(study).branch.distributions

    def point(self, study: Study, trial: FrozenTrial) -> Point:
        replay, trials = self._current(study), self.trials_by_position(study)
        restart, generation = replay.advance(trials, study)
        index, point = self.first_free(
            study, lambda index: replay.branch.complete(replay.candidate(index)), restart, generation
        )
        self.claim(study, trial, restart, generation, index, begun=replay.origin, **{AFTER: replay.told})
        return point

    def centre(self, study: Study) -> Point | None:
        """The mean of the evolution's distribution; None until a first generation was told."""
        trials = self.trials_by_position(study)
        if not trials:
            return None
        # A replay of its own: the sampler's goes on with the values of the moment at which it asks.
        replay = self._start_replay(study, self._origin(study))
        replay.advance(trials, study)
        return replay.centre()

    def _current(self, study: Study) -> "_Replay":
        """The replay so far; a new one where the study's evolution has another origin."""
        origin = self._origin(study)
        if self._replay is None or self._replay.origin != origin:
            self._replay = self._start_replay(study, origin)
        return self._replay

    def _origin(self, study: Study) -> int:
        """The number of the trial that the evolution starts from: as its candidates say, else the best one so far."""
        for trial in self.trials_by_position(study).values():
            return int(trial.user_attrs[t.SLOT]["begun"])
        if self._settings.start == "middle":
            return NO_ORIGIN
        inside = (trial for trial in t.completed(study) if branch_of(trial, self._branches))
        return next((trial.number for trial in best_first(study, inside)), NO_ORIGIN)

    def _start_replay(self, study: Study, origin: int) -> "_Replay":
        trials = study.get_trials(deepcopy=False)
        first = trials[origin] if origin != NO_ORIGIN else None
        branch = (branch_of(first, self._branches) if first else None) or self._branches[0]
        middle = {name: from_unit(distribution, 0.5) for name, distribution in branch.free.items()}
        start = EvolutionStart(
            mean=first.params if first else middle,
            sigma=self._settings.sigma or _first_sigma(first),
            scales=_gradient_scales(branch, trials),
            population=self._settings.population or usual_population(len(branch.free)),
        )
        return _Replay(origin, branch, start, self.seed, self._settings.mixed)


def _first_sigma(origin: FrozenTrial | None) -> float:
    if origin is None:
        return SIGMA_OF_UNKNOWN
    return SIGMA_OF_RESULT if t.kind_of(origin) in RESULTS else SIGMA_OF_USUAL


def _gradient_scales(branch: Branch, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """How far the points that gradients led to are apart in each dimension, over the mean of all dimensions."""
    led_to = [trial for trial in trials if t.kind_of(trial) == t.GRADIENT and not t.is_interrupted(trial)]
    points = [enqueued_point(trial) or trial.params for trial in led_to]
    inside = [point for point in points if branch.distributions.keys() <= point.keys()]
    widths = {
        name: max(units) - min(units)
        for name, distribution in branch.free.items()
        if (units := [to_unit(distribution, point[name]) for point in inside])
    }
    mean = sum(widths.values()) / max(len(widths), 1)
    return {name: min(max(width / mean, 1 / SPREAD), SPREAD) for name, width in widths.items()} if mean else {}


class _Replay:
    """The evolution of a study up to its last complete generation.

    ``origin`` is the number of the trial at its start; ``told``, the ranks and costs that its last generation was told.
    """

    def __init__(self, origin: int, branch: Branch, start: EvolutionStart, seed: int, mixed: bool) -> None:
        self.origin = origin
        self.branch = branch
        self._start = start
        self._seed = seed
        self._mixed = mixed
        self.told: Ranks = []
        self._restart, self._generation = 0, 0
        self._evolution = evolve(branch.free, start, mixed)

    def centre(self) -> Point | None:
        """The mean of the current evolution, as a complete point; None in its first generation."""
        return self.branch.complete(self._evolution.centre()) if self._generation else None

    def candidate(self, index: int) -> Point:
        """The values of the free dimensions of a candidate of the current generation."""
        return self._evolution.candidate(self._seed_of(index))

    def advance(self, trials: Mapping[Position, FrozenTrial], study: Study) -> tuple[int, int]:
        """Tells every generation that is complete. Returns the current restart and generation."""
        while len(ended := list(self._ended(trials))) >= self._start.population:
            self._tell(self._told_before(trials) or _ranks(ended[: self._start.population], study))
        return self._restart, self._generation

    def _told_before(self, trials: Mapping[Position, FrozenTrial]) -> Ranks | None:
        """What the current generation was told, as the next one says."""
        following = (self._restart, self._generation + 1), (self._restart + 1, 0)
        next_ones = (trial for at, trial in trials.items() if at[:2] in following)
        return next((trial.user_attrs[t.SLOT][AFTER] for trial in next_ones), None)

    def _ended(self, trials: Mapping[Position, FrozenTrial]) -> Iterator[tuple[int, FrozenTrial]]:
        """The candidates of the current generation that have ended, with their index, the first to end first."""
        current = {at[2]: trial for at, trial in trials.items() if at[:2] == (self._restart, self._generation)}
        ended = [(index, trial) for index, trial in current.items() if trial.state.is_finished()]
        yield from sorted(ended, key=lambda entry: (entry[1].datetime_complete, entry[0]))

    def _tell(self, ranks: Ranks) -> None:
        self._evolution.tell([self._seed_of(int(index)) for index, _ in ranks], [cost for _, cost in ranks])
        self.told = ranks
        self._generation += 1
        if self._evolution.is_over():
            self._restart_elsewhere()

    def _restart_elsewhere(self) -> None:
        self._restart, self._generation = self._restart + 1, 0
        mean = {
            name: from_unit(distribution, derive(self._seed, "restart", self._restart, name) / 2**32)
            for name, distribution in self.branch.free.items()
        }
        self._start = EvolutionStart(mean, SIGMA_OF_UNKNOWN, {}, 2 * self._start.population)
        self._evolution = evolve(self.branch.free, self._start, self._mixed)

    def _seed_of(self, index: int) -> int:
        return derive(self._seed, "candidate", self._restart, self._generation, index)


def _ranks(ended: Sequence[tuple[int, FrozenTrial]], study: Study) -> Ranks:
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    told = [*zip((index for index, _ in ended), as_told(study, [trial for _, trial in ended]), strict=True)]
    scored = [(t.violation(each), sign * each.value, index) for index, each in told if each.value is not None]
    failed = sorted(index for index, trial in told if trial.value is None)
    ranked = [*sorted(scored), *((inf, inf, index) for index in failed)]
    costs = _rising([cost for _, cost, _ in ranked])
    return [(index, cost) for (*_, index), cost in zip(ranked, costs, strict=True)]


def _rising(costs: Sequence[float]) -> list[float]:
    """Costs in the order of the ranks, for a package that ranks by cost alone.

    A candidate that violates constraints, or that failed, gets at least the cost of all candidates ranked before it.
    """
    largest = max((cost for cost in costs if cost < inf), default=0.0)
    return list(accumulate((cost if cost < inf else largest for cost in costs), max))

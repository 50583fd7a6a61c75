"""CMA-ES over a study: every candidate has a place (restart, generation, index), and the state is replayed from them.

Nothing is pickled. A candidate is drawn with a seed of its own from the state that its generation began with, so that
the generations told so far are all that it takes to draw it again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import inf
from typing import Any, Literal

from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from mergesearch.search.samplers import _replayable as _base
from mergesearch.search.samplers._cmaes_backend import Evolution, Start, evolve, usual_population
from mergesearch.search.samplers._space import Branch, Point
from mergesearch.search.samplers._unit_cube import from_unit, to_unit
from mergesearch.search.study import trials as t
from mergesearch.seeds import derive

NEAR, USUAL, FAR = 0.05, 0.1, 0.3
"""Sigma around a point that a search or a descent led to, around usual settings, and where nothing is known."""
SPREAD = 3.0
"""How much wider or narrower than the others a dimension may begin."""
NOWHERE = -1


@dataclass(frozen=True)
class Settings:
    """What the config may say: sigma as a part of the ranges, the size of a generation, and where to begin."""

    sigma: float | None = None
    population: int | None = None
    start: Literal["best", "middle"] = "best"


class CmaEsSampler(_base.PlacedSampler):
    """Evolves around the best trial so far, in its branch of the space; begins at the middle where there is none.

    The first sigma of each dimension follows the points that gradients led to, where the study has them. A generation
    is told when as many candidates have ended as it is large; failed ones come last, stopped ones count with the value
    that they had. When the package's criteria end an evolution, another begins at a random point with a population
    twice as large (IPOP, Auger and Hansen 2005).
    """

    def __init__(
        self, branches: Sequence[Branch], seed: int, label: str = "cmaes", settings: Settings = Settings()
    ) -> None:
        super().__init__(seed, label)
        self._branches = branches
        self._settings = settings
        self._replay: _Replay | None = None

    def space(self, study: Study) -> Mapping[str, BaseDistribution]:
        return self._current(study).branch.distributions

    def point(self, study: Study, trial: FrozenTrial) -> Point:
        replay, taken = self._current(study), self.taken(study)
        restart, generation = replay.advance(taken, study.direction)
        index = _base.first_free(taken, restart, generation)
        self.take(study, trial, restart, generation, index, begun=replay.begun)
        return replay.branch.whole(replay.candidate(index))

    def _current(self, study: Study) -> "_Replay":
        """The replay as far as it was told; begun anew where the study's evolution is another one."""
        begun = self._begun(study)
        if self._replay is None or self._replay.begun != begun:
            self._replay = self._replay_from(study, begun)
        return self._replay

    def _begun(self, study: Study) -> int:
        """The number of the trial that the evolution begins at: as the places say, else the best one so far."""
        for trial in self.taken(study).values():
            return int(trial.user_attrs[t.SLOT]["begun"])
        if self._settings.start == "middle":
            return NOWHERE
        points = [trial for trial in t.completed(study) if self._branch_of(trial)]
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        ranked = sorted(points, key=lambda trial: (t.violation(trial), -sign * t.score_of(trial), trial.number))
        best = ranked[0] if ranked else None
        return best.number if best else NOWHERE

    def _branch_of(self, trial: FrozenTrial) -> Branch | None:
        return next((branch for branch in self._branches if branch.holds(trial)), None)

    def _replay_from(self, study: Study, begun: int) -> "_Replay":
        trials = study.get_trials(deepcopy=False)
        first = trials[begun] if begun != NOWHERE else None
        branch = (self._branch_of(first) if first else None) or self._branches[0]
        mean = first.params if first else {name: from_unit(found, 0.5) for name, found in branch.free.items()}
        sigma = self._settings.sigma or _sigma(first)
        population = self._settings.population or usual_population(len(branch.free))
        start = Start(mean, sigma, _scales(branch, trials), population)
        return _Replay(begun, branch, start, self.seed)


def _sigma(first: FrozenTrial | None) -> float:
    if first is None:
        return FAR
    return USUAL if t.kind_of(first) == t.START else NEAR


def _scales(branch: Branch, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """How far the points that gradients led to lie apart in each dimension, over the mean of all dimensions."""
    paths = [_given(trial) for trial in trials if t.kind_of(trial) == t.GRADIENT and not t.is_interrupted(trial)]
    inside = [point for point in paths if branch.distributions.keys() <= point.keys()]
    widths = {
        name: max(units) - min(units)
        for name, found in branch.free.items()
        if (units := [to_unit(found, point[name]) for point in inside])
    }
    mean = sum(widths.values()) / max(len(widths), 1)
    return {name: min(max(width / mean, 1 / SPREAD), SPREAD) for name, width in widths.items()} if mean else {}


def _given(trial: FrozenTrial) -> Mapping[str, Any]:
    enqueued: Mapping[str, Any] | None = trial.system_attrs.get("fixed_params")
    return enqueued or trial.params


def _rising(costs: Sequence[float]) -> list[float]:
    """The costs of ranked candidates as the packages take them, which rank by costs alone.

    Those that miss a constraint, and those that failed, cost at least as much as all before them.
    """
    finite = [cost for cost in costs if cost < inf]
    return list(accumulate((cost if cost < inf else max(finite, default=0.0) for cost in costs), max))


class _Replay:
    """The evolution of a study, as far as its generations are whole."""

    def __init__(self, begun: int, branch: Branch, start: Start, seed: int) -> None:
        self.begun = begun
        self.branch = branch
        self._start = start
        self._seed = seed
        self._restart, self._generation = 0, 0
        self._evolution: Evolution = evolve(branch.free, start)

    def candidate(self, index: int) -> Point:
        """The candidate at an index of the present generation."""
        return self._evolution.candidate(self._seed_of(index))

    def advance(self, taken: Mapping[tuple[int, ...], FrozenTrial], direction: StudyDirection) -> tuple[int, int]:
        """Tells every generation that is whole; the restart and generation that are then under way."""
        sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
        while len(ended := list(self._ended(taken))) >= self._start.population:
            self._tell(ended[: self._start.population], sign)
        return self._restart, self._generation

    def _ended(self, taken: Mapping[tuple[int, ...], FrozenTrial]) -> Iterator[tuple[int, FrozenTrial]]:
        """The candidates of the present generation that have ended, by index, the first to end first."""
        here = {place[2]: trial for place, trial in taken.items() if place[:2] == (self._restart, self._generation)}
        ended = [(index, trial) for index, trial in here.items() if trial.state.is_finished()]
        yield from sorted(ended, key=lambda entry: (entry[1].datetime_complete, entry[0]))

    def _tell(self, ended: Sequence[tuple[int, FrozenTrial]], sign: float) -> None:
        scored = [(t.violation(each), sign * each.value, index) for index, each in ended if each.value is not None]
        failed = sorted(index for index, trial in ended if trial.value is None)
        ranked = [*sorted(scored), *((inf, inf, index) for index in failed)]
        costs = _rising([cost for _, cost, _ in ranked])
        self._evolution.tell([self._seed_of(index) for *_, index in ranked], costs)
        self._generation += 1
        if self._evolution.is_over():
            self._begin_again()

    def _begin_again(self) -> None:
        self._restart, self._generation = self._restart + 1, 0
        units = (derive(self._seed, "restart", self._restart, name) / 2**32 for name in self.branch.free)
        mean = {
            name: from_unit(found, unit) for (name, found), unit in zip(self.branch.free.items(), units, strict=True)
        }
        self._start = replace(self._start, mean=mean, sigma=FAR, scales={}, population=2 * self._start.population)
        self._evolution = evolve(self.branch.free, self._start)

    def _seed_of(self, index: int) -> int:
        return derive(self._seed, "candidate", self._restart, self._generation, index)

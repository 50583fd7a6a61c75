"""Coarse to fine: a search in few dimensions first, level by level, each begun at the best point so far.

The first level, one value for all models, is the sweep that a person does by hand. Its best point is a baseline like
the others: the claim is against it, too. The levels after it are searched near the best point, by a Gaussian process.
A level ends when it has had its share of the trials, or when its last trials brought nothing better. Everything follows
from the study.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from mergesearch.merge_ops.methods import Method, Scalar, find_method
from mergesearch.search.candidates.source import Candidate, Done, Wait
from mergesearch.search.candidates.sweep import next_point
from mergesearch.search.samplers import METHOD, Snapshot, from_unit, to_unit
from mergesearch.search.samplers.branches import Point
from mergesearch.search.samplers.tied import TiedBox, is_tied
from mergesearch.search.space.levels import NAMES, SINGLE, Level, levels_of
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t
from mergesearch.search.study.told import Told, as_they_are, ranked
from mergesearch.seeds import derive

BEST_SINGLE = "best single weight"
SWEPT, FEWEST_SWEPT, SWEPT_OF = 6, 2, 2
"""The most trials of the sweep, the fewest for which it is begun, and one of how many trials beside the baselines.

Scored baselines lie on its line, so that few points find the top.
"""
SHARE = 0.25
"""The largest share of the trials beside the baselines that a level has."""
FEWEST = 4
"""A level for which there are fewer trials is left out."""
WIDTH = 0.25
"""How far a level's points are from the best one, as a part of each range."""
KINDS = (t.SWEEP, t.LEVEL)
DEEPEST = 1
"""How many levels come before a descent, which brings more from there than the next level at the same price."""
RANDOM = 6
"""The most random points with which a level begins."""


class CoarseToFine:
    """The levels of the space as candidates.

    ``trials`` is how many the run has beside the baselines; ``seed`` is the run's. ``deepest`` is how many levels are
    searched; None: all. Trials are compared as they are ``told``.
    """

    may_overtake = False

    def __init__(
        self, space: Space, trials: int, seed: int, deepest: int | None = None, told: Told = as_they_are
    ) -> None:
        self._space, self._trials, self._seed, self._deepest, self._told = space, trials, seed, deepest, told
        self._distributions = {each.name: each.distribution for each in space.dimensions}

    def next(self, study: Study) -> Candidate | Wait | Done:
        """See ``Source.next``."""
        if t.begun_of_kind(study, t.SAMPLED) or t.begun_of_kind(study, t.GRADIENT):
            return Done("finer candidates have begun")
        method = self._method(study)
        for level in levels_of(self._space, method)[: self._deepest]:
            offer = self._sweep(study, method, level) if level.name == SINGLE else self._search(study, method, level)
            if not isinstance(offer, Done):
                return offer
        return Done("no level is left")

    def _method(self, study: Study) -> Method:
        """The method of the levels that have begun, else that of the best point so far."""
        own = [trial for trial in t.begun(study) if t.kind_of(trial) in KINDS and trial.params]
        points = own[:1] or self._ranked([trial for trial in t.completed(study) if trial.params])
        names = [str(trial.params[METHOD]) for trial in points if METHOD in trial.params]
        return find_method(names[0]) if names else self._space.methods[0]

    def _sweep(self, study: Study, method: Method, level: Level) -> Candidate | Wait | Done:
        """The next point of the sweep; at its end, the best one as a baseline, unless that is one already."""
        own = t.begun_of_kind(study, t.SWEEP)
        limit = min(SWEPT, self._trials // SWEPT_OF)
        if limit < FEWEST_SWEPT or self._later(study, level) or BEST_SINGLE in t.names_of_kind(study, t.BASELINE):
            return Done("the sweep has ended")
        line = self._line(study, method, level, own)
        unit = next_point(line.known) if len(own) < limit else None
        if unit is not None:
            return Candidate(t.SWEEP, level.name, point=line.point(unit))
        if any(not trial.state.is_finished() for trial in own):
            return Wait()
        best = next(iter(self._ranked(line.trials)), None)
        if best is None or t.kind_of(best) in t.NAMED:
            return Done("the best single weight is a baseline")
        return Candidate(t.BASELINE, BEST_SINGLE, point=best.params)

    def _line(self, study: Study, method: Method, level: Level, own: Sequence[FrozenTrial]) -> "_Line":
        """The line of the sweep, through the first of its points, else through the best point on such a line."""
        through = own[:1] or self._tied(study, method, level)[:1]
        start = through[0].params if through else self._space.start(method, _defaults(method))
        (names,) = level.groups
        box = TiedBox(start, level.groups, self._distributions, 1.0)
        trials = [trial for trial in t.begun(study) if box.contains(trial.params)]
        return _Line(start, names, self._distributions[names[0]], self._told(trials))

    def _ranked(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return ranked(trials, self._told)

    def _search(self, study: Study, method: Method, level: Level) -> Candidate | Done:
        """The next point near the best one that the level has."""
        own = [each for each in t.begun_of_kind(study, t.LEVEL) if each.user_attrs[t.NAME] == level.name]
        best = next(iter(self._tied(study, method, level)), None)
        dimensions = len(level.groups)
        if best is None or self._later(study, level) or len(own) >= self._share:
            return Done("the level has had its share")
        if sum(trial.number > best.number for trial in own) >= dimensions + 1:
            return Done("the level brings nothing better")
        box = TiedBox(best.params, level.groups, self._distributions, WIDTH)
        seed, learns = derive(self._seed, "level", level.name, len(own)), len(own) >= min(dimensions, RANDOM)
        return Candidate(t.LEVEL, level.name, find=partial(_asked, box, Snapshot(study, self._told), learns, seed))

    def _tied(self, study: Study, method: Method, level: Level) -> list[FrozenTrial]:
        """The completed trials of the method that are points of the level, the best first."""
        of_method = [trial for trial in t.completed(study) if trial.params.get(METHOD, method.name) == method.name]
        return self._ranked([trial for trial in of_method if is_tied(trial.params, level.groups)])

    def _later(self, study: Study, level: Level) -> bool:
        """Whether a level after this one has begun: a level that has ended stays so, if the run gets more trials."""
        begun = t.names_of_kind(study, t.LEVEL)
        return bool(begun & set(NAMES[NAMES.index(level.name) + 1 :]))

    @property
    def _share(self) -> int:
        """The most trials that a level has."""
        share = int(SHARE * self._trials)
        return share if share >= FEWEST else 0


@dataclass(frozen=True)
class _Line:
    """The points with one value for all, and the trials on it; the other dimensions are the start's."""

    start: Mapping[str, Scalar]
    names: Sequence[str]
    distribution: BaseDistribution
    begun: Sequence[FrozenTrial]

    @property
    def trials(self) -> list[FrozenTrial]:
        """Those that have a value, be it an estimate."""
        return [trial for trial in self.begun if trial.state.is_finished() and trial.value is not None]

    @property
    def known(self) -> dict[float, float]:
        """The score at each coordinate; at those that are in work or failed, the lowest of the others."""
        lowest = min(map(t.score_of, self.trials), default=0.0)
        known = {self._unit(trial): lowest for trial in self.begun}
        return known | {self._unit(trial): t.score_of(trial) for trial in self.trials}

    def point(self, unit: float) -> Point:
        return {**self.start, **dict.fromkeys(self.names, from_unit(self.distribution, unit))}

    def _unit(self, trial: FrozenTrial) -> float:
        return to_unit(self.distribution, trial.params[self.names[0]])


def _asked(box: TiedBox, study: Study, learns: bool, seed: int, attempt: int) -> Point:
    return box.ask(study, learns and not attempt, derive(seed, "again", attempt) if attempt else seed)


def _defaults(method: Method) -> dict[str, Scalar]:
    return {each.name: each.default for each in method.parameters if each.default is not None}

"""Samplers whose points are a sequence, which is replayed from the study's trials, and those that have a centre."""

from collections.abc import Callable, Container, Iterator, Mapping
from itertools import count, islice
from typing import Any, Protocol, runtime_checkable

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.search.samplers._study_views import enqueued_point, set_user_attr, viewed
from mergesearch.search.samplers.branches import Point
from mergesearch.search.study import trials as t
from mergesearch.search.study.trials import Position
from mergesearch.seeds import derive

MOST_LEFT_OUT = 20
"""How many positions are left out at most because other workers are at their points."""


@runtime_checkable
class HasCentre(Protocol):
    """A sampler whose distribution of points has a centre."""

    def centre(self, study: Study) -> Point | None:
        """The centre, a complete point that the study's trials determine; None while they say nothing of it.

        The best of noisy scores is a lucky one. The centre follows from all of them, and is mostly better.
        """
        ...


class ReplayableSampler(BaseSampler):
    """A sampler whose points are a sequence: each trial gets the first position that no other trial has.

    The position is written on the trial, so that a new sampler object continues the sequence. A trial whose process
    ended frees its position, for the trial that repeats it or for the next one.

    Args:
        seed: the seed of the sequence, the same for every trial.
        label: tells the sequences of one study apart.
    """

    def __init__(self, seed: int, label: str) -> None:
        self.seed = seed
        self.label = label

    def space(self, study: Study) -> Mapping[str, BaseDistribution]:
        """The dimensions of ``point``; there may be more."""
        raise NotImplementedError

    def point(self, study: Study, trial: FrozenTrial) -> Point:
        """The complete point of the trial, for which it claims a position (see ``claim``)."""
        raise NotImplementedError

    def trials_by_position(self, study: Study) -> dict[Position, FrozenTrial]:
        """The trials of this sequence, without those whose process ended."""
        history = t.history_of(viewed(study))
        unfinished = [trial for trial in history.unfinished.values() if trial.user_attrs.get(t.SLOT)]
        own = [trial for trial in unfinished if trial.user_attrs[t.SLOT]["of"] == self.label]
        return history.slots[self.label] | {tuple(trial.user_attrs[t.SLOT]["place"]): trial for trial in own}

    def first_free(self, study: Study, point: Callable[[int], Point], *prefix: int) -> tuple[int, Point]:
        """The lowest number that, after ``prefix``, is a position that no trial has, and its point.

        Numbers are left out at whose points other workers are, as far as ``MOST_LEFT_OUT``.
        """
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        numbers = islice(_free(self.trials_by_position(study), *prefix), MOST_LEFT_OUT)
        first = None
        for number in numbers:
            found = number, point(number)
            if not any(_is_at(trial, found[1]) for trial in running):
                return found
            first = first or found
        assert first is not None
        return first

    def claim(self, study: Study, trial: FrozenTrial, *position: int, **state: Any) -> None:
        """Writes the trial's position on it, and the state that a later replay of the sequence needs."""
        set_user_attr(study, trial, t.SLOT, {"of": self.label, "place": list(position), **state})

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.space(study)) if enqueued_point(trial) is None else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.point(study, trial) if search_space else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for dimensions that are not in ``space``."""
        sampler = RandomSampler(seed=derive(self.seed, self.label, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Does nothing: all randomness comes from ``seed``."""


def _free(taken: Container[Position], *prefix: int) -> Iterator[int]:
    """The numbers that, after ``prefix``, are positions that no trial has."""
    return (number for number in count() if (*prefix, number) not in taken)


def _is_at(trial: FrozenTrial, point: Point) -> bool:
    """Whether a trial has the point's values in all dimensions that it has of it."""
    own = {name: value for name, value in point.items() if name in trial.params}
    return bool(own) and all(trial.params[name] == value for name, value in own.items())

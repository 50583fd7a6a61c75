"""Optuna's samplers by name, shown only the trials that lie in the search space."""

import warnings
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mergesearch.errors import nearest
from mergesearch.search.stack_sampler import StackSampler

GP_DIMENSIONS = 30
GP_TRIALS = 250


def _gp(seed: int) -> BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)


def _cmaes(seed: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)


def _tpe(seed: int) -> BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)


def _nsgaii(seed: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=seed)


def _qmc(seed: int) -> BaseSampler:
    return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)


def _stack(seed: int) -> BaseSampler:
    return StackSampler(seed)


def _random(seed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


SAMPLERS: dict[str, Callable[[int], BaseSampler] | None] = {
    "auto": None,
    "gp": _gp,
    "cmaes": _cmaes,
    "tpe": _tpe,
    "nsgaii": _nsgaii,
    "qmc": _qmc,
    "random": _random,
    "stack": _stack,
}
"""By the name in the config; ``auto`` is what ``choose`` chooses."""


@dataclass(frozen=True)
class Capabilities:
    """What a sampler can do. ``dimensions``: the most that it is of use for.

    ``conditional``, where methods have parameters of their own: ``learns`` which method is best; ``stays`` with one;
    ``draws`` the method, and what not all have, at random.
    """

    choices: bool
    conditional: Literal["learns", "stays", "draws"]
    objectives: bool
    constraints: bool
    dimensions: int


CAPABILITIES: dict[str, Capabilities] = {
    "gp": Capabilities(True, "draws", True, True, 30),
    "cmaes": Capabilities(False, "draws", False, False, 1000),
    "tpe": Capabilities(True, "learns", True, True, 50),
    "nsgaii": Capabilities(True, "draws", True, True, 50),
    "qmc": Capabilities(False, "draws", True, False, 1000),
    "random": Capabilities(True, "draws", True, False, 1000),
    "stack": Capabilities(True, "draws", False, False, 1000),
}
"""By the name in the config."""

SEQUENCES = frozenset({"qmc"})
"""Samplers whose points are one sequence: they keep one seed for the whole run."""


class SpaceShape(Protocol):
    """What ``choose`` asks of a search space."""

    @property
    def is_stack(self) -> bool: ...
    @property
    def has_choices(self) -> bool: ...
    @property
    def is_conditional(self) -> bool: ...
    @property
    def holes(self) -> list[Any]: ...


def choose(space: SpaceShape, trials: int) -> tuple[str, str]:
    """The sampler that suits the space and the budget, and why."""
    dimensions = len(space.holes)
    if space.is_stack:
        return "stack", "the space is a stack of layers"
    if space.is_conditional or space.has_choices:
        return "tpe", "the space has choices"
    if dimensions <= GP_DIMENSIONS and trials <= GP_TRIALS:
        return "gp", f"{dimensions} smooth dimensions and {trials} trials"
    return "cmaes", f"{dimensions} smooth dimensions and {trials} trials"


def make_sampler(name: str, seed: int) -> BaseSampler:
    """A sampler of that name; raises KeyError with the nearest name where there is none."""
    factory = SAMPLERS.get(name)
    if factory is None:
        raise KeyError(f"no sampler {name!r}{nearest(name, SAMPLERS)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return InSpace(factory(seed))


class _SpaceStudy(Study):
    """A study without the finished trials that have no parameters: recipes from outside the search space.

    Most samplers look for the parameters that all trials share, and would find none.
    """

    def __init__(self, study: Study) -> None:
        self.__dict__.update(study.__dict__)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        return [trial for trial in trials if trial.params or not trial.state.is_finished()]


class InSpace(BaseSampler):
    """The wrapped sampler, which sees the trials in the search space alone."""

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(_SpaceStudy(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(_SpaceStudy(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(_SpaceStudy(study), trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(_SpaceStudy(study), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self._sampler.after_trial(_SpaceStudy(study), trial, state, values)

    def reseed_rng(self) -> None:
        """Nothing: seeds come from the run's."""

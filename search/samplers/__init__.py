"""Samplers by name: what each can do, and how it is made.

A sampler is made anew for every trial, and everything that it knows comes from the study's finished trials and its
seed: a run that was killed at any instant and resumed asks for what it would have asked for otherwise.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.samplers import BaseSampler

from mergesearch.errors import nearest
from mergesearch.search.samplers import _optuna
from mergesearch.search.samplers._cmaes import CmaEsSampler, Settings
from mergesearch.search.samplers._grid import POINTS, GridSampler, grid_size
from mergesearch.search.samplers._qmc import QmcSampler
from mergesearch.search.samplers._reduced import TiedSampler
from mergesearch.search.samplers._replayable import InSpace, PlacedSampler
from mergesearch.search.samplers._space import METHOD, Branch, SearchSpace, branches_of
from mergesearch.search.samplers._unit_cube import from_unit, to_unit
from mergesearch.search.samplers.stack import StackSampler
from mergesearch.seeds import derive

__all__ = [
    "METHOD",
    "SAMPLERS",
    "Branch",
    "Kind",
    "Order",
    "SearchSpace",
    "branches_of",
    "find_sampler",
    "from_unit",
    "grid_size",
    "is_sequence",
    "make_sampler",
    "to_unit",
]


@dataclass(frozen=True)
class Order:
    """What a sampler is wanted for. ``label`` tells the sequences of one study apart."""

    branches: Sequence[Branch]
    seed: int
    finished: int = 0
    label: str = ""
    dimensions: int | None = None
    sigma: float | None = None
    population: int | None = None
    start: Literal["best", "middle"] = "best"
    points: int = POINTS


@dataclass(frozen=True)
class Kind:
    """A sampler: how it is made, and what it can do.

    ``conditional``, where methods have parameters of their own: ``learns`` which method is best; ``stays`` with the
    method of the best trial so far; ``draws`` the method, and what not all have, at random or in turn. ``dimensions``:
    the most that it is of use for.
    """

    make: Callable[[Order], BaseSampler]
    choices: bool
    conditional: Literal["learns", "stays", "draws"]
    objectives: bool
    constraints: bool
    dimensions: int
    summary: str


def _seeded(make: Callable[[int], BaseSampler]) -> Callable[[Order], BaseSampler]:
    """Optuna's samplers, whose seed must change from trial to trial."""
    return lambda order: make(derive(order.seed, "sampler", order.finished))


def _make_cmaes(order: Order) -> BaseSampler:
    settings = Settings(order.sigma, order.population, order.start)
    return CmaEsSampler(order.branches, derive(order.seed, "cmaes"), f"cmaes{order.label}", settings)


def _make_qmc(order: Order) -> BaseSampler:
    return QmcSampler(order.branches, derive(order.seed, "qmc"), f"qmc{order.label}")


def _make_grid(order: Order) -> BaseSampler:
    return GridSampler(order.branches, order.seed, f"grid{order.label}", order.points)


SAMPLERS: dict[str, Kind] = {
    "gp": Kind(_seeded(_optuna.gp), True, "stays", True, True, 30, "Gaussian process: a few smooth dimensions"),
    "cmaes": Kind(_make_cmaes, True, "stays", False, True, 1000, "CMA-ES from the best so far; diagonal where large"),
    "tpe": Kind(_seeded(_optuna.tpe), True, "learns", True, True, 50, "Parzen estimators: choices and conditions"),
    "nsgaii": Kind(_seeded(_optuna.nsgaii), True, "draws", True, True, 50, "genetic: several objectives"),
    "nsgaiii": Kind(_seeded(_optuna.nsgaiii), True, "draws", True, True, 50, "genetic: more than three objectives"),
    "qmc": Kind(_make_qmc, True, "draws", True, False, 1000, "Sobol points: even coverage, learns nothing"),
    "random": Kind(_seeded(_optuna.random), True, "draws", True, False, 1000, "random points: the yardstick"),
    "grid": Kind(_make_grid, True, "draws", True, False, 6, "every combination, in order"),
    "stack": Kind(_seeded(StackSampler), True, "draws", False, True, 1000, "mutations of whole stacks of layers"),
}
"""By the name in the config, beside ``auto``, which is a schedule of them (see ``schedule``)."""


def find_sampler(name: str) -> Kind:
    """The sampler of that name; raises KeyError with the nearest name where there is none."""
    if name not in SAMPLERS:
        raise KeyError(f"no sampler {name!r}{nearest(name, SAMPLERS)}")
    return SAMPLERS[name]


def make_sampler(name: str, order: Order) -> BaseSampler:
    """A sampler of that name."""
    kind = find_sampler(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = kind.make(order)
    if isinstance(sampler, PlacedSampler):
        return sampler
    dimensions = order.dimensions
    if dimensions is None and kind.conditional == "stays" and len(order.branches) > 1:
        dimensions = max(len(branch.free) for branch in order.branches)
    return InSpace(sampler) if dimensions is None else TiedSampler(sampler, order.branches, dimensions)


def is_sequence(name: str) -> bool:
    """Whether the sampler may be kept from trial to trial, which makes its asking cheaper and changes nothing else."""
    return name in ("cmaes", "qmc", "grid")

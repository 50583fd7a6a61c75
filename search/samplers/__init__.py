"""Samplers: points of a search space, one file an algorithm.

``SAMPLERS`` lists them by the name in the config, and ``schedule`` decides which one asks for which trial.

* Algorithms: ``local`` with ``_gaussian_process`` and ``_observations``, ``cmaes``, ``niches``, ``grid``, ``qmc``,
  ``stack``, and Optuna's own in ``optuna_samplers``.
* ``branches``: what a sampler needs of a space; ``_unit_cube``: dimensions as coordinates from 0 to 1.
* ``_in_branch``: samplers that choose a point of one method; ``_replayable``: samplers whose points are a sequence;
  ``_reduced``: sampling in fewer dimensions; ``tied``: near a
  point, with one value for each group of dimensions.
* ``fixed``: a point that is given.
* ``_study_views``: what a sampler sees of a study, and all use of Optuna's private API.

A sampler is made anew for every trial. All that it knows comes from the study's finished trials and from its seed, so a
run that is killed at any moment and resumed asks for the same points as a run that is not.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler

from mergesearch.errors import nearest
from mergesearch.search.samplers import optuna_samplers
from mergesearch.search.samplers._reduced import ReducedSampler
from mergesearch.search.samplers._replayable import HasCentre
from mergesearch.search.samplers._study_views import Drawn, Snapshot, StudyWithEstimates, ask_nothing, running_trial
from mergesearch.search.samplers._unit_cube import from_unit, to_unit
from mergesearch.search.samplers.branches import Branch, SearchSpace, branches_of
from mergesearch.search.samplers.cmaes import CmaEsSampler, CmaEsSettings
from mergesearch.search.samplers.grid import POINTS, GridSampler, grid_size
from mergesearch.search.samplers.niches import ItemScores, NichesSampler
from mergesearch.search.samplers.optuna_samplers import InSpaceSampler
from mergesearch.search.samplers.qmc import QmcSampler
from mergesearch.search.samplers.stack import StackSampler
from mergesearch.search.space.dimension import METHOD
from mergesearch.seeds import derive

__all__ = [
    "METHOD",
    "SAMPLERS",
    "Branch",
    "Drawn",
    "HasCentre",
    "ItemScores",
    "SamplerRequest",
    "SamplerTraits",
    "SearchSpace",
    "Snapshot",
    "StudyWithEstimates",
    "ask_nothing",
    "branches_of",
    "find_sampler",
    "from_unit",
    "grid_size",
    "is_sequence",
    "make_sampler",
    "running_trial",
    "takes_whole_space",
    "to_unit",
]


@dataclass(frozen=True)
class SamplerRequest:
    """What a sampler is made for.

    Attributes:
        branches: the search space.
        seed: the seed of the run.
        finished: the number of trials so far; another one for every trial.
        label: tells the sequences of one study apart.
        dimensions: the number of dimensions that the sampler is to see; None: all.
        sigma: of ``cmaes``, ``catcma``, ``local`` and ``niches``; see there.
        population: of ``cmaes``, ``catcma`` and ``niches``.
        start: of ``cmaes`` and ``catcma``.
        points: of ``grid``: the number of points of a range without steps.
        item_scores: for ``niches``; see ``ItemScores``.
    """

    branches: Sequence[Branch]
    seed: int
    finished: int = 0
    label: str = ""
    dimensions: int | None = None
    sigma: float | None = None
    population: int | None = None
    start: Literal["best", "middle"] = "best"
    points: int = POINTS
    item_scores: ItemScores | None = None


@dataclass(frozen=True)
class SamplerTraits:
    """How a sampler is made, and what it can do.

    Attributes:
        make: makes one.
        choices: whether it learns from the values of choices.
        conditional: what it does where methods have dimensions of their own. It ``learns`` which method is best, it
            ``stays`` with the method of the best trial so far, or it ``draws`` the method, and what not all methods
            have, at random or in turn.
        objectives: whether it can follow several objectives.
        constraints: whether it learns from constraints.
        dimensions: the largest number of dimensions that it is of use for.
        slow: whether it may take long to ask, so that it is asked outside of the run's lock.
        summary: one line for the user.
    """

    make: Callable[[SamplerRequest], BaseSampler]
    choices: bool
    conditional: Literal["learns", "stays", "draws"]
    objectives: bool
    constraints: bool
    dimensions: int
    slow: bool
    summary: str


def _per_trial(make: Callable[[int], BaseSampler]) -> Callable[[SamplerRequest], BaseSampler]:
    """For samplers whose seed must be another one for every trial."""
    return lambda request: make(derive(request.seed, "sampler", request.finished))


def _cmaes(request: SamplerRequest) -> BaseSampler:
    settings = CmaEsSettings(request.sigma, request.population, request.start)
    return CmaEsSampler(request.branches, derive(request.seed, "cmaes"), f"cmaes{request.label}", settings)


def _catcma(request: SamplerRequest) -> BaseSampler:
    settings = CmaEsSettings(request.sigma, request.population, request.start, mixed=True)
    return CmaEsSampler(request.branches, derive(request.seed, "catcma"), f"catcma{request.label}", settings)


def _local(request: SamplerRequest) -> BaseSampler:
    from mergesearch.search.samplers.local import LocalSampler

    return LocalSampler(request.branches, derive(request.seed, "local", request.finished), request.sigma)


def _niches(request: SamplerRequest) -> BaseSampler:
    seed = derive(request.seed, "niches", request.finished)
    return NichesSampler(request.branches, seed, request.item_scores, request.population, request.sigma)


def _qmc(request: SamplerRequest) -> BaseSampler:
    return QmcSampler(request.branches, derive(request.seed, "qmc"), f"qmc{request.label}")


def _grid(request: SamplerRequest) -> BaseSampler:
    return GridSampler(request.branches, request.seed, f"grid{request.label}", request.points)


SAMPLERS: dict[str, SamplerTraits] = {
    # make, choices, conditional, objectives, constraints, dimensions, slow, summary
    "gp": SamplerTraits(
        _per_trial(optuna_samplers.gp), True, "stays", True, True, 30, True, "Gaussian process: a few smooth dimensions"
    ),
    "local": SamplerTraits(
        _local, True, "stays", False, True, 200, True, "Gaussian process near the best: many dimensions, noisy scores"
    ),
    "cmaes": SamplerTraits(
        _cmaes, True, "stays", False, True, 1000, False, "CMA-ES from the best so far; diagonal where large"
    ),
    "catcma": SamplerTraits(
        _catcma, True, "stays", False, True, 100, False, "CatCMA with margin: choices, steps and ranges together"
    ),
    "tpe": SamplerTraits(
        _per_trial(optuna_samplers.tpe), True, "learns", True, True, 50, True,
        "Parzen estimators: choices and conditions",
    ),
    "niches": SamplerTraits(
        _niches, True, "stays", False, True, 200, False, "M2N2: crosses merges that solve what the other one does not"
    ),
    "nsgaii": SamplerTraits(
        _per_trial(optuna_samplers.nsgaii), True, "draws", True, True, 50, False, "genetic: several objectives"
    ),
    "nsgaiii": SamplerTraits(
        _per_trial(optuna_samplers.nsgaiii), True, "draws", True, True, 50, False, "genetic: more than three objectives"
    ),
    "qmc": SamplerTraits(
        _qmc, True, "draws", True, False, 1000, False, "Sobol points: even coverage, learns nothing"
    ),
    "random": SamplerTraits(
        _per_trial(optuna_samplers.random), True, "draws", True, False, 1000, False, "random points: the yardstick"
    ),
    "grid": SamplerTraits(
        _grid, True, "draws", True, False, 6, False, "every combination, in order"
    ),
    "stack": SamplerTraits(
        _per_trial(StackSampler), True, "draws", False, True, 1000, False, "mutations of whole stacks of layers"
    ),
}  # fmt: skip
"""The samplers by name. ``auto`` is a schedule of them (see ``schedule``)."""


def find_sampler(name: str) -> SamplerTraits:
    """The sampler of that name. Raises KeyError with the nearest name where there is none."""
    if name not in SAMPLERS:
        raise KeyError(f"there is no sampler {name!r}{nearest(name, SAMPLERS)}")
    return SAMPLERS[name]


def make_sampler(name: str, request: SamplerRequest) -> BaseSampler:
    """A sampler of that name, which sees only the trials in the search space. Raises KeyError as ``find_sampler``."""
    traits = find_sampler(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler = traits.make(request)
    if takes_whole_space(name):
        return sampler
    dimensions = request.dimensions
    if dimensions is None and traits.conditional == "stays" and len(request.branches) > 1:
        dimensions = max(len(branch.free) for branch in request.branches)
    return InSpaceSampler(sampler) if dimensions is None else ReducedSampler(sampler, request.branches, dimensions)


def takes_whole_space(name: str) -> bool:
    """Whether a sampler cannot be shown fewer dimensions."""
    return name in ("local", "niches") or is_sequence(name)


def is_sequence(name: str) -> bool:
    """Whether one sampler object may be used for many trials. It then asks for the same points, at less cost."""
    return name in ("cmaes", "catcma", "qmc", "grid")

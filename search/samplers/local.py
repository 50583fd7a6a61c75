"""Search near the centre of what a Gaussian process knows: for many dimensions and noisy scores.

The centre is the point with the highest lower bound: the posterior mean less a few posterior deviations. The bound
falls away from the scored points, so it keeps the centre in a region that they vouch for, like a trust region (Eriksson
et al., arXiv:1910.01739) whose size follows from the posterior. Points are asked for around the centre, with a fixed
standard deviation in every dimension. ``benchmarks/sampler_bench.py`` compares it with other samplers.

The model is made anew for every trial, from all points that were scored so far, whoever asked for them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.optimize import minimize

from mergesearch.search.samplers._gaussian_process import GaussianProcess
from mergesearch.search.samplers._observations import SIDE, Encoding, Observations, observations
from mergesearch.search.samplers._study_views import best_first, enqueued_point
from mergesearch.search.samplers.branches import Branch, Point, branch_of
from mergesearch.search.statistics import Array
from mergesearch.search.study import trials as t
from mergesearch.seeds import derive

SIGMA = 0.12
"""The standard deviation of the points around the centre, as a fraction of each range."""
CAUTION = 3.0
"""How many posterior deviations the lower bound is below the posterior mean."""
MOST = 300
"""The most points that the model learns from."""
FEWEST = 3
"""With fewer points the centre is the best of them."""
STARTS = 3
"""From how many scored points the lower bound is climbed."""
STEPS = 60
"""The most steps of a climb."""
CHANGES = 0.3
"""The largest share of the points at which a choice is drawn again; of many choices, one at a point on average."""
TRIES = 50
"""How often a point is drawn again that was scored already."""


class LocalSampler(BaseSampler):
    """Points around the centre, in the branch of the best trial.

    Args:
        branches: the search space.
        seed: another one for every trial.
        sigma: see ``SIGMA``; None: that.
    """

    def __init__(self, branches: Sequence[Branch], seed: int, sigma: float | None = None) -> None:
        self._branches = branches
        self._seed = seed
        self._sigma = sigma or SIGMA

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._branch(study).distributions if enqueued_point(trial) is None else {}

    def sample_relative(self, study: Study, _trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Point:
        if not search_space:
            return {}
        branch = self._branch(study)
        encoding = Encoding(branch.free)
        known = observations(study, branch, encoding)
        if not len(known):
            return {}
        centre, rng = _centre(known, encoding), np.random.default_rng(self._seed)
        scored = {tuple(row) for row in known.points}
        for _ in range(TRIES):
            point = encoding.decode(_around(centre, encoding, self._sigma, rng))
            if tuple(encoding.encode(point)) not in scored:
                break
        return branch.complete(point)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, where nothing is scored yet."""
        sampler = RandomSampler(seed=derive(self._seed, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def centre(self, study: Study) -> Point | None:
        """See ``HasCentre``."""
        branch = self._branch(study)
        encoding = Encoding(branch.free)
        known = observations(study, branch, encoding)
        return branch.complete(encoding.decode(_centre(known, encoding))) if len(known) >= FEWEST else None

    def reseed_rng(self) -> None:
        """Does nothing: every trial has a sampler with a seed of its own."""

    def _branch(self, study: Study) -> Branch:
        """The branch of the best trial that is in one."""
        branches = (branch_of(trial, self._branches) for trial in best_first(study, t.completed(study)))
        return next(filter(None, branches), self._branches[0])


def _centre(known: Observations, encoding: Encoding) -> Array:
    """[width]: the row with the highest lower bound that climbs from the best points find; of few points, the best."""
    if len(known) < FEWEST:
        return np.asarray(known.points[known.values.argmax()])
    some = known.some(MOST)
    model = GaussianProcess(some.points, some.values, some.variances)
    bounds = model.mean(some.points) - CAUTION * model.deviation(some.points)
    starts = some.points[np.argsort(-bounds, kind="stable")[:STARTS]]
    climbs = [_climb(model, encoding, start) for start in starts]
    return max(climbs, key=lambda climb: climb[0])[1]


def _climb(model: GaussianProcess, encoding: Encoding, start: Array) -> tuple[float, Array]:
    """The lower bound and the row of a local maximum: over the ranges, then over single choices, then once more."""
    best = _climb_ranges(model, encoding, start)
    if encoding.choices:
        bounds = [(model.lower_bound(row, CAUTION)[0], row) for row in _changed(best[1], encoding)]
        changed = max(bounds, key=lambda entry: entry[0])
        if changed[0] > best[0]:
            return _climb_ranges(model, encoding, changed[1])
    return best


def _climb_ranges(model: GaussianProcess, encoding: Encoding, start: Array) -> tuple[float, Array]:
    ranges, row = encoding.ranges, start.copy()
    if not len(ranges):
        return model.lower_bound(row, CAUTION)[0], row

    def loss(units: Array) -> tuple[float, Array]:
        row[ranges] = units
        bound, gradient = model.lower_bound(row, CAUTION)
        return -bound, -gradient[ranges]

    found = minimize(
        loss, start[ranges], jac=True, method="L-BFGS-B", bounds=[(0, 1)] * len(ranges), options={"maxiter": STEPS}
    )
    row[ranges] = found.x
    return -float(found.fun), row


def _changed(row: Array, encoding: Encoding) -> Iterator[Array]:
    """The row with another value of one choice."""
    for columns in encoding.choices:
        for column in columns:
            changed = row.copy()
            changed[columns] = 0.0
            changed[column] = SIDE
            yield changed


def _around(centre: Array, encoding: Encoding, sigma: float, rng: np.random.Generator) -> Array:
    row = centre.copy()
    row[encoding.ranges] += sigma * rng.standard_normal(len(encoding.ranges))
    for columns in encoding.choices:
        if rng.random() < min(CHANGES, 1 / len(encoding.choices)):
            row[columns] = 0.0
            row[rng.choice(columns)] = SIDE
    return np.clip(row, 0.0, 1.0)

"""Search near the centre of what a Gaussian process knows: for many dimensions and noisy scores.

The centre is the point with the highest lower bound: the posterior mean less a few posterior deviations. The bound
falls away from the scored points, so it keeps the centre in a region that they vouch for, like a trust region (Eriksson
et al., arXiv:1910.01739) whose size follows from the posterior. Points are asked for around the centre, with a fixed
standard deviation in every dimension. ``benchmarks/sampler_bench.py`` compares it with other samplers.

The model is made anew for every trial, from all points that were scored so far, whoever asked for them.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from optuna.study import Study
from scipy.optimize import minimize

from mergesearch.search.samplers._gaussian_process import GaussianProcess
from mergesearch.search.samplers._in_branch import BranchSampler
from mergesearch.search.samplers._observations import SIDE, Encoding, Observations, new_point, observations
from mergesearch.search.samplers.branches import Branch, Point
from mergesearch.search.statistics import Array

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


class LocalSampler(BranchSampler):
    """Points around the centre, in the branch of the best trial.

    Args:
        branches: the search space.
        seed: another one for every trial.
        sigma: see ``SIGMA``; None: that.
    """

    def __init__(self, branches: Sequence[Branch], seed: int, sigma: float | None = None) -> None:
        super().__init__(branches, seed)
        self._sigma = sigma or SIGMA

    def free_point(self, study: Study, branch: Branch, rng: np.random.Generator) -> Point | None:
        """A new point around the centre; None where nothing is known."""
        encoding = Encoding(branch.free)
        known = observations(study, branch, encoding)
        if not len(known):
            return None
        centre = _centre(known, encoding)
        return new_point(encoding, known.points, lambda: encoding.around(centre, self._sigma, rng))

    def centre(self, study: Study) -> Point | None:
        """See ``HasCentre``."""
        branch = self._branch(study)
        encoding = Encoding(branch.free)
        known = observations(study, branch, encoding)
        return branch.complete(encoding.decode(_centre(known, encoding))) if len(known) >= FEWEST else None


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

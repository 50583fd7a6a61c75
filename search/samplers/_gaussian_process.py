"""Exact Gaussian process regression for a few hundred noisy points in up to a few hundred dimensions.

The kernel is Matérn 5/2. All coordinates share one length scale. Its prior is log-normal and grows with the root of
the number of dimensions (Hvarfner et al., arXiv:2402.02746, equation 5): without it, everything looks independent of
everything else in many dimensions. A length scale for each dimension would follow the noise of so few points.

The noise of the points is known up to a factor. Scores of merges share their items, so that their differences have less
noise than their standard errors say. The factor, the length scale and the scale of the values maximize the posterior of
the hyperparameters.
"""

from math import log, sqrt

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from mergesearch.search.statistics import Array

LENGTH, LENGTH_SPREAD = sqrt(2), 1.0
"""The prior of the logarithm of the length scale, over half the logarithm of the dimensions: mean and deviation."""
SCALE_SPREAD, NOISE_SPREAD = 1.0, 1.0
"""Deviations of the logarithms of the factors on the variances of the values and of the noise. Their means are 0."""
JITTER = 1e-6
ROUNDS = 40
"""The most steps of the fit."""
BOUNDS = ((-5.0, 4.0), (-6.0, 6.0), (-5.0, 3.0))
"""Of the logarithms of the hyperparameters, around the means of their priors."""
ROOT5 = sqrt(5)


class GaussianProcess:
    """The posterior of a function, given noisy values of it.

    Args:
        points: [n, d] float64, coordinates of about the unit cube; n is 2 or more.
        values: [n] float64.
        variances: [n] float64, above 0: those of the values' noise, up to a factor that is fitted.
    """

    def __init__(self, points: Array, values: Array, variances: Array) -> None:
        self._shift, self._unit = float(values.mean()), float(values.std()) or 1.0
        self._points, self._values = points, (values - self._shift) / self._unit
        self._variances = variances / self._unit**2
        self._squares = _squares(points, points)
        self._middle = np.array([LENGTH + 0.5 * log(points.shape[1]), 0.0, 0.0])
        self._condition(self._fit())

    def mean(self, points: Array) -> Array:
        """[m, d] -> [m]: the posterior mean."""
        return np.asarray(self._shift + self._unit * (self._level + self._covariances(points)[0] @ self._weights))

    def deviation(self, points: Array) -> Array:
        """[m, d] -> [m]: the posterior standard deviation, without noise."""
        covariances, _ = self._covariances(points)
        explained = solve_triangular(self._factor[0], covariances.T, lower=True)
        return np.asarray(self._unit * np.sqrt(np.maximum(self._scale - (explained**2).sum(0), JITTER * self._scale)))

    def lower_bound(self, point: Array, caution: float) -> tuple[float, Array]:
        """The posterior mean less ``caution`` posterior standard deviations, and its gradient, at one point [d]."""
        (covariances,), (slopes,) = self._covariances(point[None])
        solved = cho_solve(self._factor, covariances)
        deviation = sqrt(max(self._scale - covariances @ solved, JITTER * self._scale))
        pull = slopes * (self._weights + caution / deviation * solved)
        bound = self._level + covariances @ self._weights - caution * deviation
        return self._shift + self._unit * float(bound), self._unit * 2 * (pull.sum() * point - pull @ self._points)

    def _covariances(self, points: Array) -> tuple[Array, Array]:
        """[m, n] each: the covariances with the points, and their derivatives by the squared distances."""
        kernel, slope = _matern(_squares(points, self._points) / self._length**2)
        return self._scale * kernel, self._scale * slope / self._length**2

    def _fit(self) -> Array:
        """The logarithms of length scale, value factor and noise factor with the largest posterior."""
        bounds = [(middle + low, middle + high) for middle, (low, high) in zip(self._middle, BOUNDS, strict=True)]
        options = {"maxiter": ROUNDS}
        found = minimize(self._loss, self._middle, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return np.asarray(found.x)

    def _loss(self, logs: Array) -> tuple[float, Array]:
        """Minus the log posterior of the hyperparameters, up to a constant, and its gradient.

        Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), equations 2.30 and 5.9. The level has a
        flat prior and its most probable value.
        """
        length, scale, noise = np.exp(logs)
        scaled = self._squares / length**2
        kernel, slope = _matern(scaled)
        signal, errors = scale * (kernel + JITTER * np.eye(len(kernel))), noise * self._variances
        factor = cho_factor(signal + np.diag(errors), lower=True)
        inverse = cho_solve(factor, np.eye(len(kernel)))
        residuals = self._values - inverse.sum(0) @ self._values / inverse.sum()
        weights = inverse @ residuals
        by_covariance = 0.5 * (inverse - np.outer(weights, weights))
        gradient = [
            (by_covariance * scale * slope * -2 * scaled).sum(),
            (by_covariance * signal).sum(),
            np.diag(by_covariance) @ errors,
        ]
        off = (logs - self._middle) / np.array([LENGTH_SPREAD, SCALE_SPREAD, NOISE_SPREAD])
        spreads = np.array([LENGTH_SPREAD, SCALE_SPREAD, NOISE_SPREAD])
        loss = 0.5 * residuals @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
        return float(loss), np.array(gradient) + off / spreads

    def _condition(self, logs: Array) -> None:
        self._length, self._scale, noise = np.exp(logs).tolist()
        kernel, _ = _matern(self._squares / self._length**2)
        signal = self._scale * (kernel + JITTER * np.eye(len(kernel)))
        self._factor = cho_factor(signal + np.diag(noise * self._variances), lower=True)
        ones = cho_solve(self._factor, np.ones(len(kernel)))
        self._level = float(ones @ self._values / ones.sum())
        self._weights = cho_solve(self._factor, self._values - self._level)


def _squares(one: Array, two: Array) -> Array:
    """[m, d], [n, d] -> [m, n]: squared distances."""
    found = (one**2).sum(1)[:, None] + (two**2).sum(1) - 2 * one @ two.T
    return np.asarray(np.maximum(found, 0.0))


def _matern(squares: Array) -> tuple[Array, Array]:
    """The kernel of squared distances over the squared length scale, and its derivative by them."""
    distances = ROOT5 * np.sqrt(squares)
    decay = np.exp(-distances)
    return (1 + distances + distances**2 / 3) * decay, -5 / 6 * (1 + distances) * decay

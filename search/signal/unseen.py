"""The unseen items of a candidate that was stopped early, predicted from candidates that were scored in full."""

import numpy as np

from mergesearch.search.statistics import Array

WEIGHT_VARIANCE = 0.25
"""The variance, before the candidate is seen, of how much it shares of another one's deviation from the mean."""
SHIFT = 0.1
"""The same standard deviation of its shift on all items, in units of the metric's range."""


def filled(contributions: Array, others: Array) -> Array:
    """The contributions, with those that are NaN predicted.

    Ridge regression on the others' deviations from their mean, item by item, and on a common shift. Which items were
    seen may depend on the others, as in a race: the prediction is given them.

    Args:
        contributions: [items], NaN where an item was not seen.
        others: [candidates, items] of candidates that were scored in full; at least one.
    """
    scored = ~np.isnan(contributions)
    if scored.all():
        return contributions
    mean = others.mean(0)
    features = np.concatenate([np.sqrt(WEIGHT_VARIANCE) * (others - mean), np.full((1, len(mean)), SHIFT)])
    target, known = (contributions - mean)[scored], features[:, scored]
    noise = max(float(target.var()) if len(target) else 0.0, 1e-6)
    weights = np.linalg.solve(known @ known.T + noise * np.eye(len(features)), known @ target)
    return np.where(scored, contributions, mean + weights @ features)

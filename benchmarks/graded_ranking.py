"""How well scores on few items rank merges by their accuracy on other items: accuracies, grades, and blends of both.

The margins of 243 merges of the demo's earlier two experts on 1,280 items were recorded once. The items are split at
random into 640 search and 640 test items. The 80 merges that are best on all items are ranked by what each way makes of
the first 100, 200 and 640 search items, and compared with their accuracy on the test items: the rank correlation, and
the test accuracy of the merge that is ranked first.

    python benchmarks/graded_ranking.py            # writes results/benchmarks/graded_ranking.json and .md
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from machine import FOLDER, write_result
from recorded_margins import RECORDING
from scipy.special import expit
from scipy.stats import rankdata
from search_common import Array

from mergesearch.search.signal.bandwidth import BANDWIDTHS, USUAL, choose_bandwidth, foretold

SPLITS = 100
ITEMS = (100, 200, 640)
BEST = 80
SCALES = (0.5, 1.0, 2.0)
"""Scales of the grades in nats, the same for all candidates."""
SEEN = 60
"""How many merges, of all that were recorded, a bandwidth is chosen on."""


@dataclass(frozen=True)
class Seen:
    """What a way of ranking sees: margins of the merges that are ranked, and of those that a bandwidth is chosen on.

    Both are [merges, items].
    """

    ranked: Array
    others: Array


Way = Callable[[Seen], Array]
"""[merges]: the values by which the merges are ranked."""


def grades(margins: Array, bandwidth: float) -> Array:
    """[merges, items], with each merge's own spread; of bandwidth 0, right or wrong."""
    if not bandwidth:
        return (margins > 0).astype(float)
    own = np.sqrt(np.square(margins).mean(1, keepdims=True))
    return np.asarray(expit(margins / (bandwidth * own)))


def graded(bandwidth: float) -> Way:
    """The mean of the grades."""
    return lambda seen: grades(seen.ranked, bandwidth).mean(1)


def graded_in_nats(scale: float) -> Way:
    """The mean of the grades of one scale for all merges."""
    return lambda seen: np.asarray(expit(seen.ranked / scale).mean(1))


def chosen(seen: Seen) -> Array:
    """The bandwidth that a run would choose."""
    sums = np.stack([grades(seen.others, bandwidth) for bandwidth in BANDWIDTHS])
    choice = choose_bandwidth(BANDWIDTHS, sums, sums[0], np.ones(sums.shape[-1]))
    return graded(choice.bandwidth)(seen)


def most_foretelling(seen: Seen) -> Array:
    """The bandwidth that foretells best, however slightly: without the usual one as the default."""
    sums = np.stack([grades(seen.others, bandwidth) for bandwidth in BANDWIDTHS])
    found = foretold(sums, sums[0], np.ones(sums.shape[-1]))
    return graded(BANDWIDTHS[int(np.argmax(found))])(seen)


def mixed(share: float) -> Way:
    """A fixed share of the accuracy, the rest grades of the usual bandwidth."""
    return lambda seen: share * graded(0)(seen) + (1 - share) * graded(USUAL)(seen)


def blended(ridge: float) -> Way:
    """The best linear predictor of the accuracy on other items from accuracy and grades, fitted to the other merges."""

    def values(seen: Seen) -> Array:
        both = np.stack([grades(seen.others, bandwidth) for bandwidth in (0.0, USUAL)])
        centred = both - both.mean(1, keepdims=True)
        items, merges = both.shape[-1], both.shape[1]
        cross = centred.sum(-1) @ centred[0].sum(-1) - np.einsum("kcn,cn->k", centred, centred[0])
        covariance = np.cov(both.mean(-1))
        spread = np.sqrt(np.diag(covariance))
        correlations = covariance / np.outer(spread, spread) + ridge * np.eye(2)
        weights = np.linalg.solve(correlations, cross / (items * (items - 1) * (merges - 1)) / spread) / spread
        return np.asarray(weights @ np.stack([graded(0)(seen), graded(USUAL)(seen)]))

    return values


WAYS: Mapping[str, Way] = {
    "accuracy": graded(0),
    **{f"sigmoid(margin / {scale:g} nats)": graded_in_nats(scale) for scale in SCALES},
    **{f"grades, bandwidth {bandwidth:g}": graded(bandwidth) for bandwidth in BANDWIDTHS[1:]},
    "grades, the bandwidth that a run chooses (ours)": chosen,
    "grades, the bandwidth that foretells best": most_foretelling,
    "0.3 accuracy + 0.7 grades of 0.35": mixed(0.3),
    "0.1 accuracy + 0.9 grades of 0.35": mixed(0.1),
    "best linear predictor, ridge 0.1": blended(0.1),
    "best linear predictor, ridge 0.5": blended(0.5),
}


def measure(margins: Array) -> dict[str, dict[int, tuple[float, float]]]:
    """(rank correlation with test accuracy, test accuracy of the first) of each way and number of items."""
    best = np.argsort(-(margins > 0).mean(1), kind="stable")[:BEST]
    found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for split in range(SPLITS):
        rng = np.random.default_rng(split)
        order = rng.permutation(margins.shape[1])
        search, test = np.split(order, 2)
        truth = (margins[best][:, test] > 0).mean(1)
        others = rng.choice(len(margins), SEEN, replace=False)
        for items in ITEMS:
            seen = Seen(margins[best][:, search[:items]], margins[others][:, search[:items]])
            for name, way in WAYS.items():
                values = way(seen)
                rank = np.corrcoef(rankdata(values), rankdata(truth))[0, 1]
                found[name, items].append((float(rank), float(truth[np.argmax(values)])))
    means = {key: np.mean(values, axis=0).tolist() for key, values in found.items()}
    return {name: {items: tuple(means[name, items]) for items in ITEMS} for name in WAYS}


def table(results: Mapping[str, Mapping[int, tuple[float, float]]]) -> str:
    """The results as a page."""
    rows = [
        f"| {name} | {' / '.join(f'{results[name][items][0]:.2f}' for items in ITEMS)} | "
        f"{' / '.join(f'{results[name][items][1]:.4f}' for items in ITEMS)} |"
        for name in results
    ]
    head, numbers = __doc__.split("\n    python")[0].strip(), " / ".join(map(str, ITEMS))
    return "\n".join(
        [
            "# Graded ranking",
            "",
            head,
            "",
            f"Means of {SPLITS} splits. A bandwidth is chosen, and a predictor fitted, on {SEEN} of all merges.",
            "",
            f"| what ranks them | rank correlation with test accuracy, {numbers} items | test accuracy of the first |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Measures, and writes the results."""
    with np.load(RECORDING, allow_pickle=False) as recording:
        results = measure(recording["margins"].astype(np.float64))
    write_result("graded_ranking", {"splits": SPLITS, "seen": SEEN, "ways": results})
    (FOLDER / "graded_ranking.md").write_text(table(results))


if __name__ == "__main__":
    main()

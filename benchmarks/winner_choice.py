"""Which of many scored candidates to take: the luckiest one is not the best.

``python benchmarks/winner_choice.py [--splits 200]`` writes results/benchmarks/winner_choice.{json,md}. It takes the
recorded margins of 243 merges on 1,280 items (see ``recorded_margins.py``), draws 60 of the best 120, chooses one by
its scores on some items, and looks at its accuracy on 640 others.
"""

from collections.abc import Sequence
from typing import Any

import click
import numpy as np
from machine import FOLDER, write_result
from recorded_margins import RECORDING

from mergesearch.search.signal.bandwidth import USUAL
from mergesearch.search.statistics import Array

NAME = "winner_choice"
BEST, CANDIDATES, OTHERS, FINALISTS = 120, 60, 640, 5
ITEMS = (100, 200, 640)
LENGTHS, SIZES = (0.5, 1.0, 2.0, 4.0), (3e-4, 1e-3, 3e-3, 1e-2, 2e-2)
"""Of the posterior mean's prior: how far it correlates, in median distances, and its standard deviation."""


def grades_of(margins: Array) -> Array:
    """[candidates, items] margins -> grades, by the usual bandwidth of each candidate's own spread."""
    grades: Array = 1 / (1 + np.exp(-margins / (USUAL * margins.std(1, keepdims=True))))
    return grades


def posterior_mean(scores: Array) -> Array:
    """[candidates]: that of a Gaussian process over candidates; those that answer alike have similar values.

    scores: [candidates, items]. Length and size of the prior are those of the largest likelihood; the noise is the mean
    variance of paired differences from the mean candidate.
    """
    values, count = scores.mean(1), len(scores)
    noise = np.eye(count) * (scores - scores.mean(0)).var(1).mean() / scores.shape[1]
    distances = np.square(scores[:, None] - scores[None]).mean(-1)
    distances /= np.median(distances[np.triu_indices(count, 1)])
    priors = [size**2 * np.exp(-distances / length) for length in LENGTHS for size in SIZES]
    return max((_posterior(prior, noise, values) for prior in priors), key=lambda found: found[0])[1]


def _posterior(prior: Array, noise: Array, values: Array) -> tuple[float, Array]:
    """The restricted log-likelihood, and the posterior means."""
    root = np.linalg.cholesky(prior + noise)
    ones, whitened = np.linalg.solve(root, np.ones(len(values))), np.linalg.solve(root, values)
    mean = ones @ whitened / (ones @ ones)
    rest = whitened - mean * ones
    likelihood = -np.log(np.diag(root)).sum() - np.log(ones @ ones) / 2 - rest @ rest / 2
    return float(likelihood), mean + prior @ np.linalg.solve(root.T, rest)


def chosen(margins: Array, further: Array) -> dict[str, int]:
    """The index that each rule chooses; margins: [candidates, items]; ``further`` items cost extra."""
    right, grades = (margins > 0).astype(np.float64), grades_of(margins)
    finalists = np.argsort(-grades.mean(1))[:FINALISTS]
    again = grades_of(np.concatenate([margins, further], axis=1)[finalists]).mean(1)
    return {
        "the highest accuracy": int(right.mean(1).argmax()),
        "posterior mean of the accuracy": int(posterior_mean(right).argmax()),
        "the highest grade": int(grades.mean(1).argmax()),
        "posterior mean of the grade": int(posterior_mean(grades).argmax()),
        f"the highest grade of {FINALISTS} finalists on twice the items": int(finalists[again.argmax()]),
    }


def compare(count: int, splits: int) -> list[dict[str, Any]]:
    """Each rule's accuracy on the other items, less the mean candidate's, and its difference from the first rule."""
    with np.load(RECORDING, allow_pickle=False) as recorded:
        margins = recorded["margins"].astype(np.float64)
    best = np.argsort(-(margins > 0).mean(1))[:BEST]
    rng, gains = np.random.default_rng(0), dict[str, list[float]]()
    for _ in range(splits):
        drawn = margins[rng.choice(best, CANDIDATES, replace=False)][:, rng.permutation(margins.shape[1])]
        accuracies = (drawn[:, -OTHERS:] > 0).mean(1)
        seen = drawn[:, :-OTHERS]
        for rule, index in chosen(seen[:, :count], seen[:, count : 2 * count]).items():
            gains.setdefault(rule, []).append(float(accuracies[index] - accuracies.mean()))
    first = np.array(next(iter(gains.values())))
    return [_row(rule, count, np.array(found), np.array(found) - first) for rule, found in gains.items()]


def _row(rule: str, items: int, gains: Array, more: Array) -> dict[str, Any]:
    error = float(more.std(ddof=1) / np.sqrt(len(more)))
    return {"items": items, "rule": rule, "gain": float(gains.mean()), "more": float(more.mean()), "error": error}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["| items | what is taken | above the mean candidate | more than the luckiest |", "|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['items']} | {row['rule']} | {row['gain']:+.4f} | {row['more']:+.4f} ± {row['error']:.4f} |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--splits", default=200, help="random choices of candidates and items")
def main(splits: int) -> None:
    """Compares rules that choose a winner."""
    rows = [row for count in ITEMS for row in compare(count, splits)]
    write_result(NAME, {"splits": splits, "rows": rows})
    text = (
        f"# The choice of a winner\n\n`python benchmarks/winner_choice.py`: {splits} draws of {CANDIDATES} recorded "
        f"merges, with the accuracy on {OTHERS} other items of the one that is taken; ± one standard error. With 640 "
        f"items there are no further ones.\n\n{table(rows)}\n"
    )
    (FOLDER / f"{NAME}.md").write_text(text)
    click.echo(table(rows))


if __name__ == "__main__":
    main()

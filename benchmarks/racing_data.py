"""Per-item scores for the racing benchmark: recorded from the demo's search, and simulated."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from machine import FOLDER
from numpy.typing import NDArray
from recorded_margins import RECORDING as RECORDED_MARGINS

from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder

Array = NDArray[np.float64]
RECORDING = FOLDER / "racing_demo.npz"
"""[trials, items] scores and [items] task numbers of a demo search in which every candidate was scored in full."""
ORDERS_OF_A_SEED = 100
"""At most so many orders of the items are drawn by one seed of the benchmark."""
ScoreModel = Literal[
    "right or wrong",
    "ties",
    "margins",
    "heavy-tailed margins",
    "skewed margins",
    "unpredictable margins",
    "clustered margins",
]
"""How the scores of a simulated case are distributed; see ``simulated``."""


@dataclass(frozen=True)
class Case:
    """The per-item scores of one search.

    scores: [candidates, items], in the order in which the search scored the candidates; the first ``baselines`` are
    scored before racing begins. tasks: [items], the task number of each item; all tasks have equal weight. margins:
    [candidates, items], where scores are right (1) or wrong (0). weights: [items], of the items within their task.
    """

    name: str
    scores: Array
    tasks: NDArray[np.int64]
    baselines: int
    margins: Array | None = None
    weights: Array | None = None

    @property
    def shares(self) -> Array:
        """[items]: the weight of each item's score in the objective."""
        weights = np.ones(len(self.tasks)) if self.weights is None else self.weights
        totals = np.bincount(self.tasks, weights)
        return weights / totals[self.tasks] / len(totals)

    @property
    def objectives(self) -> Array:
        """[candidates]."""
        return self.scores @ self.shares


def record(folder: Path) -> None:
    """Records the per-item scores of a finished run without racing."""
    run = RunFolder(folder)
    complete = [trial for trial in t.finished(run.open_study(None)) if run.has_scores(t.scores_name(trial.number))]
    rows = [run.load_scores(t.scores_name(trial.number)) for trial in complete]
    tasks = np.concatenate([np.full(len(scores), number) for number, scores in enumerate(rows[0].values())])
    scores = np.stack([np.concatenate([of_task.numpy() for of_task in row.values()]) for row in rows])
    baselines = sum(t.kind_of(trial) == t.BASELINE for trial in complete)
    np.savez_compressed(RECORDING, scores=scores.astype(np.uint8), tasks=tasks, baselines=baselines)


def recorded() -> Case:
    """The recorded search."""
    data = np.load(RECORDING)
    return Case("demo, recorded", data["scores"].astype(float), data["tasks"], int(data["baselines"]))


def decisions(case: Case) -> Case:
    """Of a case of margins: what is right, with the margins behind it."""
    return replace(case, scores=(case.scores > 0).astype(float), margins=case.scores)


def recorded_margins(seed: int = 0, candidates: int = 100) -> Case:
    """The margins of recorded_margins.py: of the baselines, and of ``candidates`` random merges.

    A margin is the log-probability of the right choice minus that of the best other one. No search chose the merges:
    most are clearly worse than the best baseline.
    """
    data = np.load(RECORDED_MARGINS)
    names, sizes = data["names"].tolist(), data["sizes"]
    baselines = 1 + names.index("greedy soup")
    rows = baselines + np.random.default_rng(seed).choice(len(names) - baselines, candidates, replace=False)
    begins = np.cumsum([0, *sizes.ravel()])[:-1].reshape(sizes.shape)[:, 0]
    columns = np.concatenate([np.arange(begin, begin + size) for begin, size in zip(begins, sizes[:, 0], strict=True)])
    scores = data["margins"].astype(float)[np.r_[:baselines, rows]][:, columns]
    return Case("demo, recorded margins", scores, np.repeat(np.arange(len(sizes)), sizes[:, 0]), baselines)


def all_cases(seed: int = 0) -> list[Case]:
    """Decisions with margins first, then other scores. seed: of what is drawn."""
    merges, first = recorded_margins(seed), 100 * seed
    noises: list[ScoreModel] = [
        "margins",
        "heavy-tailed margins",
        "skewed margins",
        "unpredictable margins",
        "clustered margins",
    ]
    margins = [simulated(640, first + 2 + number, model) for number, model in enumerate(noises)]
    graded = [replace(case, name=f"{case.name}, graded") for case in map(decisions, [merges, *margins])]
    weights = np.random.default_rng(seed).choice([1.0, 4.0], 640, p=[0.8, 0.2])
    uneven = replace(graded[1], name="simulated, 640 items, unequal weights, graded", weights=weights)
    plain = [simulated(640, first), simulated(2000, first + 1), simulated(640, first, "ties")]
    return [*graded, uneven, recorded(), *plain, merges, *margins]


def simulated(
    items: int, seed: int, model: ScoreModel = "right or wrong", candidates: int = 80, baselines: int = 9
) -> Case:
    """Candidates with four skills; each item requires the skills in its own proportion.

    The skills of later candidates shrink towards the best ones, as those of a search do; far from the best skills all
    scores fall. A margin is the sum of an item's ease, the skills that it requires, and noise of the candidate. An
    answer is right where its margin is positive. The noise is small and normal, except: *heavy-tailed* noise has
    Student's t distribution with 2 degrees of freedom (infinite variance); *skewed* noise is log-normal (most items
    lose a little, few gain a lot); *unpredictable* margins have normal noise as large as the effect of the skills;
    *clustered* margins have a noise that eight items in a row share. *Ties* are right or wrong, and candidates after
    the baselines are the best baseline with as many items lost as won, up to one, whatever the others answered.
    """
    rng = np.random.default_rng(seed)
    ease, required = rng.normal(1.2, 1.3, items), rng.normal(0, 0.6, (items, 4))
    skills = rng.normal(0, 0.8, (candidates, 4))
    skills[baselines:] *= np.linspace(1, 0.35, candidates - baselines)[:, None]
    level = -0.12 * (skills**2).sum(1)
    margins = ease + level[:, None] + skills @ required.T + _noise(model, rng, (candidates, items))
    scores = (margins > 0).astype(float) if model in {"right or wrong", "ties"} else margins
    if model == "ties":
        scores[baselines:] = _ties(rng, scores[:baselines], candidates - baselines)
    return Case(f"simulated, {items:,} items, {model}", scores, np.arange(items) % 2, baselines)


def _ties(rng: np.random.Generator, baselines: Array, count: int) -> Array:
    """Copies of the best baseline, each with some answers turned: as many won as lost, or one more or less."""
    best = baselines[np.argmax(baselines.mean(1))]
    right, wrong = np.flatnonzero(best == 1), np.flatnonzero(best == 0)
    copies = np.tile(best, (count, 1))
    for copy in copies:
        won = int(rng.integers(2, 1 + len(wrong) // 2))
        copy[rng.permutation(wrong)[:won]] = 1.0
        copy[rng.permutation(right)[: won + rng.integers(-1, 2)]] = 0.0
    return copies


def _noise(model: ScoreModel, rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    if model == "heavy-tailed margins":
        return 0.15 * rng.standard_t(2, shape)
    if model == "skewed margins":
        return np.asarray(0.075 * (rng.lognormal(0, 1.5, shape) - np.exp(1.5**2 / 2)))
    if model == "clustered margins":
        return np.asarray(0.4 * np.repeat(rng.normal(size=(shape[0], -(-shape[1] // 8))), 8, axis=1)[:, : shape[1]])
    return (0.6 if model == "unpredictable margins" else 0.15) * rng.normal(size=shape)

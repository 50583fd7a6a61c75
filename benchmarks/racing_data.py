"""Per-item scores to race on: those recorded of the demo's search, and simulated ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from machine import FOLDER
from numpy.typing import NDArray

from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder

Array = NDArray[np.float64]
RECORDING = FOLDER / "racing_demo.npz"
"""[trials, items] scores and [items] task numbers of a demo search in which every candidate was scored in full."""


@dataclass(frozen=True)
class Case:
    """scores: [candidates, items], in the order in which a search scored them, the first ``baselines`` beforehand;
    tasks: [items], each item's task, all tasks of equal weight."""

    name: str
    scores: Array
    tasks: NDArray[np.int64]
    baselines: int

    @property
    def shares(self) -> Array:
        """[items]: what each item's score counts in the objective."""
        counts = np.bincount(self.tasks)
        return 1 / counts[self.tasks] / len(counts)

    @property
    def objectives(self) -> Array:
        return self.scores @ self.shares


def record(folder: Path) -> None:
    """Keeps the per-item scores of a finished run in which nothing was raced."""
    run = RunFolder(folder)
    complete = [trial for trial in t.finished(run.open_study(None)) if run.has_scores(t.scores_name(trial.number))]
    rows = [run.load_scores(t.scores_name(trial.number)) for trial in complete]
    tasks = np.concatenate([np.full(len(scores), number) for number, scores in enumerate(rows[0].values())])
    scores = np.stack([np.concatenate([part.numpy() for part in row.values()]) for row in rows])
    baselines = sum(t.kind_of(trial) == t.BASELINE for trial in complete)
    np.savez_compressed(RECORDING, scores=scores.astype(np.uint8), tasks=tasks, baselines=baselines)


def recorded() -> Case:
    data = np.load(RECORDING)
    return Case("demo, recorded", data["scores"].astype(float), data["tasks"], int(data["baselines"]))


def recorded_margins(candidates: int = 100) -> Case:
    """The baselines' and some merges' margins (log-probability of the answer over the best other) of search_efficiency.

    The merges were chosen by no search: most are clearly worse than the best baseline.
    """
    data = np.load(FOLDER / "search_efficiency_demo.npz")
    names, sizes = data["names"].tolist(), data["sizes"]
    baselines = 1 + names.index("greedy soup")
    rows = baselines + np.random.default_rng(0).choice(len(names) - baselines, candidates, replace=False)
    begins = np.cumsum([0, *sizes.ravel()])[:-1].reshape(sizes.shape)[:, 0]
    columns = np.concatenate([np.arange(begin, begin + size) for begin, size in zip(begins, sizes[:, 0], strict=True)])
    scores = data["margins"].astype(float)[np.r_[:baselines, rows]][:, columns]
    return Case("demo, recorded margins", scores, np.repeat(np.arange(len(sizes)), sizes[:, 0]), baselines)


Kind = Literal["right or wrong", "margins", "heavy-tailed margins", "skewed margins", "margins that nothing foretells"]


def simulated(items: int, seed: int, kind: Kind = "right or wrong", candidates: int = 80, baselines: int = 9) -> Case:
    """Candidates whose answers follow four skills, each item asking for them in its own proportion.

    The skills of later candidates shrink towards the best ones, as a search's do; far from them everything gets worse.
    A part of an answer is the candidate's own: small and normal, or of Student's t with 2 degrees of freedom, whose
    variance is infinite, or skewed (most items lose a little, few win a lot), or normal and as large as the skills'.
    Margins are the latent numbers; an answer is right where they are above 0.
    """
    rng = np.random.default_rng(seed)
    ease, asks = rng.normal(1.2, 1.3, items), rng.normal(0, 0.6, (items, 4))
    skills = rng.normal(0, 0.8, (candidates, 4))
    skills[baselines:] *= np.linspace(1, 0.35, candidates - baselines)[:, None]
    level = -0.12 * (skills**2).sum(1)
    latent = ease + level[:, None] + skills @ asks.T + _own(kind, rng, (candidates, items))
    scores = (latent > 0).astype(float) if kind == "right or wrong" else latent
    return Case(f"simulated, {items:,} items, {kind}", scores, np.arange(items) % 2, baselines)


def _own(kind: Kind, rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    if kind == "heavy-tailed margins":
        return 0.15 * rng.standard_t(2, shape)
    if kind == "skewed margins":
        return 0.075 * (rng.lognormal(0, 1.5, shape) - np.exp(1.5**2 / 2))
    return (0.6 if kind == "margins that nothing foretells" else 0.15) * rng.normal(size=shape)

"""The verdict: whether the winner of the search beats the best baseline on items that the search never looked at."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from optuna.trial import FrozenTrial

from mergesearch.errors import UserError
from mergesearch.merge_ops.recipe import Recipe
from mergesearch.parsing import parse_yaml
from mergesearch.search import trials as t
from mergesearch.search.job import Job, Scores, Task
from mergesearch.search.loop import Loop
from mergesearch.search.statistics import Estimate, Stratum, bootstrap, bootstrap_difference, swap_p
from mergesearch.seeds import derive

SIDES = ("search", "test")
Sides = dict[str, Scores]


@dataclass(frozen=True)
class Row:
    """One candidate. ``tasks``: each task's metric on the search items, the test items and all items."""

    name: str
    trial: int
    method: str
    search: Estimate
    test: Estimate
    tasks: dict[str, dict[str, float]]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Row":
        return cls(**{**data, "search": Estimate(**data["search"]), "test": Estimate(**data["test"])})


@dataclass(frozen=True)
class Verdict:
    """``difference`` is winner − best baseline in the objective on the same test items; ``p`` is two-sided.

    ``test_looks`` counts how often this run has looked at the test items, this time included. ``ensemble`` is what
    averaging the models' outputs gives: a reference, which no verdict is held on.
    """

    sentence: str
    beyond_chance: bool
    difference: Estimate
    p: float
    test_items: int
    trials: int
    test_looks: int
    winner: Row
    best_baseline: str
    baselines: list[Row]
    metrics: dict[str, str]
    ensemble: Row | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Verdict":
        """What ``to_json`` gave."""
        parts = {
            "difference": Estimate(**data["difference"]),
            "winner": Row.from_json(data["winner"]),
            "baselines": [Row.from_json(row) for row in data["baselines"]],
            "ensemble": Row.from_json(data["ensemble"]) if data.get("ensemble") else None,
        }
        return cls(**{**data, **parts})


def judge(loop: Loop, looks: int) -> Verdict:
    """Scores the winner and the baselines on the test items and compares.

    The best baseline is the best on the search items, so that the test items choose nothing. ``looks``: how often the
    test items were looked at before.
    """
    winner, baselines = finalists(loop)
    rival = t.best(baselines)
    known: dict[str, Sides] = {}
    for trial in [*baselines, winner]:
        phenotype = trial.user_attrs[t.PHENOTYPE]
        known[phenotype] = known.get(phenotype) or _both_sides(loop, trial)
    scored = {trial.number: known[trial.user_attrs[t.PHENOTYPE]] for trial in [*baselines, winner]}
    rows = {trial.number: _row(loop.job, trial, scored[trial.number]) for trial in [*baselines, winner]}
    pair = [_strata(loop.job, "test", scored[trial.number]["test"]) for trial in (winner, rival)]
    seed, combine = loop.job.config.search.seed, loop.job.objective_of("test").combine
    difference = bootstrap_difference(pair[0], pair[1], combine, derive(seed, "bootstrap", "difference"))
    p = swap_p(pair[0], pair[1], combine, derive(seed, "sign flips"))
    beyond = winner.number != rival.number and difference.low > 0
    items = sum(len(task.test) for task in loop.job.tasks_of("test"))
    return Verdict(
        sentence=_sentence(rows[winner.number], rows[rival.number], difference, p, items),
        beyond_chance=beyond,
        difference=difference,
        p=p,
        test_items=items,
        trials=len(t.finished(loop.study)),
        test_looks=looks + 1,
        winner=rows[winner.number],
        best_baseline=rows[rival.number].name,
        baselines=[rows[trial.number] for trial in baselines],
        metrics={task.name: task.evaluator.metric.name for task in loop.job.tasks},
    )


def finalists(loop: Loop) -> tuple[FrozenTrial, list[FrozenTrial]]:
    """The winner on the search items, and the baselines without the soups tried on the way to the greedy one."""
    complete = t.completed(loop.study)
    baselines = [trial for trial in complete if t.kind_of(trial) == t.BASELINE]
    if not baselines:
        raise UserError("no baseline could be scored, so there is nothing to compare the winner with")
    return t.best(complete), baselines


def recipe_of(trial: FrozenTrial) -> Recipe:
    """The recipe that the trial stands for."""
    return Recipe.read(parse_yaml(trial.user_attrs[t.RECIPE]), f"trial {trial.number}")


def _both_sides(loop: Loop, trial: FrozenTrial) -> Sides:
    """The candidate's scores on every item: those of the search as they were recorded, the others now."""
    job, folder = loop.job, loop.folder
    loop.engine.build(recipe_of(trial))
    test = job.score(loop.subject, "test", job.tasks)
    unseen = [task for task in job.tasks if not task.weight]
    search = {**folder.load_scores(t.scores_name(trial.number)), **job.score(loop.subject, "search", unseen)}
    folder.save_scores(f"test-{trial.number:06d}", test, {task.name: task.test for task in job.tasks})
    return {"search": search, "test": test}


def search_estimate(loop: Loop, trial: FrozenTrial) -> Estimate:
    """A completed trial's objective on the search items, with its interval."""
    scores = loop.folder.load_scores(t.scores_name(trial.number))
    return estimate(loop.job, "search", scores, _seed(loop.job, trial))


def estimate(job: Job, side: str, scores: Scores, seed: int) -> Estimate:
    """The objective of one side's scores, with its interval."""
    return bootstrap(_strata(job, side, scores), job.objective_of(side).combine, seed)


def _seed(job: Job, trial: FrozenTrial) -> int:
    return derive(job.config.search.seed, "bootstrap", trial.number)


def _row(job: Job, trial: FrozenTrial, sides: Sides) -> Row:
    seed = _seed(job, trial)
    return Row(
        name=t.label_of(trial),
        trial=trial.number,
        method=recipe_of(trial).merge_method,
        search=estimate(job, "search", sides["search"], seed),
        test=estimate(job, "test", sides["test"], seed),
        tasks={task.name: task_values(task, sides) for task in job.tasks},
    )


def task_values(task: Task, sides: Sides) -> dict[str, float]:
    """A task's metric on each side that has items, and on all items."""
    present = [side for side in SIDES if task.items(side)]
    values = {side: task.value(side, sides[side][task.name]) for side in present}
    items = [item for side in present for item in task.items(side)]
    scores = torch.cat([sides[side][task.name] for side in present])
    return {**values, "all": task.evaluator.value(items, scores)}


def _strata(job: Job, side: str, scores: Scores) -> list[Stratum]:
    return [
        Stratum.of(
            [item.fingerprint for item in task.items(side)],
            [item.weight for item in task.items(side)],
            task.contributions(side, scores[task.name]).tolist(),
        )
        for task in job.tasks_of(side)
    ]


def _sentence(winner: Row, rival: Row, difference: Estimate, p: float, items: int) -> str:
    if winner.trial == rival.trial:
        return f"The search found nothing better than {winner.name}: use that."
    gain = f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}] on {items} test items, p = {p:.4f}"
    names = f"{winner.name} ({winner.method})", rival.name
    if difference.low > 0:
        return f"{names[0]} beats the best baseline, {names[1]}, beyond chance: {gain}."
    if difference.high < 0:
        return f"{names[0]} is worse than the best baseline, {names[1]}, beyond chance: {gain}. Use {names[1]}."
    return f"{names[0]} and the best baseline, {names[1]}, differ by no more than chance: {gain}."


def shown_baselines(verdict: Verdict) -> Sequence[Row]:
    """The baselines that a table shows: the soups on the way to the greedy one are left out."""
    return [row for row in verdict.baselines if not row.name.startswith("soup of ")]

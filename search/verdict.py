"""The verdict: whether the winner of the search beats the best baseline on items that the search never looked at."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from optuna.trial import FrozenTrial

from mergesearch.errors import UserError
from mergesearch.merge_ops.recipe import Recipe
from mergesearch.parsing import parse_yaml
from mergesearch.search import trials as t
from mergesearch.search.job import Job, Scores, Task
from mergesearch.search.loop import Loop
from mergesearch.search.statistics import Estimate, bootstrap, bootstrap_difference, holm, swap_p
from mergesearch.seeds import derive

SIDES = ("search", "test")
LEVEL = 0.05
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
class Comparison:
    """The winner less one baseline in the objective on the same test items; ``p`` is two-sided.

    ``p_holm`` is corrected for the number of baselines that the winner is compared with (Holm 1979).
    """

    baseline: str
    difference: Estimate
    p: float
    p_holm: float

    @property
    def is_proven(self) -> bool:
        """Whether the winner is better beyond chance, many comparisons considered."""
        return self.difference.low > 0 and self.p_holm < LEVEL

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Comparison":
        return cls(**{**data, "difference": Estimate(**data["difference"])})


@dataclass(frozen=True)
class Verdict:
    """The comparison that counts is with ``best_baseline``, the best on the search items.

    ``difference`` is winner − best baseline in the objective on the same test items, ``p`` is two-sided: one test,
    settled before the test items were looked at, so that nothing is to be corrected for. ``comparisons`` are with all
    baselines. ``search_difference`` is the same on the search items, where the winner was picked as the best of many;
    ``optimism`` is how much larger it was there (None where the verdict is held on other tasks). ``recommended`` is
    the winner if it is better beyond chance, and else the best baseline. ``test_looks`` counts how often this run
    has looked at the test items, this time included. ``items_spent``, of ``items_in_full`` had no candidate been
    stopped. ``ensemble`` is what averaging the models' outputs gives: a reference, which no verdict is held on.
    ``soups`` are those that were asked for, whether or not one of them is the winner.
    ``ended``: why the search did.
    """

    sentence: str
    beyond_chance: bool
    recommended: str
    difference: Estimate
    p: float
    search_difference: Estimate
    optimism: float | None
    test_items: int
    trials: int
    stopped: int
    items_spent: int
    items_in_full: int
    test_looks: int
    winner: Row
    best_baseline: str
    comparisons: list[Comparison]
    baselines: list[Row]
    metrics: dict[str, str]
    ensemble: Row | None = None
    soups: list[Row] = field(default_factory=list)
    ended: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Verdict":
        """What ``to_json`` gave."""
        parts = {
            "difference": Estimate(**data["difference"]),
            "search_difference": Estimate(**data["search_difference"]),
            "winner": Row.from_json(data["winner"]),
            "comparisons": [Comparison.from_json(comparison) for comparison in data["comparisons"]],
            "baselines": [Row.from_json(row) for row in data["baselines"]],
            "ensemble": Row.from_json(data["ensemble"]) if data.get("ensemble") else None,
            "soups": [Row.from_json(row) for row in data.get("soups", ())],
        }
        return cls(**{**data, **parts})


def judge(loop: Loop, looks: int) -> Verdict:
    """Scores the winner and the baselines on the test items and compares.

    The best baseline is the best on the search items, so that the test items choose nothing. ``looks``: how often the
    test items were looked at before.
    """
    winner, baselines = finalists(loop)
    judged = [*baselines, *_soups(loop), winner]
    known: dict[str, Sides] = {}
    for trial in judged:
        phenotype = trial.user_attrs[t.PHENOTYPE]
        known[phenotype] = known.get(phenotype) or _both_sides(loop, trial)
    scored = {trial.number: known[trial.user_attrs[t.PHENOTYPE]] for trial in judged}
    return _verdict(loop, winner, baselines, scored, looks)


def _soups(loop: Loop) -> list[FrozenTrial]:
    return [trial for trial in t.completed(loop.study) if t.kind_of(trial) == t.SOUP]


def _verdict(
    loop: Loop, winner: FrozenTrial, baselines: list[FrozenTrial], scored: dict[int, Sides], looks: int
) -> Verdict:
    job, rival, soups = loop.job, t.best(baselines), _soups(loop)
    rows = {trial.number: _row(job, trial, scored[trial.number]) for trial in [*baselines, *soups, winner]}
    compared = _compared(job, scored[winner.number], baselines, scored)
    against = compared[rival.number]
    beyond = winner.number != rival.number and against.difference.low > 0 and against.p < LEVEL
    before = _difference(job, "search", scored[winner.number], scored[rival.number])
    items = sum(len(task.test) for task in job.tasks_of("test"))
    spent = [t.items_of(trial) for trial in t.finished(loop.study)]
    same_tasks = job.tasks_of("search") == job.tasks_of("test")
    return Verdict(
        sentence=_sentence(rows[winner.number], rows[rival.number], against, items),
        beyond_chance=beyond,
        recommended=rows[winner.number if beyond else rival.number].name,
        difference=against.difference,
        p=against.p,
        search_difference=before,
        optimism=before.value - against.difference.value if same_tasks else None,
        test_items=items,
        trials=len(spent),
        stopped=len(t.stopped(loop.study)),
        items_spent=sum(spent),
        items_in_full=sum(map(bool, spent)) * sum(len(task.search) for task in job.tasks_of("search")),
        test_looks=looks + 1,
        winner=rows[winner.number],
        best_baseline=rows[rival.number].name,
        comparisons=[compared[trial.number] for trial in baselines],
        baselines=[rows[trial.number] for trial in baselines],
        metrics={task.name: task.evaluator.metric.name for task in job.tasks},
        soups=[rows[trial.number] for trial in soups],
    )


def _difference(job: Job, side: str, one: Sides, two: Sides) -> Estimate:
    pair = [job.strata(side, sides[side]) for sides in (one, two)]
    seed = derive(job.config.search.seed, "bootstrap", "difference")
    return bootstrap_difference(pair[0], pair[1], job.objective_of(side).combine, seed)


def _compared(
    job: Job, winner: Sides, baselines: Sequence[FrozenTrial], scored: dict[int, Sides]
) -> dict[int, Comparison]:
    """The winner against each baseline, by the baseline's trial."""
    combine, seed = job.objective_of("test").combine, derive(job.config.search.seed, "sign flips")
    mine = job.strata("test", winner["test"])
    others = [scored[trial.number] for trial in baselines]
    raw = [swap_p(mine, job.strata("test", sides["test"]), combine, seed) for sides in others]
    return {
        trial.number: Comparison(t.label_of(trial), _difference(job, "test", winner, sides), p, corrected)
        for trial, sides, p, corrected in zip(baselines, others, raw, holm(raw), strict=True)
    }


def finalists(loop: Loop) -> tuple[FrozenTrial, list[FrozenTrial]]:
    """The winner on the search items, and the baselines; what was scored on the way to a soup is neither."""
    complete = t.contenders(loop.study)
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
    return bootstrap(job.strata(side, scores), job.objective_of(side).combine, seed)


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


def _sentence(winner: Row, rival: Row, against: Comparison, items: int) -> str:
    if winner.trial == rival.trial:
        return f"The search found nothing better than {winner.name}: use that."
    found, p = against.difference, against.p
    gain = f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}] on {items} test items, p = {p:.4f}"
    name = shown_name(winner)
    if found.low > 0 and p < LEVEL:
        return f"{name} beats the best baseline, {rival.name}, beyond chance: {gain}."
    if found.high < 0 and p < LEVEL:
        return f"Use {rival.name}: the best that the search found, {name}, is worse beyond chance: {gain}."
    return f"Use {rival.name}: the best that the search found, {name}, differs by no more than chance: {gain}."


def optimism_in_words(verdict: Verdict) -> str:
    """How the gain on the search items, where the winner was picked, compares with that on the test items."""
    if verdict.optimism is None or verdict.winner.name == verdict.best_baseline:
        return ""
    before, now = verdict.search_difference.value, verdict.difference.value
    gains = (
        f"The gain was {before:+.4f} on the search items, where the winner was picked, and is {now:+.4f} on the test"
    )
    return f"{gains} items: picking flattered it by {verdict.optimism:.4f}." if before > now else f"{gains} items."


def unproven_in_words(verdict: Verdict) -> str:
    """The other baselines that a winner is not shown to beat."""
    shown = {row.name for row in shown_baselines(verdict)} - {verdict.best_baseline}
    names = [one.baseline for one in verdict.comparisons if one.baseline in shown and not one.is_proven]
    if not verdict.beyond_chance or not names:
        return ""
    return f"Corrected for comparing with every baseline, it is not shown to beat {', '.join(names)}."


def looks_in_words(before: int) -> str:
    """What to make of test items that were looked at that often before."""
    if not before:
        return "Nothing had looked at the test items before."
    times = "once" if before == 1 else f"{before} times"
    return (
        f"The test items had been looked at {times} before: whatever was decided in their light makes the interval and "
        "p too good. Fresh test items would be proof."
    )


def shown_baselines(verdict: Verdict) -> Sequence[Row]:
    """What a table shows beside the winner: baselines and soups, without those on the way to the greedy one."""
    soups = [row for row in verdict.soups if row.trial != verdict.winner.trial]
    return [*(row for row in verdict.baselines if not row.name.startswith("soup of ")), *soups]


def shown_name(row: Row) -> str:
    """What a table calls the row: with the method, where the name does not say how it was made."""
    return f"{row.name} ({row.method})" if row.name.startswith("trial ") else row.name

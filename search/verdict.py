"""The verdict: whether the winner of the search beats the best baseline on items that the search never looked at."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from optuna.trial import FrozenTrial

from mergesearch.errors import UserError
from mergesearch.merge_ops.recipe import Recipe
from mergesearch.parsing import parse_yaml
from mergesearch.search import trials as t
from mergesearch.search.front import Check, Front, Member, broken, check, on_test_front, standings
from mergesearch.search.job import Job, Scores, Task
from mergesearch.search.loop import Loop
from mergesearch.search.pareto import front_of, is_pareto, knee, points_of
from mergesearch.search.statistics import Estimate, bootstrap, bootstrap_difference, holm, swap_p
from mergesearch.seeds import derive

SIDES = ("search", "test")
LEVEL = 0.05
FRONT = "front"
"""The folder of the front's recipes."""
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
class Judged:
    """A finalist's scores on both sides, and how it keeps each constraint."""

    sides: Sides
    checks: list[Check]


@dataclass(frozen=True)
class Limits:
    """What the constraints say of the winner, and which of winner and best baseline keep all on the search items."""

    checks: list[Check]
    winner_keeps: bool = True
    rival_keeps: bool = True

    def allow(self, beyond_chance: bool) -> bool:
        """Whether to recommend the winner: it is proven better, or keeps what no baseline does."""
        keeps = self.winner_keeps and not broken(self.checks)
        return keeps and (beyond_chance or not self.rival_keeps)


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

    With several objectives the winner is the one that the user's weights pick, and ``front`` has all that no other
    candidate beats in every objective. ``checks`` are the winner's, one for each constraint; a winner that breaks one
    on the test items is not recommended.
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
    checks: list[Check] = field(default_factory=list)
    front: Front | None = None

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
            "checks": [Check.from_json(each) for each in data.get("checks", ())],
            "front": Front.from_json(data["front"]) if data.get("front") else None,
            "ensemble": Row.from_json(data["ensemble"]) if data.get("ensemble") else None,
            "soups": [Row.from_json(row) for row in data.get("soups", ())],
        }
        return cls(**{**data, **parts})


def judge(loop: Loop, looks: int) -> Verdict:
    """Scores the winner, the front and the baselines on the test items and compares.

    The best baseline is the best on the search items, so that the test items choose nothing. ``looks``: how often the
    test items were looked at before.
    """
    winner, baselines = finalists(loop)
    front = front_of(loop.study) if is_pareto(loop.study) else []
    finals = [*baselines, *_soups(loop), *front, winner]
    known: dict[str, Sides] = {}
    for trial in finals:
        phenotype = trial.user_attrs[t.PHENOTYPE]
        known[phenotype] = known.get(phenotype) or _both_sides(loop, trial)
    references = _references(loop, known)
    judged = {trial.number: _judged(loop.job, trial, known, references) for trial in finals}
    verdict = _verdict(loop, winner, baselines, judged, looks)
    return replace(verdict, front=_front(loop, front, judged, t.best(baselines).number) if front else None)


def _references(loop: Loop, known: dict[str, Sides]) -> dict[str, Scores]:
    """The test scores of the baselines that constraints name; most are among the finalists."""
    found: dict[str, Scores] = {}
    for name in sorted({each.baseline for each in loop.job.constraints if each.baseline}):
        recipe = loop.job.baselines.recipe_named(name)
        sides = known.get(recipe.phenotype(loop.engine.names))
        found[name] = sides["test"] if sides else _test_scores(loop, recipe)
    return found


def _test_scores(loop: Loop, recipe: Recipe) -> Scores:
    loop.engine.build(recipe)
    return loop.job.score(loop.subject, "test", loop.job.tasks)


def _judged(job: Job, trial: FrozenTrial, known: dict[str, Sides], references: dict[str, Scores]) -> Judged:
    sides, found = known[trial.user_attrs[t.PHENOTYPE]], []
    for constraint in job.constraints:
        baseline = references[constraint.baseline] if constraint.baseline else None
        found.append(check(job, constraint, -trial.constraints[str(constraint)], sides["test"], baseline))
    return Judged(sides, found)


def _front(loop: Loop, front: list[FrozenTrial], judged: dict[int, Judged], rival: int) -> Front:
    sides = {trial.number: judged[trial.number].sides for trial in front}
    found = standings(loop.job, sides, rival, judged[rival].sides)
    remaining, place = on_test_front(loop.job, found), knee(points_of(loop.study, front))
    members = [
        Member(
            name=t.label_of(trial),
            trial=trial.number,
            method=recipe_of(trial).merge_method,
            recipe=f"{FRONT}/{trial.number:03d}.yml",
            standings=found[trial.number],
            checks=judged[trial.number].checks,
            on_test_front=remaining[trial.number],
        )
        for trial in front
    ]
    directions = loop.job.objective_of("search").directions | loop.job.objective_of("test").directions
    return Front(members, None if place is None else front[place].number, directions)


def _soups(loop: Loop) -> list[FrozenTrial]:
    return [trial for trial in t.completed(loop.study) if t.kind_of(trial) == t.SOUP]


def _verdict(
    loop: Loop,
    winner: FrozenTrial,
    baselines: list[FrozenTrial],
    judged: dict[int, Judged],
    looks: int,
) -> Verdict:
    job, rival, soups = loop.job, t.best(baselines), _soups(loop)
    scored = {number: each.sides for number, each in judged.items()}
    limits = Limits(judged[winner.number].checks, not t.violation(winner), not t.violation(rival))
    rows = {trial.number: _row(job, trial, scored[trial.number]) for trial in [*baselines, *soups, winner]}
    compared = _compared(job, scored[winner.number], baselines, scored)
    against = compared[rival.number]
    beyond = winner.number != rival.number and against.difference.low > 0 and against.p < LEVEL
    before = _difference(job, "search", scored[winner.number], scored[rival.number])
    items = sum(len(task.test) for task in job.tasks_of("test"))
    spent = [t.items_of(trial) for trial in t.finished(loop.study)]
    same_tasks = job.tasks_of("search") == job.tasks_of("test")
    return Verdict(
        sentence=_sentence(rows[winner.number], rows[rival.number], against, items, limits),
        beyond_chance=beyond,
        recommended=rows[winner.number if limits.allow(beyond) else rival.number].name,
        difference=against.difference,
        p=against.p,
        search_difference=before,
        optimism=before.value - against.difference.value if same_tasks else None,
        test_items=items,
        trials=len(spent),
        stopped=len(t.stopped(loop.study)),
        items_spent=sum(spent),
        items_in_full=sum(map(bool, spent)) * sum(len(task.search) for task in job.searched),
        test_looks=looks + 1,
        winner=rows[winner.number],
        best_baseline=rows[rival.number].name,
        comparisons=[compared[trial.number] for trial in baselines],
        baselines=[rows[trial.number] for trial in baselines],
        metrics={task.name: task.evaluator.metric.name for task in job.tasks},
        soups=[rows[trial.number] for trial in soups],
        checks=limits.checks,
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
    test = _test_scores(loop, recipe_of(trial))
    searched = {task.name for task in job.searched}
    unseen = [task for task in job.tasks if task.name not in searched]
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


def _sentence(winner: Row, rival: Row, against: Comparison, items: int, limits: Limits = Limits([])) -> str:
    name = shown_name(winner)
    if not limits.winner_keeps:
        missed = " and ".join(f"{c.constraint} (by {-c.search:.4f})" for c in limits.checks if c.search < 0)
        return f"No candidate keeps every constraint on the search items: {name}, the nearest, misses {missed}."
    if failed := broken(limits.checks):
        missed = " and ".join(f"{check.constraint} (by {-check.margin:.4f})" for check in failed)
        return f"Do not count on {name}, the best that the search found: on the test items it breaks {missed}."
    if winner.trial == rival.trial:
        return f"The search found nothing better than {winner.name}: use that."
    return _compared_in_words(name, rival, against, items, limits.rival_keeps)


def _compared_in_words(name: str, rival: Row, against: Comparison, items: int, rival_keeps: bool) -> str:
    found, p = against.difference, against.p
    gain = f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}] on {items} test items, p = {p:.4f}"
    if not rival_keeps:
        return f"{name} keeps every constraint, which no baseline does; against {rival.name}, the nearest: {gain}."
    if found.low > 0 and p < LEVEL:
        return f"{name} beats the best baseline, {rival.name}, beyond chance: {gain}."
    if found.high < 0 and p < LEVEL:
        return f"Use {rival.name}: the best that the search found, {name}, is worse beyond chance: {gain}."
    return f"Use {rival.name}: the best that the search found, {name}, differs by no more than chance: {gain}."


def shown_name(row: Row) -> str:
    """What a table calls the row: with the method, where the name does not say how it was made."""
    return f"{row.name} ({row.method})" if row.name.startswith("trial ") else row.name

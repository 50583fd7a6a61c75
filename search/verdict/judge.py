"""How the verdict comes about: the finalists are scored on the test items and compared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from optuna.trial import FrozenTrial

from mergesearch.errors import UserError
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.parsing import parse_yaml
from mergesearch.search.candidates.gradient.start import items_looked_at
from mergesearch.search.problem.problem import Job
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.scoring.live_model import Bench
from mergesearch.search.statistics import Estimate, bootstrap, bootstrap_difference, holm, swap_p
from mergesearch.search.study import trials as t
from mergesearch.search.study.pareto import front_of, is_pareto, knee, points_of
from mergesearch.search.verdict.front import Check, Front, Member, check, on_test_front, standings
from mergesearch.search.verdict.result import FRONT, LEVEL, SIDES, Comparison, Limits, Row, Verdict
from mergesearch.search.verdict.wording import headline
from mergesearch.seeds import derive

Sides = dict[str, Scores]


@dataclass(frozen=True)
class Judged:
    """A finalist's scores on both sides, and how it keeps each constraint."""

    sides: Sides
    checks: list[Check]


def judge(bench: Bench, looks: int) -> Verdict:
    """Scores the winner, the front and the baselines on the test items and compares.

    The best baseline is the best on the search items, so that the test items choose nothing. ``looks``: how often the
    test items were looked at before.
    """
    winner, baselines = finalists(bench)
    front = front_of(bench.study) if is_pareto(bench.study) else []
    finals = [*baselines, *_soups(bench), *front, winner]
    known: dict[str, Sides] = {}
    for trial in finals:
        phenotype = trial.user_attrs[t.PHENOTYPE]
        known[phenotype] = known.get(phenotype) or _both_sides(bench, trial)
    references = _references(bench, known)
    judged = {trial.number: _judged(bench.job, trial, known, references) for trial in finals}
    verdict = _verdict(bench, winner, baselines, judged, looks)
    return replace(verdict, front=_front(bench, front, judged, t.best(baselines).number) if front else None)


def _references(bench: Bench, known: dict[str, Sides]) -> dict[str, Scores]:
    """The test scores of the baselines that constraints name; most are among the finalists."""
    found: dict[str, Scores] = {}
    for name in sorted({each.baseline for each in bench.job.constraints if each.baseline}):
        recipe = bench.job.baselines.recipe_named(name)
        sides = known.get(recipe.phenotype(bench.engine.names))
        found[name] = sides["test"] if sides else _test_scores(bench, recipe)
    return found


def _test_scores(bench: Bench, recipe: Recipe) -> Scores:
    bench.engine.build(recipe)
    return bench.job.score(bench.subject, "test", bench.job.tasks)


def _judged(job: Job, trial: FrozenTrial, known: dict[str, Sides], references: dict[str, Scores]) -> Judged:
    sides, found = known[trial.user_attrs[t.PHENOTYPE]], []
    for constraint in job.constraints:
        baseline = references[constraint.baseline] if constraint.baseline else None
        found.append(check(job, constraint, -trial.constraints[str(constraint)], sides["test"], baseline))
    return Judged(sides, found)


def _front(bench: Bench, front: list[FrozenTrial], judged: dict[int, Judged], rival: int) -> Front:
    sides = {trial.number: judged[trial.number].sides for trial in front}
    found = standings(bench.job, sides, rival, judged[rival].sides)
    remaining, place = on_test_front(bench.job, found), knee(points_of(bench.study, front))
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
    directions = bench.job.objective_of("search").directions | bench.job.objective_of("test").directions
    return Front(members, None if place is None else front[place].number, directions)


def _soups(bench: Bench) -> list[FrozenTrial]:
    return [trial for trial in t.completed(bench.study) if t.kind_of(trial) == t.SOUP]


def _verdict(
    bench: Bench,
    winner: FrozenTrial,
    baselines: list[FrozenTrial],
    judged: dict[int, Judged],
    looks: int,
) -> Verdict:
    job, rival, soups = bench.job, t.best(baselines), _soups(bench)
    scored = {number: each.sides for number, each in judged.items()}
    limits = Limits(judged[winner.number].checks, not t.violation(winner), not t.violation(rival))
    rows = {trial.number: _row(job, trial, scored[trial.number]) for trial in [*baselines, *soups, winner]}
    compared = _compared(job, scored[winner.number], baselines, scored)
    against = compared[rival.number]
    beyond = winner.number != rival.number and against.difference.low > 0 and against.p < LEVEL
    before = _difference(job, "search", scored[winner.number], scored[rival.number])
    items = sum(len(task.test) for task in job.tasks_of("test"))
    spent = [t.items_of(trial) for trial in t.finished(bench.study)]
    same_tasks = job.tasks_of("search") == job.tasks_of("test")
    return Verdict(
        sentence=headline(rows[winner.number], rows[rival.number], against, items, limits),
        beyond_chance=beyond,
        recommended=rows[winner.number if limits.allow(beyond) else rival.number].name,
        difference=against.difference,
        p=against.p,
        search_difference=before,
        optimism=before.value - against.difference.value if same_tasks else None,
        test_items=items,
        trials=len(spent),
        stopped=len(t.stopped(bench.study)),
        items_spent=sum(spent),
        items_in_full=sum(map(bool, spent)) * sum(len(task.search) for task in job.searched),
        items_descended=items_looked_at(bench.folder),
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


def finalists(bench: Bench) -> tuple[FrozenTrial, list[FrozenTrial]]:
    """The winner on the search items, and the baselines; what was scored on the way to a soup is neither."""
    complete = t.contenders(bench.study)
    baselines = [trial for trial in complete if t.kind_of(trial) == t.BASELINE]
    if not baselines:
        raise UserError("no baseline could be scored, so there is nothing to compare the winner with")
    return t.best(complete), baselines


def recipe_of(trial: FrozenTrial) -> Recipe:
    """The recipe that the trial stands for."""
    return Recipe.read(parse_yaml(trial.user_attrs[t.RECIPE]), f"trial {trial.number}")


def _both_sides(bench: Bench, trial: FrozenTrial) -> Sides:
    """The candidate's scores on every item: those of the search as they were recorded, the others now."""
    job, folder = bench.job, bench.folder
    test = _test_scores(bench, recipe_of(trial))
    searched = {task.name for task in job.searched}
    unseen = [task for task in job.tasks if task.name not in searched]
    search = {**folder.load_scores(t.scores_name(trial.number)), **job.score(bench.subject, "search", unseen)}
    folder.save_scores(f"test-{trial.number:06d}", test, {task.name: task.test for task in job.tasks})
    return {"search": search, "test": test}


def search_estimate(bench: Bench, trial: FrozenTrial) -> Estimate:
    """A completed trial's objective on the search items, with its interval."""
    scores = bench.folder.load_scores(t.scores_name(trial.number))
    return estimate(bench.job, "search", scores, _seed(bench.job, trial))


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

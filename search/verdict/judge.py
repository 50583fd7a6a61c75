"""The judge: scores the finalists on the test items and compares them."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial

from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.gradient.start import items_looked_at
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Scores
from mergesearch.search.scoring.scorer import Scorer
from mergesearch.search.statistics import Estimate, bootstrap_difference, holm, swap_p
from mergesearch.search.study import trials as t
from mergesearch.search.study.pareto import knee, points_of
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.constraint_checks import Check, check
from mergesearch.search.verdict.finalists import FinalScores, Sides, estimate, interval_seed, task_values
from mergesearch.search.verdict.front import Front, FrontMember, on_test_front, standings
from mergesearch.search.verdict.result import FRONT, LEVEL, CandidateRow, Comparison, ConstraintResult, Verdict
from mergesearch.search.verdict.scored_finalists import ScoredFinalists, scored_finalists
from mergesearch.search.verdict.wording import headline
from mergesearch.seeds import derive


@dataclass(frozen=True)
class Judged:
    """A finalist's scores on both sides, and how it keeps each constraint."""

    sides: Sides
    checks: list[Check]


class Judge:
    """Compares the finalists of a run. ``constraint_baselines`` are the recipes that constraints name.

    ``seed`` is the run's.
    """

    def __init__(
        self,
        tasks: TaskSet,
        store: RunStore,
        scorer: Scorer,
        constraint_baselines: Mapping[str, Recipe],
        seed: int,
    ) -> None:
        self._tasks, self._store, self._seed = tasks, store, seed
        self._constraint_baselines = constraint_baselines
        self._scores = FinalScores(tasks, store, scorer)

    def judge(self, earlier_looks: int) -> Verdict:
        """Scores winner, front, soups and baselines on the test items, and compares the winner with each baseline.

        The best baseline is the best on the search items, so that the test items choose nothing. What cannot be scored
        on the test items is left out, see ``scored_finalists``. ``earlier_looks`` is how often the test items were
        looked at before.
        """
        found = scored_finalists(self._tasks, self._store, self._scores)
        return self._on(found.tasks)._judged(found, earlier_looks)

    def _on(self, tasks: TaskSet) -> "Judge":
        """This judge, of the tasks that could be scored."""
        judge = copy(self)
        judge._tasks = tasks
        return judge

    def _judged(self, found: ScoredFinalists, earlier_looks: int) -> Verdict:
        bounds = {name: self._scores.test_scores(recipe) for name, recipe in self._constraint_baselines.items()}
        judged = {
            trial.number: Judged(sides := found.sides[trial.number], self._checks(trial, sides["test"], bounds))
            for trial in [*found.baselines, *found.soups, *found.front, found.winner]
        }
        verdict = self._verdict(found, judged, earlier_looks)
        best = t.best(found.baselines).number
        return replace(verdict, front=self._front(found.front, judged, best) if found.front else None)

    def _checks(self, trial: FrozenTrial, test: Scores, bounds: Mapping[str, Scores]) -> list[Check]:
        by_name = {task.name: task for task in self._tasks}
        return [
            check(
                by_name[constraint.task],
                constraint,
                -trial.constraints[str(constraint)],
                test,
                bounds[constraint.baseline] if constraint.baseline else None,
                self._seed,
            )
            for constraint in self._tasks.constraints
        ]

    def _verdict(self, found: ScoredFinalists, judged: Mapping[int, Judged], earlier_looks: int) -> Verdict:
        winner, baselines, soups = found.winner, found.baselines, found.soups
        tasks, best = self._tasks, t.best(baselines)
        sides = {number: each.sides for number, each in judged.items()}
        constraints = ConstraintResult(judged[winner.number].checks, not t.violation(winner), not t.violation(best))
        rows = {trial.number: self._row(trial, sides[trial.number]) for trial in [*baselines, *soups, winner]}
        comparisons = self._compare(sides[winner.number], baselines, sides)
        against = comparisons[best.number]
        is_proven = winner.number != best.number and against.difference.low > 0 and against.p < LEVEL
        search_difference = self._difference("search", sides[winner.number], sides[best.number])
        items = sum(len(task.test) for task in tasks.counted("test"))
        spent = [t.items_of(trial) for trial in t.finished(self._store.study)]
        same_tasks = tasks.counted("search") == tasks.counted("test")
        return Verdict(
            sentence=headline(rows[winner.number], rows[best.number], against, items, constraints),
            beyond_chance=is_proven,
            recommended=rows[winner.number if constraints.allow(is_proven) else best.number].name,
            difference=against.difference,
            p=against.p,
            search_difference=search_difference,
            optimism=search_difference.value - against.difference.value if same_tasks else None,
            test_items=items,
            trials=len(spent),
            stopped=len(t.stopped(self._store.study)),
            items_spent=sum(spent),
            items_in_full=sum(map(bool, spent)) * tasks.search_items,
            items_descended=items_looked_at(self._store.folder),
            test_looks=earlier_looks + 1,
            winner=rows[winner.number],
            best_baseline=rows[best.number].name,
            comparisons=[comparisons[trial.number] for trial in baselines],
            baselines=[rows[trial.number] for trial in baselines],
            metrics={task.name: task.evaluator.metric.name for task in tasks},
            soups=[rows[trial.number] for trial in soups],
            checks=constraints.checks,
            left_out=found.left_out,
        )

    def _row(self, trial: FrozenTrial, sides: Sides) -> CandidateRow:
        seed = interval_seed(self._seed)
        return CandidateRow(
            name=t.label_of(trial),
            trial=trial.number,
            method=t.recipe_of(trial).merge_method,
            search=estimate(self._tasks, "search", sides["search"], seed),
            test=estimate(self._tasks, "test", sides["test"], seed),
            tasks={task.name: task_values(task, sides) for task in self._tasks},
        )

    def _difference(self, side: str, one: Sides, two: Sides) -> Estimate:
        pair = [self._tasks.strata(side, sides[side]) for sides in (one, two)]
        seed = derive(self._seed, "bootstrap", "difference")
        return bootstrap_difference(pair[0], pair[1], self._tasks.objective(side).combine, seed)

    def _compare(
        self, winner: Sides, baselines: Sequence[FrozenTrial], sides: Mapping[int, Sides]
    ) -> dict[int, Comparison]:
        """The winner against each baseline, by the baseline's trial."""
        combine, seed = self._tasks.objective("test").combine, derive(self._seed, "sign flips")
        strata = self._tasks.strata("test", winner["test"])
        others = [sides[trial.number] for trial in baselines]
        raw = [swap_p(strata, self._tasks.strata("test", other["test"]), combine, seed) for other in others]
        return {
            trial.number: Comparison(t.label_of(trial), self._difference("test", winner, other), p, corrected)
            for trial, other, p, corrected in zip(baselines, others, raw, holm(raw), strict=True)
        }

    def _front(self, front: list[FrozenTrial], judged: Mapping[int, Judged], best_baseline: int) -> Front:
        sides = {trial.number: judged[trial.number].sides for trial in front}
        each = standings(self._tasks, sides, best_baseline, judged[best_baseline].sides, self._seed)
        remaining, index = on_test_front(self._tasks, each), knee(points_of(self._store.study, front))
        members = [
            FrontMember(
                name=t.label_of(trial),
                trial=trial.number,
                method=t.recipe_of(trial).merge_method,
                recipe=f"{FRONT}/{trial.number:03d}.yml",
                standings=each[trial.number],
                checks=judged[trial.number].checks,
                on_test_front=remaining[trial.number],
            )
            for trial in front
        ]
        directions = self._tasks.objective("search").directions | self._tasks.objective("test").directions
        return Front(members, None if index is None else front[index].number, directions)

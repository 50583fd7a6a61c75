"""The judge: scores the finalists on the test items and compares them."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

from optuna.trial import FrozenTrial

from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.gradient.start import items_looked_at, items_worth
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Scores
from mergesearch.search.scoring.scorer import Scorer
from mergesearch.search.signal.reading import graded_difference
from mergesearch.search.signal.signal import Signal
from mergesearch.search.statistics import Contrast, holm
from mergesearch.search.study import trials as t
from mergesearch.search.study.pareto import knee, points_of
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.comparison import Claim, Comparison, Evidence, Power, compared, contrasts, evidence
from mergesearch.search.verdict.constraint_checks import Check, check
from mergesearch.search.verdict.finalists import FinalScores, Sides, estimate, task_values
from mergesearch.search.verdict.front import Front, FrontMember, on_test_front, standings
from mergesearch.search.verdict.result import FRONT, CandidateRow, ConstraintResult, RecoveryResult, Verdict
from mergesearch.search.verdict.scored_finalists import ScoredFinalists, scored_finalists
from mergesearch.search.verdict.wording import headline, is_step, recovered_headline


@dataclass(frozen=True)
class Judged:
    """A finalist's scores on both sides, and how it keeps each constraint."""

    sides: Sides
    checks: list[Check]


@dataclass(frozen=True)
class Standing:
    """The winner among the baselines: the best of them on the test items, and what can be said against it.

    ``search_claim`` is the same claim on the search items, on which the winner was selected; ``graded`` is that of the
    graded objective.
    """

    rival: FrozenTrial
    comparisons: list[Comparison]
    claim: Claim = field(default_factory=Claim)
    search_claim: Claim = field(default_factory=Claim)
    graded: Claim | None = None
    evidence: list[Evidence] = field(default_factory=list)
    power: Power | None = None


class Judge:
    """Compares the finalists of a run. ``constraint_baselines`` are the recipes that constraints name.

    ``seed`` is the run's.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a verdict depends on
        self,
        tasks: TaskSet,
        store: RunStore,
        scorer: Scorer,
        signal: Signal,
        constraint_baselines: Mapping[str, Recipe],
        seed: int,
    ) -> None:
        self._tasks, self._store, self._signal, self._seed = tasks, store, signal, seed
        self._constraint_baselines = constraint_baselines
        self._scores = FinalScores(tasks, store, scorer)

    def judge(self, earlier_looks: int) -> Verdict:
        """Scores winner, front, soups and baselines on the test items, and compares the winner with each baseline.

        What cannot be scored on the test items is left out, see ``scored_finalists``. ``earlier_looks`` is how often
        the test items were looked at before.
        """
        found = scored_finalists(self._tasks, self._store, self._signal, self._scores)
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
            for trial in [*found.baselines, *found.soups, *found.front, found.winner, *found.recovered]
        }
        standing = self._standing(found, {number: each.sides for number, each in judged.items()})
        recovery = self._recovery(found.recovered[0], found, judged) if found.recovered else None
        standing, recovery = _corrected(standing, recovery)
        verdict = self._verdict(found, judged, standing, recovery, earlier_looks)
        return replace(verdict, front=self._front(found.front, judged, standing.rival.number) if found.front else None)

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

    def _standing(self, found: ScoredFinalists, sides: Mapping[int, Sides]) -> "Standing":
        """The winner among the baselines.

        Where the search has no candidate of its own, the best baseline is the winner, and has nothing to claim.
        """
        winner, others = found.winner, [trial for trial in found.baselines if trial.number != found.winner.number]

        def differences(side: str) -> list[Contrast]:
            other_scores = [sides[trial.number][side] for trial in others]
            return contrasts(self._tasks, side, sides[winner.number][side], other_scores) if others else []

        test = differences("test")
        tests = compared(test, self._seed) if test else []
        comparisons = [Comparison.of(t.label_of(trial), each) for trial, each in zip(others, tests, strict=True)]
        if winner in found.baselines:
            return Standing(winner, comparisons)
        rivals = _rivals(others)
        best = min(rivals, key=lambda n: (test[n].value, is_step(t.label_of(others[n])), t.rank(others[n])))
        search = differences("search")
        return Standing(
            others[best],
            comparisons,
            Claim.of([tests[n] for n in rivals], [t.label_of(others[n]) for n in rivals]),
            Claim.of(compared([search[n] for n in rivals], self._seed)),
            None if found.left_out else self._graded(winner, [others[n] for n in rivals]),
            evidence(self._tasks, test[best]),
            Power.of(test[best], sum(len(task.test) for task in self._tasks.counted("test"))),
        )

    def _graded(self, winner: FrozenTrial, rivals: Sequence[FrozenTrial]) -> Claim | None:
        """The claim in the graded objective; None where no task of the verdict is graded, or one in several parts."""
        counted, readings = self._tasks.counted("test"), self._signal.readings
        is_read = any((reading := readings.by_task.get(task.name)) and reading.bandwidth for task in counted)
        if not is_read or any(len(task.parts("test")) > 1 for task in counted):
            return None
        mine, *theirs = (self._scores.test_marks(trial) for trial in (winner, *rivals))
        if mine is None:
            return None
        differences = [graded_difference(readings, "test", mine, other) for other in theirs if other is not None]
        return Claim.of(compared(differences, self._seed)) if len(differences) == len(rivals) else None

    def _recovery(self, trial: FrozenTrial, found: ScoredFinalists, judged: Mapping[int, Judged]) -> RecoveryResult:
        """The recovered winner among the baselines and the winner without recovery."""
        others = [each for each in found.baselines if each.number != found.winner.number]
        others = [found.winner, *(others[n] for n in (_rivals(others) if others else ()))]
        mine, sides = judged[trial.number].sides, [judged[each.number].sides["test"] for each in others]
        differences = contrasts(self._tasks, "test", mine["test"], sides)
        names = [t.label_of(each) for each in others]
        claim, gain = (Claim.of(compared(some, self._seed), names) for some in (differences, differences[:1]))
        return RecoveryResult(self._row(trial, mine), claim, gain, judged[trial.number].checks)

    def _verdict(
        self,
        found: ScoredFinalists,
        judged: Mapping[int, Judged],
        standing: "Standing",
        recovery: RecoveryResult | None,
        earlier_looks: int,
    ) -> Verdict:
        winner, baselines, soups = found.winner, found.baselines, found.soups
        tasks, best, claim = self._tasks, standing.rival, standing.claim
        sides = {number: each.sides for number, each in judged.items()}
        constraints = ConstraintResult(judged[winner.number].checks, not t.violation(winner), not t.violation(best))
        rows = {trial.number: self._row(trial, sides[trial.number]) for trial in [*baselines, *soups, winner]}
        search_difference = standing.search_claim.difference
        items = sum(len(task.test) for task in tasks.counted("test"))
        spent = [t.items_of(trial) for trial in t.finished(self._store.study)]
        same_tasks = tasks.counted("search") == tasks.counted("test")
        sentence = headline(rows[winner.number], rows[best.number], claim, items, standing.power, constraints)
        recommended = rows[winner.number if constraints.allow(claim.is_proven) else best.number].name
        if recovery and recovery.is_recommended:
            sentence, recommended = recovered_headline(recovery, rows[winner.number], items), recovery.row.name
        return Verdict(
            sentence=sentence,
            beyond_chance=claim.is_proven,
            recommended=recommended,
            difference=claim.difference,
            p=claim.p,
            search_difference=search_difference,
            optimism=search_difference.value - claim.difference.value if same_tasks else None,
            test_items=items,
            trials=len(spent),
            stopped=len(t.stopped(self._store.study)),
            items_spent=sum(spent),
            items_in_full=sum(map(bool, spent)) * tasks.search_items,
            items_descended=items_looked_at(self._store.folder),
            items_worth=items_worth(self._store.study, self._store.folder),
            test_looks=earlier_looks + 1,
            winner=rows[winner.number],
            best_baseline=rows[best.number].name,
            comparisons=standing.comparisons,
            baselines=[rows[trial.number] for trial in baselines],
            metrics={task.name: task.evaluator.metric.name for task in tasks},
            evidence=standing.evidence,
            power=standing.power,
            graded=standing.graded,
            soups=[rows[trial.number] for trial in soups],
            recovery=recovery,
            checks=constraints.checks,
            left_out=found.left_out,
        )

    def _row(self, trial: FrozenTrial, sides: Sides) -> CandidateRow:
        return CandidateRow(
            name=t.label_of(trial),
            trial=trial.number,
            method=t.recipe_of(trial).merge_method,
            search=estimate(self._tasks, "search", sides["search"], self._seed),
            test=estimate(self._tasks, "test", sides["test"], self._seed),
            tasks={task.name: task_values(task, sides) for task in self._tasks},
            same_as=trial.user_attrs.get(t.SAME_AS, ""),
        )

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


def _corrected(standing: Standing, recovery: RecoveryResult | None) -> tuple[Standing, RecoveryResult | None]:
    """The claims of the winner and of the recovered one with p values that are corrected for two claims of one look."""
    if recovery is None:
        return standing, None
    mine, other = holm([standing.claim.p, recovery.claim.p])
    corrected = replace(recovery, claim=replace(recovery.claim, p=other))
    return replace(standing, claim=replace(standing.claim, p=mine)), corrected


def _rivals(baselines: Sequence[FrozenTrial]) -> list[int]:
    """Indices of the baselines that a winner has to beat: those that satisfy the constraints as well as any does."""
    least = min(map(t.violation, baselines))
    return [n for n, trial in enumerate(baselines) if t.violation(trial) == least]

"""What there is to win, as it is kept with a verdict: the facts, and the sentences that say them."""

from dataclasses import dataclass, field

from mergesearch.search.statistics import LEVEL
from mergesearch.search.verdict.comparison import Evidence, deciding

POWER = 0.8


@dataclass(frozen=True)
class TaskProspect(Evidence):
    """One task: its value of the best baseline and of the model that is best on it, on the search items.

    ``weight`` is the task's share of the objective; ``variance_share`` is that of differences between baselines.
    """

    value: float
    expert: str
    expert_value: float
    weight: float


@dataclass(frozen=True)
class Prospects:
    """What there is to win over the best baseline, and what can be proven; in the objective.

    ``ceiling`` is the objective of a model that is as good on every task as the best single model. ``detectable`` is
    the smallest gain that the test items prove with a power of 80 %; None where search and test have other tasks.
    ``ensemble`` is the objective of the average of the models' outputs, where it is scored.
    """

    baseline: str
    score: float
    ceiling: float
    detectable: float | None = None
    tasks: list[TaskProspect] = field(default_factory=list)
    ensemble: float | None = None

    @property
    def gap(self) -> float:
        """How much better than the best baseline that model is."""
        return self.ceiling - self.score

    @property
    def in_words(self) -> list[str]:
        """The facts and the warnings, one line each."""
        gap = f"{self.gap:.4f} more" if self.gap > 0 else "no more"
        head = (
            f"what there is to win: the best baseline, {self.baseline}, has {self.score:.4f}; a model as good on every "
            f"task as the best single model would have {self.ceiling:.4f}, {gap}"
        )
        if self.ensemble is not None:
            head += f"; the average of the models' outputs has {self.ensemble:.4f}"
        return [head, *map(_task_in_words, self.tasks), *self._proof_in_words, *self.warnings]

    @property
    def _proof_in_words(self) -> list[str]:
        if self.detectable is None:
            return []
        return [
            f"what the test items can prove: a gain of about {self.detectable:.4f} or more (power {POWER:.0%}, level "
            f"{LEVEL:.0%}), judging by how the baselines differ"
        ]

    @property
    def warnings(self) -> list[str]:
        """Where a small task decides, or where the gain cannot be proven."""
        found = []
        if (small := deciding(self.tasks)) is not None:
            found.append(
                f"warning: task {small.task} decides: it has {small.variance_share or 0:.0%} of the variance with "
                f"{small.items} of the {sum(each.items for each in self.tasks)} test items, in {small.clusters} "
                "clusters; give it more items or less weight"
            )
        if self.gap <= 0:
            found.append("warning: no single model is better on a task than the best baseline: there is little to win")
        elif self.detectable is not None and self.gap < self.detectable:
            found.append("warning: what there is to win is less than the test items can prove: add test items")
        return found


def _task_in_words(each: TaskProspect) -> str:
    variance = "" if each.variance_share is None else f", {each.variance_share:.0%} of the variance"
    return (
        f"  {each.task}: {each.value:.4f}, the best single model, {each.expert}, {each.expert_value:.4f}; "
        f"{each.items} test items in {each.clusters} clusters, {each.weight:.0%} of the weight{variance}"
    )

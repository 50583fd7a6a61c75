"""What one candidate scored on the items of one task, wherever that is known from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.evaluators import Document, Item, answers_of, code_of, content_hash, content_of, documents_of
from mergesearch.search.problem.identity import digest_of
from mergesearch.search.problem.tasks import Task
from mergesearch.search.statistics import Array, Stratum
from mergesearch.text import shown


@dataclass(frozen=True)
class Asked:
    """One item, by digests of its document, with the right answer, and of what the model is asked.

    ``cluster``: items of one cluster count once. ``question``, ``right``, ``choices`` and ``answer`` are for people to
    read; empty where they are not known.
    """

    id: str
    cluster: str
    document: str
    prompt: str
    weight: float = 1.0
    question: str = field(default="", repr=False)
    right: str = field(default="", repr=False)
    answer: str = field(default="", repr=False)
    choices: Sequence[str] = field(default=(), repr=False)


@dataclass(frozen=True)
class ScoredTask:
    """One candidate's scores on the items of a task, by one metric.

    ``contribute`` gives what items, by their places, add to the metric over them: [items] float64, whose weighted mean
    is the metric. ``version`` has what is known of the task's code and settings, by name.
    """

    name: str
    metric: str
    higher_is_better: bool
    items: Sequence[Asked]
    contribute: Callable[[Sequence[int]], Array]
    version: Mapping[str, str] = field(default_factory=dict)

    def stratum(self, places: Sequence[int]) -> tuple[Stratum, Array]:
        """Some of the items as a comparison takes them, and what each contributes."""
        contributions, chosen = self.contribute(places), [self.items[n] for n in places]
        clusters, weights = [item.cluster for item in chosen], [item.weight for item in chosen]
        return Stratum.of(clusters, weights, contributions.tolist()), contributions


@dataclass(frozen=True)
class Measured:
    """A candidate: its name, and its tasks by name and metric."""

    name: str
    tasks: Mapping[tuple[str, str], ScoredTask]
    notes: Sequence[str] = ()


def only_whole(contributions: Array) -> Callable[[Sequence[int]], Array]:
    """The contributions to a metric that is no mean, of all items together. Raises UserError for a part of them."""

    def contribute(places: Sequence[int]) -> Array:
        if len(places) < len(contributions):
            raise UserError("its metric is no mean over items, and the two do not have the same items")
        return contributions[list(places)]

    return contribute


def scored_task(task: Task, scores: Tensor) -> ScoredTask:
    """The scores on all used items of a config's task, which is prepared, of the model that it scored last."""
    items = task.used

    def contribute(places: Sequence[int]) -> Array:
        chosen = [items[n] for n in places]
        numbers: Array = task.evaluator.contributions(chosen, scores[torch.tensor(list(places))]).double().numpy()
        return numbers

    documents, answers = documents_of(task.evaluator, items), answers_of(task.evaluator, items)
    asked = [asked_of(task, *each) for each in zip(items, documents, answers, strict=True)]
    metric = task.evaluator.metric
    return ScoredTask(task.name, metric.name, metric.higher_is_better, asked, contribute, version_of(task))


def asked_of(task: Task, item: Item, document: Document, answer: str = "") -> Asked:
    """An item of a config's task, which is prepared."""
    return Asked(
        item.id,
        item.fingerprint,
        item.content or item.fingerprint,
        content_hash(content_of(task.evaluator, item)),
        item.weight,
        shown(document.question),
        shown(document.right),
        shown(answer),
        document.choices,
    )


def version_of(task: Task) -> dict[str, str]:
    """Digests of the code and the settings that a task's scores depend on, by name."""
    return {name: digest_of(part) for name, part in code_of(task.evaluator).items()}

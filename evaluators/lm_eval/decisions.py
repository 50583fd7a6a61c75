"""How the metrics of lm-eval's tasks decide: margins from log-probabilities, and grades from margins.

A metric that is smooth in the weights already (perplexity, bits per byte, the Brier score), or that is code of a task,
has no decisions that are known here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask
from torch import Tensor

from mergesearch.evaluators.contract.confusion import label_margins, soft_contributions, soft_predictions, soft_value
from mergesearch.evaluators.contract.graded import decision_margin, soft_decisions
from mergesearch.evaluators.inference.logprobs import Sureness
from mergesearch.evaluators.inference.losses import Decides
from mergesearch.evaluators.lm_eval.answers import Answers, AnswersByMetric


class Decisions(ABC):
    """The decisions of one task.

    Attributes:
        width: How many numbers the margins of a document are.
        answers: The correct answers.
        kind: What decides; ``greedy``: the margins are made of those of tokens.
    """

    width = 1
    kind: Decides = "choice"

    def __init__(self, answers: Answers) -> None:
        self.answers = answers

    @abstractmethod
    def margins(self, doc: dict[str, Any], sure: Sequence[Sureness]) -> list[float]:
        """A document's margins. sure: of its instances, or of the correct texts."""

    def grades(self, margins: Tensor, scale: float) -> Tensor:
        """[documents] from [documents, width]."""
        return soft_decisions(margins[:, 0], scale)

    def value(self, margins: Tensor, scale: float) -> float:
        """The smooth counterpart of the task's value."""
        return float(mean(self.grades(margins, scale).tolist()))

    def contributions(self, margins: Tensor, scale: float) -> Tensor:
        """[documents], whose mean is the value."""
        return self.grades(margins, scale)


class Choice(Decisions):
    """Which choice is likeliest, by the metric's own normalisation: the best correct one less the best other one."""

    def margins(self, doc: dict[str, Any], sure: Sequence[Sureness]) -> list[float]:
        """See ``Decisions.margins``."""
        values, nats = self.answers.values(doc, [each.logprob for each in sure])
        return [decision_margin(values, self.answers.gold(doc)) * nats]


class GreedyChoice(Decisions):
    """Whether greedy decoding gives one of the correct choices, whose least sure token decides."""

    kind = "greedy"

    def margins(self, doc: dict[str, Any], sure: Sequence[Sureness]) -> list[float]:
        """See ``Decisions.margins``."""
        return [max((sure[gold].margin for gold in self.answers.gold(doc)), default=-math.inf)]


class GreedyText(Decisions):
    """Whether greedy decoding gives the text, or one of the correct texts, whose least sure token decides."""

    kind = "greedy"

    def margins(self, doc: dict[str, Any], sure: Sequence[Sureness]) -> list[float]:  # noqa: ARG002
        """See ``Decisions.margins``."""
        return [max(each.margin for each in sure)]


class Label(Decisions):
    """Which label is likeliest, for F1 and MCC."""

    kind = "label"

    def __init__(self, answers: Answers, statistic: str, width: int) -> None:
        super().__init__(answers)
        self._statistic, self.width = statistic, width

    def margins(self, doc: dict[str, Any], sure: Sequence[Sureness]) -> list[float]:
        """See ``Decisions.margins``."""
        values, _ = self.answers.values(doc, [each.logprob for each in sure])
        margins = label_margins(values, self.answers.gold(doc)[0])
        return margins + [math.inf] * (self.width - len(margins))

    def grades(self, margins: Tensor, scale: float) -> Tensor:
        """See ``Decisions.grades``: the probability of the gold label."""
        probabilities, gold = soft_predictions(margins, scale)
        return (probabilities * gold).sum(1)

    def value(self, margins: Tensor, scale: float) -> float:
        """See ``Decisions.value``."""
        return soft_value(self._statistic, margins, margins.new_ones(len(margins)), scale)

    def contributions(self, margins: Tensor, scale: float) -> Tensor:
        """See ``Decisions.contributions``."""
        return soft_contributions(self._statistic, margins, margins.new_ones(len(margins)), scale)


CHOICES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
OWN_CHOICES = ("acc", "acc_norm")
"""The names under which tasks with code of their own tell whether the likeliest choice is correct."""
TESTED_DOCUMENTS = 8
"""So many documents of a task with code of its own, or that generates texts, are tried."""
LABELS = {"f1": "f1", "mcc": "mcc"}
"""lm-eval's metrics of (gold, predicted), and their statistics; each with an aggregation of its own."""


def decisions_on_given(task: Any, metric_name: str, is_mean: bool, docs: Sequence[Any]) -> Decisions | None:
    """The decisions of a task that scores given texts; None if there are none that are known.

    is_mean: Whether the metric's value is the mean of the documents' results.
    """
    if callable(task.config.process_results) or type(task).process_results is not ConfigurableTask.process_results:
        return _own_decisions(task, metric_name, docs) if is_mean else None
    answers = Answers(task, metric_name)
    if task.OUTPUT_TYPE == "loglikelihood":
        return GreedyText(answers) if metric_name == "acc" and is_mean else None
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    if metric_name in LABELS and _aggregation(task, metric_name) in ("f1_score", "matthews_corrcoef"):
        has_one_gold = all(len(answers.gold(doc)) == 1 for doc in docs)
        width = max(2, *(len(answers.choices(doc)) for doc in docs))
        return Label(answers, LABELS[metric_name], width) if has_one_gold else None
    if not is_mean:
        return None
    return (
        Choice(answers) if metric_name in CHOICES else GreedyChoice(answers) if metric_name == "exact_match" else None
    )


def _own_decisions(task: Any, metric_name: str, docs: Sequence[Any]) -> Decisions | None:
    """Those of a task with code of its own, where its metric decides for a choice as lm-eval's of that name does."""
    if task.OUTPUT_TYPE != "multiple_choice" or metric_name not in OWN_CHOICES:
        return None
    answers = AnswersByMetric(task, metric_name)
    return Choice(answers) if all(answers.known_gold(doc) for doc in docs[:TESTED_DOCUMENTS]) else None


def _aggregation(task: Any, metric_name: str) -> str:
    return str(getattr(task.aggregation().get(metric_name), "__name__", ""))

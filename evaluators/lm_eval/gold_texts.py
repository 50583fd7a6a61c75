"""Correct texts of tasks that generate, scored after the prompts, as if the model had generated them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance

from mergesearch.evaluators.inference.logprobs import ContinuationScorer, Sureness
from mergesearch.evaluators.lm_eval.instance_runner import InstanceRunner
from mergesearch.evaluators.lm_eval.subtask import Subtask

Document = tuple[str, int]
"""The name of a subtask, and the number of one of its documents."""


class GoldTexts:
    """The correct texts of all documents, tokenized once. Those that the model cannot score are left out."""

    def __init__(
        self, runner: InstanceRunner, subtasks: Sequence[Subtask], instances: Mapping[str, Sequence[Sequence[Any]]]
    ) -> None:
        """runner: Of the tasks' own instances. instances: For each subtask and document."""
        self._instances: dict[Document, list[Any]] = {}
        for subtask in subtasks:
            for number, own in enumerate(instances[subtask.name]):
                texts = [_instance(own[0], text) for text in subtask.gold_texts(number)]
                self._instances[subtask.name, number] = [each for each in texts if runner.can_score(each)]
        self._runner = runner.with_documents([own for own in self._instances.values() if own])

    @property
    def scorer(self) -> ContinuationScorer:
        """Scores the texts."""
        return self._runner.scorer

    def queries(self, document: Document) -> tuple[int, ...]:
        """For each of the document's texts the index of its query in the scorer."""
        return self._runner.queries(self._instances[document])

    def sureness(self, documents: Sequence[Document]) -> dict[Document, list[Sureness]]:
        """For each document how sure the model is of its correct texts. Raises FloatingPointError."""
        asked = {document: self._instances[document] for document in documents}
        sure = self._runner.run_with_sureness([each for own in asked.values() for each in own], token_margins=True)
        return {document: [sure[id(each)] for each in own] for document, own in asked.items()}


def _instance(asked: Any, text: str) -> Any:
    return Instance("loglikelihood", asked.doc, (asked.args[0], text), 0, (asked.task_name, asked.doc_id, 1))

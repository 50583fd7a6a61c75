"""The correct answers to the documents of an lm-eval task, and how its metric compares the answers of a choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mergesearch.errors import UserError, in_words
from mergesearch.evaluators.contract.documents import Document
from mergesearch.evaluators.data.content import content_text

MOST_TEXTS = 4
"""So many correct texts of a document are scored. Some tasks have dozens, mostly spellings of the first ones."""
UNLIKELY = 1e6
"""In nats, how much less likely all choices are than the one that is tried."""


class Answers:
    """The answers to one task's documents, for one metric."""

    def __init__(self, task: Any, metric_name: str) -> None:
        self._task, self._metric_name = task, metric_name

    def choices(self, doc: dict[str, Any]) -> Sequence[str]:
        """The choices of a document."""
        choices: Sequence[str] = self._task.doc_to_choice(doc)
        return choices

    def gold(self, doc: dict[str, Any]) -> tuple[int, ...]:
        """Indices of the correct choices. Empty if the task does not say."""
        choices = self.choices(doc)
        indices = [
            choices.index(answer) if answer in choices else answer for answer in correct_answers(self._task, doc)
        ]
        return tuple(index for index in indices if isinstance(index, int) and 0 <= index < len(choices))

    def scales(self, doc: dict[str, Any]) -> tuple[float, ...]:
        """The factors of the choices' log-probabilities in the metric, for a mean length of 1."""
        lengths = self._lengths(doc)
        return tuple(sum(lengths) / len(lengths) / length for length in lengths)

    def values(self, doc: dict[str, Any], logprobs: Sequence[float]) -> tuple[list[float], float]:
        """What the metric compares, for each choice; and what a unit of it is in nats, for a choice of mean length.

        logprobs: Of the instances. More instances than choices: the others are the choices without their question.
        """
        lengths = self._lengths(doc)
        count = len(lengths)
        conditional, unconditional = logprobs[:count], logprobs[count:]
        if self._metric_name == "acc_mutual_info":
            return [a - b for a, b in zip(conditional, unconditional, strict=True)], 1.0
        return [a / length for a, length in zip(conditional, lengths, strict=True)], sum(lengths) / count

    def _lengths(self, doc: dict[str, Any]) -> list[float]:
        choices = self.choices(doc)
        if self._metric_name == "acc_norm":
            return [float(len(choice)) or 1.0 for choice in choices]
        if self._metric_name == "acc_bytes":
            return [float(len(choice.encode())) or 1.0 for choice in choices]
        return [1.0] * len(choices)

    def texts(self, doc: dict[str, Any]) -> list[str]:
        """The first correct texts that a model may generate, distinct ones, without what separates them."""
        gold = self._task.doc_to_target(doc)
        if self._task.config.doc_to_choice is not None:
            gold = self.choices(doc)[gold]
        texts = dict.fromkeys(str(text) for text in (gold if isinstance(gold, list) else [gold]))
        return [text for text in texts if text.strip()][:MOST_TEXTS]

    def document(self, doc: dict[str, Any]) -> Document:
        """A document for people to read. Raises whatever the task's code raises."""
        text, target = self._task.doc_to_text(doc), self._task.doc_to_target(doc)
        if self._task.OUTPUT_TYPE == "loglikelihood_rolling":
            return Document(content_text(target))
        if self._task.OUTPUT_TYPE != "multiple_choice":
            return Document(content_text(text), " / ".join(self.texts(doc)))
        choices = [str(choice) for choice in self.choices(doc)]
        right = " / ".join(choices[index] for index in self.gold(doc))
        # With several contexts to choose from, what is scored is what follows each of them.
        return Document(content_text(target if self._task.multiple_input else text), right, choices)

    def answer(self, doc: dict[str, Any], given: Sequence[Any]) -> str:
        """What a model answered: the choice that the metric takes, or the text; empty for a log-probability.

        given: The filtered answers of the document's instances. Raises whatever the task's code raises.
        """
        if self._task.OUTPUT_TYPE == "multiple_choice":
            values, _ = self.values(doc, [float(logprob) for logprob, _ in given])
            return str(self.choices(doc)[values.index(max(values))])
        if self._task.OUTPUT_TYPE != "generate_until":
            return ""
        return content_text(given[0])


class AnswersByMetric(Answers):
    """The correct choices of a task with code of its own: those that the metric counts as right."""

    def __init__(self, task: Any, metric_name: str) -> None:
        super().__init__(task, metric_name)
        self._found: dict[int, tuple[int, ...] | None] = {}

    def gold(self, doc: dict[str, Any]) -> tuple[int, ...]:
        """See ``Answers.gold``. Empty if the metric does not decide for one of the choices."""
        return self.known_gold(doc) or ()

    def known_gold(self, doc: dict[str, Any]) -> tuple[int, ...] | None:
        """The choices for which the metric is 1; None if it is not 0 or 1 for any of the others, or for a tie."""
        if id(doc) not in self._found:
            count = len(self.choices(doc))
            results = [self._result(doc, [sure in (n, count) for n in range(count)]) for sure in range(count + 1)]
            is_known = all(result in (0, 1) for result in results)
            self._found[id(doc)] = tuple(n for n in range(count) if results[n] == 1) if is_known else None
        return self._found[id(doc)]

    def _result(self, doc: dict[str, Any], is_likely: Sequence[bool]) -> object:
        try:
            results = self._task.process_results(doc, [(-1.0 if each else -UNLIKELY, False) for each in is_likely])
            return results.get(self._metric_name)
        except Exception:  # a task's code may raise anything
            return None


def check_gold(task: Any, docs: Sequence[dict[str, Any]]) -> None:
    """Raises UserError if a correct answer is not among the choices. lm-eval warns, and counts it as wrong."""
    if task.OUTPUT_TYPE != "multiple_choice" or callable(task.config.process_results):
        return
    for number, doc in enumerate(docs):
        choices = _rendered_choices(task, number, doc)
        for answer in correct_answers(task, doc):
            is_valid = 0 <= answer < len(choices) if isinstance(answer, int) else answer in choices
            if not is_valid:
                raise UserError(
                    f"task {task.task_name!r}, item {number}: the correct answer {answer!r} is not among its "
                    f"{len(choices)} choices, {choices!r}"
                )


def correct_answers(task: Any, doc: dict[str, Any]) -> list[Any]:
    """The task's correct answers to a question: choices, or indices of choices."""
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    return gold if isinstance(gold, list) else [gold]


def _rendered_choices(task: Any, number: int, doc: dict[str, Any]) -> Sequence[str]:
    where = f"task {task.task_name!r}, item {number}"
    try:
        choices = task.doc_to_choice(doc)
    except Exception as error:  # a template may run any code
        raise UserError(f"{where}: its choices cannot be rendered: {in_words(error)}") from error
    if not isinstance(choices, list | tuple):
        raise UserError(f"{where}: its choices are {choices!r}, expected a list")
    return choices

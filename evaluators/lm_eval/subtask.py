"""One lm-eval task, alone or as part of a group: its documents as items, and its metric as numbers per document."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.metrics import mean

from mergesearch.errors import UserError, in_words, nearest
from mergesearch.evaluators.contract.documents import Document
from mergesearch.evaluators.contract.evaluator import Metric
from mergesearch.evaluators.contract.identity import functions_in, source_files, without_functions
from mergesearch.evaluators.contract.item import Item
from mergesearch.evaluators.contract.sources import Source
from mergesearch.evaluators.data.content import content_hash, content_text
from mergesearch.evaluators.inference.logprobs import Sureness
from mergesearch.evaluators.inference.losses import ItemTarget
from mergesearch.evaluators.lm_eval.answers import Answers, check_gold
from mergesearch.evaluators.lm_eval.command_line import as_command_line
from mergesearch.evaluators.lm_eval.decisions import TESTED_DOCUMENTS, Decisions, GreedyText, decisions_on_given
from mergesearch.evaluators.lm_eval.examples import Examples, TestItems
from mergesearch.evaluators.lm_eval.metrics import DocumentMetric, WeightedMetric, metric_of
from mergesearch.evaluators.lm_eval.sample_writer import SubtaskLog, sample_of
from mergesearch.evaluators.lm_eval.task_loading import TaskOverrides, build_instances, cache_rendering

SCORES_GIVEN = ("multiple_choice", "loglikelihood", "loglikelihood_rolling")
"""Types of tasks whose texts are given, and not generated."""
NOT_SETTINGS = ("metadata", "dataset_path", "dataset_name", "dataset_kwargs")
"""Keys of a task's configuration that say where it and its data are."""


HUB_NAME = re.compile(r"[\w-][\w.-]*(?:/[\w.-]+)?")
BUILDERS = ("json", "csv", "parquet", "arrow", "text", "pandas", "xml", "webdataset", "imagefolder", "audiofolder")
"""What ``datasets.load_dataset`` takes for files in place of a name on the Hub."""


class Subtask:
    """A loaded task of lm-eval and the metric that is read from it.

    Attributes:
        name: lm-eval's name of the task.
        docs: Its documents.
        metric_name: Name of the metric.
        filter_name: Name of the filter of the model's answers.
        metric: The metric's name, with that of the filter if the task has several, and its direction.
        document_metric: Converts results of documents to numbers, and numbers to the value.
    """

    def __init__(self, task: Any, metric: str, overrides: TaskOverrides) -> None:
        """Checks everything that can be checked without a model; raises UserError.

        Args:
            task: lm-eval's task object.
            metric: A metric, or 'metric,filter'.
            overrides: See ``TaskOverrides``.
        """
        self.name = task.task_name
        self._task, self._overrides = task, overrides
        # lm-eval has no public name for a task's filters.
        self._filters: dict[str, Any] = {ensemble.name: ensemble for ensemble in task._filters}
        with as_command_line():
            self.docs = list(task.eval_docs)
            self._first_instances = build_instances(task, 1, overrides)[0]
            cache_rendering(task, self.docs)
            check_gold(task, self.docs)
            results = self._results_of_empty_answers(self.docs[0])
            self.metric_name, self.filter_name = self._chosen(metric, results)
            self.document_metric = self._document_metric(results)
            self._answers = Answers(task, self.metric_name)
            self._decisions = self._known_decisions()
        if self._decisions is not None:
            self._answers = self._decisions.answers
        higher = self._task.higher_is_better().get(self.metric_name)
        name = f"{self.metric_name},{self.filter_name}" if len(self._filters) > 1 else self.metric_name
        self.metric = Metric(name, True if higher is None else bool(higher))

    def items(self, task_name: str, group: str | None) -> list[Item]:
        """One item per document.

        Args:
            task_name: Name of the task or group in the config.
            group: Field of the documents; documents with equal values have equal fingerprints.
        """
        prefix = "" if task_name == self.name else f"{self.name}/"
        with as_command_line():
            return [self._item(f"{prefix}{n}", task_name, doc, group) for n, doc in enumerate(self.docs)]

    def _item(self, id_: str, task_name: str, doc: dict[str, Any], group: str | None) -> Item:
        if group is not None and group not in doc:
            raise UserError(f"group: document {id_} of task {task_name!r} has no field {group!r}{nearest(group, doc)}")
        return Item(
            id_,
            task_name,
            fingerprint=content_hash(doc if group is None else doc[group]),
            weight=self._weight(doc),
            chance=self._chance(doc),
            text=content_text(doc) if group is None else "",
            subtask="" if task_name == self.name else self.name,
            content="" if group is None else content_hash(doc),
        )

    def _weight(self, doc: dict[str, Any]) -> float:
        if not isinstance(self.document_metric, WeightedMetric):
            return 1.0
        return self.document_metric.weight(self._results_of_empty_answers(doc)[self.metric_name])

    def _chance(self, doc: dict[str, Any]) -> float | None:
        """1 / number of choices for the accuracy of choices, 0 for other types of tasks, None if not known."""
        if self._task.OUTPUT_TYPE != "multiple_choice":
            return 0.0
        return 1 / len(self._task.doc_to_choice(doc)) if self.metric_name.startswith("acc") else None

    def separate_examples(self, test: TestItems, group: str | None) -> str | None:
        """Keeps test items and each item itself out of the prompts' examples; says how these are drawn.

        None if there are no examples. Raises UserError if too few documents are left.
        """
        if not self._task.get_config("num_fewshot"):
            return None
        with as_command_line():
            return Examples(self._task, self.docs, test, group).described

    def content(self, number: int, instances: Sequence[Any]) -> object:
        """A document with its right answer, and what the model is asked about it."""
        with as_command_line():
            target = self._task.doc_to_target(self.docs[number])
        return [self.docs[number], *map(without_functions, (target, [instance.arguments for instance in instances]))]

    def document(self, number: int) -> Document:
        """A document for people to read; as much of it as the task's code can render."""
        doc = self.docs[number]
        try:
            return self._answers.document(doc)
        except Exception:  # a task's code may raise anything
            return Document(content_text(doc))

    def answer(self, number: int, instances: Sequence[Any]) -> str:
        """What the model answered to a document, of whose instances some may not have been run."""
        given = [instance.filtered_resps.get(self.filter_name) for instance in instances]
        return "" if None in given else self._answers.answer(self.docs[number], given)

    @property
    def settings(self) -> dict[str, object]:
        """The task's settings, without where its data is."""
        return {key: value for key, value in vars(self._task.config).items() if key not in NOT_SETTINGS}

    @property
    def source(self) -> Source | None:
        """The data set on the Hub that the documents are of; None where they are from files or from code."""
        config = self._task.config
        name, given = config.dataset_path, config.dataset_kwargs or {}
        if not isinstance(name, str) or not HUB_NAME.fullmatch(name) or name in BUILDERS or "data_files" in given:
            return None
        split = config.test_split if self._task.has_test_docs() else config.validation_split
        return None if Path(name).exists() else Source(self.name, name, config.dataset_name, split)

    def code_files(self) -> list[Path]:
        """The files of the task's functions."""
        return source_files([*functions_in(self.settings), type(self._task)])

    def instances(self, chat: Any) -> list[list[Any]]:
        """For each document its instances. chat: renders messages with a chat template; None: there is none."""
        return build_instances(self._task, len(self.docs), self._overrides, chat)

    @property
    def has_targets(self) -> bool:
        """Whether the model scores given texts, or generates texts of which correct ones are known."""
        return self.has_margins if self.generates else self._task.OUTPUT_TYPE in SCORES_GIVEN

    def target(self, number: int, queries: tuple[int, ...], tokens: int, weight: float) -> ItemTarget:
        """The correct answer to a document.

        Args:
            number: Index of the document.
            queries: For each of its instances, or of its ``gold_texts``, the index of the query in the scorer.
            tokens: Number of tokens of the continuation of the first one.
            weight: The document's weight in the loss.
        """
        doc = self.docs[number]
        if self._task.OUTPUT_TYPE != "multiple_choice":
            size, others = self._size(doc, tokens), queries[1:]
            return ItemTarget(queries[:1], (0,), size=size, weight=weight, decides="greedy", spellings=others)
        scales = self._answers.scales(doc)
        decides = self.decisions.kind if self.has_margins else "choice"
        # More instances than choices: the others are the choices without their question.
        others = queries[len(scales) :] if self.metric_name == "acc_mutual_info" else ()
        gold = self._answers.gold(doc)
        return ItemTarget(queries[: len(scales)], gold, scales, weight=weight, decides=decides, unconditional=others)

    def _size(self, doc: dict[str, Any], tokens: int) -> float:
        """What a text's nats are divided by: the unit of the metric, or tokens; 1 for empty texts."""
        if isinstance(self.document_metric, WeightedMetric):
            return float(self.document_metric.nats_per_unit * self._weight(doc)) or 1.0
        return float(tokens) or 1.0

    def row(self, number: int, instances: Sequence[Any]) -> list[float]:
        """The document's result as numbers, from the filtered answers of its instances."""
        results = self._results(number, instances)
        try:
            return self.document_metric.row(results.get(self.metric_name))
        except (TypeError, ValueError) as error:
            raise UserError(self._unusable(results)) from error

    def _results(self, number: int, instances: Sequence[Any]) -> dict[str, Any]:
        answers = [instance.filtered_resps[self.filter_name] for instance in instances]
        try:
            return dict(self._task.process_results(self.docs[number], answers))
        except Exception as error:  # a task's code may raise anything
            where = f"task {self.name!r}, item {number}"
            raise UserError(f"{where}: the task's process_results failed: {in_words(error)}") from error

    def log(self, scored: Sequence[tuple[int, Sequence[Any]]]) -> SubtaskLog:
        """What ``lm_eval --log_samples`` writes of documents, by their numbers, whose instances are answered."""
        chosen = self._task, self.filter_name
        samples = [sample_of(n, self.docs[n], each, self._results(n, each), chosen) for n, each in scored]
        return SubtaskLog(self.name, samples, *chosen)

    def apply_filter(self, instances: Sequence[Any]) -> None:
        """Sets ``filtered_resps`` of the metric's filter."""
        if instances:
            self._filters[self.filter_name].apply(instances)

    def _results_of_empty_answers(self, doc: dict[str, Any]) -> dict[str, Any]:
        """The task's results for a document without real answers; empty if the task's code does not allow that."""
        if getattr(self._task, "UNSAFE_CODE", False):
            return {}
        answers = [_empty_answer(instance) for instance in self._first_instances]
        try:
            return dict(self._task.process_results(doc, answers))
        except Exception:  # a task's code may raise anything
            return {}

    def _chosen(self, metric: str, results: dict[str, Any]) -> tuple[str, str]:
        """The names of the metric and of the filter, checked against those of the task."""
        name, comma, filter_name = metric.partition(",")
        metrics = list({**self._task.aggregation(), **results})
        filters = list(self._filters)
        if name not in metrics:
            raise UserError(f"metric: task {self.name!r} has no metric {name!r}{nearest(name, metrics)}")
        if not comma and len(filters) > 1:
            valid = " or ".join(f"'{name},{each}'" for each in filters)
            raise UserError(f"metric: task {self.name!r} has several filters: found {metric!r}, expected {valid}")
        if comma and filter_name not in filters:
            raise UserError(f"metric: task {self.name!r} has no filter {filter_name!r}{nearest(filter_name, filters)}")
        return name, filter_name or filters[0]

    def _document_metric(self, results: dict[str, Any]) -> DocumentMetric:
        aggregation = self._task.aggregation().get(self.metric_name, mean)
        samples: list[Any] = []
        if isinstance(results.get(self.metric_name), list | tuple):
            samples = [self._results_of_empty_answers(doc).get(self.metric_name) for doc in self.docs]
        document_metric = metric_of(aggregation, [sample for sample in samples if sample is not None])
        if self.metric_name in results and not _accepts(document_metric, results[self.metric_name]):
            raise UserError(self._unusable(results))
        return document_metric

    @property
    def has_margins(self) -> bool:
        """Whether it is known how the metric decides."""
        return self._decisions is not None

    @property
    def decisions(self) -> Decisions:
        """How the metric decides, if ``has_margins``."""
        assert self._decisions is not None
        return self._decisions

    def _known_decisions(self) -> Decisions | None:
        is_mean = self.document_metric.is_mean
        if not self.generates:
            return decisions_on_given(self._task, self.metric_name, is_mean, self.docs)
        is_known = is_mean and any(self.gold_texts(number) for number in range(len(self.docs))[:TESTED_DOCUMENTS])
        return GreedyText(self._answers) if is_known else None

    @property
    def generates(self) -> bool:
        """Whether the model generates texts."""
        return bool(self._task.OUTPUT_TYPE == "generate_until")

    def margins(self, number: int, sure: Sequence[Sureness], row: Sequence[float]) -> list[float]:
        """A document's margins: without a decision that is known, infinite, with the sign of its result.

        sure: of its instances, or of its ``gold_texts``. row: its result, see ``row``.
        """
        margins = self.decisions.margins(self.docs[number], sure) if sure else [math.inf]
        if self.decisions.width == 1 and math.isinf(margins[0]):
            return [math.inf if row[0] >= 0.5 else -math.inf]
        return margins

    def gold_texts(self, number: int) -> list[str]:
        """The texts after a document's prompt that the metric counts as right, for a task that generates text.

        One for each correct answer: with what separates it from the prompt, else without, else none.
        """
        delimiter, doc = self._task.config.target_delimiter, self.docs[number]
        if getattr(self._task, "UNSAFE_CODE", False):
            return []
        with as_command_line():
            pairs = [dict.fromkeys((delimiter + text, text)) for text in self._answers.texts(doc)]
            found = (next((text for text in pair if self._is_right(doc, text)), None) for pair in pairs)
            return [text for text in found if text is not None]

    def _is_right(self, doc: dict[str, Any], text: str) -> bool:
        """Whether the metric is 1 for a generated text."""
        instance = copy.copy(self._first_instances[0])
        instance.doc, instance.resps, instance.filtered_resps = doc, [text] * (instance.repeats or 1), {}
        try:
            self._filters[self.filter_name].apply([instance])
            results = self._task.process_results(doc, [instance.filtered_resps[self.filter_name]])
            return bool(results.get(self.metric_name) == 1)
        except Exception:  # a task's code may raise anything
            return False

    def _unusable(self, results: dict[str, Any]) -> str:
        """The message for a metric whose results are no numbers."""
        aggregations = self._task.aggregation()
        metrics = {name: metric_of(aggregations.get(name, mean), [results[name]]) for name in results}
        usable = ", ".join(name for name, metric in metrics.items() if _accepts(metric, results[name]))
        return (
            f"metric: {self.metric_name!r} of task {self.name!r} gives {results.get(self.metric_name)!r} for a "
            f"document, expected one or more numbers; usable metrics: {usable or 'none'}"
        )


def _accepts(metric: DocumentMetric, result: Any) -> bool:
    try:
        metric.row(result)
    except (TypeError, ValueError):
        return False
    return True


def _empty_answer(instance: Any) -> Any:
    """An answer of the type that a model gives: a text, a log-probability, or (log-probability, is greedy)."""
    if instance.request_type == "generate_until":
        return ""
    return -1.0 if instance.request_type == "loglikelihood_rolling" else (-1.0, False)

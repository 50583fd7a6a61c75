"""lm-eval tasks and groups, with the numbers that lm-eval's command line prints for the saved model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mergesearch.evaluators.contract.documents import Document
from mergesearch.evaluators.contract.identity import named_files, without_functions
from mergesearch.evaluators.contract.item import Item
from mergesearch.evaluators.contract.loaded_model import LoadedModel
from mergesearch.evaluators.contract.options import EvaluatorOptions, Shared
from mergesearch.evaluators.contract.sources import Source
from mergesearch.evaluators.lm_eval.options import LmEvalOptions

if TYPE_CHECKING:
    from torch import Tensor

    from mergesearch.evaluators.inference.logprobs import ContinuationScorer, Sureness
    from mergesearch.evaluators.inference.losses import ItemTarget, JoinedTargets
    from mergesearch.evaluators.lm_eval.gold_texts import GoldTexts
    from mergesearch.evaluators.lm_eval.groups import SubtaskScores
    from mergesearch.evaluators.lm_eval.instance_runner import InstanceRunner
    from mergesearch.evaluators.lm_eval.sample_writer import SubtaskLog
    from mergesearch.evaluators.lm_eval.subtask import Subtask


class LmEval:
    """See ``Evaluator``. One item per document of the split that lm-eval's command line scores.

    An item's id is the number of its document; in groups and tags the name of its subtask is put before it.

    Attributes:
        subtasks: The tasks of the group or tag, or the task alone.
        instances: For each subtask, by its name, and for each of its documents, lm-eval's instances. Empty before the
            first ``prepare`` or ``score``.
    """

    Options: ClassVar[type[EvaluatorOptions]] = LmEvalOptions
    averages: ClassVar[bool] = True

    def __init__(self, options: LmEvalOptions, shared: Shared) -> None:
        from mergesearch.evaluators.lm_eval.groups import GroupAggregation, common_metric, tasks_with_metric
        from mergesearch.evaluators.lm_eval.subtask import Subtask
        from mergesearch.evaluators.lm_eval.task_loading import load_tasks

        self.task = options.task
        self._options = options
        self._shared = shared
        overrides = options.overrides()
        loaded = load_tasks(options.task, shared.include_path, overrides)
        tasks = tasks_with_metric(loaded.tasks, options.metric)
        self.subtasks = [Subtask(task, options.metric, overrides) for task in tasks]
        self._aggregation = GroupAggregation(loaded.group, self.subtasks[0].metric_name, self.subtasks[0].filter_name)
        self.metric = common_metric(self.subtasks)
        self._document = {
            item: (subtask, number)
            for subtask in self.subtasks
            for number, item in enumerate(subtask.items(self.task, shared.group))
        }
        self.items = list(self._document)
        self._width = max(subtask.document_metric.width for subtask in self.subtasks)
        self._subject: LoadedModel | None = None
        self._notes: list[str] = []
        self._cached_gold_texts: GoldTexts | None = None
        self.instances: dict[str, list[list[Any]]] = {}

    def separate_examples(self, test: Sequence[Item]) -> Sequence[str]:
        """See ``TakesExamples``: one note for each way in which the subtasks draw examples."""
        from mergesearch.evaluators.lm_eval.examples import TestItems

        items, notes = TestItems(test), []
        for subtask in self.subtasks:
            if note := subtask.separate_examples(items, self._shared.group):
                notes.append(note if len(self.subtasks) == 1 else f"{subtask.name}: {note}")
        return notes

    def content_of(self, item: Item) -> object:
        """See ``HasContent``: the document, the right answer, and what the model is asked."""
        subtask, number = self._document[item]
        return subtask.content(number, self._instances(item))

    def describe(self, items: Sequence[Item]) -> list[Document]:
        """See ``Describes``: the questions without examples before them, the right answers, and the choices."""
        from mergesearch.evaluators.lm_eval.command_line import as_command_line

        with as_command_line():
            return [subtask.document(number) for subtask, number in map(self._document.__getitem__, items)]

    def answers(self, items: Sequence[Item]) -> list[str]:
        """See ``Answers``: the choices that the metric takes, or the texts as the metric reads them."""
        from mergesearch.evaluators.lm_eval.command_line import as_command_line

        documents = map(self._document.__getitem__, items)
        with as_command_line():
            return [
                subtask.answer(number, self._instances(item))
                for item, (subtask, number) in zip(items, documents, strict=True)
            ]

    def code(self) -> Mapping[str, object]:
        """See ``HasCode``: the settings of the tasks, and the files of their functions."""
        settings = {f"the settings of {subtask.name}": without_functions(subtask.settings) for subtask in self.subtasks}
        return {**settings, **named_files(path for subtask in self.subtasks for path in subtask.code_files())}

    def sources(self) -> Sequence[Source]:
        """See ``HasSources``."""
        return [source for subtask in self.subtasks if (source := subtask.source)]

    def prepare(self, subject: LoadedModel) -> Sequence[str]:
        """See ``Evaluator.prepare``: notes of items that are cut, and of slower ways that have to be used."""
        from mergesearch.evaluators.lm_eval.command_line import as_command_line

        with as_command_line():
            self.runner_for(subject)
        return self._notes

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``: [items] if a document's result is one number, else [items, width]."""
        from mergesearch.evaluators.lm_eval.command_line import as_command_line
        from mergesearch.evaluators.lm_eval.instance_runner import InstanceRunner

        with as_command_line():
            rows = self._rows(subject, self._in_order(items), InstanceRunner.run)
        return _table([rows[item] for item in items], self._width)

    def logs(self, subject: LoadedModel, items: Sequence[Item]) -> tuple[list[SubtaskLog], dict[str, Any]]:
        """Scores items, and returns what ``lm_eval --log_samples`` writes of them: of each subtask, and of the group.

        The group, where the task is one, has the names of its subtasks and its metric, by its name.
        """
        ordered = self._in_order(items)
        scores = self.score(subject, ordered)
        by_subtask: dict[str, list[tuple[int, Sequence[Any]]]] = {}
        for item in ordered:
            subtask, number = self._document[item]
            by_subtask.setdefault(subtask.name, []).append((number, self._instances(item)))
        found = [each.log(by_subtask[each.name]) for each in self.subtasks if each.name in by_subtask]
        if len(self.subtasks) == 1:
            return found, {}
        metric = f"{self.subtasks[0].metric_name},{self.subtasks[0].filter_name}"
        group = {"tasks": [log.name for log in found], "metrics": {metric: self.value(ordered, scores)}}
        return found, {self.task: group}

    def _in_order(self, items: Sequence[Item]) -> list[Item]:
        scored = set(items)
        return [item for item in self.items if item in scored]

    @property
    def has_margins(self) -> bool:
        """See ``Graded.has_margins``: whether it is known how all subtasks decide."""
        return all(subtask.has_margins for subtask in self.subtasks)

    def score_with_margins(self, subject: LoadedModel, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """See ``Graded.score_with_margins``. Of generated texts the correct ones are scored in addition."""
        from mergesearch.evaluators.lm_eval.command_line import as_command_line

        sure: dict[int, Sureness] = {}
        token_margins = any(subtask.decisions.kind == "greedy" for subtask in self.subtasks)
        ordered = self._in_order(items)
        with as_command_line():
            rows = self._rows(
                subject, ordered, lambda runner, asked: sure.update(runner.run_with_sureness(asked, token_margins))
            )
            margins = self._margins(ordered, rows, sure)
        return (
            _table([rows[item] for item in items], self._width),
            _table([margins[item] for item in items], self._margin_width),
        )

    def _margins(
        self, items: Sequence[Item], rows: Mapping[Item, list[float]], sure: Mapping[int, Sureness]
    ) -> dict[Item, list[float]]:
        """For each item its margins, of the same width. sure: of the instances that were scored."""
        documents = {item: self._document[item] for item in items}
        generated = [(subtask.name, number) for subtask, number in documents.values() if subtask.generates]
        texts = self._gold_texts().sureness(generated) if generated else {}
        margins, width = {}, self._margin_width
        for item, (subtask, number) in documents.items():
            key = subtask.name, number
            known = texts[key] if key in texts else [sure[id(each)] for each in self._instances(item)]
            own = subtask.margins(number, known, rows[item])
            margins[item] = own + [math.inf] * (width - len(own))
        return margins

    def _gold_texts(self) -> GoldTexts:
        from mergesearch.evaluators.lm_eval.gold_texts import GoldTexts

        if self._cached_gold_texts is None:
            generated = [subtask for subtask in self.subtasks if subtask.generates]
            self._cached_gold_texts = GoldTexts(self._runner, generated, self.instances)
        return self._cached_gold_texts

    @property
    def _margin_width(self) -> int:
        return max(subtask.decisions.width for subtask in self.subtasks)

    def grades(self, items: Sequence[Item], margins: Tensor, scale: float) -> Tensor:
        """See ``Graded.grades``."""
        import torch

        grades = torch.zeros(len(items), dtype=torch.float64)
        for part in self._graded_parts(items, margins):
            grades[part.indices] = part.subtask.decisions.grades(part.rows, scale)
        return grades

    def graded_value(self, items: Sequence[Item], margins: Tensor, scale: float) -> float:
        """See ``Graded.graded_value``: the group's aggregation of the graded values of its subtasks."""
        return self._aggregation.graded_value(self._graded_parts(items, margins), scale)

    def graded_contributions(self, items: Sequence[Item], margins: Tensor, scale: float) -> Tensor:
        """See ``Graded.graded_contributions``."""
        return self._aggregation.graded_contributions(self._graded_parts(items, margins), scale)

    def _graded_parts(self, items: Sequence[Item], margins: Tensor) -> list[SubtaskScores]:
        table = margins.reshape(len(items), self._margin_width)
        return self._parts(items, table, lambda subtask: subtask.decisions.width)

    @property
    def has_contributions(self) -> bool:
        """See ``has_contributions``: false if a subtask's value is a median."""
        return all(subtask.document_metric.has_contributions for subtask in self.subtasks)

    @property
    def has_targets(self) -> bool:
        """See ``Differentiable.has_targets``: false if a subtask generates texts of which no correct one is known."""
        return all(subtask.has_targets for subtask in self.subtasks)

    def targets(self, subject: LoadedModel, items: Sequence[Item]) -> JoinedTargets:
        """See ``Differentiable.targets``. The loss weights subtasks as the value does.

        Of tasks that generate, the correct texts are scored after the prompts, as if the model had generated them.
        """
        import torch

        from mergesearch.evaluators.inference.losses import ContinuationTargets, JoinedTargets
        from mergesearch.evaluators.lm_eval.command_line import as_command_line

        parts = self._score_parts(items, torch.zeros(len(items), self._width))
        by_scorer: dict[ContinuationScorer, list[ItemTarget]] = {}
        with as_command_line():
            runner = self.runner_for(subject)
            for part in parts:
                factor = self._aggregation.factor(part, parts) / (sum(part.weights) or 1.0)
                scorer = self._gold_texts().scorer if part.subtask.generates else runner.scorer
                own = [self._target(scorer, items[index], factor) for index in part.indices.tolist()]
                by_scorer.setdefault(scorer, []).extend(own)
        return JoinedTargets([ContinuationTargets(scorer, targets) for scorer, targets in by_scorer.items()])

    def _target(self, scorer: ContinuationScorer, item: Item, factor: float) -> ItemTarget:
        subtask, number = self._document[item]
        queries = (
            self._gold_texts().queries((subtask.name, number))
            if subtask.generates
            else self._runner.queries(self._instances(item))
        )
        tokens = scorer.continuation_length(queries[0]) if queries else 0
        return subtask.target(number, queries, tokens, item.weight * factor)

    def runner_for(self, subject: LoadedModel) -> InstanceRunner:
        """Runs the instances on this model. Made again only for another model or tokenizer."""
        from mergesearch.evaluators.lm_eval.hflm import chat_renderer, wrap
        from mergesearch.evaluators.lm_eval.instance_runner import InstanceRunner

        if self._subject == subject:
            return self._runner
        options, shared = self._options, self._shared
        hflm = wrap(subject, shared.batch_size, options.max_length or shared.max_length, options.add_bos_token)
        chat = chat_renderer(hflm, options.apply_chat_template) if options.apply_chat_template else None
        self.instances = {subtask.name: subtask.instances(chat) for subtask in self.subtasks}
        documents = [instances for by_document in self.instances.values() for instances in by_document]
        self._runner: InstanceRunner = InstanceRunner(hflm, subject, documents, shared)
        self._notes = self._runner.choose_modes()
        self._cached_gold_texts = None
        self._subject = subject
        return self._runner

    def _rows(
        self, subject: LoadedModel, items: Sequence[Item], run: Callable[[InstanceRunner, list[Any]], object]
    ) -> dict[Item, list[float]]:
        """For each item its result as ``width`` numbers. run: Gets the runner and the items' instances."""
        runner = self.runner_for(subject)
        instances = {item: self._instances(item) for item in items}
        run(runner, [each for by_item in instances.values() for each in by_item])
        for subtask in self.subtasks:
            own = [item for item in items if self._document[item][0] is subtask]
            subtask.apply_filter([each for item in own for each in instances[item]])
        return {item: self._row(item, instances[item]) for item in items}

    def _instances(self, item: Item) -> list[Any]:
        subtask, number = self._document[item]
        return self.instances[subtask.name][number]

    def _row(self, item: Item, instances: Sequence[Any]) -> list[float]:
        subtask, number = self._document[item]
        row = subtask.row(number, instances)
        return row + [math.nan] * (self._width - len(row))

    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        """See ``Evaluator.value``."""
        return self._aggregation.value(self._score_parts(items, scores))

    def contributions(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """See ``Evaluator.contributions``."""
        return self._aggregation.contributions(self._score_parts(items, scores))

    def _score_parts(self, items: Sequence[Item], scores: Tensor) -> list[SubtaskScores]:
        table = scores.reshape(len(items), self._width)
        return self._parts(items, table, lambda subtask: subtask.document_metric.width)

    def _parts(self, items: Sequence[Item], table: Tensor, width: Callable[[Subtask], int]) -> list[SubtaskScores]:
        """The rows by subtask, in the order of the subtasks. Subtasks without an item are left out."""
        from mergesearch.evaluators.lm_eval.groups import SubtaskScores

        return [
            SubtaskScores(subtask, own, table[own][:, : width(subtask)], items)
            for subtask, own in self._by_subtask(items)
        ]

    def _by_subtask(self, items: Sequence[Item]) -> list[tuple[Subtask, Tensor]]:
        """The subtasks that any of the items belong to, with the numbers of those items."""
        import torch

        if len(self.subtasks) == 1:
            return [(self.subtasks[0], torch.arange(len(items)))] if items else []
        numbers: dict[str, list[int]] = {}
        for number, item in enumerate(items):
            numbers.setdefault(self._document[item][0].name, []).append(number)
        return [(each, torch.tensor(numbers[each.name])) for each in self.subtasks if each.name in numbers]


def _table(rows: Sequence[Sequence[float]], width: int) -> Tensor:
    """[rows] float64 if they have one number each, else [rows, width]."""
    import torch

    table = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), width)
    return table[:, 0] if width == 1 else table

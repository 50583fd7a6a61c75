"""lm-eval tasks and groups, with exactly the numbers that the ``lm_eval`` command line prints for the saved model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.evaluator import EvaluatorOptions, Item, LoadedModel, Shared

if TYPE_CHECKING:
    from torch import Tensor

    from mergesearch.evaluators.inference.losses import Target, Targets
    from mergesearch.evaluators.lm_eval.harness import Settings
    from mergesearch.evaluators.lm_eval.requests import Requests
    from mergesearch.evaluators.lm_eval.subtask import Member


class LmEvalOptions(EvaluatorOptions):
    """An lm-eval task, group or tag, and what to read from it. Names and defaults are the command line's."""

    task: str = Field(min_length=1, description="Name of a task, group or tag of lm-eval, or of yours in include_path")
    metric: str = Field(
        "acc", min_length=1, description="A metric of the task; 'metric,filter' where it has several filters"
    )
    num_fewshot: int | None = Field(None, ge=0, description="Examples before each question; default: the task's")
    fewshot_seed: int = Field(1234, description="Seed that draws the examples")
    apply_chat_template: bool | str = Field(False, description="Put questions in the tokenizer's (named) chat template")
    fewshot_as_multiturn: bool | None = Field(
        None, description="Examples as turns of the conversation; default: with a chat template"
    )
    system_instruction: str | None = Field(None, description="What the prompt begins with")
    gen_kwargs: dict[str, Any] | None = Field(None, description="Generation settings over those of the task")
    max_length: int | None = Field(None, gt=1, description="Tokens of a sequence; default: the model's context")
    add_bos_token: bool | None = Field(None, description="Begin with the tokenizer's beginning-of-text token")
    confirm_run_unsafe_code: bool = Field(False, description="Run code that the model writes, where a task asks that")

    @model_validator(mode="after")
    def _turns_need_a_template(self) -> LmEvalOptions:
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise ValueError("fewshot_as_multiturn needs apply_chat_template")
        return self


@dataclass(frozen=True)
class _Part:
    """A member's share of some items: their places, rows and weights, and its factor in the whole's value."""

    member: Member
    places: list[int]
    rows: Tensor
    weights: list[float]

    def value(self) -> float:
        return self.member.values.value(self.rows, self.weights)


class LmEval:
    """See ``Evaluator``. Documents are all that the command line would score; an item's id is the document's number,
    after the subtask's name where there are several.

    A group's value is its own aggregation of its subtasks. A tag, or a group without an aggregation, for which the
    command line prints no number, has the plain mean of its subtasks.
    """

    Options: ClassVar[type[EvaluatorOptions]] = LmEvalOptions
    averages: ClassVar[bool] = True

    def __init__(self, options: LmEvalOptions, shared: Shared) -> None:
        from mergesearch.evaluators.lm_eval.harness import load_tasks
        from mergesearch.evaluators.lm_eval.subtask import Member

        self.task = options.task
        self._options = options
        self._shared = shared
        settings = _settings(options)
        loaded = load_tasks(options.task, shared.include_path, settings)
        self._members = [Member(task, options.metric, settings) for task in _with_metric(loaded.tasks, options.metric)]
        self._by_size = _by_size(loaded.group, self._members[0].metric, self._members[0].filter)
        self.metric = _common_direction(self._members)
        owned = [(m, n, item) for m in self._members for n, item in enumerate(m.items(self.task, shared.group))]
        self.items = [item for _, _, item in owned]
        self._place = {item: (member, number) for member, number, item in owned}
        self._width = max(member.values.width for member in self._members)
        self._subject: LoadedModel | None = None
        self._notes: list[str] = []

    def prepare(self, subject: LoadedModel) -> Sequence[str]:
        """See ``Evaluator.prepare``: how many items are cut, and what has to be asked in a slower way."""
        from mergesearch.evaluators.lm_eval.harness import as_command_line

        with as_command_line():
            self._encode(subject)
        return self._notes

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``: [items] where one number tells a document's metric, or else [items, k]."""
        import torch

        from mergesearch.evaluators.lm_eval.harness import as_command_line

        asked = set(items)
        with as_command_line():
            self._encode(subject)
            rows = self._rows([item for item in self.items if item in asked])
        table = torch.tensor([rows[item] for item in items], dtype=torch.float64).reshape(len(items), self._width)
        return table[:, 0] if self._width == 1 else table

    @property
    def has_contributions(self) -> bool:
        """See ``has_contributions`` in ``_base``: not where a subtask's value is a median."""
        return all(member.values.has_contributions for member in self._members)

    @property
    def has_targets(self) -> bool:
        """See ``Differentiable.has_targets``: where none of the subtasks generates."""
        return all(member.has_targets for member in self._members)

    def targets(self, subject: LoadedModel, items: Sequence[Item]) -> Targets:
        """See ``Differentiable.targets``: the right choice, the answer or the text. A subtask's weigh as its value."""
        import torch

        from mergesearch.evaluators.inference.losses import Targets
        from mergesearch.evaluators.lm_eval.harness import as_command_line

        parts = self._parts(items, torch.zeros(len(items), self._width))
        with as_command_line():
            self._encode(subject)
            targets = [one for part in parts for one in self._part_targets(part, items, self._share(part, parts))]
        return Targets(self._requests.scorer, targets, self._shared.batch_size)

    def _part_targets(self, part: _Part, items: Sequence[Item], share: float) -> list[Target]:
        factor = share / (sum(part.weights) or 1.0)
        return [self._target(items[place], factor) for place in part.places]

    def _target(self, item: Item, factor: float) -> Target:
        member, number = self._place[item]
        answers = self._requests.numbers(self._instances(item))
        tokens = self._requests.scorer.answer_length(answers[0])
        return member.target(number, answers, tokens, item.weight * factor)

    def _encode(self, subject: LoadedModel) -> None:
        """Builds and encodes all questions, unless that was done for this model and tokenizer."""
        from mergesearch.evaluators.lm_eval.hflm import chat_renderer, wrap
        from mergesearch.evaluators.lm_eval.requests import Requests

        if self._subject == subject:
            return
        options, size = self._options, self._shared.batch_size
        wrapped = wrap(subject, size, options.max_length or self._shared.max_length, options.add_bos_token)
        chat = chat_renderer(wrapped, options.apply_chat_template) if options.apply_chat_template else None
        built = {member.name: member.instances(chat) for member in self._members}
        documents = [group for groups in built.values() for group in groups]
        self._built = built
        self._requests: Requests = Requests(wrapped, subject, documents, self._shared)
        self._notes = self._requests.settle()
        self._subject = subject

    def _rows(self, items: Sequence[Item]) -> dict[Item, list[float]]:
        instances = {item: self._instances(item) for item in items}
        self._requests.ask([one for group in instances.values() for one in group])
        for member in self._members:
            member.apply_filter([one for item in items if self._place[item][0] is member for one in instances[item]])
        return {item: self._row(item, instances[item]) for item in items}

    def _instances(self, item: Item) -> list[Any]:
        member, number = self._place[item]
        return self._built[member.name][number]

    def _row(self, item: Item, instances: Sequence[Any]) -> list[float]:
        member, number = self._place[item]
        row = member.row(number, instances)
        return row + [math.nan] * (self._width - len(row))

    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        """See ``Evaluator.value``."""
        parts = self._parts(items, scores)
        if len(parts) == 1:
            return parts[0].value()
        from lm_eval.api.metrics import aggregate_subtask_metrics

        sizes = [len(part.places) for part in parts]
        return float(aggregate_subtask_metrics([part.value() for part in parts], sizes, self._by_size))

    def contributions(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """See ``Evaluator.contributions``. A subtask's are scaled so that their weighted mean over all is its part."""
        import torch

        parts = self._parts(items, scores)
        found = torch.zeros(len(items), dtype=torch.float64)
        total = sum(sum(part.weights) for part in parts)
        for part in parts:
            own = part.member.values.contributions(part.rows, part.weights)
            found[part.places] = own * (self._share(part, parts) * total / sum(part.weights))
        return found

    def _share(self, part: _Part, parts: Sequence[_Part]) -> float:
        """A subtask's factor in the value of all."""
        return len(part.places) / sum(len(one.places) for one in parts) if self._by_size else 1 / len(parts)

    def _parts(self, items: Sequence[Item], scores: Tensor) -> list[_Part]:
        """The items by member, in the order of the members; members without an item are left out."""
        table = scores.reshape(len(items), self._width)
        places: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            places.setdefault(self._place[item][0].name, []).append(place)
        present = [(member, places[member.name]) for member in self._members if member.name in places]
        return [
            _Part(member, own, table[own][:, : member.values.width], [items[n].weight for n in own])
            for member, own in present
        ]


def _settings(options: LmEvalOptions) -> Settings:
    from mergesearch.evaluators.lm_eval.harness import Settings

    multiturn = options.fewshot_as_multiturn
    return Settings(
        options.num_fewshot,
        options.fewshot_seed,
        options.gen_kwargs,
        options.system_instruction,
        bool(options.apply_chat_template) if multiturn is None else multiturn,
        options.confirm_run_unsafe_code,
    )


def _with_metric(tasks: Sequence[Any], metric: str) -> Sequence[Any]:
    """Of several tasks those that have the metric, as lm-eval's groups have it; all, where none has."""
    return [task for task in tasks if metric.partition(",")[0] in task.aggregation()] or tasks


def _by_size(group: Any | None, metric: str, filter_name: str) -> bool:
    """Whether subtasks count by their number of documents. Raises where the group aggregates other metrics."""
    if group is None:
        return False
    for one in group.aggregate_metric_list:
        if one.metric == metric and (one.filter_list is None or filter_name in one.filter_list):
            return bool(one.weight_by_size)
    usable = ", ".join(one.metric for one in group.aggregate_metric_list)
    raise UserError(f"metric: group {group.name!r} does not aggregate '{metric},{filter_name}'; usable: {usable}")


def _common_direction(members: Sequence[Member]) -> Any:
    directions = {member.direction for member in members}
    if len(directions) > 1:
        raise UserError(f"metric: {members[0].metric!r} is better higher in some subtasks and lower in others")
    return members[0].direction

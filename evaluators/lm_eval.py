"""One lm-eval task, with exactly the numbers that the ``lm_eval`` command line prints for the saved model."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from mergesearch.errors import UserError, nearest
from mergesearch.evaluators._base import EvaluatorOptions, Item, LoadedModel, MeanOfItems, Metric, Shared
from mergesearch.evaluators._near import plain

if TYPE_CHECKING:
    from torch import Tensor

    from mergesearch.evaluators._requests import Requests


class LmEvalOptions(EvaluatorOptions):
    """An lm-eval task and what to read from it."""

    task: str = Field(min_length=1, description="Name of a task of lm-eval, or of your own in include_path")
    metric: str = Field(
        "acc", min_length=1, description="A metric of the task; 'metric,filter' where it has several filters"
    )
    num_fewshot: int | None = Field(None, ge=0, description="Examples before each question; default: the task's")


class LmEval(MeanOfItems):
    """See ``Evaluator``. Documents are all that the command line would score; an item's id is the document's number."""

    Options: ClassVar[type[EvaluatorOptions]] = LmEvalOptions
    averages: ClassVar[bool] = True

    def __init__(self, options: LmEvalOptions, shared: Shared) -> None:
        from mergesearch.evaluators._harness import as_command_line, build_instances, load_task

        self.task = options.task
        self._batch_size = shared.batch_size
        self._max_length = shared.max_length
        self._lm_eval = load_task(options.task, shared.include_path, options.num_fewshot)
        self._name, self._filter = _metric(self._lm_eval, options)
        self._weighted = _weighted(self._lm_eval, options, self._name)
        self.metric = Metric(self._name, bool(self._lm_eval.higher_is_better()[self._name]))
        with as_command_line():
            self._docs = list(self._lm_eval.eval_docs)
            self.items = [self._item(number, doc, shared.group) for number, doc in enumerate(self._docs)]
        build_instances(self._lm_eval, documents=1)  # so that what cannot be built is known now
        self._number = {item: number for number, item in enumerate(self.items)}
        self._requests: Requests | None = None
        _remember_answers(self._lm_eval, self._docs)

    def _item(self, number: int, doc: dict[str, Any], group: str | None) -> Item:
        if group is not None and group not in doc:
            raise UserError(
                f"group: document {number} of task {self.task!r} has no field {group!r}{nearest(group, doc)}"
            )
        content = doc if group is None else doc[group]
        text = json.dumps(content, sort_keys=True, default=str)
        weight = self._weight(doc) if self._weighted else 1.0
        print_ = hashlib.sha256(text.encode()).hexdigest()
        return Item(str(number), self.task, print_, weight, self._chance(doc), plain(doc) if group is None else "")

    def _chance(self, doc: dict[str, Any]) -> float | None:
        """1 / number of choices for accuracies among choices, 0 for what must be written out."""
        if self._lm_eval.OUTPUT_TYPE != "multiple_choice":
            return 0.0
        return 1 / len(self._lm_eval.doc_to_choice(doc)) if self._name.startswith("acc") else None

    def _weight(self, doc: dict[str, Any]) -> float:
        return float(self._lm_eval.process_results(doc, [0.0])[self._name][1])

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``."""
        import torch

        from mergesearch.evaluators._harness import as_command_line
        from mergesearch.evaluators._requests import Requests

        numbers = [self._number[item] for item in items]
        with as_command_line():
            if self._requests is None or self._requests.subject != subject:
                self._requests = Requests(self._lm_eval, self._instances, subject, self._batch_size, self._max_length)
            results = self._requests.answer(sorted(set(numbers)), self._filter)
            values = {number: self._value(number, found) for number, found in results.items()}
        return torch.tensor([values[number] for number in numbers], dtype=torch.float64)

    @cached_property
    def _instances(self) -> list[list[Any]]:
        from mergesearch.evaluators._harness import build_instances

        return build_instances(self._lm_eval, len(self._docs))

    def _value(self, number: int, results: list[Any]) -> float:
        value = self._lm_eval.process_results(self._docs[number], results).get(self._name)
        if self._weighted:
            logprob, weight = value
            return -float(logprob) / math.log(2) / weight if weight else 0.0
        try:
            return float(value)
        except TypeError as error:
            raise UserError(
                f"metric: {self._name!r} of task {self.task!r} is not one number per document ({value!r})"
            ) from error


def _metric(task: Any, options: LmEvalOptions) -> tuple[str, str]:
    """The metric's name and the filter's, checked against those of the task."""
    name, comma, chosen = options.metric.partition(",")
    metrics, filters = list(task.aggregation()), [one.name for one in task._filters]
    if name not in metrics:
        raise UserError(f"metric: task {options.task!r} has no metric {name!r}{nearest(name, metrics)}")
    if not comma and len(filters) > 1:
        ways = " or ".join(f"'{name},{one}'" for one in filters)
        raise UserError(f"metric: task {options.task!r} filters the answers in several ways; say {ways}")
    if comma and chosen not in filters:
        raise UserError(f"metric: task {options.task!r} has no filter {chosen!r}{nearest(chosen, filters)}")
    return name, chosen or filters[0]


def _weighted(task: Any, options: LmEvalOptions, name: str) -> bool:
    """Whether the task's value is bits per byte, which weights its documents; otherwise it must be a plain mean."""
    from lm_eval.api.registry import get_aggregation

    aggregation = task.aggregation()[name]
    if aggregation is get_aggregation("bits_per_byte"):
        return True
    if aggregation is get_aggregation("mean"):
        return False
    known = (get_aggregation("mean"), get_aggregation("bits_per_byte"))
    usable = [metric for metric, found in task.aggregation().items() if found in known]
    raise UserError(
        f"metric: {name!r} of task {options.task!r} is not a mean over documents, which a search needs; "
        f"usable: {', '.join(usable) or 'none'}"
    )


def _remember_answers(task: Any, docs: Sequence[Any]) -> None:
    """Renders each document's target and choices once: lm-eval compiles their templates anew for every candidate."""
    ours = {id(doc) for doc in docs}
    for name in ("doc_to_target", "doc_to_choice", "doc_to_text"):
        if hasattr(task, name):
            setattr(task, name, _once(getattr(task, name), ours))


def _once(render: Any, ours: set[int]) -> Any:
    known: dict[int, Any] = {}

    def rendered(doc: Any, *arguments: Any) -> Any:
        key = id(doc)
        if arguments or key not in ours:
            return render(doc, *arguments)
        if key not in known:
            known[key] = render(doc)
        return list(known[key]) if isinstance(known[key], list) else known[key]

    return rendered

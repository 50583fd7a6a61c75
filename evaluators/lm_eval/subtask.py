"""One lm-eval task, alone or as part of a group: its documents as items, and its metric as numbers of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from lm_eval.api.metrics import mean

from mergesearch.errors import UserError, in_words, nearest
from mergesearch.evaluators.contract.evaluator import Item, Metric
from mergesearch.evaluators.data.near_duplicates import plain
from mergesearch.evaluators.inference.losses import Target
from mergesearch.evaluators.lm_eval.harness import Settings, as_command_line, build_instances
from mergesearch.evaluators.lm_eval.metrics import Values, Weighted, values_of


class Member:
    """metric: as the config says it, a name or 'name,filter'."""

    def __init__(self, task: Any, metric: str, settings: Settings) -> None:
        self.name = task.task_name
        self._task = task
        self._settings = settings
        with as_command_line():
            self.docs = list(task.eval_docs)
            self._first = build_instances(task, 1, settings)[0]  # so that what cannot be built is known now
            _remember_answers(task, self.docs)
            self._check_answers()
            trial = self._tried(self.docs[0])
            self.metric, self.filter = self._chosen(metric, trial)
            self.values = self._values(trial)
        higher = self._task.higher_is_better().get(self.metric)
        self.direction = Metric(self.metric, True if higher is None else bool(higher))

    def items(self, of: str, group: str | None) -> list[Item]:
        """One for each document; ``of``: the name that the config calls the task by."""
        prefix = "" if of == self.name else f"{self.name}/"
        with as_command_line():
            return [self._item(f"{prefix}{n}", of, doc, group) for n, doc in enumerate(self.docs)]

    def _item(self, name: str, of: str, doc: dict[str, Any], group: str | None) -> Item:
        if group is not None and group not in doc:
            raise UserError(f"group: document {name} of task {of!r} has no field {group!r}{nearest(group, doc)}")
        text = json.dumps(doc if group is None else doc[group], sort_keys=True, default=str)
        print_, near = hashlib.sha256(text.encode()).hexdigest(), plain(doc) if group is None else ""
        part = "" if of == self.name else self.name
        return Item(name, of, print_, self._weight(doc), self._chance(doc), near, part)

    def _weight(self, doc: dict[str, Any]) -> float:
        return self.values.weight(self._tried(doc)[self.metric]) if isinstance(self.values, Weighted) else 1.0

    def _chance(self, doc: dict[str, Any]) -> float | None:
        """1 / number of choices for accuracies among choices, 0 for what must be written out."""
        if self._task.OUTPUT_TYPE != "multiple_choice":
            return 0.0
        return 1 / len(self._task.doc_to_choice(doc)) if self.metric.startswith("acc") else None

    def instances(self, chat: Any) -> list[list[Any]]:
        """Each document's instances; chat: renders messages, where a chat template is applied."""
        return build_instances(self._task, len(self.docs), self._settings, chat)

    @property
    def has_targets(self) -> bool:
        """Whether the model weighs texts that are given, and generates none."""
        return self._task.OUTPUT_TYPE in ("multiple_choice", "loglikelihood", "loglikelihood_rolling")

    def target(self, number: int, answers: tuple[int, ...], tokens: int, weight: float) -> Target:
        """What the model should say to a document.

        answers: the numbers of its questions; tokens: of the first one's answer; weight: the document's in the loss.
        """
        if self._task.OUTPUT_TYPE != "multiple_choice":
            return Target(answers[:1], (0,), size=self._size(self.docs[number], tokens), weight=weight)
        choices = self._task.doc_to_choice(self.docs[number])
        count = len(choices)  # what comes after them are the same choices without their question
        gold = self._gold(self.docs[number], choices)
        return Target(answers[:count], gold, _scales(choices, self.metric), weight=weight)

    def _size(self, doc: dict[str, Any], tokens: int) -> float:
        """What a text's nats are divided by: as its metric does it, or its tokens; 1 for empty texts."""
        weighted = self.values.unit * self._weight(doc) if isinstance(self.values, Weighted) else tokens
        return float(weighted) or 1.0

    def _gold(self, doc: dict[str, Any], choices: Sequence[str]) -> tuple[int, ...]:
        """The places of the right choices; none where the task does not say."""
        said = self._task.doc_to_text(doc) if self._task.multiple_input else self._task.doc_to_target(doc)
        places = [choices.index(one) if one in choices else one for one in (said if isinstance(said, list) else [said])]
        return tuple(place for place in places if isinstance(place, int) and 0 <= place < len(choices))

    def row(self, number: int, instances: Sequence[Any]) -> list[float]:
        """The document's metric, from the answers that its instances have got."""
        found = self._results(number, instances)
        try:
            return self.values.row(found.get(self.metric))
        except (TypeError, ValueError) as error:
            raise UserError(self._unusable(found)) from error

    def _results(self, number: int, instances: Sequence[Any]) -> dict[str, Any]:
        answers = [one.filtered_resps[self.filter] for one in instances]
        try:
            return dict(self._task.process_results(self.docs[number], answers))
        except Exception as error:  # a task's code may do anything
            where = f"task {self.name!r}, item {number}"
            raise UserError(f"{where}: its answers cannot be judged: {in_words(error)}") from error

    def apply_filter(self, instances: Sequence[Any]) -> None:
        """Sets ``filtered_resps`` of the metric's filter."""
        for one in self._task._filters:
            if instances and one.name == self.filter:
                one.apply(instances)

    def _tried(self, doc: dict[str, Any]) -> dict[str, Any]:
        """What the task would say of a document for empty answers; {} where it cannot say that."""
        if getattr(self._task, "UNSAFE_CODE", False):
            return {}
        try:
            return dict(self._task.process_results(doc, [_empty_answer(one) for one in self._first]))
        except Exception:  # a task's code may do anything
            return {}

    def _chosen(self, asked: str, trial: dict[str, Any]) -> tuple[str, str]:
        """The metric's name and the filter's, checked against those of the task."""
        name, comma, chosen = asked.partition(",")
        metrics, filters = list({**self._task.aggregation(), **trial}), [one.name for one in self._task._filters]
        if name not in metrics:
            raise UserError(f"metric: task {self.name!r} has no metric {name!r}{nearest(name, metrics)}")
        if not comma and len(filters) > 1:
            ways = " or ".join(f"'{name},{one}'" for one in filters)
            raise UserError(f"metric: task {self.name!r} filters the answers in several ways; say {ways}")
        if comma and chosen not in filters:
            raise UserError(f"metric: task {self.name!r} has no filter {chosen!r}{nearest(chosen, filters)}")
        return name, chosen or filters[0]

    def _values(self, trial: dict[str, Any]) -> Values:
        aggregation = self._task.aggregation().get(self.metric, mean)
        values = self._values_by(aggregation, trial)
        if self.metric in trial and not _fits(values, trial[self.metric]):
            raise UserError(self._unusable(trial))
        return values

    def _values_by(self, aggregation: Any, trial: dict[str, Any]) -> Values:
        if not isinstance(trial.get(self.metric), list | tuple):
            return values_of(aggregation, [])
        found = (self._tried(doc).get(self.metric) for doc in self.docs)
        return values_of(aggregation, [one for one in found if one is not None])

    def _unusable(self, found: dict[str, Any]) -> str:
        kinds = {name: values_of(self._task.aggregation().get(name, mean), [found[name]]) for name in found}
        usable = ", ".join(name for name, values in kinds.items() if _fits(values, found[name]))
        return (
            f"metric: {self.metric!r} of task {self.name!r} is not told by numbers of each document "
            f"({found.get(self.metric)!r}), which a search needs; usable: {usable or 'none'}"
        )

    def _check_answers(self) -> None:
        """Raises where the right choice of a question is none of its choices: lm-eval warns and calls it wrong."""
        if self._task.OUTPUT_TYPE != "multiple_choice" or callable(self._task.config.process_results):
            return
        for number, doc in enumerate(self.docs):
            choices = self._choices(number, doc)
            gold = self._task.doc_to_text(doc) if self._task.multiple_input else self._task.doc_to_target(doc)
            wrong = [one for one in (gold if isinstance(gold, list) else [gold]) if not _among(one, choices)]
            if wrong:
                raise UserError(
                    f"task {self.name!r}, item {number}: the answer {wrong[0]!r} is none of its "
                    f"{len(choices)} choices, {choices!r}"
                )

    def _choices(self, number: int, doc: dict[str, Any]) -> Sequence[str]:
        try:
            choices = self._task.doc_to_choice(doc)
        except Exception as error:  # a template may run anything
            reason = in_words(error)
            raise UserError(f"task {self.name!r}, item {number}: its choices cannot be read: {reason}") from error
        if not isinstance(choices, list | tuple):
            raise UserError(f"task {self.name!r}, item {number}: its choices are {choices!r}, expected a list")
        return choices


def _among(answer: Any, choices: Sequence[str]) -> bool:
    return 0 <= answer < len(choices) if isinstance(answer, int) else answer in choices


def _fits(values: Values, value: Any) -> bool:
    try:
        values.row(value)
    except (TypeError, ValueError):
        return False
    return True


def _scales(choices: Sequence[str], metric: str) -> tuple[float, ...]:
    """What the metric multiplies the choices' log-probabilities by before it compares them, with a mean length of 1."""
    lengths = [1.0] * len(choices)
    if metric in ("acc_norm", "acc_bytes"):
        lengths = [float(len(choice if metric == "acc_norm" else choice.encode())) or 1.0 for choice in choices]
    mean_length = sum(lengths) / len(lengths)
    return tuple(mean_length / length for length in lengths)


def _empty_answer(instance: Any) -> Any:
    """Of the kind that a model gives: a log-probability, and whether it is the likeliest answer; or a text."""
    if instance.request_type == "generate_until":
        return ""
    return -1.0 if instance.request_type == "loglikelihood_rolling" else (-1.0, False)


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

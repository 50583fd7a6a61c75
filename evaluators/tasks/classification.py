"""Classification of texts, or pairs of them, by a model with a head for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mergesearch.errors import UserError, listed
from mergesearch.evaluators.contract.evaluator import EvaluatorOptions, Item, LoadedModel, Metric, Shared, aggregate
from mergesearch.evaluators.contract.jackknife import FunctionOfMeans
from mergesearch.evaluators.data.tables import Table, TableOptions, read_table

if TYPE_CHECKING:
    from torch import Tensor

    from mergesearch.evaluators.inference.encoder import Encoder

Label = str | int


class ClassificationOptions(TableOptions):
    """Texts with labels, and what is measured."""

    text: str = Field("text", description="The field with the text")
    text_pair: str | None = Field(None, description="The field with the second text, of tasks about pairs")
    label: str = Field("label", description="The field with the label: a name or a number of the model's id2label")
    metric: Literal["accuracy", "f1", "f1_macro", "f1_weighted", "mcc"] = "accuracy"
    positive: Label | None = Field(None, description="f1: the label that counts; default: number 1 of two")


class Classification(FunctionOfMeans):
    """See ``Evaluator``. One item per row.

    accuracy: a score is 1 where the label is right, else 0. The others' scores are [items, 2], the numbers of the
    labels that the model says and of the right ones; f1's are 1 for the positive label and else 0.

    Of the counts right, said and gold of each label: F1 = 2 right / (said + gold), 0 where that is 0 / 0; f1_macro is
    its mean over the labels that occur, f1_weighted that by gold. MCC is that of several classes (Gorodkin 2004), 0
    where a side has one class only.
    """

    Options: ClassVar[type[EvaluatorOptions]] = ClassificationOptions
    averages: ClassVar[bool] = True

    def __init__(self, options: ClassificationOptions, shared: Shared) -> None:
        if options.positive is not None and options.metric != "f1":
            raise UserError(f"positive: is f1's, found metric {options.metric!r}")
        self.task = options.task
        self.metric = Metric(options.metric)
        self._options = options
        self._shared = shared
        self._table = read_table(options)
        fields = [options.text, *([options.text_pair] if options.text_pair else [])]
        columns = [self._table.texts(field, key) for field, key in zip(fields, ("text", "text_pair"), strict=False)]
        self._texts = list(zip(*columns, strict=True))
        self._gold = [_label(self._table, options.label, row) for row in range(len(self._texts))]
        chance, prints = self._chance(), self._table.fingerprints(fields, shared.group)
        contents = self._table.contents(fields, shared.group)
        self.items = [
            Item(str(n), self.task, print_, chance=chance, text=text)
            for n, (print_, text) in enumerate(zip(prints, contents, strict=True))
        ]
        self._number = {item: number for number, item in enumerate(self.items)}
        self._encoder: Encoder | None = None

    def _chance(self) -> float | None:
        """1 / number of labels that occur; of F1, nothing is known."""
        if self._options.metric == "accuracy":
            return 1 / len(set(map(str, self._gold)))
        return 0.0 if self._options.metric == "mcc" else None

    def prepare(self, subject: LoadedModel) -> Sequence[str]:
        """See ``Evaluator.prepare``: the model must have the labels."""
        return self._prepared(subject).note()

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``."""
        import torch

        numbers = [self._number[item] for item in items]
        logits = self._prepared(subject).run(numbers, lambda inputs: subject.model(**inputs).logits)
        for number in numbers:
            if logits[number].isnan().any():
                raise FloatingPointError(f"task {self.task!r}, item {number}: the model's output is not a number")
        said = torch.tensor([int(logits[number].argmax()) for number in numbers], dtype=torch.int64)
        return self._scores(said, torch.tensor([self._classes[number] for number in numbers], dtype=torch.int64))

    def _scores(self, said: Tensor, gold: Tensor) -> Tensor:
        if self.metric.name == "accuracy":
            return (said == gold).double()
        both = said.new_empty(len(said), 2)
        both[:, 0], both[:, 1] = said, gold
        return (both == self._positive if self.metric.name == "f1" else both).double()

    def _prepared(self, subject: LoadedModel) -> Encoder:
        from mergesearch.evaluators.inference.encoder import Encoder

        if self._encoder is None or self._encoder.subject != subject:
            labels = _labels(subject.model)
            self._classes = [self._class(label, labels) for label in self._gold]
            self._positive = self._positive_class(labels)
            self._encoder = Encoder(subject, self._texts, self._shared)
        return self._encoder

    def _class(self, label: Label, labels: dict[int, str]) -> int:
        """The model's number of a label, which the data's own names tell better than its numbers."""
        by_name = {name: number for number, name in labels.items()}
        names = self._table.names.get(self._options.label, [])
        name = names[label] if isinstance(label, int) and 0 <= label < len(names) else label
        if isinstance(name, str) and name in by_name:
            return by_name[name]
        if str(label).isdecimal() and int(label) in labels:
            return int(label)
        raise UserError(
            f"label: {self._table.place} has the label {name!r}, the model {listed(map(repr, by_name), most=20)}"
        )

    def _positive_class(self, labels: dict[int, str]) -> int:
        if self._options.metric != "f1":
            return 0
        if self._options.positive is not None:
            return self._class(self._options.positive, labels)
        if len(labels) != 2:
            raise UserError(f"metric: f1 of {len(labels)} labels: say which is positive, or f1_macro or f1_weighted")
        return 1

    def features(self, items: Sequence[Item], scores: Tensor) -> Tensor:  # noqa: ARG002
        """See ``FunctionOfMeans``: [items, 3 · labels], one-hot: right, said, gold."""
        import torch
        from torch.nn.functional import one_hot

        labels = max(2, int(scores.max()) + 1) if len(scores) else 2
        said, gold = one_hot(scores.long(), labels).double().unbind(1)
        return torch.cat([said * gold, said, gold], dim=1)

    def statistic(self, means: Tensor) -> Tensor:
        """See ``FunctionOfMeans``."""
        right, said, gold = means.chunk(3, dim=-1)
        return _STATISTICS[self.metric.name](right, said, gold)

    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        """See ``Evaluator.value``."""
        return aggregate(items, scores) if self.metric.name == "accuracy" else super().value(items, scores)

    def contributions(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """See ``Evaluator.contributions``."""
        return scores if self.metric.name == "accuracy" else super().contributions(items, scores)


# [..., labels] shares of right, said and gold -> [...].


def _f1(right: Tensor, said: Tensor, gold: Tensor) -> Tensor:
    return _ratio(2 * right, said + gold)


def _f1_positive(right: Tensor, said: Tensor, gold: Tensor) -> Tensor:
    return _f1(right, said, gold)[..., 1]


def _f1_macro(right: Tensor, said: Tensor, gold: Tensor) -> Tensor:
    # Leaving out an item leaves a trace of rounding where nothing is left.
    occurs = (said + gold > 1e-12).double()
    return _ratio((occurs * _f1(right, said, gold)).sum(-1), occurs.sum(-1))


def _f1_weighted(right: Tensor, said: Tensor, gold: Tensor) -> Tensor:
    return (gold * _f1(right, said, gold)).sum(-1)


def _mcc(right: Tensor, said: Tensor, gold: Tensor) -> Tensor:
    together = right.sum(-1) - (said * gold).sum(-1)
    spread = (1 - said.square().sum(-1)) * (1 - gold.square().sum(-1))
    return _ratio(together, spread.clamp(min=0).sqrt())


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below, 0 where below is 0 but for rounding."""
    there = below > 1e-9
    return above / below.where(there, 1.0) * there


_STATISTICS = {"f1": _f1_positive, "f1_macro": _f1_macro, "f1_weighted": _f1_weighted, "mcc": _mcc}


def _label(table: Table, field: str, row: int) -> Label:
    value = table.column(field, "label")[row]
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str | int):
        return value
    raise UserError(f"label: {table.place}, row {row}: {field!r} is {value!r}, expected a name or a number")


def _labels(model: Any) -> dict[int, str]:
    config = model.config
    if "ForSequenceClassification" not in " ".join(config.architectures or [type(model).__name__]):
        raise UserError(f"{type(model).__name__} has no head for the classification of texts")
    if config.num_labels < 2 or config.problem_type == "multi_label_classification":
        kind = config.problem_type or "regression"
        raise UserError(f"the model's head is for {kind}; classification needs one label of several")
    return {int(number): str(name) for number, name in config.id2label.items()}

"""Classification of texts, or pairs of texts, by a model with a classification head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mergesearch.errors import UserError, listed
from mergesearch.evaluators.contract.evaluator import Metric
from mergesearch.evaluators.contract.item import Item, aggregate
from mergesearch.evaluators.contract.jackknife import FunctionOfMeans
from mergesearch.evaluators.contract.loaded_model import LoadedModel
from mergesearch.evaluators.contract.options import EvaluatorOptions, Shared
from mergesearch.evaluators.data.tables import DataTable, TableOptions, read_table

if TYPE_CHECKING:
    from torch import Tensor

    from mergesearch.evaluators.inference.encoder import Encoder

Label = str | int
"""A label's name, or its number."""


class ClassificationOptions(TableOptions):
    """Texts with labels, and the metric."""

    text: str = Field("text", description="Field with the text")
    text_pair: str | None = Field(None, description="Field with the second text, for pairs of texts")
    label: str = Field("label", description="Field with the label: a name or number in the model's id2label")
    metric: Literal["accuracy", "f1", "f1_macro", "f1_weighted", "mcc"] = "accuracy"
    positive: Label | None = Field(None, description="For f1: the positive label; default: label 1, if there are two")


class Classification(FunctionOfMeans):
    """See ``Evaluator``. One item per row.

    Scores are [items] for accuracy: 1 if the predicted label is correct, else 0. For other metrics they are
    [items, 2], the numbers of the predicted and of the gold label; for f1, 1 for the positive label and 0 for others.

    F1 of a label is 2 · correct / (predicted + gold), from the numbers of items, and 0 for 0 / 0. f1_macro is its mean
    over the labels that occur, f1_weighted its mean weighted by gold. MCC is that of several classes (Gorodkin 2004),
    and 0 if only one label is predicted, or only one is gold.
    """

    Options: ClassVar[type[EvaluatorOptions]] = ClassificationOptions
    averages: ClassVar[bool] = True

    def __init__(self, options: ClassificationOptions, shared: Shared) -> None:
        if options.positive is not None and options.metric != "f1":
            raise UserError(f"positive: is only for metric: f1, found metric: {options.metric}; remove the key")
        self.task = options.task
        self.metric = Metric(options.metric)
        self._options = options
        self._shared = shared
        self._table = read_table(options)
        fields = [options.text, *([options.text_pair] if options.text_pair else [])]
        columns = [self._table.texts(field, key) for field, key in zip(fields, ("text", "text_pair"), strict=False)]
        self._texts = list(zip(*columns, strict=True))
        self._gold = [_label(self._table, options.label, row) for row in range(len(self._texts))]
        chance = self._chance()
        fingerprints = self._table.fingerprints(fields, shared.group)
        contents = self._table.contents(fields, shared.group)
        self.items = [
            Item(str(n), self.task, fingerprint, chance=chance, text=text)
            for n, (fingerprint, text) in enumerate(zip(fingerprints, contents, strict=True))
        ]
        self._number = {item: number for number, item in enumerate(self.items)}
        self._cached_encoder: Encoder | None = None

    def _chance(self) -> float | None:
        """1 / number of labels that occur for accuracy, 0 for MCC, None (not known) for F1."""
        if self._options.metric == "accuracy":
            return 1 / len(set(map(str, self._gold)))
        return 0.0 if self._options.metric == "mcc" else None

    def content_of(self, item: Item) -> object:
        """See ``HasContent``."""
        number = self._number[item]
        return [self._texts[number], self._gold[number]]

    def prepare(self, subject: LoadedModel) -> Sequence[str]:
        """See ``Evaluator.prepare``: the model must have the labels of the data."""
        return self._encoder(subject).notes

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``."""
        import torch

        numbers = [self._number[item] for item in items]
        logits = self._encoder(subject).run(numbers, lambda inputs: subject.model(**inputs).logits)
        for number in numbers:
            if logits[number].isnan().any():
                raise FloatingPointError(f"task {self.task!r}, item {number}: the model's output is not a number")
        predicted = torch.tensor([int(logits[number].argmax()) for number in numbers], dtype=torch.int64)
        return self._scores(predicted, torch.tensor([self._gold_class[n] for n in numbers], dtype=torch.int64))

    def _scores(self, predicted: Tensor, gold: Tensor) -> Tensor:
        if self.metric.name == "accuracy":
            return (predicted == gold).double()
        both = predicted.new_empty(len(predicted), 2)
        both[:, 0], both[:, 1] = predicted, gold
        return (both == self._positive if self.metric.name == "f1" else both).double()

    def _encoder(self, subject: LoadedModel) -> Encoder:
        """The texts, tokenized for this model."""
        from mergesearch.evaluators.inference.encoder import Encoder

        if self._cached_encoder is None or self._cached_encoder.subject != subject:
            names = _label_names(subject.model)
            self._gold_class = [self._class(label, names) for label in self._gold]
            self._positive = self._positive_class(names)
            self._cached_encoder = Encoder(subject, self._texts, self._shared)
        return self._cached_encoder

    def _class(self, label: Label, names: dict[int, str]) -> int:
        """The model's number of a label. The data's name of a label, if it has one, takes precedence over its number.

        names: The model's labels by number.
        """
        number_of = {name: number for number, name in names.items()}
        class_names = self._table.class_names.get(self._options.label, [])
        name = class_names[label] if isinstance(label, int) and 0 <= label < len(class_names) else label
        if isinstance(name, str) and name in number_of:
            return number_of[name]
        if str(label).isdecimal() and int(label) in names:
            return int(label)
        raise UserError(
            f"label: {self._table.source} has the label {name!r}, which the model does not have; "
            f"valid: {listed(map(repr, number_of), most=20)}"
        )

    def _positive_class(self, names: dict[int, str]) -> int:
        if self._options.metric != "f1":
            return 0
        if self._options.positive is not None:
            return self._class(self._options.positive, names)
        if len(names) != 2:
            raise UserError(
                f"positive: is missing; f1 needs it because the model has {len(names)} labels, "
                f"{listed(map(repr, names.values()), most=20)}; or use metric f1_macro or f1_weighted"
            )
        return 1

    def features(self, items: Sequence[Item], scores: Tensor) -> Tensor:  # noqa: ARG002
        """See ``FunctionOfMeans.features``: [items, 3 · labels], one-hot: correct, predicted, gold."""
        import torch
        from torch.nn.functional import one_hot

        labels = max(2, int(scores.max()) + 1) if len(scores) else 2
        predicted, gold = one_hot(scores.long(), labels).double().unbind(1)
        return torch.cat([predicted * gold, predicted, gold], dim=1)

    def statistic(self, means: Tensor) -> Tensor:
        """See ``FunctionOfMeans.statistic``."""
        correct, predicted, gold = means.chunk(3, dim=-1)
        return STATISTICS[self.metric.name](correct, predicted, gold)

    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        """See ``Evaluator.value``."""
        return aggregate(items, scores) if self.metric.name == "accuracy" else super().value(items, scores)

    def contributions(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """See ``Evaluator.contributions``."""
        return scores if self.metric.name == "accuracy" else super().contributions(items, scores)


# Statistics: fractions of items by label, [..., labels], to the value, [...]. correct: predicted and gold.


def _f1(correct: Tensor, predicted: Tensor, gold: Tensor) -> Tensor:
    return _ratio(2 * correct, predicted + gold)


def _f1_positive(correct: Tensor, predicted: Tensor, gold: Tensor) -> Tensor:
    return _f1(correct, predicted, gold)[..., 1]


def _f1_macro(correct: Tensor, predicted: Tensor, gold: Tensor) -> Tensor:
    # Not > 0: without an item, its label may have a rounding error in place of 0.
    occurs = (predicted + gold > 1e-12).double()
    return _ratio((occurs * _f1(correct, predicted, gold)).sum(-1), occurs.sum(-1))


def _f1_weighted(correct: Tensor, predicted: Tensor, gold: Tensor) -> Tensor:
    return (gold * _f1(correct, predicted, gold)).sum(-1)


def _mcc(correct: Tensor, predicted: Tensor, gold: Tensor) -> Tensor:
    covariance = correct.sum(-1) - (predicted * gold).sum(-1)
    variances = (1 - predicted.square().sum(-1)) * (1 - gold.square().sum(-1))
    return _ratio(covariance, variances.clamp(min=0).sqrt())


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator; 0 if the denominator is 0, apart from rounding errors."""
    nonzero = denominator > 1e-9
    return numerator / denominator.where(nonzero, 1.0) * nonzero


STATISTICS = {"f1": _f1_positive, "f1_macro": _f1_macro, "f1_weighted": _f1_weighted, "mcc": _mcc}


def _label(table: DataTable, field: str, row: int) -> Label:
    value = table.column(field, "label")[row]
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str | int):
        return value
    raise table.wrong_value(field, "label", row, value, "a label's name or number")


def _label_names(model: Any) -> dict[int, str]:
    """The model's labels by number. Raises UserError for a model without a head for one label of several."""
    config = model.config
    if "ForSequenceClassification" not in " ".join(config.architectures or [type(model).__name__]):
        raise UserError(
            f"{type(model).__name__} has no classification head; expected a model ...ForSequenceClassification"
        )
    if config.num_labels < 2 or config.problem_type == "multi_label_classification":
        kind = config.problem_type or "regression"
        raise UserError(f"the model's head is for {kind}; expected one for a single label of several")
    return {int(number): str(name) for number, name in config.id2label.items()}

"""Classification of texts, or pairs of texts, by a model with a classification head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mergesearch.errors import UserError, listed
from mergesearch.evaluators.contract.confusion import (
    STATISTICS,
    label_margins,
    soft_contributions,
    soft_predictions,
    soft_value,
)
from mergesearch.evaluators.contract.documents import Document
from mergesearch.evaluators.contract.evaluator import Metric
from mergesearch.evaluators.contract.graded import decision_margin, soft_decisions
from mergesearch.evaluators.contract.item import Item, aggregate
from mergesearch.evaluators.contract.jackknife import FunctionOfMeans
from mergesearch.evaluators.contract.loaded_model import LoadedModel
from mergesearch.evaluators.contract.options import EvaluatorOptions, Shared
from mergesearch.evaluators.data.tables import DataTable, TableOptions, read_table

if TYPE_CHECKING:
    from torch import Tensor

    from mergesearch.evaluators.inference.encoder import Encoder
    from mergesearch.evaluators.inference.losses import LabelTargets

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

    f1_macro is the mean of F1 over the labels that occur, f1_weighted its mean weighted by gold. MCC is 0 if only one
    label is predicted, or only one is gold. See ``confusion``.
    """

    Options: ClassVar[type[EvaluatorOptions]] = ClassificationOptions
    averages: ClassVar[bool] = True
    has_margins: ClassVar[bool] = True
    has_targets: ClassVar[bool] = True

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
        contents, hashes = self._table.contents(fields, shared.group), self._table.hashes(fields, shared.group)
        self.items = [
            Item(str(n), self.task, fingerprint, chance=chance, text=text, content=content)
            for n, (fingerprint, text, content) in enumerate(zip(fingerprints, contents, hashes, strict=True))
        ]
        self._number = {item: number for number, item in enumerate(self.items)}
        self._cached_encoder: Encoder | None = None
        self._predicted: dict[Item, str] = {}

    def _chance(self) -> float | None:
        """1 / number of labels that occur for accuracy, 0 for MCC, None (not known) for F1."""
        if self._options.metric == "accuracy":
            return 1 / len(set(map(str, self._gold)))
        return 0.0 if self._options.metric == "mcc" else None

    def content_of(self, item: Item) -> object:
        """See ``HasContent``."""
        number = self._number[item]
        return [self._texts[number], self._gold[number]]

    def describe(self, items: Sequence[Item]) -> list[Document]:
        """See ``Describes``: the text or the texts, the gold label, and the labels of the data."""
        names = [str(self._data_name(label)) for label in self._gold]
        choices, numbers = sorted(set(names)), [self._number[item] for item in items]
        return [Document("\n".join(self._texts[n]), names[n], choices) for n in numbers]

    def answers(self, items: Sequence[Item]) -> list[str]:
        """See ``Answers``: the predicted labels, as the data names them where it does."""
        return [self._predicted.get(item, "") for item in items]

    def prepare(self, subject: LoadedModel) -> Sequence[str]:
        """See ``Evaluator.prepare``: the model must have the labels of the data."""
        return self._encoder(subject).notes

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``."""
        return self._scores(*self._logits(subject, items))

    def score_with_margins(self, subject: LoadedModel, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """See ``Graded.score_with_margins``. For accuracy a margin is the gold label's logit less the best other one.

        For other metrics there is one for each label, see ``label_margins``; for f1 for positive and for all others.
        """
        import torch

        logits, gold = self._logits(subject, items)
        rows = [self._margins(row.tolist(), label) for row, label in zip(logits, gold.tolist(), strict=True)]
        width = 1 if self._is_accuracy else 2 if self.metric.name == "f1" else self._labels
        margins = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), width)
        return self._scores(logits, gold), margins[:, 0] if self._is_accuracy else margins

    def _margins(self, logits: Sequence[float], gold: int) -> list[float]:
        """Of one item. Differences of logits are those of log-probabilities."""
        if self.metric.name not in {"accuracy", "f1"}:
            return label_margins(logits, gold)
        margin = decision_margin(logits, self._correct(gold))
        if self._is_accuracy:
            return [margin]
        return [margin, math.nan] if gold == self._positive else [math.nan, margin]

    def _logits(self, subject: LoadedModel, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """([items, labels] float64, [items] int64 gold labels)."""
        import torch

        numbers = [self._number[item] for item in items]
        logits = self._encoder(subject).run(numbers, lambda inputs: subject.model(**inputs).logits)
        for number in numbers:
            if logits[number].isnan().any():
                raise FloatingPointError(f"task {self.task!r}, item {number}: the model's output is not a number")
        rows = [logits[number] for number in numbers]
        table = torch.stack(rows) if rows else torch.empty(0, self._labels, dtype=torch.float64)
        predicted = (self._shown_names[label] for label in table.argmax(1).tolist())
        self._predicted = dict(zip(items, predicted, strict=True))
        return table, torch.tensor([self._gold_class[n] for n in numbers], dtype=torch.int64)

    def _scores(self, logits: Tensor, gold: Tensor) -> Tensor:
        predicted = logits.argmax(1)
        if self._is_accuracy:
            return (predicted == gold).double()
        both = predicted.new_empty(len(predicted), 2)
        both[:, 0], both[:, 1] = predicted, gold
        return (both == self._positive if self.metric.name == "f1" else both).double()

    @property
    def _is_accuracy(self) -> bool:
        return self.metric.name == "accuracy"

    def grades(self, items: Sequence[Item], margins: Tensor, scale: float) -> Tensor:  # noqa: ARG002
        """See ``Graded.grades``: sigmoid(margin / scale) for accuracy, else the probability of the gold label."""
        if self._is_accuracy:
            return soft_decisions(margins, scale)
        probabilities, gold = soft_predictions(margins, scale)
        return (probabilities * gold).sum(1)

    def graded_value(self, items: Sequence[Item], margins: Tensor, scale: float) -> float:
        """See ``Graded.graded_value``: F1 and MCC of the expected numbers of items."""
        import torch

        if self._is_accuracy:
            return aggregate(items, self.grades(items, margins, scale))
        weights = torch.tensor([item.weight for item in items], dtype=torch.float64)
        return soft_value(self.metric.name, margins, weights, scale)

    def graded_contributions(self, items: Sequence[Item], margins: Tensor, scale: float) -> Tensor:
        """See ``Graded.graded_contributions``."""
        import torch

        if self._is_accuracy:
            return self.grades(items, margins, scale)
        weights = torch.tensor([item.weight for item in items], dtype=torch.float64)
        return soft_contributions(self.metric.name, margins, weights, scale)

    def targets(self, subject: LoadedModel, items: Sequence[Item]) -> LabelTargets:
        """See ``Differentiable.targets``.

        The graded loss is one less the mean grade, for F1 and MCC too: a mean over items is the same whatever the
        batches, and F1 of a few items is not that of all.
        """
        from mergesearch.evaluators.inference.losses import LabelTarget, LabelTargets

        encoder = self._encoder(subject)
        numbers = [(self._number[item], item.weight) for item in items]
        targets = [LabelTarget(number, self._correct(self._gold_class[number]), weight) for number, weight in numbers]
        return LabelTargets(encoder, targets, "choice" if self.metric.name in {"accuracy", "f1"} else "label")

    def _correct(self, gold: int) -> tuple[int, ...]:
        """The labels that count as correct: for f1 of one label all others are alike."""
        if self.metric.name != "f1" or gold == self._positive:
            return (gold,)
        return tuple(label for label in range(self._labels) if label != self._positive)

    def _encoder(self, subject: LoadedModel) -> Encoder:
        """The texts, tokenized for this model."""
        from mergesearch.evaluators.inference.encoder import Encoder

        if self._cached_encoder is None or self._cached_encoder.subject != subject:
            names = _label_names(subject.model)
            self._gold_class = [self._class(label, names) for label in self._gold]
            data_names = map(self._data_name, self._gold)
            self._shown_names = {**names, **dict(zip(self._gold_class, map(str, data_names), strict=True))}
            self._positive = self._positive_class(names)
            self._labels = len(names)
            self._cached_encoder = Encoder(subject, self._texts, self._shared)
        return self._cached_encoder

    def _class(self, label: Label, names: dict[int, str]) -> int:
        """The model's number of a label. The data's name of a label, if it has one, takes precedence over its number.

        names: The model's labels by number.
        """
        number_of, name = {name: number for number, name in names.items()}, self._data_name(label)
        if isinstance(name, str) and name in number_of:
            return number_of[name]
        if str(label).isdecimal() and int(label) in names:
            return int(label)
        raise UserError(
            f"label: {self._table.source} has the label {name!r}, which the model does not have; "
            f"valid: {listed(map(repr, number_of), most=20)}"
        )

    def _data_name(self, label: Label) -> Label:
        """The data's name of a label, if it has one."""
        names = self._table.class_names.get(self._options.label, [])
        return names[label] if isinstance(label, int) and 0 <= label < len(names) else label

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
        return aggregate(items, scores) if self._is_accuracy else super().value(items, scores)

    def contributions(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """See ``Evaluator.contributions``."""
        return scores if self._is_accuracy else super().contributions(items, scores)


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

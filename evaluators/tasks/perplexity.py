"""Perplexity of texts by word, by byte, or as bits per byte: how well the model says them, whatever its tokenizer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.evaluator import EvaluatorOptions, Item, LoadedModel, Metric, Shared, aggregate
from mergesearch.evaluators.contract.jackknife import FunctionOfMeans
from mergesearch.evaluators.data.tables import TableOptions, fingerprint, read_table

if TYPE_CHECKING:
    from torch import Tensor

    from mergesearch.evaluators.inference.logprobs import Scorer
    from mergesearch.evaluators.inference.losses import Targets


class PerplexityOptions(EvaluatorOptions):
    """Texts, from files or from a field of a data set, and how to read them."""

    files: list[str] = Field(
        default_factory=list, description="UTF-8 text files, by path or by pattern such as 'texts/**/*.txt'"
    )
    data: str | None = Field(None, description="Instead of files: a data set, as for classification")
    split: str | None = Field(None, description="Which split of the data set, where it holds several")
    text: str = Field("text", description="The data set's field with the text")
    metric: Literal["word_perplexity", "byte_perplexity", "bits_per_byte"] = "word_perplexity"
    max_length: int | None = Field(None, gt=1, description="Tokens in a window; default: the model's context")

    @model_validator(mode="after")
    def _one_source(self) -> PerplexityOptions:
        if bool(self.files) == bool(self.data):
            raise ValueError("expected one of files and data")
        return self


@dataclass(frozen=True)
class _Text:
    name: str
    content: str
    fingerprint: str


class Perplexity(FunctionOfMeans):
    """See ``Evaluator``. One item per text; the values are lm-eval's of the same names for a task of these texts.

    With nats = −log p of a text: word_perplexity = exp(Σ nats / Σ words), byte_perplexity = exp(Σ nats / Σ bytes),
    bits_per_byte = Σ nats / (ln 2 · Σ bytes). Words are what white space parts. An item's score is its own mean, and
    its weight its number of words or bytes.

    Windows do not overlap; the first token of each is predicted from the last one of the window before, and the first
    of all from the tokenizer's beginning-of-text token (or end-of-text, where it has none).
    """

    Options: ClassVar[type[EvaluatorOptions]] = PerplexityOptions
    averages: ClassVar[bool] = True
    has_targets: ClassVar[bool] = True

    def __init__(self, options: PerplexityOptions, shared: Shared) -> None:
        self.task = options.task
        self.metric = Metric(options.metric, higher_is_better=False)
        self._max_length = options.max_length or shared.max_length
        self._batch_size, self._compile = shared.batch_size, shared.compile
        texts = _from_files(options.files) if options.files else _from_table(options, shared.group)
        self._texts = {self._item(text): text.content for text in texts}
        self.items = list(self._texts)
        self._subject: LoadedModel | None = None
        self._scorer: Scorer | None = None
        self._notes: list[str] = []

    def _item(self, text: _Text) -> Item:
        words = len(re.split(r"\s+", text.content))
        size = words if self.metric.name == "word_perplexity" else len(text.content.encode())
        return Item(text.name, self.task, text.fingerprint, float(size), text=text.content)

    def prepare(self, subject: LoadedModel) -> Sequence[str]:
        """See ``Evaluator.prepare``."""
        self._prepared(subject)
        return self._notes

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``."""
        import torch

        from mergesearch.evaluators.lm_eval.harness import as_command_line

        wanted = set(items)
        ordered = [number for number, item in enumerate(self.items) if item in wanted]
        with as_command_line():
            answers = self._prepared(subject).score(ordered)
        scores = {self.items[n]: self._mean(self.items[n], nats) for n, (nats, _) in zip(ordered, answers, strict=True)}
        return torch.tensor([scores[item] for item in items], dtype=torch.float64)

    def targets(self, subject: LoadedModel, items: Sequence[Item]) -> Targets:
        """See ``Differentiable.targets``: the texts; the loss is the bits per byte, or a perplexity's logarithm."""
        from mergesearch.evaluators.inference.losses import Target, Targets
        from mergesearch.evaluators.lm_eval.harness import as_command_line

        number = {item: place for place, item in enumerate(self.items)}
        with as_command_line():
            scorer = self._prepared(subject)
        texts = [Target((number[item],), (0,), size=self._unit * item.weight, weight=item.weight) for item in items]
        return Targets(scorer, texts, self._batch_size)

    @property
    def _unit(self) -> float:
        """Nats of what is counted: bits, or nats themselves."""
        return math.log(2) if self.metric.name == "bits_per_byte" else 1.0

    def _mean(self, item: Item, logprob: float) -> float:
        if math.isnan(logprob):
            raise FloatingPointError(f"task {self.task!r}, item {item.id}: the model's output is not a number")
        return -logprob / self._unit / item.weight

    def _prepared(self, subject: LoadedModel) -> Scorer:
        from mergesearch.evaluators.inference.logprobs import Scorer
        from mergesearch.evaluators.inference.prefix_sharing import settle_compiled
        from mergesearch.evaluators.lm_eval.hflm import rolling_requests, wrap

        if self._scorer is None or self._subject != subject:
            wrapped = wrap(subject, self._batch_size, self._max_length)
            questions = [rolling_requests(wrapped, text) for text in self._texts.values()]
            self._scorer = Scorer(subject, questions, wrapped.max_length, self._batch_size)
            self._notes = settle_compiled(
                subject.model, self._compile, self._scorer, [[n] for n in range(len(questions))]
            )
            self._scorer.try_budget()
            self._subject = subject
        return self._scorer

    def statistic(self, means: Tensor) -> Tensor:
        """See ``FunctionOfMeans``: of the two perplexities."""
        return means[..., 0].exp()

    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        """See ``Evaluator.value``. Raises FloatingPointError where a perplexity is beyond all numbers."""
        mean = aggregate(items, scores)
        if self.metric.name == "bits_per_byte":
            return mean
        if mean > 700:
            raise FloatingPointError(f"task {self.task!r}: {self.metric.name} is exp({mean:.0f}), beyond all numbers")
        return math.exp(mean)

    def contributions(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """See ``Evaluator.contributions``."""
        return scores if self.metric.name == "bits_per_byte" else super().contributions(items, scores)


def _from_files(patterns: Sequence[str]) -> list[_Text]:
    return [_read(path) for path in _found(patterns)]


def _read(path: Path) -> _Text:
    content = _decoded(path)
    if not content:
        raise UserError(f"files: {path} is empty")
    return _Text(str(path), content, fingerprint(content))


def _from_table(options: PerplexityOptions, group: str | None) -> list[_Text]:
    table = read_table(TableOptions(task=options.task, data=str(options.data), split=options.split))
    texts, prints = table.texts(options.text, "text"), table.fingerprints([options.text], group)
    if "" in texts:
        raise UserError(f"text: {table.place}, row {texts.index('')}: {options.text!r} is empty")
    return [_Text(str(n), *pair) for n, pair in enumerate(zip(texts, prints, strict=True))]


def _found(patterns: Sequence[str]) -> list[Path]:
    """The files that the patterns match, each once, in the order of their names."""
    paths: set[Path] = set()
    for pattern in patterns:
        # Path.glob knows no absolute patterns.
        matches = {Path(match) for match in glob(pattern, recursive=True) if Path(match).is_file()}  # noqa: PTH207
        if not matches:
            raise UserError(f"files: nothing matches {pattern!r} (looked from {Path.cwd()})")
        paths |= matches
    return sorted(paths)


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"files: {path} is not UTF-8 text: {error}") from error

"""Perplexity of texts per word or byte, or as bits per byte: comparable across tokenizers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from mergesearch.copies import named
from mergesearch.errors import UserError
from mergesearch.evaluators.contract.documents import Document
from mergesearch.evaluators.contract.evaluator import Metric
from mergesearch.evaluators.contract.item import Item, aggregate
from mergesearch.evaluators.contract.jackknife import FunctionOfMeans
from mergesearch.evaluators.contract.loaded_model import LoadedModel
from mergesearch.evaluators.contract.options import EvaluatorOptions, OnDisk, Shared
from mergesearch.evaluators.data.content import content_hash
from mergesearch.evaluators.data.tables import TableOptions, read_table
from mergesearch.reading import read_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from mergesearch.evaluators.inference.logprobs import ContinuationScorer
    from mergesearch.evaluators.inference.losses import ContinuationTargets

MAX_LOG_PERPLEXITY = 700
"""Beyond this the perplexity overflows float64."""


class PerplexityOptions(EvaluatorOptions):
    """Texts, from files or from a field of a data set, and how they are scored."""

    files: Annotated[list[str], OnDisk("pattern")] = Field(
        default_factory=list, description="UTF-8 text files: paths, or patterns such as 'texts/**/*.txt'"
    )
    data: Annotated[str | None, OnDisk()] = Field(
        None, description="Instead of files: a data set, as for classification"
    )
    split: str | None = Field(None, description="The split, if the data set has several")
    text: str = Field("text", description="Field of the data set with the text")
    metric: Literal["word_perplexity", "byte_perplexity", "bits_per_byte"] = "word_perplexity"
    max_length: int | None = Field(None, gt=1, description="Maximum tokens of a window; default: the model's context")

    @model_validator(mode="after")
    def _has_one_source(self) -> PerplexityOptions:
        if bool(self.files) == bool(self.data):
            raise ValueError(f"found {'both files and data' if self.files else 'neither files nor data'}, expected one")
        return self


@dataclass(frozen=True)
class _Document:
    name: str
    text: str
    fingerprint: str


class Perplexity(FunctionOfMeans):
    """See ``Evaluator``. One item per text. The values are those of lm-eval for a task of the same texts.

    With nats = −log p of a text: word_perplexity = exp(Σ nats / Σ words), byte_perplexity = exp(Σ nats / Σ bytes),
    bits_per_byte = Σ nats / (ln 2 · Σ bytes). Words are separated by white space. An item's score is its mean, in nats
    or bits per unit, and its weight is its number of words or bytes.

    Long texts are scored in windows that do not overlap. The first token of a window is predicted from the last token
    of the window before; the first token of the text from the tokenizer's beginning-of-text token (end-of-text, if the
    tokenizer has no beginning-of-text token).
    """

    Options: ClassVar[type[EvaluatorOptions]] = PerplexityOptions
    averages: ClassVar[bool] = True
    has_targets: ClassVar[bool] = True

    def __init__(self, options: PerplexityOptions, shared: Shared) -> None:
        self.task = options.task
        self.metric = Metric(options.metric, higher_is_better=False)
        self._is_bits_per_byte = options.metric == "bits_per_byte"
        self._nats_per_unit = math.log(2) if self._is_bits_per_byte else 1.0
        self._max_length = options.max_length or shared.max_length
        self._batch_size, self._compile = shared.batch_size, shared.compile
        self._exact = shared.mode == "exact"
        documents = _read_files(options.files) if options.files else _read_table(options, shared.group)
        self._texts = {self._item(document): document.text for document in documents}
        self.items = list(self._texts)
        self._subject: LoadedModel | None = None
        self._cached_scorer: ContinuationScorer | None = None
        self._notes: list[str] = []

    def _item(self, document: _Document) -> Item:
        if self.metric.name == "word_perplexity":
            size = len(re.split(r"\s+", document.text))
        else:
            size = len(document.text.encode())
        content = content_hash(document.text)
        return Item(document.name, self.task, document.fingerprint, float(size), text=document.text, content=content)

    def content_of(self, item: Item) -> object:
        """See ``HasContent``."""
        return self._texts[item]

    def describe(self, items: Sequence[Item]) -> list[Document]:
        """See ``Describes``: the texts."""
        return [Document(self._texts[item]) for item in items]

    def prepare(self, subject: LoadedModel) -> Sequence[str]:
        """See ``Evaluator.prepare``."""
        self._scorer(subject)
        return self._notes

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``."""
        import torch

        from mergesearch.evaluators.lm_eval.command_line import as_command_line

        wanted = set(items)
        numbers = [number for number, item in enumerate(self.items) if item in wanted]
        with as_command_line():
            answers = self._scorer(subject).score(numbers)
        scores = {
            self.items[number]: self._score(self.items[number], logprob)
            for number, (logprob, _) in zip(numbers, answers, strict=True)
        }
        return torch.tensor([scores[item] for item in items], dtype=torch.float64)

    def _score(self, item: Item, logprob: float) -> float:
        if math.isnan(logprob):
            raise FloatingPointError(f"task {self.task!r}, item {item.id}: the model's output is not a number")
        return -logprob / self._nats_per_unit / item.weight

    def targets(self, subject: LoadedModel, items: Sequence[Item]) -> ContinuationTargets:
        """See ``Differentiable.targets``. The loss is the bits per byte, or the logarithm of the perplexity."""
        from mergesearch.evaluators.inference.losses import ContinuationTargets, ItemTarget
        from mergesearch.evaluators.lm_eval.command_line import as_command_line

        number = {item: index for index, item in enumerate(self.items)}
        with as_command_line():
            scorer = self._scorer(subject)
        targets = [
            ItemTarget((number[item],), (0,), size=self._nats_per_unit * item.weight, weight=item.weight)
            for item in items
        ]
        return ContinuationTargets(scorer, targets)

    def _scorer(self, subject: LoadedModel) -> ContinuationScorer:
        """The texts, tokenized for this model. A text's query has its number."""
        from mergesearch.evaluators.inference.logprobs import ContinuationScorer
        from mergesearch.evaluators.inference.scoring_modes import choose_compilation
        from mergesearch.evaluators.lm_eval.hflm import rolling_requests, wrap

        if self._cached_scorer is None or self._subject != subject:
            hflm = wrap(subject, self._batch_size, self._max_length)
            queries = [rolling_requests(hflm, text) for text in self._texts.values()]
            scorer = ContinuationScorer(subject, queries, hflm.max_length, self._batch_size, self._exact)
            self._cached_scorer = scorer
            self._notes = choose_compilation(subject.model, self._compile, scorer, [[n] for n in range(len(queries))])
            scorer.try_budget()
            self._subject = subject
        return self._cached_scorer

    def statistic(self, means: Tensor) -> Tensor:
        """See ``FunctionOfMeans.statistic``: for the two perplexities."""
        return means[..., 0].exp()

    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        """See ``Evaluator.value``. Raises FloatingPointError for a perplexity that overflows."""
        mean = aggregate(items, scores)
        if self._is_bits_per_byte:
            return mean
        if mean > MAX_LOG_PERPLEXITY:
            raise FloatingPointError(f"task {self.task!r}: {self.metric.name} is exp({mean:.0f}), which overflows")
        return math.exp(mean)

    def contributions(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """See ``Evaluator.contributions``."""
        return scores if self._is_bits_per_byte else super().contributions(items, scores)


def _read_files(patterns: Sequence[str]) -> list[_Document]:
    texts = {path: _read(path) for path in _matches(patterns)}
    return [_Document(named(str(path)), text, content_hash(text)) for path, text in texts.items()]


def _matches(patterns: Sequence[str]) -> list[Path]:
    """The files that match one of the patterns, sorted by name."""
    paths: set[Path] = set()
    for pattern in patterns:
        # Path.glob does not take absolute patterns.
        matches = {Path(match) for match in glob(pattern, recursive=True) if Path(match).is_file()}  # noqa: PTH207
        if not matches:
            raise UserError(f"files: no file matches {pattern!r} (in the folder {Path.cwd()})")
        paths |= matches
    return sorted(paths)


def _read(path: Path) -> str:
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"files: {path} is not UTF-8 text: {error}") from error
    if not text:
        raise UserError(f"files: {path} is empty")
    return text


def _read_table(options: PerplexityOptions, group: str | None) -> list[_Document]:
    table = read_table(TableOptions(task=options.task, data=str(options.data), split=options.split))
    texts, fingerprints = table.texts(options.text, "text"), table.fingerprints([options.text], group)
    if "" in texts:
        raise UserError(f"text: {table.source}, row {texts.index('')}: field {options.text!r} is empty")
    pairs = zip(texts, fingerprints, strict=True)
    return [_Document(str(n), text, fingerprint) for n, (text, fingerprint) in enumerate(pairs)]

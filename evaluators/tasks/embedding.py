"""Similarity of pairs of texts by their embeddings, compared with human ratings (STS and similar tasks)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mergesearch.errors import UserError, listed
from mergesearch.evaluators.contract.documents import Document
from mergesearch.evaluators.contract.evaluator import Metric
from mergesearch.evaluators.contract.item import Item
from mergesearch.evaluators.contract.jackknife import Jackknife
from mergesearch.evaluators.contract.loaded_model import LoadedModel
from mergesearch.evaluators.contract.options import EvaluatorOptions, Shared
from mergesearch.evaluators.data.tables import DataTable, TableOptions, read_table
from mergesearch.evaluators.inference.pooling import other_modules, stored_pooling

if TYPE_CHECKING:
    from torch import Tensor

    from mergesearch.evaluators.inference.encoder import Encoder

MAX_RANKS = 4_000_000
"""Leave-one-out correlations are computed for as many items at once as have so many ranks together."""


class EmbeddingOptions(TableOptions):
    """Pairs of texts with ratings of their similarity, and how embeddings are computed."""

    text: str = Field("sentence1", description="Field with the first text")
    text_pair: str = Field("sentence2", description="Field with the second text")
    score: str = Field("score", description="Field with their similarity, a number on any scale")
    pooling: Literal["auto", "mean", "cls", "last"] = Field(
        "auto",
        description="Which of the last hidden states: their mean, the first token's, or the last token's; "
        "auto: as the model's 1_Pooling/config.json says, else the mean",
    )
    metric: Literal["spearman", "pearson"] = "spearman"


class Embedding(Jackknife):
    """See ``Evaluator``. One item per pair. Scores are [items, 2]: the cosine of the embeddings, and the rating.

    The value is the correlation of the two columns, for ``spearman`` of their ranks (equal numbers have their mean
    rank). It is 0 if all pairs are equally similar.
    """

    Options: ClassVar[type[EvaluatorOptions]] = EmbeddingOptions

    def __init__(self, options: EmbeddingOptions, shared: Shared) -> None:
        self.task = options.task
        self.metric = Metric(options.metric)
        self._options = options
        self._shared = shared
        table = read_table(options)
        first, second = table.texts(options.text, "text"), table.texts(options.text_pair, "text_pair")
        self._pairs = list(zip(first, second, strict=True))
        self._ratings = _ratings(table, options.score)
        fields = [options.text, options.text_pair]
        fingerprints, contents = table.fingerprints(fields, shared.group), table.contents(fields, shared.group)
        hashes = table.hashes(fields, shared.group)
        self.items = [
            Item(str(n), self.task, fingerprint, chance=0.0, text=text, content=content)
            for n, (fingerprint, text, content) in enumerate(zip(fingerprints, contents, hashes, strict=True))
        ]
        self._number = {item: number for number, item in enumerate(self.items)}
        texts = dict.fromkeys(text for pair in self._pairs for text in pair)
        self._text_number = {text: number for number, text in enumerate(texts)}
        self._cached_encoder: Encoder | None = None
        self._cosines: dict[Item, float] = {}

    def content_of(self, item: Item) -> object:
        """See ``HasContent``."""
        number = self._number[item]
        return [self._pairs[number], self._ratings[number]]

    def describe(self, items: Sequence[Item]) -> list[Document]:
        """See ``Describes``: the two texts, and their rating."""
        numbers = [self._number[item] for item in items]
        return [Document("\n".join(self._pairs[n]), f"{self._ratings[n]:g}") for n in numbers]

    def answers(self, items: Sequence[Item]) -> list[str]:
        """See ``Answers``: the cosine of the embeddings."""
        return [f"{self._cosines[item]:.4f}" if item in self._cosines else "" for item in items]

    def prepare(self, subject: LoadedModel) -> Sequence[str]:
        """See ``Evaluator.prepare``."""
        pooling = self._pooling(subject.model)
        is_stored = self._options.pooling == "auto" and stored_pooling(subject.model) is not None
        notes = [f"pooling: {pooling}, as the model's folder says"] * is_stored
        return [*self._encoder(subject).notes, *notes, *self._unapplied(subject.model)]

    def _unapplied(self, model: Any) -> list[str]:
        """A note about modules behind the pooling. Raises UserError unless the config chooses a pooling."""
        modules = other_modules(model)
        if modules and self._options.pooling == "auto":
            raise UserError(
                f"{modules[0]}: the model has a module behind the pooling, which is not applied here, so that the "
                "embeddings would not be the model's; set pooling (mean, cls or last) to score them without it"
            )
        return [f"{listed(modules)}: not applied; the embeddings are those of the pooling"] if modules else []

    def _pooling(self, model: Any) -> str:
        return (stored_pooling(model) or "mean") if self._options.pooling == "auto" else self._options.pooling

    def _encoder(self, subject: LoadedModel) -> Encoder:
        """The texts, each once, tokenized for this model."""
        from mergesearch.evaluators.inference.encoder import Encoder

        if self._cached_encoder is None or self._cached_encoder.subject != subject:
            texts = [(text,) for text in self._text_number]
            owners = {text: number for number, pair in reversed([*enumerate(self._pairs)]) for text in pair}
            items = [owners[text] for text in self._text_number]
            self._cached_encoder = Encoder(subject, texts, self._shared, items)
        return self._cached_encoder

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``."""
        import torch

        pooling = self._pooling(subject.model)
        numbers = [self._number[item] for item in items]
        text_numbers = [self._text_number[text] for number in numbers for text in self._pairs[number]]
        embeddings = self._encoder(subject).run(
            text_numbers, lambda inputs: self._pooled(subject.model, inputs, pooling)
        )
        scores = torch.empty(len(items), 2, dtype=torch.float64)
        for row, number in enumerate(numbers):
            first, second = (embeddings[self._text_number[text]] for text in self._pairs[number])
            cosine = torch.nn.functional.cosine_similarity(first, second, dim=0)
            if cosine.isnan():
                raise FloatingPointError(f"task {self.task!r}, item {number}: the model's output is not a number")
            scores[row] = torch.stack([cosine, cosine.new_tensor(self._ratings[number])])
        self._cosines = dict(zip(items, scores[:, 0].tolist(), strict=True))
        return scores

    def _pooled(self, model: Any, inputs: dict[str, Tensor], pooling: str) -> Tensor:
        """[texts, width] float64 embeddings. inputs: [texts, length], padded on the right."""
        hidden: Tensor = model.base_model(**inputs).last_hidden_state.double()
        mask = inputs["attention_mask"].to(hidden.device)
        if pooling == "cls":
            return hidden[:, 0]
        if pooling == "last":
            return hidden[range(len(hidden)), mask.sum(1) - 1]
        weights = mask.unsqueeze(-1).double()
        mean: Tensor = (hidden * weights).sum(1) / weights.sum(1)
        return mean

    def value(self, items: Sequence[Item], scores: Tensor) -> float:  # noqa: ARG002
        """See ``Evaluator.value``."""
        x, y = (self._ranks(column) for column in scores.T)
        return float(_correlation(x, y))

    def _ranks(self, column: Tensor) -> Tensor:
        """The ranks for ``spearman``; for ``pearson`` the numbers themselves."""
        from scipy.stats import rankdata

        return column.new_tensor(rankdata(column.numpy())) if self.metric.name == "spearman" else column

    def leave_one_out(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """See ``Jackknife.leave_one_out``.

        Without an item, ranks above its rank decrease by 1, and those equal to it by 1/2.
        """
        import torch

        count = len(items)
        rows = max(1, MAX_RANKS // max(1, count))
        parts = [self._left_out(scores, range(a, min(a + rows, count))) for a in range(0, count, rows)]
        return torch.cat(parts)

    def _left_out(self, scores: Tensor, left_out: range) -> Tensor:
        """[left_out]: the correlation without each of these items."""
        is_kept = scores.new_ones(len(left_out), len(scores))
        is_kept[range(len(left_out)), list(left_out)] = 0.0
        x, y = (self._ranks(column) - self._rank_decrease(column, left_out) for column in scores.T)
        return _correlation(x, y, is_kept)

    def _rank_decrease(self, column: Tensor, left_out: range) -> Tensor:
        """[left_out, items]: by how much each item's rank decreases; 0 for ``pearson``."""
        removed = column[list(left_out)].unsqueeze(1)
        decrease = (column > removed).double() + 0.5 * (column == removed).double()
        return decrease if self.metric.name == "spearman" else decrease * 0


def _ratings(table: DataTable, field: str) -> list[float]:
    ratings = table.numbers(field, "score")
    if len(set(ratings)) == 1:
        raise UserError(
            f"score: {table.source}: field {field!r} is {ratings[0]:g} in all rows, so that there is no correlation; "
            "expected different numbers"
        )
    return ratings


def _correlation(x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    """Pearson's r over the last dimension, 0 if x or y does not vary. weights: 1 for entries that count, else 0."""
    weights = x.new_ones(x.shape) if weights is None else weights
    count = weights.sum(-1, keepdim=True)
    dx, dy = (weights * (z - (weights * z).sum(-1, keepdim=True) / count) for z in (x, y))
    denominator = (dx.square().sum(-1) * dy.square().sum(-1)).sqrt()
    varies = denominator > 1e-12 * ((weights * x).square().sum(-1) * (weights * y).square().sum(-1)).sqrt()
    r: Tensor = (dx * dy).sum(-1) / denominator.where(varies, 1.0) * varies
    return r

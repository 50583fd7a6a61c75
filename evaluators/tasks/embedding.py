"""Similarity of pairs of texts by their embeddings, held against what people say (STS and its kin)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mergesearch.errors import UserError
from mergesearch.evaluators.contract.evaluator import EvaluatorOptions, Item, LoadedModel, Metric, Shared
from mergesearch.evaluators.contract.jackknife import Jackknife
from mergesearch.evaluators.data.tables import TableOptions, read_table

if TYPE_CHECKING:
    from torch import Tensor

    from mergesearch.evaluators.inference.encoder import Encoder

CHUNK = 4_000_000
"""The most ranks that are held at once."""


class EmbeddingOptions(TableOptions):
    """Pairs of texts with a similarity each, and how a model's hidden states become embeddings."""

    text: str = Field("sentence1", description="The field with one text")
    text_pair: str = Field("sentence2", description="The field with the other")
    score: str = Field("score", description="The field with their similarity, a number on any scale")
    pooling: Literal["mean", "cls", "last"] = Field(
        "mean", description="The last layer's hidden state: mean over the tokens, the first's, or the last's"
    )
    metric: Literal["spearman", "pearson"] = "spearman"


class Embedding(Jackknife):
    """See ``Evaluator``. One item per pair; scores are [items, 2]: the cosine of the embeddings, and the given score.

    The value is the correlation of the two columns, of their ranks for ``spearman`` (of equals their mean rank); 0
    where all pairs are equally similar.
    """

    Options: ClassVar[type[EvaluatorOptions]] = EmbeddingOptions

    def __init__(self, options: EmbeddingOptions, shared: Shared) -> None:
        self.task = options.task
        self.metric = Metric(options.metric)
        self._options = options
        self._shared = shared
        table = read_table(options)
        self._pairs = list(
            zip(table.texts(options.text, "text"), table.texts(options.text_pair, "text_pair"), strict=True)
        )
        self._gold = table.numbers(options.score, "score")
        if len(set(self._gold)) == 1:
            raise UserError(
                f"score: {table.place}: all pairs have the score {self._gold[0]:g}: nothing to correlate with"
            )
        fields = [options.text, options.text_pair]
        prints, contents = table.fingerprints(fields, shared.group), table.contents(fields, shared.group)
        self.items = [
            Item(str(n), self.task, print_, chance=0.0, text=text)
            for n, (print_, text) in enumerate(zip(prints, contents, strict=True))
        ]
        self._number = {item: number for number, item in enumerate(self.items)}
        texts = dict.fromkeys(text for pair in self._pairs for text in pair)
        self._text_number = {text: number for number, text in enumerate(texts)}
        self._encoder: Encoder | None = None

    def prepare(self, subject: LoadedModel) -> Sequence[str]:
        """See ``Evaluator.prepare``."""
        return self._prepared(subject).note()

    def _prepared(self, subject: LoadedModel) -> Encoder:
        from mergesearch.evaluators.inference.encoder import Encoder

        if self._encoder is None or self._encoder.subject != subject:
            self._encoder = Encoder(subject, [(text,) for text in self._text_number], self._shared)
        return self._encoder

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """See ``Evaluator.score``."""
        import torch

        numbers = [self._number[item] for item in items]
        wanted = [self._text_number[text] for number in numbers for text in self._pairs[number]]
        vectors = self._prepared(subject).run(wanted, lambda inputs: self._pooled(subject.model, inputs))
        scores = torch.empty(len(items), 2, dtype=torch.float64)
        for place, number in enumerate(numbers):
            one, two = (vectors[self._text_number[text]] for text in self._pairs[number])
            cosine = torch.nn.functional.cosine_similarity(one, two, dim=0)
            if cosine.isnan():
                raise FloatingPointError(f"task {self.task!r}, item {number}: the model's output is not a number")
            scores[place] = torch.stack([cosine, cosine.new_tensor(self._gold[number])])
        return scores

    def _pooled(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """[texts, width] float64 of [texts, length] inputs, padded on the right."""
        hidden: Tensor = model.base_model(**inputs).last_hidden_state.double()
        mask = inputs["attention_mask"].to(hidden.device)
        if self._options.pooling == "cls":
            return hidden[:, 0]
        if self._options.pooling == "last":
            return hidden[range(len(hidden)), mask.sum(1) - 1]
        weights = mask.unsqueeze(-1).double()
        mean: Tensor = (hidden * weights).sum(1) / weights.sum(1)
        return mean

    def value(self, items: Sequence[Item], scores: Tensor) -> float:  # noqa: ARG002
        """See ``Evaluator.value``."""
        x, y = (self._ranked(column) for column in scores.T)
        return float(_correlation(x, y))

    def _ranked(self, column: Tensor) -> Tensor:
        from scipy.stats import rankdata

        return column.new_tensor(rankdata(column.numpy())) if self.metric.name == "spearman" else column

    def leave_one_out(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """See ``Jackknife.leave_one_out``: without an item, ranks above its own fall by one and its equals' by half."""
        import torch

        count = len(items)
        rows = max(1, CHUNK // max(1, count))
        parts = [self._left_out(scores, range(a, min(a + rows, count))) for a in range(0, count, rows)]
        return torch.cat(parts)

    def _left_out(self, scores: Tensor, left: range) -> Tensor:
        kept = scores.new_ones(len(left), len(scores))
        kept[range(len(left)), list(left)] = 0.0
        x, y = (self._ranked(column) - self._lost(column, left) for column in scores.T)
        return _correlation(x, y, kept)

    def _lost(self, column: Tensor, left: range) -> Tensor:
        """[left, items]: what each item's rank loses; of no matter where ranks do not count."""
        gone = column[list(left)].unsqueeze(1)
        loss = (column > gone).double() + 0.5 * (column == gone).double()
        return loss if self.metric.name == "spearman" else loss * 0


def _correlation(x: Tensor, y: Tensor, kept: Tensor | None = None) -> Tensor:
    """Pearson's r over the last dimension, of the entries whose ``kept`` is 1; 0 where a side does not vary."""
    kept = x.new_ones(x.shape) if kept is None else kept
    count = kept.sum(-1, keepdim=True)
    dx, dy = (kept * (z - (kept * z).sum(-1, keepdim=True) / count) for z in (x, y))
    below = (dx.square().sum(-1) * dy.square().sum(-1)).sqrt()
    varies = below > 1e-12 * ((kept * x).square().sum(-1) * (kept * y).square().sum(-1)).sqrt()
    r: Tensor = (dx * dy).sum(-1) / below.where(varies, 1.0) * varies
    return r

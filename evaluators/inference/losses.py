"""Losses with gradients: how far a model is from the correct answers to some items, or how unsure it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergesearch.evaluators.contract.differentiable import LossKind
from mergesearch.evaluators.inference.logprobs import ContinuationScorer, token_margins

ROWS_DIVISOR = 4
"""Batches have so many times fewer rows than for scoring, because activations are kept for the backward pass."""


@dataclass(frozen=True)
class ItemTarget:
    """The correct answer to one item.

    With one answer the item is a text, whose loss is its negative log-likelihood divided by ``size``. With several
    answers the item is a choice: their log-probabilities, times ``scales``, are the logits of a softmax.

    Attributes:
        answers: For each answer the index of its query in the scorer.
        gold: Indices of the correct answers in ``answers``. Empty: not known.
        scales: For each answer a factor of its log-probability.
        size: Number of units, such as tokens or bytes, of the text.
        weight: The item's weight in the mean.
    """

    answers: tuple[int, ...]
    gold: tuple[int, ...]
    scales: tuple[float, ...] = ()
    size: float = 1.0
    weight: float = 1.0


class ContinuationTargets:
    """See ``Targets``: targets whose answers are continuations."""

    def __init__(self, scorer: ContinuationScorer, targets: Sequence[ItemTarget], batch_size: int) -> None:
        self._scorer = scorer
        self._targets = targets
        self._total_weight = sum(target.weight for target in targets)
        self._rows = max(batch_size // ROWS_DIVISOR, 1)

    @property
    def has_gold(self) -> bool:
        """See ``Targets.has_gold``."""
        return bool(self._targets) and all(target.gold for target in self._targets)

    def losses(self, kind: LossKind, scale: float = 1.0) -> Iterator[Tensor]:
        """See ``Targets.losses``.

        ``targets`` is the negative log-likelihood for texts, and the cross-entropy for choices. ``entropy`` is that of
        the predicted tokens, or of the choices (AdaMerging, arXiv:2310.02575, equation 5), and needs no gold.
        ``graded`` is one less the grade, sigmoid(margin / scale): of a text by its least sure token, of a choice by the
        scaled log-probability of the best correct answer less that of the best other one.
        """
        texts = [target for target in self._targets if len(target.answers) == 1]
        if kind == "graded":
            for group in self._groups(texts):
                yield self._graded_texts(group, scale)
        else:
            yield from self._text_losses(texts, kind)
        for group in self._groups([target for target in self._targets if len(target.answers) > 1]):
            yield self._choice_losses(group, kind, scale)

    def _text_losses(self, texts: Sequence[ItemTarget], kind: LossKind) -> Iterator[Tensor]:
        """One loss per batch: the loss is a sum over tokens, so the tokens of a text may be in different batches."""
        factors = torch.tensor([text.weight / text.size for text in texts], dtype=torch.float64) / self._total_weight
        queries = [text.answers[0] for text in texts]
        for logprobs, ids, owners in self._scorer.logprobs(queries, self._rows):
            losses = _entropies(logprobs) if kind == "entropy" else -_of_tokens(logprobs, ids)
            yield (factors[owners].to(losses) * losses).sum()

    def _graded_texts(self, texts: Sequence[ItemTarget], scale: float) -> Tensor:
        """Of as many texts as fit into a batch: the least sure token may be in any batch."""
        parts = [
            (token_margins(logprobs, ids), owners)
            for logprobs, ids, owners in self._scorer.logprobs([text.answers[0] for text in texts], self._rows)
        ]
        margins, owners = (torch.cat(column) for column in zip(*parts, strict=True))
        least = margins.new_full((len(texts),), torch.inf)
        least = least.scatter_reduce(0, owners.to(margins.device), margins, "amin")
        weights = torch.tensor([text.weight for text in texts], dtype=torch.float64).to(least) / self._total_weight
        return (weights * (-least / scale).sigmoid()).sum()

    def _choice_losses(self, targets: Sequence[ItemTarget], kind: LossKind, scale: float) -> Tensor:
        queries = [query for target in targets for query in target.answers]
        sums: Tensor | float = 0.0
        for logprobs, ids, owners in self._scorer.logprobs(queries, self._rows):
            tokens = _of_tokens(logprobs, ids)
            sums = sums + tokens.new_zeros(len(queries)).index_add(0, owners.to(tokens.device), tokens)
        assert isinstance(sums, Tensor)
        by_target = torch.split(sums, [len(target.answers) for target in targets])
        losses = [t.weight * _choice_loss(t, each, kind, scale) for t, each in zip(targets, by_target, strict=True)]
        return torch.stack(losses).sum() / self._total_weight

    def _groups(self, targets: Sequence[ItemTarget]) -> Iterator[list[ItemTarget]]:
        """Groups of as many items as fit into a batch; one loss needs all answers to an item."""
        group: list[ItemTarget] = []
        for target in targets:
            if group and sum(len(each.answers) for each in [*group, target]) > self._rows:
                yield group
                group = []
            group.append(target)
        if group:
            yield group


def _of_tokens(logprobs: Tensor, ids: Tensor) -> Tensor:
    """[tokens] from [tokens, vocabulary]: each token's own log-probability."""
    return logprobs.gather(1, ids[:, None])[:, 0]


def _entropies(logprobs: Tensor) -> Tensor:
    return -(logprobs.exp() * logprobs).sum(-1)


def _choice_loss(target: ItemTarget, answers: Tensor, kind: LossKind, scale: float) -> Tensor:
    """answers: [answers], the log-probability of each. scale: of the grades."""
    scaled = answers * torch.tensor(target.scales, device=answers.device, dtype=answers.dtype)
    gold = list(target.gold)
    if kind == "graded":
        others = [n for n in range(len(scaled)) if n not in gold]
        return (-(scaled[gold].amax() - scaled[others].amax()) / scale).sigmoid() if others else 0 * scaled.sum()
    logprobs = torch.log_softmax(scaled, dim=0)
    return _entropies(logprobs) if kind == "entropy" else -torch.logsumexp(logprobs[gold], dim=0)

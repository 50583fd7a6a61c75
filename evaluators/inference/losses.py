"""Losses with gradients: how far a model is from the correct answers to some items, or how unsure it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mergesearch.evaluators.contract.differentiable import LossKind
from mergesearch.evaluators.inference.encoder import Encoder
from mergesearch.evaluators.inference.logits import widened
from mergesearch.evaluators.inference.logprobs import ContinuationScorer, token_margins

Decides = Literal["choice", "label", "greedy"]
"""choice: the likeliest answer counts. label: so it does, and its probability is the grade. greedy: each token of an
answer has to be the likeliest."""


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
        decides: How the metric decides, for the graded loss.
        unconditional: For each answer the index of the query without its question, if the metric subtracts its
            log-probability. Empty: it does not.
        spellings: Queries of other correct texts, of which the likeliest counts in the graded loss.
    """

    answers: tuple[int, ...]
    gold: tuple[int, ...]
    scales: tuple[float, ...] = ()
    size: float = 1.0
    weight: float = 1.0
    decides: Decides = "choice"
    unconditional: tuple[int, ...] = ()
    spellings: tuple[int, ...] = ()

    @property
    def queries(self) -> tuple[int, ...]:
        """All queries that the graded loss needs."""
        return self.answers + self.unconditional + self.spellings


class ContinuationTargets:
    """See ``Targets``: targets whose answers are continuations.

    An item without answers counts in the mean, with a loss of 0.
    """

    def __init__(self, scorer: ContinuationScorer, targets: Sequence[ItemTarget]) -> None:
        self._scorer = scorer
        self._targets = [target for target in targets if target.answers]
        self.weight = sum(target.weight for target in targets)
        """That of all items."""

    @property
    def has_gold(self) -> bool:
        """See ``Targets.has_gold``."""
        return bool(self._targets) and all(target.gold for target in self._targets)

    def losses(self, kind: LossKind, scale: float = 1.0) -> Iterator[Tensor]:
        """See ``Targets.losses``.

        ``targets`` is the negative log-likelihood for texts, and the cross-entropy for choices. ``entropy`` is that of
        the predicted tokens, or of the choices (AdaMerging, arXiv:2310.02575, equation 5), and needs no gold.
        ``graded`` is one less the grade, see ``Decides``; items that decide nothing have none.
        """
        if kind == "graded":
            for group in self._groups(self._targets):
                yield self._graded_losses(group, scale)
            return
        yield from self._text_losses([target for target in self._targets if len(target.answers) == 1], kind)
        for group in self._groups([target for target in self._targets if len(target.answers) > 1]):
            yield self._choice_losses(group, kind)

    def _text_losses(self, texts: Sequence[ItemTarget], kind: LossKind) -> Iterator[Tensor]:
        """One loss per batch: the loss is a sum over tokens, so the tokens of a text may be in different batches."""
        factors = torch.tensor([text.weight / text.size for text in texts], dtype=torch.float64) / self.weight
        queries = [text.answers[0] for text in texts]
        for logprobs, ids, owners in self._scorer.logprobs(queries):
            losses = _entropies(logprobs) if kind == "entropy" else -_of_tokens(logprobs, ids)
            yield (factors[owners].to(losses) * losses).sum()

    def _choice_losses(self, targets: Sequence[ItemTarget], kind: LossKind) -> Tensor:
        sums, _ = self._of_queries([query for target in targets for query in target.answers], is_greedy=False)
        by_target = torch.split(sums, [len(target.answers) for target in targets])
        pairs = zip(targets, by_target, strict=True)
        losses = [t.weight * choice_loss(_scaled(answers, t), t.gold, kind) for t, answers in pairs]
        return torch.stack(losses).sum() / self.weight

    def _graded_losses(self, targets: Sequence[ItemTarget], scale: float) -> Tensor:
        is_greedy = any(target.decides == "greedy" for target in targets)
        sums, least = self._of_queries([query for target in targets for query in target.queries], is_greedy)
        sizes = [len(target.queries) for target in targets]
        by_target = zip(targets, torch.split(sums, sizes), torch.split(least, sizes), strict=True)
        losses = [t.weight * _graded_loss(t, logprobs, margins, scale) for t, logprobs, margins in by_target]
        return torch.stack(losses).sum() / self.weight

    def _of_queries(self, queries: Sequence[int], is_greedy: bool) -> tuple[Tensor, Tensor]:
        """For each query the log-probability, and the least margin of its tokens; infinite if not asked for."""
        parts = [
            (_of_tokens(logprobs, ids), token_margins(logprobs, ids) if is_greedy else logprobs[:, 0], owners)
            for logprobs, ids, owners in self._scorer.logprobs(queries)
        ]
        tokens, margins, owners = (torch.cat(column) for column in zip(*parts, strict=True))
        owners = owners.to(tokens.device)
        least = margins.new_full((len(queries),), torch.inf)
        if is_greedy:
            least = least.scatter_reduce(0, owners, margins, "amin")
        return tokens.new_zeros(len(queries)).index_add(0, owners, tokens), least

    def _groups(self, targets: Sequence[ItemTarget]) -> Iterator[list[ItemTarget]]:
        """Groups of as many items as fit into a batch; one loss needs all answers to an item."""
        group: list[ItemTarget] = []
        left = self._scorer.gradient_tokens
        for target in targets:
            tokens = self._scorer.tokens_of(target.queries)
            if group and tokens > left:
                yield group
                group, left = [], self._scorer.gradient_tokens
            left -= tokens
            group.append(target)
        if group:
            yield group


class JoinedTargets:
    """See ``Targets``: targets of several scorers as one. The parts count by the weight of their items."""

    def __init__(self, parts: Sequence[ContinuationTargets]) -> None:
        self._parts = parts

    @property
    def has_gold(self) -> bool:
        """See ``Targets.has_gold``."""
        return bool(self._parts) and all(part.has_gold for part in self._parts)

    def losses(self, kind: LossKind, scale: float = 1.0) -> Iterator[Tensor]:
        """See ``Targets.losses``."""
        total = sum(part.weight for part in self._parts)
        for part in self._parts:
            for loss in part.losses(kind, scale):
                yield loss * (part.weight / total)


@dataclass(frozen=True)
class LabelTarget:
    """The correct label of one text.

    Attributes:
        text: The text's number in the encoder.
        gold: Numbers of the labels that are correct: several where the metric does not tell them apart.
        weight: The item's weight in the mean.
    """

    text: int
    gold: tuple[int, ...]
    weight: float = 1.0


class LabelTargets:
    """See ``Targets``: targets that are labels, by a model with a classification head."""

    def __init__(self, encoder: Encoder, targets: Sequence[LabelTarget], decides: Decides) -> None:
        self._encoder, self._targets, self._decides = encoder, targets, decides
        self._total_weight = sum(target.weight for target in targets)

    @property
    def has_gold(self) -> bool:
        """See ``Targets.has_gold``."""
        return bool(self._targets)

    def losses(self, kind: LossKind, scale: float = 1.0) -> Iterator[Tensor]:
        """See ``Targets.losses``, and ``choice_loss``, whose answers are the labels. One loss per batch."""
        model: Any = self._encoder.subject.model
        texts = [target.text for target in self._targets]
        for places, logits in self._encoder.run_with_graph(texts, lambda inputs: model(**inputs).logits):
            rows = zip((self._targets[place] for place in places), widened(logits), strict=True)
            losses = [t.weight * choice_loss(row, t.gold, kind, self._decides, scale) for t, row in rows]
            yield torch.stack(losses).sum() / self._total_weight


def _of_tokens(logprobs: Tensor, ids: Tensor) -> Tensor:
    """[tokens] from [tokens, vocabulary]: each token's own log-probability."""
    return logprobs.gather(1, ids[:, None])[:, 0]


def _entropies(logprobs: Tensor) -> Tensor:
    return -(logprobs.exp() * logprobs).sum(-1)


def choice_loss(
    values: Tensor, gold: Sequence[int], kind: LossKind, decides: Decides = "choice", scale: float = 1.0
) -> Tensor:
    """The loss of one item with several answers; 0 as a graded loss where all of them are correct.

    Args:
        values: [answers], logits.
        gold: Indices of the correct answers.
        kind: Of the loss.
        decides: ``choice`` or ``label``, for the graded loss.
        scale: Of the grades.
    """
    if kind == "graded":
        return _graded_choice_loss(values, list(gold), decides, scale)
    logprobs = torch.log_softmax(values, dim=0)
    return _entropies(logprobs) if kind == "entropy" else -torch.logsumexp(logprobs[list(gold)], dim=0)


def _graded_choice_loss(values: Tensor, gold: list[int], decides: Decides, scale: float) -> Tensor:
    others = [n for n in range(len(values)) if n not in gold]
    if not others:
        return 0 * values.sum()
    if decides == "label":
        return 1 - (values / scale).softmax(0)[gold].sum()
    return (-(values[gold].amax() - values[others].amax()) / scale).sigmoid()


def _graded_loss(target: ItemTarget, logprobs: Tensor, least: Tensor, scale: float) -> Tensor:
    """logprobs, least: [queries] of the target, see ``ContinuationTargets._of_queries``. scale: of the grades."""
    gold, count = list(target.gold), len(target.answers)
    if target.decides == "greedy":
        return (-torch.cat([least[gold], least[count:]]).amax() / scale).sigmoid()
    answers = logprobs[:count] - logprobs[count:] if target.unconditional else logprobs
    return choice_loss(_scaled(answers, target), gold, "graded", target.decides, scale)


def _scaled(answers: Tensor, target: ItemTarget) -> Tensor:
    return answers * torch.tensor(target.scales or (1.0,), device=answers.device, dtype=answers.dtype)

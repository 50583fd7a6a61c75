"""What a model should have said to some items, as losses that gradients can be taken of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mergesearch.evaluators.contract.evaluator import LossKind
from mergesearch.evaluators.inference.logprobs import Scorer

SHARE = 4
"""Sequences at once are so many times fewer than for scoring: the layers' activations are kept for the way back."""


@dataclass(frozen=True)
class Target:
    """One item. answers: the number of each answer's question, as the scorer has them; gold: the right ones.

    One answer alone is a text to be predicted, whose loss is divided by ``size``. Of several, one is to be chosen:
    their log-probabilities, times ``scales``, are the logits of a softmax. ``weight`` is the item's (``Item.weight``).
    """

    answers: tuple[int, ...]
    gold: tuple[int, ...]
    scales: tuple[float, ...] = ()
    size: float = 1.0
    weight: float = 1.0


class Targets:
    """The targets of some items, in front of one live model."""

    def __init__(self, scorer: Scorer, targets: Sequence[Target], batch_size: int) -> None:
        self._scorer = scorer
        self._targets = targets
        self._total = sum(target.weight for target in targets)
        self._batch_size = max(batch_size // SHARE, 1)

    @property
    def has_gold(self) -> bool:
        """Whether it is known of every item what should be said."""
        return bool(self._targets) and all(target.gold for target in self._targets)

    def losses(self, kind: LossKind) -> Iterator[Tensor]:
        """Scalars with a graph, to be gone back through one by one; their sum is the mean over the items, by weight.

        ``targets``: of texts the negative log-likelihood, of choices the cross-entropy. ``entropy``: of the predicted
        tokens, or of the choices (AdaMerging, arXiv:2310.02575, equation 5), which needs no gold.
        """
        yield from self._of_texts([target for target in self._targets if len(target.answers) == 1], kind)
        for some in self._groups([target for target in self._targets if len(target.answers) > 1]):
            yield self._of_choices(some, kind)

    def _of_texts(self, texts: Sequence[Target], kind: LossKind) -> Iterator[Tensor]:
        """A batch at a time: the sum over tokens needs no two of them together."""
        shares = torch.tensor([text.weight / text.size for text in texts], dtype=torch.float64) / self._total
        numbers = [text.answers[0] for text in texts]
        for logprobs, ids, owners in self._scorer.logprobs(numbers, self._batch_size):
            costs = _entropies(logprobs) if kind == "entropy" else -_chosen(logprobs, ids)
            yield (shares[owners].to(costs) * costs).sum()

    def _of_choices(self, targets: Sequence[Target], kind: LossKind) -> Tensor:
        numbers = [number for target in targets for number in target.answers]
        sums: Tensor | float = 0.0
        for logprobs, ids, owners in self._scorer.logprobs(numbers, self._batch_size):
            tokens = _chosen(logprobs, ids)
            sums = sums + tokens.new_zeros(len(numbers)).index_add(0, owners.to(tokens.device), tokens)
        assert isinstance(sums, Tensor)
        counts = [len(target.answers) for target in targets]
        logits = torch.split(sums, counts)
        costs = [t.weight * _choice_loss(t, part, kind) for t, part in zip(targets, logits, strict=True)]
        return torch.stack(costs).sum() / self._total

    def _groups(self, targets: Sequence[Target]) -> Iterator[list[Target]]:
        """As many items at a time as fit: the answers of one must be seen together."""
        group: list[Target] = []
        for target in targets:
            if group and sum(len(one.answers) for one in [*group, target]) > self._batch_size:
                yield group
                group = []
            group.append(target)
        if group:
            yield group


def _chosen(logprobs: Tensor, ids: Tensor) -> Tensor:
    return logprobs.gather(1, ids[:, None])[:, 0]


def _entropies(logprobs: Tensor) -> Tensor:
    return -(logprobs.exp() * logprobs).sum(-1)


def _choice_loss(target: Target, sums: Tensor, kind: LossKind) -> Tensor:
    logprobs = torch.log_softmax(sums * torch.tensor(target.scales, device=sums.device, dtype=sums.dtype), dim=0)
    return _entropies(logprobs) if kind == "entropy" else -torch.logsumexp(logprobs[list(target.gold)], dim=0)

"""The parents of a merge, which run one at a time, in float32."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mergesearch.errors import UserError
from mergesearch.merge_ops.after_merge.recovery.sequences import Batch, Sequences, batches, generates, run
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.inputs.standalone import make_same_tokens
from mergesearch.merge_ops.live import live
from mergesearch.steps import followed, step, units

SCORED_AT_ONCE = 8
"""How many sequences run at once where only a parent's loss of each is asked for."""


@dataclass(frozen=True)
class Target:
    """A parent's outputs for a batch: ``logits``, and ``hidden`` states if they are asked for; float32."""

    logits: Tensor
    hidden: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Parents:
    """The parents' checkpoints by reference; ``tokenizer`` is the merged model's, with which all of them run."""

    checkpoints: Mapping[str, Checkpoint]
    tokenizer: Any
    device: str

    @contextmanager
    def opened(self, reference: str) -> Iterator[torch.nn.Module]:
        """Loads a parent; its memory is free afterwards. Raises UserError if its tokens are others."""
        model, tokenizer = live.load(self.checkpoints[reference], self.device, torch.float32)
        if tokenizer is not None and not make_same_tokens(self.tokenizer, tokenizer):
            raise UserError(f"recover: {reference} has other tokens than the merged model, so that it cannot teach it")
        with torch.no_grad():
            yield model

    def targets(self, reference: str, batches: Sequence[Batch], hidden: bool) -> list[Target]:
        """Returns a parent's outputs for each batch."""
        count, name = len(batches), reference.rstrip("/").rpartition("/")[2]
        with self.opened(reference) as model, step(f"running {name}", count, "batches"), units(count):
            return [_target(run(model, each, hidden), hidden) for each in followed(batches)]

    def losses(self, reference: str, rows: Sequences, padding: int) -> list[float]:
        """Returns how badly a parent predicts each sequence; see ``_loss``."""
        with self.opened(reference) as model:
            parts = batches(rows, SCORED_AT_ONCE, padding, self.device)
            return [float(loss) for each in parts for loss in _loss(run(model, each).logits, each, generates(model))]


def _target(outputs: Any, hidden: bool) -> Target:
    return Target(outputs.logits, outputs.hidden_states if hidden else ())


def _loss(logits: Tensor, inputs: Batch, is_causal: bool) -> Tensor:
    """[sequences]: the mean negative log-likelihood of the next token; of other models the entropy of the outputs."""
    logprobs = logits.log_softmax(-1)
    if is_causal:
        return -logprobs[:, :-1].gather(-1, inputs["input_ids"][:, 1:, None])[..., 0].mean(-1)
    return -(logprobs.exp() * logprobs).sum(-1).reshape(len(logits), -1).mean(-1)


def by_best_parent(parents: Parents, names: Sequence[str], rows: Sequences, padding: int) -> dict[str, Sequences]:
    """Returns each parent's sequences: those that it predicts best. A parent that is best at none has no entry."""
    losses = [parents.losses(name, rows, padding) for name in names]
    best = [min(range(len(names)), key=lambda n: losses[n][row]) for row in range(len(rows))]
    found = {name: [row for row, n in zip(rows, best, strict=True) if names[n] == name] for name in names}
    return {name: each for name, each in found.items() if each}

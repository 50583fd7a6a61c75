"""Distillation: the merged model is trained to give its parents' outputs on their texts, as LoRA or in all weights."""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.after_merge.recovery.parents import Parents, Target
from mergesearch.merge_ops.after_merge.recovery.sequences import Batch, run
from mergesearch.merge_ops.recipe.recovery import Recovery
from mergesearch.seeds import derive
from mergesearch.steps import followed, step, units

TARGET_BYTES = 2 << 30
"""The memory for parents' outputs: those of as many steps as fit are computed before these steps. Changes no result."""
CLIP = 1.0
"""The largest norm of the gradient."""
WARM_UP = 0.1
"""The share of the steps in which the learning rate rises."""


def distill(
    student: nn.Module, settings: Recovery, batches: Mapping[str, Sequence[Batch]], parents: Parents
) -> list[float]:
    """Trains ``student`` in place; returns the loss of each step.

    The loss is the mean over the parents of KL(parent, student) in nats per token, times the squared temperature
    (Hinton et al., arXiv:1503.02531), plus ``settings.hidden`` times the relative squared distance of hidden states.
    """
    losses: list[float] = []
    with _trainable(student, settings) as model:
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=settings.rate, weight_decay=0.0, foreach=False)
        with step("recovering", settings.steps, "steps"), units(settings.steps):
            for now in followed(range(settings.steps)):
                if now % (per_round := _steps_at_once(settings, batches, student)) == 0:
                    end = min(now + per_round, settings.steps)
                    targets = {n: parents.targets(n, b[now:end], settings.hidden > 0) for n, b in batches.items()}
                for group in optimizer.param_groups:
                    group["lr"] = settings.rate * _schedule(settings, now)
                parts = [(model, b[now], targets[n][now % per_round]) for n, b in batches.items()]
                losses.append(_descend(optimizer, weights, parts, settings))
    return losses


def _descend(
    optimizer: torch.optim.Optimizer,
    weights: Sequence[nn.Parameter],
    parts: Sequence[tuple[nn.Module, Batch, Target]],
    settings: Recovery,
) -> float:
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for model, inputs, target in parts:
        loss = _loss(run(model, inputs, settings.hidden > 0), inputs, target, settings) / len(parts)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    if not math.isfinite(total):
        raise FloatingPointError(f"recover: the loss is {total}; take a lower learning_rate than {settings.rate:g}")
    nn.utils.clip_grad_norm_(weights, CLIP, foreach=False)
    optimizer.step()
    return total


def _loss(outputs: Any, inputs: Batch, target: Target, settings: Recovery) -> Tensor:
    if outputs.logits.shape != target.logits.shape:
        found, expected = outputs.logits.shape[-1], target.logits.shape[-1]
        raise UserError(f"recover: the merged model has {found} outputs and a parent {expected}: expected as many")
    is_token = _tokens(outputs.logits, inputs)
    loss = divergence(outputs.logits[is_token], target.logits[is_token], settings.temperature)
    for mine, theirs in zip(outputs.hidden_states if target.hidden else (), target.hidden, strict=True):
        kept = _tokens(mine, inputs)
        distance = (mine[kept] - theirs[kept]).square().mean() / theirs[kept].square().mean()
        loss = loss + settings.hidden * distance / len(target.hidden)
    return loss


def _tokens(outputs: Tensor, inputs: Batch) -> Tensor:
    """Which of the outputs count: all but those of padding. [sequences], or [sequences, tokens] where each has one."""
    mask = inputs.get("attention_mask")
    shape = outputs.shape[:-1]
    if mask is not None and mask.shape == shape:
        return mask.bool()
    return torch.ones(shape, dtype=torch.bool, device=outputs.device)


def divergence(student: Tensor, parent: Tensor, temperature: float) -> Tensor:
    """Returns the mean over rows of KL(parent, student), times the squared temperature. [rows, outputs] each.

    The gradient is exactly 0 where both are the same.
    """
    mine, theirs = student / temperature, parent / temperature
    total, their_total = mine.logsumexp(-1), theirs.logsumexp(-1)
    probabilities = (theirs - their_total[..., None]).exp()
    return temperature**2 * ((probabilities * (theirs - mine)).sum(-1) + total - their_total).mean()


def _schedule(settings: Recovery, now: int) -> float:
    """The share of the learning rate in a step."""
    warm_up = max(1, round(WARM_UP * settings.steps))
    if now < warm_up:
        return (now + 1) / warm_up
    if settings.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (now - warm_up) / max(1, settings.steps - warm_up)))


def _steps_at_once(settings: Recovery, batches: Mapping[str, Sequence[Batch]], model: Any) -> int:
    tokens: int = sum(each[0]["input_ids"].numel() for each in batches.values())
    config = model.config.get_text_config()
    width: int = getattr(config, "vocab_size", 1) + (settings.hidden > 0) * (
        config.hidden_size * (config.num_hidden_layers + 1)
    )
    return max(1, TARGET_BYTES // (4 * tokens * width))


@contextmanager
def _trainable(student: nn.Module, settings: Recovery) -> Iterator[nn.Module]:
    """Yields what is trained; afterwards ``student`` has the changes in its weights."""
    if settings.full:
        yield student.requires_grad_(True)
        student.requires_grad_(False)
        return
    adapted = _with_adapters(student, settings)
    yield adapted
    adapted.merge_and_unload()


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what peft's own use of other libraries makes them say: it concerns nobody here."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _with_adapters(student: nn.Module, settings: Recovery) -> Any:
    """Returns the model with LoRA (arXiv:2106.09685) in all linear layers but the head. At first it changes nothing.

    Raises:
        UserError: peft is not installed.
    """
    try:
        with _quiet():
            from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError(
            "recover: LoRA needs the package peft: pip install 'mergesearch[recover]'; full: true does without"
        ) from None
    config = LoraConfig(r=settings.rank, lora_alpha=2 * settings.rank, target_modules="all-linear", lora_dropout=0.0)
    with torch.random.fork_rng(), _quiet():
        adapted = cast(Any, get_peft_model)(student, config)
    for name, weight in adapted.named_parameters():
        if "lora_A" in name:
            generator = torch.Generator().manual_seed(derive(settings.seed, "recover", name))
            drawn = torch.empty(weight.shape)
            nn.init.kaiming_uniform_(drawn, a=5**0.5, generator=generator)
            weight.data.copy_(drawn)
    return adapted

"""The contract of every evaluator: a model in, one number per item out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import Field

from mergesearch.parsing import Strict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mergesearch.evaluators.contract.token_budget import Budget
    from mergesearch.evaluators.inference.losses import Targets


@dataclass(frozen=True)
class Item:
    """One question of a task.

    ``fingerprint`` depends on the content alone (or on the group that the item belongs to), so that equal items, and
    items of one group, fall on the same side of a split. ``weight`` is the item's share in the task's score: 1 for
    accuracies, the number of bytes for bits per byte. ``chance`` is what guessing scores on it in the mean, where that
    is known: 1 / number of choices for accuracies. ``text`` is what is compared to keep near-duplicates on one side;
    none where ``group`` says what belongs together. ``part`` is the subtask, of an item of a group.
    """

    id: str
    task: str
    fingerprint: str
    weight: float = 1.0
    chance: float | None = None
    text: str = field(default="", compare=False, repr=False)
    part: str = ""


@dataclass(frozen=True)
class Metric:
    """What an evaluator's numbers are called, and which way is better."""

    name: str
    higher_is_better: bool = True


@dataclass(frozen=True)
class LoadedModel:
    """A model of transformers in memory, and the tokenizer that is saved with it (None where there is none).

    Evaluators keep what depends on the tokenizer and on the model's configuration for as long as they are given the
    same two objects; the weights, and how many layers they are, may change in place between any two calls. ``save``
    writes the model as it is now to a folder that is not there yet, for evaluators that run programs of others.
    ``budget``: how much of it is computed at once; None leaves that to each evaluator.
    """

    model: torch.nn.Module
    tokenizer: Any
    save: Callable[[Path], None] | None = field(default=None, compare=False)
    budget: Budget | None = field(default=None, compare=False)


class EvaluatorOptions(Strict):
    """What the config says of one task. Every evaluator has its own subclass."""

    task: str = Field(min_length=1, description="The task's name")


class Shared(Strict):
    """What the config says of all tasks together."""

    include_path: Path | None = Field(None, description="Folder with lm-eval task YAML files of your own")
    group: str | None = Field(
        None, description="Field of the documents whose equal values stay on one side of the split"
    )
    batch_size: int = Field(32, gt=0, description="The most sequences that the model is given at once")
    max_length: int | None = Field(
        None, gt=1, description="Tokens of a sequence, longer ones are cut; default: the model's context"
    )
    mode: Literal["auto", "exact", "packed"] = Field(
        "auto",
        description="packed: answers of a question, and questions, share the tokens that they begin with; "
        "auto: where the model gives the same numbers then; exact: never",
    )
    compile: bool = Field(False, description="On a GPU, score with the model as torch compiles it")


class Evaluator(Protocol):
    """One task, scored item by item.

    It is made without a model, and that raises UserError for whatever the options ask in vain. What needs the
    tokenizer is done once, at the first ``score``.
    """

    Options: ClassVar[type[EvaluatorOptions]]
    averages: ClassVar[bool]
    """Whether scores come from the model's logits alone, so that an ensemble of models, which has these, has scores."""

    def __init__(self, options: Any, shared: Shared) -> None: ...

    @property
    def task(self) -> str: ...

    @property
    def metric(self) -> Metric: ...

    @property
    def items(self) -> Sequence[Item]: ...

    def prepare(self, subject: LoadedModel) -> Sequence[str]:
        """Checks the task against the model, whose weights do not matter yet, before anything is scored.

        Returns what the user should know, such as how many items are cut to the model's context. Raises UserError for
        what this model can never answer.
        """
        ...

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """The items' scores, float64 on the CPU, in the order given: [items], or [items, k] where ``value`` needs k.

        An item's score does not depend on the order of the items; which others are asked changes no more than the
        last bits of a floating-point sum.

        Raises FloatingPointError, naming the item, where the model's output is not a number.
        """
        ...

    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        """The task's value over these items, from what ``score`` gave for them."""
        ...

    def contributions(self, items: Sequence[Item], scores: Tensor) -> Tensor:
        """[items] float64: numbers whose mean, weighted by ``Item.weight``, is ``value``; what comparisons pair."""
        ...


LossKind = Literal["targets", "entropy"]
"""How far the model is from what it should say, or how unsure it is of what it says."""


@runtime_checkable
class Differentiable(Protocol):
    """What an evaluator may offer beside: losses that gradients can be taken of."""

    @property
    def has_targets(self) -> bool:
        """Whether the task has such a thing as what the model should say; not, for example, where it generates."""
        ...

    def targets(self, subject: LoadedModel, items: Sequence[Item]) -> Targets:
        """What the model should say to these items, where the task has targets."""
        ...


def has_targets(evaluator: Evaluator) -> bool:
    """Whether gradients of a loss can be taken; known without a model."""
    return isinstance(evaluator, Differentiable) and evaluator.has_targets


def has_contributions(evaluator: Evaluator) -> bool:
    """Whether ``contributions`` tell how the value varies from sample to sample; of a median, nothing does.

    True unless the evaluator has an attribute of this name that says otherwise.
    """
    return bool(getattr(evaluator, "has_contributions", True))


class Unprepared:
    """For evaluators that have nothing to check against the model, nor logits that could be averaged."""

    averages: ClassVar[bool] = False

    def prepare(self, subject: LoadedModel) -> Sequence[str]:  # noqa: ARG002
        """See ``Evaluator.prepare``."""
        return []


class MeanOfItems(Unprepared):
    """For evaluators whose value is the mean of their items' scores, weighted by ``Item.weight``."""

    def value(self, items: Sequence[Item], scores: Tensor) -> float:
        """See ``Evaluator.value``."""
        return aggregate(items, scores)

    def contributions(self, items: Sequence[Item], scores: Tensor) -> Tensor:  # noqa: ARG002
        """See ``Evaluator.contributions``: the scores themselves."""
        return scores


def aggregate(items: Sequence[Item], scores: Tensor | Sequence[float]) -> float:
    """A task's value: the mean of its items' scores, weighted by ``Item.weight``."""
    # Plain sums in the items' order are what lm-eval does: the same numbers to the last bit.
    total = sum(item.weight * float(score) for item, score in zip(items, scores, strict=True))
    return total / sum(item.weight for item in items)

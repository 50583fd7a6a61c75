"""Whether a gradient start and learned soups are possible, as far as it is known before a model is loaded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from mergesearch.errors import UserError, listed
from mergesearch.evaluators import Evaluator, has_targets
from mergesearch.merge_ops.assembly.assembly import Assembly
from mergesearch.merge_ops.assembly.coefficient_gradients import coefficients, is_exact
from mergesearch.search.config import Config

FEWEST_DIMENSIONS = 6
"""The fewest dimensions for which ``start: auto`` descends: with fewer, a few candidates are as good."""


@dataclass(frozen=True)
class StartChoice:
    """Whether a search has a gradient start; ``why`` is the reason where ``auto`` decided."""

    gradient: bool = False
    why: str = ""


def choose_start(
    config: Config,
    evaluators: Mapping[str, Evaluator],
    starts: Mapping[str, Assembly],
    dimensions: Mapping[str, int],
) -> StartChoice:
    """Resolves ``search.start``. Arguments as for ``check_gradient``, which raises UserError.

    ``dimensions`` has the number of dimensions by method.
    """
    if config.search.start != "auto":
        if config.search.start == "gradient":
            check_gradient(config, evaluators, starts)
        return StartChoice(config.search.start == "gradient")
    try:
        check_gradient(config, evaluators, starts)
    except UserError as error:
        return StartChoice(why=str(error).removeprefix("search.start: ").removeprefix("found gradient, "))
    exact = [name for name, assembly in starts.items() if is_exact(assembly, _sample(assembly))]
    followed = max((dimensions[name] for name in exact), default=0)
    against = _against(config, evaluators, starts, followed)
    return StartChoice(not against, against or f"{followed} dimensions, and every task has a loss")


def _against(
    config: Config, evaluators: Mapping[str, Evaluator], starts: Mapping[str, Assembly], followed: int
) -> str | None:
    """Why a possible descent does not pay; None where it pays. ``followed`` is the number of its dimensions."""
    without = [name for name, evaluator in evaluators.items() if not has_targets(evaluator)]
    if without:
        return f"{listed(without)} has no loss to take gradients of"
    if config.evaluate.aggregate == "pareto":
        return "there are several objectives"
    if not followed:
        return f"gradients ignore that {listed(starts)} trims, drops or elects elements"
    if followed < FEWEST_DIMENSIONS:
        return f"gradients pay from {FEWEST_DIMENSIONS} dimensions on, found {followed}"
    return None


def check_gradient(config: Config, evaluators: Mapping[str, Evaluator], starts: Mapping[str, Assembly]) -> None:
    """Raises UserError where no task has a loss, or where gradients can follow no method.

    ``evaluators`` are those of the tasks that count in the search, by task; ``starts`` by method. A few tensors are
    checked here; ``GradientSource`` checks all.
    """
    _check_unquantized(config, "search.start: found gradient, which needs")
    if not any(map(has_targets, evaluators.values())):
        raise UserError(
            f"search.start: found gradient, but no task has a loss to take it of: {listed(evaluators)}; texts, "
            "classification, and tasks of lm-eval whose correct answers are known have one"
        )
    if not all(assembly.recipe.keeps_shapes for assembly in starts.values()):
        raise UserError("search.start: found gradient, which cannot follow slices; leave it out")
    if all(coefficients(assembly, _sample(assembly)) is None for assembly in starts.values()):
        raise no_method(starts)


def check_learning(config: Config, evaluators: Mapping[str, Evaluator]) -> None:
    """Raises UserError where a task has no loss to learn a soup from; ``evaluators`` as for ``check_gradient``.

    Whether every item has a right answer is known with the model only: see ``SoupLearner.check_gold``.
    """
    key = "soup.kinds" if config.soup else "search.soups"
    _check_unquantized(config, f"{key}: found learned soups, which need")
    without = [name for name, evaluator in evaluators.items() if not has_targets(evaluator)]
    if without:
        raise UserError(f"{key}: {listed(without)} has no loss to learn from; leave out the learned soups")


def _check_unquantized(config: Config, found: str) -> None:
    if config.evaluate.quantization:
        raise UserError(
            f"{found} the weights as they are, beside evaluate.quantization: {config.evaluate.quantization}; leave one "
            "of them out"
        )


def no_method(names: Iterable[str]) -> UserError:
    """The error where gradients can follow none of the methods."""
    return UserError(
        f"search.start: gradient needs a method that weighs its models; {listed(names)}: none of them does"
    )


def _sample(assembly: Assembly) -> Sequence[str]:
    """The smallest merged tensor of each rank: a method has the same form on all tensors of a rank."""
    smallest: dict[int, str] = {}
    infos = {name: info for name, info in assembly.infos.items() if info.dtype.is_floating_point}
    for name, info in sorted(infos.items(), key=lambda entry: -prod(entry[1].shape)):
        smallest[len(info.shape)] = name
    return list(smallest.values())

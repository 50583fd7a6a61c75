"""Whether a search can start from gradients, and soups be learned: what can be known before any model is loaded."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod

from mergesearch.errors import UserError, listed
from mergesearch.evaluators import Evaluator, has_targets
from mergesearch.merge_ops.merger import Assembly
from mergesearch.merge_ops.slopes import coefficients
from mergesearch.search.config import Config


def check_gradient(config: Config, evaluators: Mapping[str, Evaluator], starts: Mapping[str, Assembly]) -> None:
    """``evaluators`` by the names of the tasks that count in the search, ``starts`` by the methods' names.

    Raises UserError where there is nothing to take gradients of, or no method that they can follow. A few tensors are
    read to know the latter; ``GradientStart`` asks all of them.
    """
    _check_unquantized(config, "search.start: found gradient, which needs")
    if not any(map(has_targets, evaluators.values())):
        raise UserError(
            f"search.start: found gradient, but no task has a loss to take it of: {listed(evaluators)}; texts, and "
            "tasks of lm-eval that score given answers, have"
        )
    if not all(assembly.recipe.keeps_shapes for assembly in starts.values()):
        raise UserError("search.start: found gradient, which cannot follow slices; leave it out")
    if all(coefficients(assembly, _sample(assembly)) is None for assembly in starts.values()):
        raise no_method(starts)


def check_learning(config: Config, evaluators: Mapping[str, Evaluator]) -> None:
    """Raises UserError where there is nothing to learn a soup from; ``evaluators`` as for ``check_gradient``.

    Whether every item has a right answer is known with the model alone: see ``learned.check_gold``.
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
    """None of the methods is one that gradients can follow."""
    return UserError(
        f"search.start: gradient needs a method that weighs its models; {listed(names)}: none of them does"
    )


def _sample(assembly: Assembly) -> Sequence[str]:
    """The smallest merged tensor of each number of dimensions: it says which form a method takes there."""
    smallest: dict[int, str] = {}
    infos = {name: info for name, info in assembly.infos.items() if info.dtype.is_floating_point}
    for name, info in sorted(infos.items(), key=lambda entry: -prod(entry[1].shape)):
        smallest[len(info.shape)] = name
    return list(smallest.values())

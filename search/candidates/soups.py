"""Soup algorithms: which of several fine-tunes of one base to average.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time", arXiv:2203.05482. Each algorithm here is a coroutine: it yields two soups, is sent whether the first is
better, and returns its last soup. It can be started again at any time with the answers so far, which makes a run
resumable.

``ranked`` are the models in descending order of their own score on the search items. A soup lists its members in that
order, so that the same members always give the same bits.
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence

Members = tuple[str, ...]
Steps = Generator[tuple[Members, Members], bool, Members]
"""Yields (new, old) and is sent whether the new soup is better."""


def greedy(ranked: Sequence[str]) -> Steps:
    """Algorithm 1 of the paper: one pass from the best model; a model is added if the soup is better with it.

    Strictly better, as in the paper's code; its text also adds models that change nothing.
    """
    soup = tuple(ranked[:1])
    for model in ranked[1:]:
        if (yield (*soup, model), soup):
            soup = (*soup, model)
    return soup


def pruned(ranked: Sequence[str]) -> Steps:
    """Starts with all models and removes each without which the soup is better.

    Passes go from the worst model to the best, until a pass removes none.
    """
    soup: Members = ()
    smaller = tuple(ranked)
    while smaller != soup:
        soup = smaller
        for model in reversed(soup):
            without = tuple(member for member in smaller if member != model)
            if without and (yield without, smaller):
                smaller = without
    return soup


def uniform(ranked: Sequence[str]) -> Steps:
    """All models; nothing is compared."""
    yield from ()
    return tuple(ranked)


def follow(
    steps: Steps, is_scored: Callable[[Members], bool], is_better: Callable[[Members, Members], bool]
) -> tuple[Members, bool]:
    """Runs an algorithm as far as scores are known: the soup to score next and False, or the last soup and True."""
    try:
        question = next(steps)
        while True:
            unscored = next((soup for soup in reversed(question) if not is_scored(soup)), None)
            if unscored:
                return unscored, False
            question = steps.send(is_better(*question))
    except StopIteration as end:
        return end.value, True


def soup_recipe(
    weights: Mapping[str, object], fixed: Mapping[str, object], standalone: Collection[str] = ()
) -> dict[str, object]:
    """mergekit's YAML of a soup: each model with its weight; ``fixed`` are keys that all recipes of a run share.

    A single model that is ``standalone`` keeps its own config, tokenizer and tensors.
    """
    if len(weights) == 1 and set(weights) <= set(standalone):
        fixed = {key: fixed[key] for key in ("dtype", "out_dtype", "dequantize") if key in fixed}
    models = [{"model": model, "parameters": {"weight": weight}} for model, weight in weights.items()]
    return {**fixed, "merge_method": "linear", "models": models}

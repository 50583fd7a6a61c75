"""Soups: which of several fine-tunes of one base to average.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time", arXiv:2203.05482. Each recipe here is a coroutine that asks whether one soup is better than another,
is told yes or no, and returns the soup that it ends with; who answers scores the soups when they are asked about. It
can be begun anew at any time with the answers so far, which is what makes a run resumable.

``ranked`` are the ingredients in descending order of their own score on the search items. A soup lists its members in
that order too, so that the same members always give the same bits.
"""

from collections.abc import Callable, Generator, Mapping, Sequence

Soup = tuple[str, ...]
Steps = Generator[tuple[Soup, Soup], bool, Soup]
"""Yields (new, old) and is sent whether the new soup is better."""


def greedy(ranked: Sequence[str]) -> Steps:
    """Algorithm 1 of the paper: one pass from the best; an ingredient stays in if the soup is better with it.

    Strictly better, as in the paper's code; its text also keeps what changes nothing.
    """
    soup = tuple(ranked[:1])
    for model in ranked[1:]:
        if (yield (*soup, model), soup):
            soup = (*soup, model)
    return soup


def pruned(ranked: Sequence[str]) -> Steps:
    """The other way round: from all ingredients, those without which the soup is better are left out.

    Passes go from the worst ingredient to the best, until one leaves out none.
    """
    soup: Soup = ()
    smaller = tuple(ranked)
    while smaller != soup:
        soup = smaller
        for model in reversed(soup):
            without = tuple(member for member in smaller if member != model)
            if without and (yield without, smaller):
                smaller = without
    return soup


def uniform(ranked: Sequence[str]) -> Steps:
    """All of them; there is nothing to ask."""
    yield from ()
    return tuple(ranked)


RECIPES: Mapping[str, Callable[[Sequence[str]], Steps]] = {"uniform": uniform, "greedy": greedy, "pruned": pruned}


def follow(
    steps: Steps, is_scored: Callable[[Soup], bool], is_better: Callable[[Soup, Soup], bool]
) -> tuple[Soup, bool]:
    """Follows a recipe as far as the scores go: the soup to score next and False, or its last soup and True."""
    try:
        question = next(steps)
        while True:
            unscored = next((soup for soup in reversed(question) if not is_scored(soup)), None)
            if unscored:
                return unscored, False
            question = steps.send(is_better(*question))
    except StopIteration as end:
        return end.value, True


def soup_recipe(weights: Mapping[str, object], fixed: Mapping[str, object]) -> dict[str, object]:
    """mergekit's YAML of a soup: each model with its weight; ``fixed`` are keys that all recipes of a run share."""
    models = [{"model": model, "parameters": {"weight": weight}} for model, weight in weights.items()]
    return {**fixed, "merge_method": "linear", "models": models}

"""What every run scores first: what the user had, the soups, and the standard recipes at their usual settings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from mergesearch.merge_ops.methods import Scalar
from mergesearch.merge_ops.recipe import Recipe
from mergesearch.search.places import model_labels


@dataclass(frozen=True)
class Baseline:
    """A recipe that a search must beat."""

    name: str
    recipe: Recipe


def usual_settings(models: int) -> dict[str, dict[str, Scalar]]:
    """The numbers that the standard recipes are used with, for that many models.

    Task arithmetic 0.4 and TIES (density 0.2, weight 1) are the TIES paper's for an unvalidated merge
    (arXiv:2306.01708, section 5); DARE-TIES with density 0.5 and weights that sum to one are mergekit's example.
    """
    share = 1 / models
    return {
        "linear": {"weight": share},
        "slerp": {"t": 0.5},
        "task_arithmetic": {"weight": 0.4},
        "ties": {"weight": 1.0, "density": 0.2},
        "dare_ties": {"weight": share, "density": 0.5},
        "dare_linear": {"weight": share, "density": 0.5},
    }


class Baselines:
    """The baselines of a run over these checkpoints, in the order in which they are scored.

    ``fixed`` are recipe keys that all share, such as dtype; ``beside`` are checkpoints that are scored but not mixed.
    """

    def __init__(
        self, models: Sequence[str], base: str | None, fixed: Mapping[str, Any], beside: Sequence[str] = ()
    ) -> None:
        self._models = [model for model in models if model != base]
        self._base = base
        self._fixed = dict(fixed)
        endpoints = [*([base] if base else []), *self._models, *beside]
        self._labels = model_labels(list(dict.fromkeys(endpoints)))

    def following(self, scores: Mapping[str, float]) -> Baseline | None:
        """The next baseline to score, given the scores (higher is better) by name so far; None when all are there."""
        unscored = (baseline for baseline in self._standard() if baseline.name not in scores)
        return next(unscored, None) or self._next_soup(scores)

    def _standard(self) -> Iterator[Baseline]:
        for reference, label in self._labels.items():
            yield Baseline(label, self._soup([reference]))
        if len(self._models) > 1:
            yield Baseline("uniform soup", self._soup(self._models))
        if self._base:
            for method in ("task_arithmetic", "ties", "dare_ties"):
                yield Baseline(method, self._usual(method))

    @property
    def members(self) -> list[Recipe]:
        """What an ensemble averages the outputs of: the models, and the base where there is one model only."""
        alone = [self._base] if self._base and len(self._models) == 1 else []
        return [self._soup([reference]) for reference in [*alone, *self._models]]

    def _next_soup(self, scores: Mapping[str, float]) -> Baseline | None:
        """The greedy soup of Wortsman et al. (arXiv:2203.05482, algorithm 1), one step at a time.

        The models in descending order of their own scores; each stays in if the soup gets strictly better with it.
        """
        if len(self._models) < 2:
            return None
        ranked = sorted(self._models, key=lambda model: -scores.get(self._labels[model], -inf))
        soup, best = ranked[:1], scores.get(self._labels[ranked[0]], -inf)
        for model in ranked[1:]:
            name = f"soup of {' + '.join(self._labels[member] for member in [*soup, model])}"
            if name not in scores:
                return Baseline(name, self._soup([*soup, model]))
            if scores[name] > best:
                soup, best = [*soup, model], scores[name]
        return None if "greedy soup" in scores else Baseline("greedy soup", self._soup(soup))

    def _soup(self, references: Sequence[str]) -> Recipe:
        models = [{"model": reference, "parameters": {"weight": 1.0}} for reference in references]
        return Recipe.read({**self._fixed, "merge_method": "linear", "models": models}, "baseline")

    def _usual(self, method: str) -> Recipe:
        settings = usual_settings(len(self._models))[method]
        models = [{"model": reference, "parameters": dict(settings)} for reference in self._models]
        data = {**self._fixed, "merge_method": method, "base_model": self._base, "models": models}
        return Recipe.read(data, "baseline")

"""What every run scores first: what the user had, the soups, and the standard recipes at their usual settings."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from mergesearch.errors import nearest
from mergesearch.merge_ops.methods import Scalar
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.soups import Soup, follow, greedy, soup_recipe
from mergesearch.search.space.paths import model_labels
from mergesearch.search.study import trials as t

UNIFORM = "uniform soup"


@dataclass(frozen=True)
class Baseline:
    """A recipe from outside the search space, as a rule one that a search must beat; ``kind`` is that of its trial."""

    name: str
    recipe: Recipe
    kind: str = t.BASELINE


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


class Endpoints:
    """What the user had: the base and each model, in the order in which they are scored.

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

    def following(self, scores: Mapping[str, float], in_work: Collection[str] = ()) -> Baseline | None:
        """The next baseline to score, given the scores (higher is better) by name so far; None when all are there.

        None too where it depends on one of those ``in_work``, which are being scored elsewhere.
        """
        known = {*scores, *in_work}
        return next((baseline for baseline in self._standard() if baseline.name not in known), None)

    def __len__(self) -> int:
        """How many there are in all."""
        return sum(1 for _ in self._standard())

    def _standard(self) -> Iterator[Baseline]:
        for reference, label in self._labels.items():
            yield Baseline(label, self._soup([reference]))

    def recipe_named(self, name: str) -> Recipe:
        """The recipe of a model, or of a standard recipe, by its name or path; the base also as ``base``.

        Raises KeyError with the nearest name.
        """
        named = {baseline.name: baseline.recipe for baseline in self._standard()}
        paths = {reference: named[label] for reference, label in self._labels.items()}
        base = {"base": paths[self._base]} if self._base else {}
        if name not in (known := {**base, **paths, **named}):
            raise KeyError(f"there is no baseline {name!r}{nearest(name, {**base, **named})}")
        return known[name]

    @property
    def members(self) -> list[Recipe]:
        """What an ensemble averages the outputs of: the models, and the base where there is one model only."""
        alone = [self._base] if self._base and len(self._models) == 1 else []
        return [self._soup([reference]) for reference in [*alone, *self._models]]

    def _soup(self, references: Sequence[str]) -> Recipe:
        return Recipe.read(soup_recipe(dict.fromkeys(references, 1.0), self._fixed), "baseline")


class Baselines(Endpoints):
    """The endpoints, and what anybody would try first."""

    def following(self, scores: Mapping[str, float], in_work: Collection[str] = ()) -> Baseline | None:
        """See ``Endpoints.following``."""
        return super().following(scores, in_work) or (None if in_work else self._next_soup(scores))

    def __len__(self) -> int:
        return super().__len__() + (len(self._models) if len(self._models) > 1 else 0)

    def _standard(self) -> Iterator[Baseline]:
        yield from super()._standard()
        if len(self._models) > 1:
            yield Baseline(UNIFORM, self._soup(self._models))
        if self._base:
            for method in ("task_arithmetic", "ties", "dare_ties"):
                yield Baseline(method, self._usual(method))

    def _next_soup(self, scores: Mapping[str, float]) -> Baseline | None:
        """The greedy soup, one step at a time."""
        if len(self._models) < 2 or "greedy soup" in scores:
            return None

        def score(soup: Soup) -> float:
            return scores.get(self._name(soup), -inf)

        ranked = sorted(self._models, key=lambda model: -score((model,)))
        soup, ended = follow(
            greedy(ranked), lambda soup: self._name(soup) in scores, lambda new, old: score(new) > score(old)
        )
        # In the order given, so that the soup of all is the uniform one, which is scored already.
        members = [model for model in self._models if model in soup]
        return Baseline("greedy soup" if ended else self._name(soup), self._soup(members))

    def _name(self, soup: Soup) -> str:
        labels = [self._labels[model] for model in soup]
        return labels[0] if len(labels) == 1 else f"soup of {' + '.join(labels)}"

    def _usual(self, method: str) -> Recipe:
        settings = usual_settings(len(self._models))[method]
        models = [{"model": reference, "parameters": dict(settings)} for reference in self._models]
        data = {**self._fixed, "merge_method": method, "base_model": self._base, "models": models}
        return Recipe.read(data, "baseline")

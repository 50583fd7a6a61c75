"""Baselines, which every run scores first: the user's models, their soups, and standard recipes at usual settings."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from optuna.study import Study

from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.methods import Scalar
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.soups import Members, follow, greedy, soup_recipe
from mergesearch.search.candidates.source import Candidate, Done, Wait
from mergesearch.search.candidates.usual_settings import USUAL, usual_settings
from mergesearch.search.config.constraints import Constraint
from mergesearch.search.space.paths import model_labels
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t
from mergesearch.search.study.told import Told, as_they_are

UNIFORM = "uniform soup"
AVERAGE = "plain average"
"""That of the base and the only model."""


@dataclass(frozen=True)
class Baseline:
    """A recipe that the search has to beat. ``point`` is its place in the space, where it is known."""

    name: str
    recipe: Recipe
    point: Mapping[str, Scalar] | None = None


class Endpoints:
    """The base and each model, in the order in which they are scored.

    ``fixed`` are recipe keys that all share, such as dtype; ``beside`` are checkpoints that are scored, not averaged;
    ``standalone`` are those that are no template with other weights, and are scored as their owners have them.
    """

    def __init__(
        self,
        models: Sequence[str],
        base: str | None,
        fixed: Mapping[str, Any],
        beside: Sequence[str] = (),
        standalone: Sequence[str] = (),
    ) -> None:
        self._standalone = standalone
        self._models = [model for model in models if model != base]
        self._base = base
        self._fixed = dict(fixed)
        endpoints = [*([base] if base else []), *self._models, *beside]
        self._labels = model_labels(list(dict.fromkeys(endpoints)))

    def following(self, scores: Mapping[str, float], in_work: Collection[str] = ()) -> Baseline | None:
        """The next baseline to score, given the scores so far by name (higher is better); None where there is none.

        None also where the next one depends on a baseline ``in_work``, which another worker scores now.
        """
        known = {*scores, *in_work}
        return next((baseline for baseline in self._standard() if baseline.name not in known), None)

    def __len__(self) -> int:
        """The number of baselines."""
        return sum(1 for _ in self._standard())

    def _named(self) -> Iterator[Baseline]:
        """Those that depend on no score."""
        yield from self._standard()

    def _standard(self) -> Iterator[Baseline]:
        for reference, label in self._labels.items():
            yield Baseline(label, self._soup([reference]))

    def recipe_named(self, name: str) -> Recipe:
        """The recipe of a model or a standard recipe, by name or path; the base also as ``base``.

        Raises KeyError with the nearest name.
        """
        named = {baseline.name: baseline.recipe for baseline in self._named()}
        paths = {reference: named[label] for reference, label in self._labels.items()}
        base = {"base": paths[self._base]} if self._base else {}
        if name not in (known := {**base, **paths, **named}):
            raise KeyError(f"there is no baseline {name!r}{nearest(name, {**base, **named})}")
        return known[name]

    @property
    def members(self) -> list[Recipe]:
        """The recipes whose outputs an ensemble averages: the models, and the base if there is a single model."""
        alone = [self._base] if self._base and len(self._models) == 1 else []
        return [self._soup([reference]) for reference in [*alone, *self._models]]

    def _soup(self, references: Sequence[str]) -> Recipe:
        return Recipe.read(soup_recipe(dict.fromkeys(references, 1.0), self._fixed, self._standalone), "baseline")


class Baselines(Endpoints):
    """The endpoints, plain averages, the greedy soup, and methods at their usual settings.

    ``usual`` are the usual settings of the space's methods. They are scored after the others, or while another worker
    scores what the next soup depends on.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what baselines are made from
        self,
        models: Sequence[str],
        base: str | None,
        fixed: Mapping[str, Any],
        beside: Sequence[str] = (),
        standalone: Sequence[str] = (),
        usual: Sequence[Baseline] = (),
    ) -> None:
        super().__init__(models, base, fixed, beside, standalone)
        self._usual = usual

    def following(self, scores: Mapping[str, float], in_work: Collection[str] = ()) -> Baseline | None:
        """See ``Endpoints.following``."""
        first = super().following(scores, in_work) or (None if in_work else self._next_soup(scores))
        left = (each for each in self._usual if each.name not in {*scores, *in_work})
        return first or next(left, None)

    def __len__(self) -> int:
        return super().__len__() + (len(self._models) if len(self._models) > 1 else 0) + len(self._usual)

    def _named(self) -> Iterator[Baseline]:
        yield from super()._named()
        yield from self._usual

    def _standard(self) -> Iterator[Baseline]:
        yield from super()._standard()
        if len(self._models) > 1:
            yield Baseline(UNIFORM, self._soup(self._models))
        if self._base and len(self._models) == 1:
            yield Baseline(AVERAGE, self._soup([self._base, *self._models]))
        if self._base and self._models:
            for method in ("task_arithmetic", "ties", "dare_ties"):
                yield Baseline(method, self._usual_recipe(method))

    def _next_soup(self, scores: Mapping[str, float]) -> Baseline | None:
        """The greedy soup, one step at a time."""
        if len(self._models) < 2 or "greedy soup" in scores:
            return None

        def score(soup: Members) -> float:
            return scores.get(self._name(soup), -inf)

        ranked = sorted(self._models, key=lambda model: -score((model,)))
        soup, ended = follow(
            greedy(ranked), lambda soup: self._name(soup) in scores, lambda new, old: score(new) > score(old)
        )
        # In the order given, so that the soup of all is the uniform one, which is scored already.
        members = [model for model in self._models if model in soup]
        return Baseline("greedy soup" if ended else self._name(soup), self._soup(members))

    def _name(self, soup: Members) -> str:
        labels = [self._labels[model] for model in soup]
        return labels[0] if len(labels) == 1 else f"soup of {' + '.join(labels)}"

    def _usual_recipe(self, method: str) -> Recipe:
        settings = usual_settings(len(self._models))[method]
        models = [{"model": reference, "parameters": dict(settings)} for reference in self._models]
        data = {**self._fixed, "merge_method": method, "base_model": self._base, "models": models}
        return Recipe.read(data, "baseline")


class BaselineSource:
    """The baselines as candidates. Soups are made by the objective as it is ``told``."""

    may_overtake = False

    def __init__(self, baselines: Endpoints, told: Told = as_they_are) -> None:
        self._baselines = baselines
        self._told = told
        self._are_scored = False

    def next(self, study: Study) -> Candidate | Wait | Done:
        """See ``Source.next``."""
        in_work = t.names_in_work(study)
        baseline = self._baselines.following(self._values(study), in_work)
        if baseline is not None:
            recipe = None if baseline.point else lambda: baseline.recipe
            return Candidate(t.BASELINE, baseline.name, recipe, baseline.point)
        return Wait() if in_work else Done("every baseline is scored")

    def are_scored(self, study: Study) -> bool:
        """Whether every baseline is scored."""
        self._are_scored = self._are_scored or isinstance(self.next(study), Done)
        return self._are_scored

    def _values(self, study: Study) -> dict[str, float]:
        """The objective of the baselines that are scored, by name."""
        trials = t.of_kind(study, t.BASELINE)
        return {str(trial.user_attrs[t.NAME]): t.score_of(trial) for trial in self._told(trials)}


def usual_baselines(space: Space) -> list[Baseline]:
    """For each method of the space the point nearest to its usual settings, else to the middle of the ranges."""
    settings = usual_settings(len(space.models))
    points = ((method, space.start(method, settings.get(method.name, {}))) for method in space.methods)
    return [Baseline(f"{method.name}{USUAL}", space.fill(method, point), point) for method, point in points]


def constraint_baselines(constraints: Sequence[Constraint], baselines: Endpoints) -> dict[str, Recipe]:
    """The recipes of the baselines that constraints name, by name. Raises UserError for an unknown name."""
    recipes = {}
    for index, constraint in enumerate(constraints):
        if constraint.baseline is None:
            continue
        try:
            recipes[constraint.baseline] = baselines.recipe_named(constraint.baseline)
        except KeyError as error:
            raise UserError(f"evaluate: constraints[{index}]: {error.args[0]}") from None
    return recipes

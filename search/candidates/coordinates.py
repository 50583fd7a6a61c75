"""Coordinates: the point of the space at which a recipe from outside of the space lies.

A baseline that lies in the space is as good a point as one that a sampler asked for: samplers learn from it and start
at it, a descent begins at it, and nobody asks for it again. A point counts only where the two recipes build the same
model: by their phenotype, or by the weights of all inputs.
"""

from collections.abc import Callable, Iterator, Mapping
from math import isclose

from optuna.trial import Trial

from mergesearch.errors import UserError
from mergesearch.merge_ops.assembly.assembly import InputKey
from mergesearch.merge_ops.checkpoint.references import parse_reference, without_alignment
from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.merge_ops.methods import Method, Scalar
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.recipe.schema import NO_ALIGNMENT
from mergesearch.search.samplers.fixed import FixedSampler
from mergesearch.search.space.alignment_choices import ALIGN
from mergesearch.search.space.model_choices import BASE, INCLUDE
from mergesearch.search.space.space import Space

NEUTRAL: Mapping[str, Scalar] = {"lambda": 1.0, "normalize": False, "density": 1.0}
"""Values with which methods of task vectors change nothing but the weights."""
TOLERANCE = 1e-9
"""Of the weights of inputs, which are computed in float64."""


class Coordinates:
    """Finds the points of recipes. ``phenotype``: see ``Scorer.phenotype``."""

    def __init__(self, space: Space, engine: Engine, phenotype: Callable[[Recipe], str]) -> None:
        self._space, self._engine, self._phenotype = space, engine, phenotype

    def note(self, trial: Trial, recipe: Recipe) -> None:
        """Gives the trial of the recipe the parameters of its point; none where it does not lie in the space."""
        point = self.of(recipe)
        if point is not None:
            trial.study.sampler = FixedSampler(point)
            self._space.ask(trial)

    def of(self, recipe: Recipe) -> dict[str, Scalar] | None:
        """The first point that builds the recipe's model; None where none of those that are tried does."""
        if not self._space.dimensions or not recipe.keeps_shapes or self._engine.is_standalone(recipe):
            return None
        points = (each for method in self._space.methods for each in self._proposals(recipe, method))
        return next((point for method, point in points if self._is_same(recipe, method, point)), None)

    def _proposals(self, recipe: Recipe, method: Method) -> Iterator[tuple[Method, dict[str, Scalar]]]:
        defaults = {each.name: each.default for each in method.parameters if each.default is not None}
        base = {BASE: recipe.base_model} if recipe.base_model else {}
        if recipe.merge_method == method.name:
            yield method, self._space.start(method, {**defaults, **base}, self._settings(recipe))
        if recipe.merge_method == "linear":
            shares = self._shares(recipe)
            away: dict[str, Scalar] = {"t": 1.0 - float(shares[self._space.base]["weight"])} if self._space.base else {}
            yield method, self._space.start(method, {**defaults, **NEUTRAL, **base, **away}, shares)

    def _settings(self, recipe: Recipe) -> dict[str, dict[str, Scalar]]:
        """The numbers that the recipe gives each model, and how it is aligned.

        A model that it does not have gets the weight 0.
        """
        given: dict[str, dict[str, Scalar]] = {
            without_alignment(entry.model): {
                **{key: value for key, value in entry.parameters.items() if isinstance(value, int | float)},
                ALIGN: aligned.by if (aligned := parse_reference(entry.model).aligned) else NO_ALIGNMENT,
            }
            for entry in recipe.groups[""][0].inputs
            if not entry.implied
        }
        absent: dict[str, Scalar] = {"weight": 0.0, INCLUDE: False}
        return {model: given.get(model, absent) for model in self._models}

    def _shares(self, recipe: Recipe) -> dict[str, dict[str, Scalar]]:
        """The models' weights in an average, of sum 1."""
        settings = self._settings(recipe)
        weights = {model: float(own.get("weight", 1.0)) for model, own in settings.items()}
        total = sum(weights.values()) or 1.0
        return {model: {"weight": weight / total, INCLUDE: weight != 0} for model, weight in weights.items()}

    @property
    def _models(self) -> list[str]:
        return list(dict.fromkeys(map(without_alignment, [*self._space.bases, *self._space.models])))

    def _is_same(self, recipe: Recipe, method: Method, point: Mapping[str, Scalar]) -> bool:
        try:
            filled = self._space.fill(method, point)
            if not filled.keeps_shapes:
                return False
            return self._phenotype(filled) == self._phenotype(recipe) or self._has_same_weights(filled, recipe)
        except UserError:  # the values nearest to the recipe's are no candidate
            return False

    def _has_same_weights(self, one: Recipe, two: Recipe) -> bool:
        weights = self._engine.input_weights(one), self._engine.input_weights(two)
        if weights[0] is None or weights[1] is None:
            return False
        same_names = weights[0].keys() == weights[1].keys()
        return same_names and all(_is_close(weights[0][name], weights[1][name]) for name in weights[0])


def _is_close(one: Mapping[InputKey, float], two: Mapping[InputKey, float]) -> bool:
    return all(isclose(one.get(key, 0.0), two.get(key, 0.0), abs_tol=TOLERANCE) for key in {*one, *two})

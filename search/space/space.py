"""The search space of a run: what samplers are asked for, and the recipe that follows from it.

A hole is ``{search: ...}`` in the place of a parameter's value, on any level on which mergekit has parameters:
``{search: [low, high]}`` with ``log``, ``step`` or ``int``; ``{search: [choices]}``; or ``{search: auto}``, the range
that the method declares. The package lists the other kinds of holes and the modules that read them.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.trial import Trial

from mergesearch.errors import UserError
from mergesearch.merge_ops.methods import PARAMETER_NAMES, Method, Scalar, find_method
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.space.dimension import METHOD, Dimension
from mergesearch.search.space.dimension_group import DimensionGroup, Draft
from mergesearch.search.space.layer_ranges import bound_corners
from mergesearch.search.space.layer_stack import StackSpace
from mergesearch.search.space.model_choices import BASE, absent_models, arrange_models, merged_references
from mergesearch.search.space.paths import Path, entry_path, get_at
from mergesearch.search.space.template import read_template
from mergesearch.text import quoted


class Space:
    """All candidates of a run.

    Args:
        recipe: a recipe with holes, as YAML gives it.
        layers: the number of layers of the models.
        where: the start of messages, such as ``recipe``.

    Raises:
        UserError: for a hole that is wrong, or a recipe that is wrong beside its holes.
    """

    def __init__(self, recipe: Mapping[str, Any], layers: int, where: str) -> None:
        self._where = where
        self._template = read_template(recipe, layers, where)
        self._check_names()
        self._check_candidates()

    @property
    def methods(self) -> list[Method]:
        """The methods that the search chooses among; one where ``merge_method`` is no hole."""
        return self._template.methods.searched

    @property
    def slice_methods(self) -> Mapping[Path, Method]:
        """The methods that slices have of their own, by the slice's path."""
        return self._template.methods.of_slices

    @property
    def stack(self) -> StackSpace | None:
        """The searched stack of layers, if there is one."""
        return self._template.stack

    @cached_property
    def dimensions(self) -> list[Dimension]:
        """Every dimension, that of the method first."""
        names = tuple(method.name for method in self.methods)
        is_searched = isinstance(self._template.data[METHOD], dict)
        method = [Dimension(METHOD, CategoricalDistribution(names), ((METHOD,),))] if is_searched else []
        return [*method, *(dimension for group in self._template.groups for dimension in group.dimensions)]

    def dimensions_of(self, method: Method) -> list[Dimension]:
        """The dimensions of a candidate of this method, without that of the method itself."""
        return [dimension for group in self._groups_of(method) for dimension in group.dimensions]

    @property
    def is_conditional(self) -> bool:
        """Whether the other dimensions of a candidate depend on its method."""
        names = {tuple(dimension.name for dimension in self.dimensions_of(method)) for method in self.methods}
        return len(names) > 1

    @property
    def is_stack(self) -> bool:
        """Whether it is a stack of layers encoded by indicators, which the sampler ``stack`` is made for."""
        return self.stack is not None and self.stack.shape is not None

    @property
    def has_choices(self) -> bool:
        """Whether a dimension is categorical."""
        return any(isinstance(dimension.distribution, CategoricalDistribution) for dimension in self.dimensions)

    @cached_property
    def models(self) -> list[str]:
        """The checkpoints that are merged; where one is a choice, all that it may be, aligned if it may be aligned."""
        if self.stack:
            return list(self.stack.models)
        return merged_references(self._template.data)

    @property
    def base(self) -> str | None:
        """The base; where it is a choice, the first one."""
        return self.bases[0] if self.bases else None

    @property
    def bases(self) -> list[str]:
        """All checkpoints that the base may be."""
        base = self._template.data.get(BASE)
        return list(base["search"]) if isinstance(base, dict) else [base] if base else []

    def ask(self, trial: Trial) -> Recipe:
        """The recipe of a trial: asks the study's sampler for the method first, then for the method's dimensions."""
        values: dict[str, Scalar] = {
            dimension.name: dimension.ask(trial) for dimension in self.dimensions if dimension.name == METHOD
        }
        method = find_method(str(values.get(METHOD, self.methods[0].name)))
        values |= {dimension.name: dimension.ask(trial) for dimension in self.dimensions_of(method)}
        return self.fill(method, values)

    def fill(self, method: Method, values: Mapping[str, Scalar]) -> Recipe:
        """The recipe with these values in its holes.

        Args:
            method: the candidate's method.
            values: a value for every dimension of ``dimensions_of(method)``, by name.
        """
        template = self._template
        draft = Draft(copy.deepcopy(template.data), method, values)
        draft.data[METHOD] = method.name
        for choice in template.checkpoints:
            choice.fill(draft)
        draft.absent = absent_models(draft, template.inclusions)
        for group in self._groups_of(method):
            group.fill(draft)
        for tie in template.ties:
            tie.fill(draft)
        self._drop_unread(draft.data, (), method)
        arrange_models(draft, template.order)
        return Recipe.read(draft.data, self._where)

    def start(
        self,
        method: Method,
        usual: Mapping[str, Scalar],
        of_models: Mapping[str, Mapping[str, Scalar]] = MappingProxyType({}),
    ) -> dict[str, Scalar]:
        """A point to start from: in each dimension, the value nearest to a usual one, else the middle of the range.

        Args:
            method: the point's method.
            usual: usual values, by parameter.
            of_models: those of single models, by reference; they come before the values for all.

        Returns:
            A value for every dimension of the method, and the method itself where the space has several.
        """
        point: dict[str, Scalar] = {METHOD: method.name} if len(self.methods) > 1 else {}

        def value(key: str, owner: Path | None) -> Scalar | None:
            model = get_at(self._template.data, owner).get("model") if owner else None
            own = of_models.get(model, {}) if isinstance(model, str) else {}
            return own.get(key, usual.get(key))

        for group in self._groups_of(method):
            point |= group.start(value)
        return point

    def models_of(self, dimension: Dimension) -> tuple[str, ...]:
        """The models whose entries the dimension decides a part of; one that is a choice counts by its place."""
        owners = (owner for path in dimension.paths if (owner := entry_path(path)))
        models = (get_at(self._template.data, owner).get("model") for owner in dict.fromkeys(owners))
        return tuple(dict.fromkeys(map(str, models)))

    def corners(self, method: Method) -> Iterator[dict[str, Scalar]]:
        """Points that together have the extreme ends of every searched layer range; none where there is no such."""
        point = self.start(method, {})
        return ({**point, **corner} for corner in bound_corners(self._template.bounds))

    def _groups_of(self, method: Method) -> list[DimensionGroup]:
        return [group for group in self._template.groups if group.applies_to(method)]

    def _drop_unread(self, data: Any, path: Path, method: Method) -> None:
        """Drops the parameters that only other methods read, on every level."""
        items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
        for key, value in items:
            self._drop_unread(value, (*path, key), method)
        if isinstance(data, dict) and isinstance(data.get("parameters"), dict):
            readers = self._template.methods.readers_at((*path, "parameters"))
            data["parameters"] = {
                name: setting
                for name, setting in data["parameters"].items()
                if readers.read(name, method) or name not in PARAMETER_NAMES
            }

    def _check_names(self) -> None:
        for name, count in Counter(dimension.name for dimension in self.dimensions).items():
            if count > 1:
                raise UserError(
                    f"{self._where}: name: found {quoted(name)} in {count} holes, expected a unique name for each hole"
                )

    def _check_candidates(self) -> None:
        """Reads one candidate of each method, checkpoint and order, which finds mistakes beside the holes."""
        template = self._template
        for method in self.methods:
            point = self.start(method, {})
            self.fill(method, point)
            order = [template.order] if template.order and template.order.applies_to(method) else []
            for group in [*template.checkpoints, *template.alignments, *order]:
                for choice in group.dimension.ends:
                    self.fill(method, {**point, group.dimension.name: choice})

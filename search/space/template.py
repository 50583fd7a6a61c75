"""Reading a recipe with holes: from YAML data to groups of dimensions and the recipe that they fill."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergesearch.errors import Problems, UserError
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.space.alignment_choices import AlignmentChoice, pin_alignments, read_alignment_choices
from mergesearch.search.space.dimension import METHOD
from mergesearch.search.space.dimension_group import DimensionGroup, SingleDimension
from mergesearch.search.space.layer_ranges import LayerBound, read_layer_bounds
from mergesearch.search.space.layer_stack import StackSpace, is_stack, read_stack
from mergesearch.search.space.model_choices import (
    CheckpointChoice,
    ModelInclusion,
    ModelOrder,
    read_checkpoint_choices,
    take_inclusions,
    take_order,
)
from mergesearch.search.space.parameters import ParameterDimensions, read_parameter
from mergesearch.search.space.paths import Hole, find_holes, format_path, hole_paths, is_hole
from mergesearch.search.space.recipe_methods import RecipeMethods, read_searched_methods, read_slice_methods
from mergesearch.search.space.simplex import Simplex, expand_shared_sums, read_simplexes
from mergesearch.search.space.step_choices import StepInclusion, take_step_inclusions
from mergesearch.search.space.ties import Tie, read_ties

HOLES_ALLOWED = (
    "parameters, merge_method, base_model, model, the include, align and order of models, the include of repair and "
    "recover, and the ends of a layer_range"
)


@dataclass(frozen=True)
class Template:
    """A recipe with holes that has been read.

    Attributes:
        data: the recipe, without the keys that only a search has. Its holes are still there, to be overwritten.
        methods: the methods that the search chooses among, and slices' own.
        checkpoints: the checkpoints that are choices.
        alignments: the models that may be aligned.
        inclusions: the models that may be left out.
        order: the order of the models, if it is searched.
        steps: the steps after the merge that may be left out.
        bounds: the searched ends of layer ranges.
        parameters: the dimensions of the holes in parameters.
        stack: the searched stack of layers, if there is one.
        ties: the holes that take over other holes' values.
    """

    data: dict[str, Any]
    methods: RecipeMethods
    checkpoints: Sequence[CheckpointChoice]
    alignments: Sequence[AlignmentChoice]
    inclusions: Sequence[ModelInclusion]
    order: ModelOrder | None
    steps: Sequence[StepInclusion]
    bounds: Sequence[LayerBound]
    parameters: Sequence[ParameterDimensions | Simplex]
    stack: StackSpace | None
    ties: Sequence[Tie]

    @property
    def groups(self) -> list[DimensionGroup]:
        """All groups of dimensions, in the order in which a sampler is asked for them. The method comes before."""
        order = [self.order] if self.order else []
        stack = [self.stack] if self.stack else []
        models = [*self.checkpoints, *self.alignments, *self.inclusions, *order]
        return [*models, *self.bounds, *self.parameters, *stack, *self.steps]


def read_template(recipe: Mapping[str, Any], layers: int, where: str) -> Template:
    """Reads a recipe with holes; the recipe itself is not changed.

    Args:
        recipe: the recipe, as YAML gives it.
        layers: the number of layers of the models.
        where: the start of messages.

    Raises:
        UserError: for a hole that is wrong, or where no hole is allowed.
    """
    data: dict[str, Any] = _without_aliases(dict(recipe))
    problems = Problems()
    searched = problems.attempt(read_searched_methods, data, where) or []
    stack = problems.attempt(read_stack, data, searched, layers, where) if searched and is_stack(data) else None
    has_stack = is_stack(data)
    if has_stack:
        del data["slices"]
    methods = RecipeMethods(searched, problems.attempt(read_slice_methods, data, where) or {})
    bounds = problems.attempt(read_layer_bounds, data, where) or []
    checkpoints = problems.attempt(lambda: list(read_checkpoint_choices(data, where))) or []
    pin_alignments(data)
    alignments = problems.attempt(lambda: list(read_alignment_choices(data, where))) or []
    inclusions = problems.attempt(lambda: list(take_inclusions(data, where))) or []
    order = problems.attempt(take_order, data, searched, where)
    steps = problems.attempt(lambda: list(take_step_inclusions(data, where))) or []
    expand_shared_sums(data)
    holes = problems.attempt(find_holes, data, where) or []
    parameters = _read_parameters(data, holes, methods, layers, where, problems) if searched else []
    problems.attempt(_check_allowed, data, holes, [*checkpoints, *alignments, *bounds], where)
    if problems.found and not has_stack:
        problems.attempt(Recipe.read, _without_holes(data), where)
    problems.check()
    ties = list(read_ties(holes, parameters, methods, where))
    return Template(data, methods, checkpoints, alignments, inclusions, order, steps, bounds, parameters, stack, ties)


def _without_holes(data: Any) -> Any:
    """A copy without holes, to look for mistakes beside them: a choice among names becomes the first of them."""
    if isinstance(data, list):
        return [_without_holes(value) for value in data if not is_hole(value)]
    if not isinstance(data, dict):
        return data
    filled = {key: _first_choice(value) if is_hole(value) else value for key, value in data.items()}
    if isinstance(filled.get("parameters"), dict):
        settings = filled["parameters"].items()
        filled["parameters"] = {name: setting for name, setting in settings if not any(hole_paths(setting))}
    return {key: _without_holes(value) for key, value in filled.items() if not is_hole(value)}


def _first_choice(hole: Mapping[str, Any]) -> Any:
    choices = hole.get("search")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], str) else hole


def _without_aliases(data: Any) -> Any:
    """A copy in which nothing is in two places, as an alias (``*name``) of YAML is: each gets holes of its own."""
    if isinstance(data, dict):
        return {key: _without_aliases(value) for key, value in data.items()}
    return [_without_aliases(value) for value in data] if isinstance(data, list) else data


def _read_parameters(  # noqa: PLR0913, PLR0917 - what a hole depends on
    data: Mapping[str, Any],
    holes: Sequence[Hole],
    methods: RecipeMethods,
    layers: int,
    where: str,
    problems: Problems,
) -> list[ParameterDimensions | Simplex]:
    """The groups of the holes in parameters, in the recipe's order; a simplex is in the place of its first hole."""
    read = problems.attempt(read_simplexes, data, holes, methods.readers_at, layers, where) or []
    simplexes = {simplex.holes[0].path: simplex for simplex in read}

    def groups(hole: Hole) -> list[ParameterDimensions | Simplex]:
        if hole.path in simplexes:
            return [simplexes[hole.path]]
        if "search" not in hole.spec or "sums_to" in hole.spec:
            return []
        return [*read_parameter(hole, methods.readers_at(hole.path), layers, f"{where}: {hole.where}")]

    return [group for hole in holes for group in problems.attempt(groups, hole) or ()]


def _check_allowed(
    data: Mapping[str, Any], holes: Sequence[Hole], others: Sequence[SingleDimension], where: str
) -> None:
    """Raises UserError for a hole where none is allowed."""
    allowed = {(METHOD,), *(hole.path for hole in holes), *(path for each in others for path in each.dimension.paths)}
    for path in hole_paths(data):
        if path not in allowed:
            raise UserError(
                f"{where}: {format_path(path)}: found a hole where none is allowed; allowed in {HOLES_ALLOWED}"
            )

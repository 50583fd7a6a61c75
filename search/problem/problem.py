"""A config made ready to run: everything that can be wrong with it is found here, before anything is scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.evaluators import Evaluator, LoadedModel
from mergesearch.merge_ops.assembly.merger import Assembly, Merger
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint, common_dtype
from mergesearch.merge_ops.live.quantized import quantized
from mergesearch.merge_ops.recipe.recipe import Recipe, layer_of
from mergesearch.search.candidates.baselines import Baselines, Endpoints
from mergesearch.search.candidates.gradient.feasibility import StartChoice, check_learning, choose_start
from mergesearch.search.candidates.soup_source import LEARNED, SoupStage
from mergesearch.search.config import Config, Evaluate
from mergesearch.search.config.constraints import Constraint, check_baselines
from mergesearch.search.config.soup import check_shared_start
from mergesearch.search.problem.objective import Direction, Objective
from mergesearch.search.problem.tasks import Scores, Task, counted, objective_of, open_tasks
from mergesearch.search.samplers.schedule import check_follow_several, plan
from mergesearch.search.space.model_choices import named_references
from mergesearch.search.space.space import Space
from mergesearch.search.statistics import Stratum

SHARED_KEYS = ("dtype", "out_dtype", "on_mismatch")
"""What the baselines take over from the recipe."""


@dataclass(frozen=True)
class Job:
    """What a run needs beside the weights: space, baselines, tasks, the ``soups`` that are asked for, how it starts."""

    config: Config
    space: Space
    baselines: Endpoints
    tasks: Sequence[Task]
    references: Sequence[str]
    template: str
    soups: SoupStage | None = None
    start: StartChoice = field(default_factory=StartChoice)

    @property
    def trials(self) -> int:
        """How many trials a run has in all; of soups, about how many."""
        if self.soups and self.config.soup:
            return len(self.references) + self.soups.expected_trials
        return self.config.search.trials

    def tasks_of(self, side: str) -> list[Task]:
        """The tasks that count in the objective of that side."""
        return counted(self.tasks, side)

    @property
    def takes_gradients(self) -> bool:
        """Whether there must be room for gradients by the weights beside the live model."""
        return self.start.gradient or bool(self.soups and set(LEARNED) & set(self.soups.kinds))

    @property
    def searched(self) -> list[Task]:
        """The tasks that every candidate of the search is scored on: those of the objective, and of the constraints."""
        guarded = {constraint.task for constraint in self.constraints}
        return [task for task in self.tasks if task.search and (task.weight or task.name in guarded)]

    @property
    def constraints(self) -> list[Constraint]:
        """What a winner must keep."""
        return self.config.evaluate.constraints

    @property
    def objectives(self) -> dict[str, Direction] | None:
        """The direction of each objective of the search by its name; None where there is one alone."""
        return self.objective_of("search").directions if self.config.evaluate.aggregate == "pareto" else None

    def prepare(self, subject: LoadedModel) -> list[str]:
        """Checks the tasks against the model, before anything is scored; what users should know. Raises UserError."""
        return [note for task in self.tasks for note in _prepared(task, subject)]

    def score(self, subject: LoadedModel, side: str, tasks: Sequence[Task]) -> Scores:
        """Scores a live model on these tasks' items of one side."""
        return {task.name: task.evaluator.score(subject, task.items(side)) for task in tasks if task.items(side)}

    def values(self, side: str, scores: Mapping[str, Tensor]) -> dict[str, float]:
        """Each task's metric."""
        return {task.name: task.value(side, scores[task.name]) for task in self.tasks if task.name in scores}

    def strata(self, side: str, scores: Mapping[str, Tensor]) -> list[Stratum]:
        """A candidate's scores on one side, task by task, as comparisons of the objective take them."""
        return [stratum for task in self.tasks_of(side) for stratum in task.strata(side, scores[task.name])]

    def objective_of(self, side: str) -> Objective:
        """How the values of ``tasks_of`` that side become one number."""
        return objective_of(self.config.evaluate, self.tasks, side)

    def objective(self, side: str, scores: Mapping[str, Tensor]) -> float:
        """What the search maximises, of one candidate; of several objectives their sum by weight."""
        return float(self.objective_of(side).combine(self._values(side, scores)))

    def each_objective(self, side: str, scores: Mapping[str, Tensor]) -> list[float]:
        """One candidate's several objectives."""
        each: list[float] = self.objective_of(side).each(self._values(side, scores)).tolist()
        return each

    def _values(self, side: str, scores: Mapping[str, Tensor]) -> NDArray[np.float64]:
        return np.array([value for task in self.tasks_of(side) for value in task.values(side, scores[task.name])])


def open_job(config: Config, where: str) -> Job:
    """Checks a config against the disk and lm-eval. Raises UserError, beginning with ``where``."""
    try:
        return _open(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _open(config: Config) -> Job:
    paths = _referenced(config.recipe)
    merger = Merger(paths)
    checkpoints = list(merger.checkpoints.values())
    if not {"dtype", "out_dtype"} & config.recipe.keys():
        common_dtype(checkpoints)
    space = Space(config.recipe, _layers(merger.names), "recipe")
    starts = {method.name: _assembled(space.fill(method, space.start(method, {})), merger) for method in space.methods}
    _check_same_config([checkpoint for checkpoint in checkpoints if checkpoint.reference in space.bases])
    _check_seams(space, merger.names)
    _check_bounds(space, merger)
    fixed: dict[str, object] = {key: config.recipe[key] for key in SHARED_KEYS if key in config.recipe}
    if not _are_alike(checkpoints):
        fixed["base_model"] = paths[0]  # so that the soups have its tensors' names and shapes
    tasks, kind = open_tasks(config.evaluate), Endpoints if config.soup else Baselines
    baselines = kind(space.models, space.base, fixed, beside=space.bases)
    check_baselines(config.evaluate.constraints, baselines)
    if config.evaluate.aggregate == "pareto":
        check_follow_several(plan(space, config.search, several=True))
    start = _start(config, space, tasks, starts)
    return Job(config, space, baselines, tasks, paths, paths[0], _soups(config, space, tasks, fixed), start)


def _start(config: Config, space: Space, tasks: Sequence[Task], starts: Mapping[str, Assembly]) -> StartChoice:
    if config.soup:
        return StartChoice()
    dimensions = {method.name: len(space.holes_of(method)) for method in space.methods}
    return choose_start(config, _searched(tasks), starts, dimensions)


def _searched(tasks: Sequence[Task]) -> dict[str, Evaluator]:
    return {task.name: task.evaluator for task in counted(tasks, "search")}


def _soups(config: Config, space: Space, tasks: Sequence[Task], fixed: Mapping[str, object]) -> SoupStage | None:
    kinds = config.soup.kinds if config.soup else config.search.soups
    models = [model for model in space.models if model != space.base]
    if not kinds or len(models) < 2:
        return None
    if set(LEARNED) & set(kinds):
        check_learning(config, _searched(tasks))
    if config.soup is None:
        return SoupStage(models, kinds, fixed=fixed)
    if config.soup.check_heads:
        check_shared_start(models)
    return SoupStage(models, kinds, config.soup.learning, fixed)


def _referenced(recipe: Mapping[str, Any]) -> list[str]:
    """Every checkpoint that a candidate may name, the template first."""
    _check_entries(recipe)
    named = named_references(recipe)
    for reference in named:
        if not isinstance(reference, str):
            raise UserError(f"recipe: found the model {reference!r}, expected a path or {{search: [paths]}}")
    return named


def _check_entries(recipe: Mapping[str, Any]) -> None:
    models = recipe.get("models")
    if models is None and ("slices" in recipe or "modules" in recipe):
        return
    if not isinstance(models, list) or not models:
        raise UserError(f"recipe: models: found {models!r}, expected a list of {{model, parameters}}")
    for index, entry in enumerate(models):
        if not isinstance(entry, dict) or not isinstance(entry.get("model"), str | dict):
            raise UserError(f"recipe: models[{index}]: found {entry!r}, expected {{model: path, parameters}}")


BESIDE_THE_WEIGHTS = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"})
"""Keys of config.json that say nothing of how the model computes."""


def _check_same_config(checkpoints: Sequence[Checkpoint]) -> None:
    """A candidate takes its config from its base: the live model must compute as each of these says."""
    configs = [{k: v for k, v in c.config.items() if k not in BESIDE_THE_WEIGHTS} for c in checkpoints]
    for checkpoint, config in zip(checkpoints[1:], configs[1:], strict=True):
        differing = [key for key in {**configs[0], **config} if configs[0].get(key) != config.get(key)]
        if differing:
            raise UserError(
                f"recipe: base_model: {checkpoints[0].reference} and {checkpoint.reference} differ in their "
                f"config.json: {listed(differing)}; a base can be a choice only among models that compute alike"
            )


def _are_alike(checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether all have the same tensors in the same shapes."""
    layouts = [{name: info.shape for name, info in checkpoint.tensors.items()} for checkpoint in checkpoints]
    return all(layout == layouts[0] for layout in layouts)


def _assembled(recipe: Recipe, merger: Merger) -> Assembly:
    """Raises UserError where the candidate could not be merged."""
    if recipe.vocabulary:
        raise UserError("recipe: tokenizer: a search takes models of one vocabulary; merge that beforehand")
    try:
        return Assembly(merger, recipe)
    except UserError as error:
        raise UserError(f"recipe: {error}") from None


POST_NORM = "post_feedforward_layernorm"


def _check_seams(space: Space, names: Sequence[str]) -> None:
    """A factor at a seam goes into what writes to the residual stream: that must be there, and be what writes."""
    writers = space.stack.writers if space.stack else ()
    for writer in writers:
        if not any(writer in name for name in names):
            raise UserError(f"recipe: slices.search.scale.tensors: no tensor has {writer!r} in its name")
    normed = [name for name in names if POST_NORM in name]
    if writers and normed and not any(writer in name for name in normed for writer in writers):
        raise UserError(
            f"recipe: slices.search.scale: the models normalise what a layer writes ({normed[0]}), so that a factor "
            "on its last weights changes nothing; leave scale out"
        )


def _check_bounds(space: Space, merger: Merger) -> None:
    """Whatever layers are asked for must be there, and as many of every source of a slice."""
    for point in space.corners(space.methods[0]):
        try:
            _assembled(space.fill(space.methods[0], point), merger)
        except UserError as error:
            raise UserError(f"{error}; some of the layers that are searched for give this") from None


def _layers(names: Sequence[str]) -> int:
    return 1 + max((place[1] for place in map(layer_of, names) if place), default=0)


def live_model(model: Any, evaluate: Evaluate, built: Callable[[], object]) -> Any:
    """What is scored: the live model, or its quantised double; ``built`` is what is in the live model now."""
    return model if evaluate.quantization is None else quantized(model, int(evaluate.quantization[0]), built)


def _prepared(task: Task, subject: LoadedModel) -> list[str]:
    try:
        notes = list(task.evaluator.prepare(subject))
    except UserError as error:
        said = str(error)
        where = "" if said.startswith(f"task {task.name!r}") else f"task {task.name!r}: "
        raise UserError(f"evaluate: {where}{said}") from None
    if len(task.search) == 1 and not task.test and task.weight:
        notes.append("is one number for the whole model: the search counts it, no interval and no verdict does")
    return [f"task {task.name!r}: {note}" for note in notes]

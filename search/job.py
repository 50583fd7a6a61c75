"""A config made ready to run: everything that can be wrong with it is found here, before anything is scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.errors import UserError, listed
from mergesearch.evaluators import Evaluator, Item, LoadedModel, aggregate, open_evaluator, split_items
from mergesearch.merge_ops.checkpoint import Checkpoint, common_dtype
from mergesearch.merge_ops.merger import Assembly, Merger
from mergesearch.merge_ops.quantized import check_available, quantized
from mergesearch.merge_ops.recipe import Recipe, layer_of
from mergesearch.search.baselines import Baselines, Endpoints
from mergesearch.search.config import Config, Evaluate, TaskEntry
from mergesearch.search.constraints import Constraint, check_baselines, check_tasks
from mergesearch.search.gradient_checks import check_gradient, check_learning
from mergesearch.search.ingredients import check_shared_start
from mergesearch.search.objective import Direction, Objective, Share
from mergesearch.search.schedule import check_follow_several, plan
from mergesearch.search.soup_stage import LEARNED, SoupStage
from mergesearch.search.space import Space
from mergesearch.search.spaces.members import named_references
from mergesearch.search.statistics import Stratum

SHARED_KEYS = ("dtype", "out_dtype", "on_mismatch")
"""What the baselines take over from the recipe."""
Scores = dict[str, Tensor]
"""Each task's scores, one float64 per item of one side of the split."""


@dataclass(frozen=True)
class Task:
    """An evaluator with its items on each side of the split, and its share in the objective.

    ``normalize``: whether the objective takes its values normalised, by ``chance`` where that is said, or by what the
    items say of themselves.
    """

    name: str
    evaluator: Evaluator
    weight: float
    search: Sequence[Item]
    test: Sequence[Item]
    normalize: bool = False
    chance: float | None = None

    def items(self, side: str) -> Sequence[Item]:
        """The items of ``search`` or ``test``."""
        return self.search if side == "search" else self.test

    def value(self, side: str, scores: Tensor) -> float:
        """The metric over one side's items."""
        return self.evaluator.value(self.items(side), scores)

    def contributions(self, side: str, scores: Tensor) -> Tensor:
        """[items] float64: what each of one side's items adds to the metric; see ``Evaluator.contributions``."""
        return self.evaluator.contributions(self.items(side), scores)

    @property
    def is_averaged(self) -> bool:
        """Whether its scores come from logits, which an ensemble averages."""
        return bool(getattr(self.evaluator, "averages", False))

    def stratum(self, side: str, scores: Tensor) -> Stratum:
        """One side's scores as comparisons take them."""
        items, contributions = self.items(side), self.contributions(side, scores).tolist()
        return Stratum.of([item.fingerprint for item in items], [item.weight for item in items], contributions)

    def share(self, side: str) -> Share:
        """The task's part in that side's objective. Raises UserError where it has no chance level to normalise by."""
        chance = self._chance(self.items(side)) if self.normalize else None
        return Share(self.name, self.weight, self.evaluator.metric, chance)

    def _chance(self, items: Sequence[Item]) -> float:
        if self.chance is not None:
            return self.chance
        if not self.evaluator.metric.higher_is_better:
            return 0.0  # Objective refuses it, whatever the chance
        known = [item.chance for item in items if item.chance is not None]
        if len(known) < len(items):
            raise UserError(
                f"normalize: what guessing scores in task {self.name!r} is not known; say chance: 0.25, for example"
            )
        return aggregate(items, known)


@dataclass(frozen=True)
class Job:
    """What a run needs beside the weights: space, baselines, tasks and the ``soups`` that are asked for."""

    config: Config
    space: Space
    baselines: Endpoints
    tasks: Sequence[Task]
    references: Sequence[str]
    template: str
    soups: SoupStage | None = None

    @property
    def trials(self) -> int:
        """How many trials a run has in all; of soups, about how many."""
        if self.soups and self.config.soup:
            return len(self.references) + self.soups.expected_trials
        return self.config.search.trials

    def tasks_of(self, side: str) -> list[Task]:
        """The tasks that count in the objective of that side."""
        return _counted(self.tasks, side)

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
        """A candidate's scores on one side, task by task, as comparisons take them."""
        return [task.stratum(side, scores[task.name]) for task in self.tasks_of(side)]

    def objective_of(self, side: str) -> Objective:
        """How the values of ``tasks_of`` that side become one number."""
        return _objective(self.config.evaluate, self.tasks, side)

    def objective(self, side: str, scores: Mapping[str, Tensor]) -> float:
        """What the search maximises, of one candidate; of several objectives their sum by weight."""
        return float(self.objective_of(side).combine(self._values(side, scores)))

    def each_objective(self, side: str, scores: Mapping[str, Tensor]) -> list[float]:
        """One candidate's several objectives."""
        each: list[float] = self.objective_of(side).each(self._values(side, scores)).tolist()
        return each

    def _values(self, side: str, scores: Mapping[str, Tensor]) -> NDArray[np.float64]:
        return np.array([task.value(side, scores[task.name]) for task in self.tasks_of(side)])


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
    fixed: dict[str, object] = {key: config.recipe[key] for key in SHARED_KEYS if key in config.recipe}
    if not _are_alike(checkpoints):
        fixed["base_model"] = paths[0]  # so that the soups have its tensors' names and shapes
    tasks, kind = open_tasks(config.evaluate), Endpoints if config.soup else Baselines
    baselines = kind(space.models, space.base, fixed, beside=space.bases)
    check_baselines(config.evaluate.constraints, baselines)
    if config.evaluate.aggregate == "pareto":
        check_follow_several(plan(space, config.search, several=True))
    job = Job(config, space, baselines, tasks, paths, paths[0], _soups(config, space, tasks, fixed))
    if config.search.start == "gradient":
        check_gradient(config, _searched(tasks), starts)
    return job


def _searched(tasks: Sequence[Task]) -> dict[str, Evaluator]:
    return {task.name: task.evaluator for task in _counted(tasks, "search")}


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


def _layers(names: Sequence[str]) -> int:
    return 1 + max((place[1] for place in map(layer_of, names) if place), default=0)


def open_tasks(evaluate: Evaluate) -> list[Task]:
    """The tasks with their items split. Raises UserError for a task that is unknown or cannot be split."""
    if not evaluate.test_tasks and evaluate.split is None:
        raise UserError("evaluate: expected split (search and test items) or test_tasks, found neither")
    try:
        tasks = _opened(evaluate)
        for side in ("search", "test"):
            _objective(evaluate, tasks, side)
        check_tasks(evaluate.constraints, {task.name: task.evaluator.metric for task in tasks if task.search})
        if evaluate.ensemble:
            _check_averaged(tasks)
        if evaluate.quantization:
            check_available()
    except UserError as error:
        raise UserError(f"evaluate: {error}") from None
    return tasks


def live_model(model: Any, evaluate: Evaluate, built: Callable[[], object]) -> Any:
    """What is scored: the live model, or its quantised double; ``built`` is what is in the live model now."""
    return model if evaluate.quantization is None else quantized(model, int(evaluate.quantization[0]), built)


def _opened(evaluate: Evaluate) -> list[Task]:
    if evaluate.split:
        fraction, seed = evaluate.split.search, evaluate.split.seed
        return _distinct([_task(evaluate, entry, fraction, seed) for entry in evaluate.tasks])
    searched = [_task(evaluate, entry, 1.0, 0) for entry in evaluate.tasks]
    return _distinct([*searched, *(_task(evaluate, entry, 0.0, 0) for entry in evaluate.test_tasks)])


def _counted(tasks: Sequence[Task], side: str) -> list[Task]:
    return [task for task in tasks if task.items(side) and task.weight]


def _objective(evaluate: Evaluate, tasks: Sequence[Task], side: str) -> Objective:
    counted = _counted(tasks, side)
    if all(len(task.items(side)) == 1 for task in counted) and side == "test":
        whole = listed(repr(task.name) for task in tasks if task.weight)
        raise UserError(
            f"tasks: {whole}: one number for the whole model, and no items to hold a verdict on; give the scores by "
            "item, or add a task that has items"
        )
    return Objective([task.share(side) for task in counted], evaluate.aggregate)


def _check_averaged(tasks: Sequence[Task]) -> None:
    others = [repr(task.name) for task in tasks if task.weight and not task.is_averaged]
    if others:
        raise UserError(
            f"ensemble: there are no logits to average in {listed(others)}: give weight 0, or say ensemble: false"
        )


def _task(evaluate: Evaluate, entry: TaskEntry, fraction: float, seed: int) -> Task:
    evaluator = open_evaluator(entry.evaluator, entry.options, evaluate.shared())
    search, test = _sides(list(evaluator.items), fraction, seed)
    normalize = (entry.normalize or evaluate.normalize) == "leaderboard"
    return Task(evaluator.task, evaluator, entry.weight, search, test, normalize, entry.chance)


def _sides(items: list[Item], fraction: float, seed: int) -> tuple[list[Item], list[Item]]:
    """A single item, one number for the whole model, is the search's: no part of it was never looked at."""
    if fraction in (0.0, 1.0):
        return (items, []) if fraction else ([], items)
    return (items, []) if len(items) == 1 else split_items(items, fraction, seed)


def _prepared(task: Task, subject: LoadedModel) -> list[str]:
    try:
        notes = list(task.evaluator.prepare(subject))
    except UserError as error:
        raise UserError(f"evaluate: task {task.name!r}: {error}") from None
    if len(task.search) == 1 and not task.test and task.weight:
        notes.append("is one number for the whole model: the search counts it, no interval and no verdict does")
    return [f"task {task.name!r}: {note}" for note in notes]


def _distinct(tasks: list[Task]) -> list[Task]:
    """Tasks asked for several metrics are told apart by them."""
    names = [task.name for task in tasks]
    named = [
        replace(task, name=f"{task.name}:{task.evaluator.metric.name}") if names.count(task.name) > 1 else task
        for task in tasks
    ]
    labels = [task.name for task in named]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"tasks: {label} is listed {labels.count(label)} times, expected once")
    return named

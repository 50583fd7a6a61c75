"""``mergesearch eval``: scores one checkpoint on the search and the test items of a config's tasks."""

from pathlib import Path
from typing import Any

from torch import Tensor

from mergesearch.errors import located
from mergesearch.evaluators import LoadedModel
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import find_device, merge, torch_dtype
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.say import Say, silent
from mergesearch.search.config import RESULTS, Config
from mergesearch.search.problem.sides import calibration_texts
from mergesearch.search.problem.task_set import TaskSet, open_tasks
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.scoring.live_model import builder_for, scored_model
from mergesearch.search.scoring.threads import chosen_threads
from mergesearch.search.scoring.token_budget import new_budget
from mergesearch.search.study.run_folder import CONFIG, RunFolder


def evaluate_model(
    reference: str,
    config: Config,
    where: str,
    tell: Say = silent,
    results: Path = RESULTS,
) -> dict[str, Any]:
    """``{"model": ..., "items": {TASK: count}, "tasks": {TASK: {METRIC: value}}}``: the values of ``score_model``."""
    tasks, scores = score_model(reference, config, where, tell, results)
    values: dict[str, dict[str, float]] = {}
    for task in tasks:
        with located(reference), task.refusals():
            value = task.evaluator.value(task.used, scores[task.name])
        values.setdefault(task.evaluator.task, {})[task.evaluator.metric.name] = value
    return {"model": reference, "items": {task.name: len(task.used) for task in tasks}, "tasks": values}


def score_model(
    reference: str,
    config: Config,
    where: str,
    tell: Say = silent,
    results: Path = RESULTS,
) -> tuple[TaskSet, Scores]:
    """The config's tasks, prepared, and a checkpoint's scores on all their used items, in the recipe's dtype.

    ``tell`` gets notes for the user. Where ``results`` has a run of the config's name, this is a look at its test
    items, which the run counts. Raises UserError for invalid tasks or checkpoints, and for outputs that are not
    numbers.
    """
    with located(where):
        tasks = open_tasks(config.evaluate, calibration_texts(config.recipe))
    with chosen_threads(config.threads, tell):
        return tasks, _scored(reference, config, tasks, tell, results)


def _scored(reference: str, config: Config, tasks: TaskSet, tell: Say, results: Path) -> Scores:
    """See ``score_model``."""
    dtype = config.recipe.get("out_dtype") or config.recipe.get("dtype")
    device, builder = find_device(config.device), builder_for(config, tasks, reference)
    model, tokenizer = live.load(Checkpoint(reference), device, torch_dtype(dtype), builder)
    model = scored_model(model, config.evaluate, lambda: None)
    budget = new_budget(
        config.evaluate,
        device,
        lambda b: tell(f"out of memory: scoring {b.tokens} tokens at once from now on"),
    )
    subject = LoadedModel(model, tokenizer, lambda out: merge(_alone(reference, dtype), out), budget)
    for note in tasks.prepare(subject):
        tell(note)
    _note_look(RunFolder(results / config.output.name), tasks, reference, tell)
    return {task.name: _scores(task, subject, reference) for task in tasks}


def _note_look(folder: RunFolder, tasks: TaskSet, reference: str, tell: Say) -> None:
    """Warns, and counts a look, where the config's run exists, whose test items are about to be scored."""
    if not (folder.path / CONFIG).exists() or not any(task.test for task in tasks):
        return
    with folder.locked():
        folder.note_look({"eval": reference, "items": tasks.test_digest})
    tell(
        f"warning: this scores the test items of the run in {folder.path}, which counts it as a look at them; what is "
        "decided after it is no longer judged by items that nothing had looked at"
    )


def _alone(reference: str, dtype: str | None) -> Recipe:
    data = {"merge_method": "passthrough", "models": [{"model": reference}], "dtype": dtype}
    return Recipe.read({key: value for key, value in data.items() if value}, reference)


def _scores(task: Task, subject: LoadedModel, reference: str) -> Tensor:
    with located(reference), task.refusals():
        return task.score(subject, task.used)

"""``mergesearch eval``: scores one model on the search and the test items of a config's tasks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from mergesearch.errors import located
from mergesearch.evaluators import LoadedModel, content_hash
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.documents import merge_file
from mergesearch.merge_ops.engine.engine import find_device, merge, torch_dtype
from mergesearch.merge_ops.engine.options import MergeOptions
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.say import Say, silent
from mergesearch.search.across.evaluation import Evaluation
from mergesearch.search.config import RESULTS, Config
from mergesearch.search.problem.sides import calibration_texts
from mergesearch.search.problem.task_set import TaskSet, open_tasks
from mergesearch.search.problem.tasks import Scores, Task
from mergesearch.search.scoring.live_model import builder_for, scored_model
from mergesearch.search.scoring.threads import chosen_threads
from mergesearch.search.scoring.token_budget import new_budget
from mergesearch.search.study.run_folder import CONFIG, RunFolder
from mergesearch.steps import step


def evaluate_model(
    model: str | Recipe,
    config: Config,
    where: str,
    tell: Say = silent,
    results: Path = RESULTS,
) -> Evaluation:
    """The values of ``score_model`` with intervals, and by item."""
    tasks, scores = score_model(model, config, where, tell, results)
    return Evaluation.of(_name(model), tasks, scores, config.search.seed)


def score_model(
    model: str | Recipe,
    config: Config,
    where: str,
    tell: Say = silent,
    results: Path = RESULTS,
) -> tuple[TaskSet, Scores]:
    """The config's tasks, prepared, and a model's scores on all their used items, in the recipe's dtype.

    ``model`` is a checkpoint, a name on the hub, a recipe or the file of one, whose model is written to a temporary
    folder first. ``tell`` gets notes for the user. Where ``results`` has a run of the config's name, this is a look at
    its test items, which the run counts. Raises UserError for invalid tasks or checkpoints, and for outputs that are
    not numbers.
    """
    with located(where):
        tasks = open_tasks(config.evaluate, calibration_texts(config.recipe))
    with chosen_threads(config.threads, tell), _as_checkpoint(model, tell) as checkpoint:
        with step(f"reading {_name(model)}"):
            subject = _loaded(checkpoint, config, tasks, tell)
        for note in tasks.prepare(subject):
            tell(note)
        _note_look(RunFolder(results / config.output.name), tasks, _name(model), tell)
        with step("scoring", sum(len(task.used) for task in tasks), "items"):
            return tasks, {task.name: _scores(task, subject, _name(model)) for task in tasks}


def _name(model: str | Recipe) -> str:
    return f"recipe {content_hash(model.to_yaml())[:12]}" if isinstance(model, Recipe) else model


@contextmanager
def _as_checkpoint(model: str | Recipe, tell: Say) -> Iterator[str]:
    is_file = isinstance(model, str) and Path(model).suffix in (".yml", ".yaml") and Path(model).is_file()
    if isinstance(model, str) and not is_file:
        yield model
        return
    with TemporaryDirectory(prefix="mergesearch-eval-") as folder:
        out = Path(folder) / "model"
        tell(f"merging {_name(model)}")
        with step(f"merging {_name(model)}"):
            if isinstance(model, Recipe):
                merge(model, out)
            else:
                merge_file(Path(model), out, MergeOptions())
        yield str(out)


def _loaded(reference: str, config: Config, tasks: TaskSet, tell: Say) -> LoadedModel:
    dtype = config.recipe.get("out_dtype") or config.recipe.get("dtype")
    device, builder = find_device(config.device), builder_for(config, tasks, reference)
    model, tokenizer = live.load(Checkpoint(reference), device, torch_dtype(dtype), builder)
    budget = new_budget(
        config.evaluate,
        device,
        lambda b: tell(f"out of memory: scoring {b.tokens} tokens at once from now on"),
    )
    double = scored_model(model, config.evaluate, lambda: None)
    return LoadedModel(double, tokenizer, lambda out: merge(_alone(reference, dtype), out), budget)


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

"""The ensemble in a verdict: the average of the models' outputs, which costs as many models as there are.

It is shown for reference; no verdict rests on it.
"""

from collections.abc import Sequence
from copy import deepcopy

from mergesearch.errors import UserError
from mergesearch.evaluators import LoadedModel
from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.merge_ops.inputs.standalone import make_same_tokens
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Scores
from mergesearch.search.statistics import Estimate, estimated
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.verdict.comparison import contrasts
from mergesearch.search.verdict.finalists import estimate, task_values
from mergesearch.search.verdict.result import SIDES, CandidateRow

NAME = "ensemble"


def ensemble_row(
    tasks: TaskSet, folder: RunFolder, engine: Engine, members: Sequence[Recipe], seed: int
) -> CandidateRow:
    """The ensemble of the members, scored once in a run; tasks that do not come from logits are left out.

    ``seed`` is the run's. Needs memory for all members at once.
    """
    sides = {side: ensemble_scores(tasks, folder, engine, members, side) for side in SIDES}
    return CandidateRow(
        name=f"ensemble of {len(members)} models",
        trial=-1,
        method="averaged outputs",
        search=estimate(tasks, "search", sides["search"], seed),
        test=estimate(tasks, "test", sides["test"], seed),
        tasks={task.name: task_values(task, sides) if task.is_averaged else {} for task in tasks},
    )


def ensemble_scores(tasks: TaskSet, folder: RunFolder, engine: Engine, members: Sequence[Recipe], side: str) -> Scores:
    """The ensemble's scores on one side, of the tasks that come from logits; read where the run has them already."""
    name = f"{NAME}-{side}"
    if not folder.has_scores(name):
        averaged = [task for task in tasks if task.is_averaged]
        scores = tasks.score(_ensemble(engine, members), side, averaged)
        folder.save_scores(name, scores, tasks.items(side))
    return folder.load_scores(name, tasks.items(side))


def difference_from_ensemble(tasks: TaskSet, folder: RunFolder, scores: Scores, seed: int) -> Estimate | None:
    """A candidate's test scores minus the ensemble's, in the objective; None where it is not scored on all tasks."""
    name = f"{NAME}-test"
    if not folder.has_scores(name) or not all(task.is_averaged for task in tasks.counted("test")):
        return None
    return estimated(contrasts(tasks, "test", scores, [folder.load_scores(name, tasks.items("test"))])[0], seed)


def search_value(tasks: TaskSet, folder: RunFolder) -> float | None:
    """The ensemble's objective on the search items; None where it is not scored, or not on all tasks."""
    if not folder.has_scores(f"{NAME}-search") or not all(task.is_averaged for task in tasks.counted("search")):
        return None
    return tasks.combined("search", folder.load_scores(f"{NAME}-search", tasks.items("search")))


def _ensemble(engine: Engine, members: Sequence[Recipe]) -> LoadedModel:
    """Copies of the live models of the members.

    Raises UserError where their outputs stand for different tokens or labels, so that they have no average.
    """
    from mergesearch.evaluators.tasks.ensemble import average

    models, tokenizers = [], []
    for recipe in members:
        models.append(deepcopy(engine.build(recipe)))
        tokenizers.append(engine.tokenizer)
    if not all(make_same_tokens(tokenizers[0], other) for other in tokenizers[1:]):
        raise UserError("the models have different tokenizers, so that their outputs have no average")
    if len({str(getattr(model.config, "id2label", None)) for model in models}) > 1:
        raise UserError("the models have their labels (id2label) in different orders, so that they have no average")
    return average(models, tokenizers[0])

"""The reference row of a verdict: the average of the models' outputs, which costs as many models as there are."""

from copy import deepcopy

from mergesearch.evaluators import LoadedModel
from mergesearch.search.job import Job, Scores
from mergesearch.search.loop import Loop
from mergesearch.search.verdict import SIDES, Row, estimate, task_values
from mergesearch.seeds import derive

NAME = "ensemble"


def reference_row(loop: Loop) -> Row:
    """The ensemble of the models, scored once in a run; tasks that do not come from logits are left out."""
    sides = {side: _scores(loop, side) for side in SIDES}
    seed = derive(loop.job.config.search.seed, "bootstrap", NAME)
    return Row(
        name=f"ensemble of {len(loop.job.baselines.members)} models",
        trial=-1,
        method="averaged outputs",
        search=estimate(loop.job, "search", sides["search"], seed),
        test=estimate(loop.job, "test", sides["test"], seed),
        tasks={task.name: task_values(task, sides) if task.is_averaged else {} for task in loop.job.tasks},
    )


def _scores(loop: Loop, side: str) -> Scores:
    name = f"{NAME}-{side}"
    if not loop.folder.has_scores(name):
        scores = _scored(loop, side)
        loop.folder.save_scores(name, scores, {task.name: task.items(side) for task in loop.job.tasks})
    return loop.folder.load_scores(name)


def _scored(loop: Loop, side: str) -> Scores:
    job: Job = loop.job
    return job.score(_ensemble(loop), side, [task for task in job.tasks if task.is_averaged])


def _ensemble(loop: Loop) -> LoadedModel:
    """Copies of the live model, each with the weights of one of the models."""
    from mergesearch.evaluators.ensemble import average

    members = [deepcopy(loop.engine.build(recipe)) for recipe in loop.job.baselines.members]
    return average(members, loop.engine.tokenizer)

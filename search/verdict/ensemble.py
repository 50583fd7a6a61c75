"""The reference row of a verdict: the average of the models' outputs, which costs as many models as there are."""

from copy import deepcopy

from mergesearch.evaluators import LoadedModel
from mergesearch.search.problem.problem import Job
from mergesearch.search.problem.tasks import Scores
from mergesearch.search.scoring.live_model import Bench
from mergesearch.search.verdict.judge import estimate, task_values
from mergesearch.search.verdict.result import SIDES, Row
from mergesearch.seeds import derive

NAME = "ensemble"


def reference_row(bench: Bench) -> Row:
    """The ensemble of the models, scored once in a run; tasks that do not come from logits are left out."""
    sides = {side: _scores(bench, side) for side in SIDES}
    seed = derive(bench.job.config.search.seed, "bootstrap", NAME)
    return Row(
        name=f"ensemble of {len(bench.job.baselines.members)} models",
        trial=-1,
        method="averaged outputs",
        search=estimate(bench.job, "search", sides["search"], seed),
        test=estimate(bench.job, "test", sides["test"], seed),
        tasks={task.name: task_values(task, sides) if task.is_averaged else {} for task in bench.job.tasks},
    )


def _scores(bench: Bench, side: str) -> Scores:
    name = f"{NAME}-{side}"
    if not bench.folder.has_scores(name):
        scores = _scored(bench, side)
        bench.folder.save_scores(name, scores, {task.name: task.items(side) for task in bench.job.tasks})
    return bench.folder.load_scores(name)


def _scored(bench: Bench, side: str) -> Scores:
    job: Job = bench.job
    return job.score(_ensemble(bench), side, [task for task in job.tasks if task.is_averaged])


def _ensemble(bench: Bench) -> LoadedModel:
    """Copies of the live model, each with the weights of one of the models."""
    from mergesearch.evaluators.tasks.ensemble import average

    members = [deepcopy(bench.engine.build(recipe)) for recipe in bench.job.baselines.members]
    return average(members, bench.engine.tokenizer)

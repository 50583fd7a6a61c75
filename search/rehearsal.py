"""``mergesearch check``: does what a run does before its first candidate, and estimates the rest."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mergesearch.merge_ops.inputs.memory import size
from mergesearch.say import Say
from mergesearch.search.candidates.plan import SearchPlan
from mergesearch.search.optimize.callbacks import QUIET, Watcher
from mergesearch.search.scoring import cost as costs
from mergesearch.search.scoring.cost import Cost
from mergesearch.search.scoring.threads import chosen_threads
from mergesearch.search.session import Session
from mergesearch.search.study.opening import open_run
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.run_store import RunStore


def expected_cost(plan: SearchPlan, measured: bool, say: Say) -> Cost:
    """What a run of the plan costs, estimated with the live model where that fits in memory. ``say`` gets notes."""
    problem = plan.problem
    memory = costs.memory_plan(problem, plan.takes_gradients)
    if memory.checkpoints[problem.template] > memory.free:
        for line in (*(f"warning: {warning}" for warning in plan.warnings), *problem.tasks.notes):
            say(line)
        say(f"the model does not fit in the memory of this machine ({size(memory.free)} free): it was not loaded")
        return costs.guess_unloaded(problem)
    with rehearsed(plan, Watcher(stage=say)) as session, chosen_threads(problem.config.threads, say):
        return costs.estimate(problem, session.live, measured)


@contextmanager
def rehearsed(plan: SearchPlan, watcher: Watcher = QUIET) -> Iterator[Session]:
    """Does what a run does before its first candidate is built, in a folder that is removed at the end.

    What gets through here is ready to run: the template's model is loaded, and every task is prepared for it. Raises
    UserError.
    """
    problem = plan.problem
    with TemporaryDirectory(prefix="mergesearch-check-") as path:
        folder = RunFolder(Path(path))
        study = open_run(folder, problem.config.dump(), None, problem.tasks.directions)
        session = Session(plan, RunStore(folder, study, plan.problem.tasks.items("search")), watcher)
        session.prepare()
        yield session

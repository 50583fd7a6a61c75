"""What ``mergesearch check`` shows of a job: the space, what each sampler can do with it, time and memory."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from mergesearch.errors import listed
from mergesearch.evaluators import has_targets
from mergesearch.search.problem.problem import Job
from mergesearch.search.samplers import SAMPLERS, Kind
from mergesearch.search.scoring.cost import Cost, memory_plan, spoken
from mergesearch.search.space.dimension import Hole
from mergesearch.search.space.space import Space

CONDITIONAL = {
    "learns": "yes",
    "stays": "one method at a time",
    "draws": "drawn at random",
}
"""What a sampler does with dimensions that not every candidate has."""
STEP_COST = 3
"""A step forward and back, in scorings of the same items: 2.6 were measured."""
SHOWN = 60
"""Rows of the table of dimensions; what is more is counted."""


def print_space(screen: Console, space: Space) -> None:
    """Every dimension: its name, kind and range, and the methods that ask it where not all do."""
    conditional = space.is_conditional
    table = Table("dimension", "kind", "from", title=f"{len(space.holes)} dimensions", title_justify="left")
    if conditional:
        table.add_column("asked by")
    for hole in space.holes[:SHOWN]:
        table.add_row(hole.name, hole.kind, _meant(hole), *([_askers(space, hole)] if conditional else []))
    screen.print(table)
    if len(space.holes) > SHOWN:
        screen.print(f"and {len(space.holes) - SHOWN} more")


def _meant(hole: Hole) -> str:
    return f"{hole.described} ({hole.meaning})" if hole.meaning else hole.described


def _askers(space: Space, hole: Hole) -> str:
    askers = [method.name for method in space.methods if hole in space.holes_of(method)]
    return "all" if len(askers) in (0, len(space.methods)) else ", ".join(askers)


def print_samplers(screen: Console, space: Space) -> None:
    """For each sampler, what it does with this space."""
    table = Table("sampler", "this space", "several objectives", "constraints", title="samplers", title_justify="left")
    for name, can in SAMPLERS.items():
        table.add_row(name, _fit(name, can, space), _yes(can.objectives), _yes(can.constraints))
    screen.print(table)


def _fit(name: str, can: Kind, space: Space) -> str:
    problems = _problems(can, space)
    if space.is_stack:
        problems = ["stacks as wholes" if name == "stack" else "layers one by one", *problems]
    return "; ".join(problems) if problems else "all of it"


def _problems(can: Kind, space: Space) -> Sequence[str]:
    found = []
    if space.has_choices and not can.choices:
        found.append("choices drawn at random")
    if space.is_conditional and can.conditional != "learns":
        found.append(f"what only some methods have: {CONDITIONAL[can.conditional]}")
    if len(space.holes) > can.dimensions:
        found.append(f"{len(space.holes)} dimensions, of use up to about {can.dimensions}")
    return found


def _yes(can: bool) -> str:
    return "yes" if can else "no"


def print_start(screen: Console, job: Job) -> None:
    """What a gradient start would follow and cost, or why there is none."""
    settings = job.config.search.gradient
    if not job.start.gradient:
        if job.start.why:
            screen.print(f"before the sampler: no descent: {job.start.why}")
        return
    tasks = job.tasks_of("search")
    followed, others = ([task.name for task in tasks if has_targets(task.evaluator) is able] for able in (True, False))
    unseen = f"; it does not see {listed(others)}, without such a loss" if others else ""
    why = f" ({job.start.why})" if job.start.why else ""
    screen.print(
        f"before the sampler: up to {settings.steps} steps down the gradient of {listed(followed)}{unseen}{why}; "
        f"each costs about as much as scoring {STEP_COST * settings.items:.2g} candidates"
    )


def print_cost(screen: Console, job: Job, cost: Cost) -> None:
    """Time and memory, and how the numbers were come by."""
    trials = job.trials
    screen.print(f"memory: {memory_plan(job)}")
    if job.space.stack:
        screen.print(f"beside them a live model of up to {job.space.stack.deepest} layers, made anew at each new depth")
    screen.print(
        f"time: about {spoken(cost.build)} to build and {spoken(cost.score)} to score a candidate, "
        f"{spoken(cost.total(trials))} for {trials} trials without early stopping, and the verdict ({cost.how})"
    )

"""The output of ``mergesearch check``: the space, which samplers fit it, and estimates of time and memory."""

from collections.abc import Sequence
from math import sqrt

from rich.console import Console

from mergesearch.errors import listed
from mergesearch.evaluators import has_targets
from mergesearch.merge_ops.inputs.memory import MemoryPlan
from mergesearch.search.candidates.gradient.start import STEP_COST
from mergesearch.search.candidates.plan import SearchPlan
from mergesearch.search.config import RESULTS
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.report.screen import print_table
from mergesearch.search.samplers import SAMPLERS, SamplerTraits
from mergesearch.search.scoring.cost import Cost, memory_plan, spoken
from mergesearch.search.scoring.needs import Needs, cells, free_here
from mergesearch.search.space.dimension import Dimension
from mergesearch.search.space.space import Space
from mergesearch.search.verdict.prospects import EXPECTED_CHANGES, clusters_of, expected_noise, is_accuracy

CONDITIONAL = {
    "learns": "yes",
    "stays": "one method at a time",
    "draws": "drawn at random",
}
"""What a sampler does with dimensions that not every candidate has."""
SHOWN = 60
"""The most rows in the table of dimensions."""


def print_space(screen: Console, space: Space) -> None:
    """A table of the dimensions: name, kind, range, and the methods that have it if not all do."""
    conditional = space.is_conditional
    heads = ["dimension", "kind", "from", *(["asked by"] if conditional else [])]
    rows = [
        [each.name, each.kind, _meant(each), *([_askers(space, each)] if conditional else [])]
        for each in space.dimensions[:SHOWN]
    ]
    print_table(screen, f"{len(space.dimensions)} dimensions", heads, rows)
    if len(space.dimensions) > SHOWN:
        screen.print(f"and {len(space.dimensions) - SHOWN} more")


def _meant(dimension: Dimension) -> str:
    return f"{dimension.described} ({dimension.meaning})" if dimension.meaning else dimension.described


def _askers(space: Space, dimension: Dimension) -> str:
    askers = [method.name for method in space.methods if dimension in space.dimensions_of(method)]
    return "all" if len(askers) in (0, len(space.methods)) else ", ".join(askers)


def print_samplers(screen: Console, space: Space) -> None:
    """A table of the samplers, and how each fits the space."""
    heads = ("sampler", "this space", "several objectives", "constraints")
    rows = [
        [name, _fit(name, can, space), _yes(can.objectives), _yes(can.constraints)] for name, can in SAMPLERS.items()
    ]
    print_table(screen, "samplers", heads, rows)


def _fit(name: str, can: SamplerTraits, space: Space) -> str:
    problems = _problems(can, space)
    if space.is_stack:
        problems = ["stacks as wholes" if name == "stack" else "layers one by one", *problems]
    return "; ".join(problems) if problems else "all of it"


def _problems(can: SamplerTraits, space: Space) -> Sequence[str]:
    found = []
    if space.has_choices and not can.choices:
        found.append("choices drawn at random")
    if space.is_conditional and can.conditional != "learns":
        found.append(f"what only some methods have: {CONDITIONAL[can.conditional]}")
    if len(space.dimensions) > can.dimensions:
        found.append(f"{len(space.dimensions)} dimensions, of use up to about {can.dimensions}")
    return found


def _yes(can: bool) -> str:
    return "yes" if can else "no"


def print_tasks(screen: Console, tasks: TaskSet) -> None:
    """A table of the tasks with their items, and about what the test items can prove."""
    heads = ("task", "metric", "weight", "search items", "test items", "test clusters", "standard error", "variance")
    rows, noise = [], expected_noise(tasks)
    for task in tasks:
        error = f"{0.5 / sqrt(len(task.test)):.4f}" if task.test and is_accuracy(task) else ""
        share = f"{noise.share(task.name):.0%}" if noise and task.name in noise.variances else ""
        counts = (len(task.search), len(task.test), clusters_of(task.test))
        rows.append([task.name, task.evaluator.metric.name, f"{task.weight:g}", *map(str, counts), error, share])
    print_table(screen, "tasks", heads, rows)
    if noise is not None:
        screen.print(
            f"the test items can prove a gain of about {noise.detectable:.4f} or more, if {EXPECTED_CHANGES:.0%} of "
            "the answers differ; the run says what there is to win once the baselines are scored"
        )


def print_signal(screen: Console, plan: SearchPlan) -> None:
    """What the search is told of candidates."""
    setting, tasks = plan.problem.config.search.signal, plan.problem.tasks.counted("search")
    graded = [task.name for task in tasks if task.graded]
    if not graded:
        why = "the config says so" if setting == "metric" else "no task has margins"
        screen.print(f"signal: the metric itself, because {why}")
        return
    others = [task.name for task in tasks if not task.graded]
    rest = f"; the metric itself of {listed(others)}, which has no margins" if others else ""
    screen.print(f"signal: grades of how sure the decisions of {listed(graded)} are ({setting}){rest}")


def print_levels(screen: Console, plan: SearchPlan) -> None:
    """Which levels are searched before the sampler."""
    if plan.levels:
        levels = ", ".join(f"{level.name} ({len(level.groups)})" for level in plan.levels)
        screen.print(f"coarse to fine: {levels}, then the sampler")


def print_start(screen: Console, plan: SearchPlan) -> None:
    """What the gradient start would follow and cost, or why there is none."""
    settings = plan.problem.config.search.gradient
    if not plan.start.gradient:
        if plan.start.why:
            screen.print(f"gradient start: none, because {plan.start.why}")
        return
    tasks = plan.problem.tasks.counted("search")
    followed, others = ([task.name for task in tasks if has_targets(task.evaluator) is able] for able in (True, False))
    unseen = f"; it does not see {listed(others)}, which has no such loss" if others else ""
    why = f" ({plan.start.why})" if plan.start.why else ""
    screen.print(
        f"gradient start: up to {settings.steps} steps down the gradient of {listed(followed)}{unseen}{why}; "
        f"each takes about as long as scoring {STEP_COST * settings.items:.2g} candidates"
    )


def print_needs(screen: Console, plan: SearchPlan, memory: MemoryPlan) -> None:
    """A table of what the run needs, for each place where the checkpoints may be kept, and what is free here."""
    rows = [cells(place) for place in Needs.of(plan.problem, memory).places]
    rows.append(cells(free_here(RESULTS, plan.problem.config.device)))
    print_table(screen, "what it needs", ("models are kept", "disk", "RAM", "VRAM"), rows, numbers=True)


def print_cost(screen: Console, plan: SearchPlan, cost: Cost) -> None:
    """Estimates of time and memory, and how they were made."""
    trials, stack = plan.trials, plan.problem.space.stack
    memory = memory_plan(plan.problem, plan.takes_gradients)
    print_needs(screen, plan, memory)
    screen.print(f"memory: {memory}")
    if stack:
        screen.print(f"beside them a live model of up to {stack.deepest} layers, created again for each new depth")
    once = f"{spoken(cost.first)} to prepare, " if cost.first >= 1 else ""
    screen.print(
        f"time: about {once}{spoken(cost.build)} to build and {spoken(cost.score)} to score a candidate; "
        f"{spoken(cost.search(trials))} for {trials} trials without early stopping; "
        f"{spoken(cost.verdict)} for each candidate of the verdict ({cost.how})"
    )

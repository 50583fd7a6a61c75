"""Items scored until a search finds a merge of a given test score, on replayed scores: ours and other projects'.

    python benchmarks/search_efficiency_replayed.py [--seeds N] [--record SECONDS]

Every search sees the scores of the demo's merges on the search items, as a regression of recorded margins predicts them
(see search_landscape.py). The scores on the test items decide when a search has reached its target; no search sees
them. Writes results/benchmarks/search_efficiency_replayed.json and search_efficiency_replayed.md.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, cast

import click
import cmaes
import numpy as np
import optuna
import search_rivals as rivals
import torch
from machine import FOLDER, write_result
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.markdown import Markdown
from search_common import (
    BUDGET,
    OUR_TRIALS,
    Array,
    InMemoryRunFolder,
    SearchEndedError,
    bounds_of,
    method_named,
    quartiles,
)
from search_landscape import CONFIG, ItemScore, Landscape, read_config, record
from torch import Tensor

from mergesearch.evaluators import Item, LoadedModel, Metric
from mergesearch.evaluators.contract.evaluator import MeanOfItems
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.baselines import Baselines, BaselineSource
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.candidates.sampler_source import SamplerSource
from mergesearch.search.candidates.usual_settings import UsualSettings
from mergesearch.search.config import Config
from mergesearch.search.optimize.ask import Asker
from mergesearch.search.optimize.loop import Loop
from mergesearch.search.problem.task_set import TaskSet
from mergesearch.search.problem.tasks import Task
from mergesearch.search.samplers.schedule import Strategy
from mergesearch.search.scoring.live_model import LiveModel
from mergesearch.search.scoring.scorer import Scorer
from mergesearch.search.scoring.token_budget import RunBudget
from mergesearch.search.signal.signal import Signal
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore

EVALUATIONS = (15, 30)
"""Full evaluations after which all arms are compared."""
TARGET_FRACTION = 0.9
"""Where the target lies between the scores of the best baseline (0) and of the best known merge (1)."""
LONG_SEARCHES, LONG_SEED = 5, 10_000
LAYERS = 4
NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{n}.mlp.up_proj.weight" for n in range(LAYERS)),
    "lm_head.weight",
]
"""One tensor for each layer, in place of all tensors of the demo's models: recipes have one value for each layer."""


@dataclass
class Trajectory:
    """The progress of a search: after each candidate the items scored, and the best candidate's scores.

    The search ends after ``budget`` items, or when it has reached both targets.
    """

    target: "Target"
    budget: int
    items: int = 0
    best: float = -np.inf
    test: float = -np.inf
    trace: list[tuple[int, float, float]] = field(default_factory=list)
    """(items, search score, test score)."""

    def add(self, items: int, score: float | None, test: float) -> None:
        """Adds a candidate that was scored on ``items`` items; ``score`` is None where it was stopped early.

        Raises SearchEndedError at the end of the search.
        """
        self.items += items
        if score is not None and score > self.best:
            self.best, self.test = score, test
        self.trace.append((self.items, self.best, self.test))
        if self.items >= self.budget or np.isfinite([self.items_to("search"), self.items_to("test")]).all():
            raise SearchEndedError

    def items_to(self, side: str) -> float:
        """The items scored until the best candidate reached the target on that side; infinity where it never did."""
        column, score = (1, self.target.search) if side == "search" else (2, self.target.test)
        return next((float(row[0]) for row in self.trace if row[column] >= score - 1e-9), np.inf)

    def best_after(self, items: int) -> float:
        """The search score of the best candidate after that many items."""
        return max((best for spent, best, _ in self.trace if spent <= items), default=-np.inf)


class ReplayedTask(MeanOfItems):
    """The evaluator of replayed scores. The id of an item is its column in the scores of the ``ReplayedEngine``."""

    metric = Metric("score")
    averages = True

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        """[items]: the scores of the candidate that the engine built last."""
        scores = cast(ReplayedEngine, subject.model).scores
        return torch.tensor(scores[[int(item.id) for item in items]])


class ReplayedEngine:
    """Stands for the engine and for its live model: building a candidate looks up its scores."""

    names = NAMES
    tokenizer = save = built = None

    def __init__(self, landscape: Landscape) -> None:
        self._landscape = landscape
        self.scores: Array = np.zeros(0)

    @property
    def model(self) -> "ReplayedEngine":
        return self

    views = model

    def build(self, recipe: Recipe) -> None:
        """Looks up the scores of a recipe."""
        self.scores = self._landscape.scores(self._landscape.margins(recipe))


class ReplayedSpace:
    """A space of recipes with replayed scores. ``methods`` are those of the config that the space has."""

    def __init__(self, item_score: ItemScore, methods: Sequence[str]) -> None:
        self.name = f"{item_score.capitalize()}, {' or '.join(methods)}"
        self.methods = methods
        self.landscape = Landscape(item_score, self.baselines)

    @cached_property
    def space(self) -> Space:
        recipe: dict[str, Any] = {**read_config().recipe, "merge_method": {"search": list(self.methods)}}
        if len(self.methods) == 1:
            recipe["merge_method"] = self.methods[0]
        if "ties" not in self.methods:
            recipe["models"] = [
                {**entry, "parameters": {"weight": entry["parameters"]["weight"]}} for entry in recipe["models"]
            ]
        return Space(recipe, LAYERS, "recipe")

    @property
    def baselines(self) -> Baselines:
        return Baselines(self.space.models, self.space.base, {})

    @property
    def tasks(self) -> TaskSet:
        return TaskSet([_task(f"task {n}", columns) for n, columns in enumerate(self.landscape.columns)])

    @property
    def items(self) -> int:
        """How many search items there are."""
        return sum(len(columns["search"]) for columns in self.landscape.columns)

    def bounds(self, method: str) -> tuple[Array, Array]:
        """See ``search_common.bounds_of``."""
        return bounds_of(self.space, method_named(self.space, method))


def _task(name: str, columns: Mapping[str, Array]) -> Task:
    search, test = ([Item(str(n), name, str(n)) for n in columns[side]] for side in ("search", "test"))
    return Task(name, cast(Any, ReplayedTask()), 1.0, search, test)


class ReplayedBlackBox:
    """A replayed space as rivals take it; see ``search_rivals.BlackBox``.

    ``on_candidate`` gets the items, the search score and the margins of each candidate.
    """

    def __init__(self, replayed: ReplayedSpace, on_candidate: Callable[[int, float, Array], None]) -> None:
        self.space = replayed.space
        self._replayed = replayed
        self._on_candidate = on_candidate

    def bounds(self, method: str) -> tuple[Array, Array]:
        """See ``BlackBox.bounds``."""
        return self._replayed.bounds(method)

    def score(self, method: str, values: Array) -> float:
        """See ``BlackBox.score``."""
        landscape = self._replayed.landscape
        margins = landscape.margins_at(method, np.clip(values, *self.bounds(method)))
        score = landscape.objective(margins, "search")
        self._on_candidate(self._replayed.items, score, margins)
        return score


SPACES: list[tuple[ItemScore, list[str]]] = [
    ("probability", ["task_arithmetic"]),
    ("probability", ["task_arithmetic", "ties"]),
    ("accuracy", ["task_arithmetic"]),
]
Arm = Callable[[ReplayedSpace, int, Trajectory], None]
"""Searches a space with a seed, and adds every candidate to the trajectory."""


def rival_arm(rival: rivals.Rival) -> Arm:
    """The search of another project, which scores every candidate in full."""

    def search(replayed: ReplayedSpace, seed: int, trajectory: Trajectory) -> None:
        def on_candidate(items: int, score: float, margins: Array) -> None:
            trajectory.add(items, score, replayed.landscape.objective(margins, "test"))

        rival(ReplayedBlackBox(replayed, on_candidate), seed)

    return search


def our_arm(**settings: Any) -> Arm:
    """Our own loop, with its baselines and with these settings under ``search`` in the config."""

    def search(replayed: ReplayedSpace, seed: int, trajectory: Trajectory) -> None:
        landscape = replayed.landscape

        def on_trial(trial: FrozenTrial) -> None:
            score = trial.value if trial.state == TrialState.COMPLETE else None
            margins = landscape.margins(t.recipe_of(trial))
            trajectory.add(t.items_of(trial), score, landscape.objective(margins, "test"))

        new_loop(replayed, read_config(seed=seed, trials=OUR_TRIALS, **settings)).run(on_trial)

    return search


def new_loop(replayed: ReplayedSpace, config: Config) -> Loop:
    """A new search of a replayed space. It has no gradient source: a replay has no weights."""
    space, tasks, search = replayed.space, replayed.tasks, config.search
    store = RunStore(InMemoryRunFolder(), optuna.create_study(direction="maximize"))
    budget = RunBudget(store.folder, config.evaluate, "cpu", lambda _: None)
    live = LiveModel(cast(Any, ReplayedEngine(replayed.landscape)), config.evaluate, budget.budget)
    scorer = Scorer(tasks, live, budget, store, search.racing, search.seed, {}, Signal(tasks, store, search.signal))
    baselines = BaselineSource(replayed.baselines)
    usual_settings = UsualSettings(space, search.trials, len(replayed.baselines))
    sampler = SamplerSource(Strategy(space, search, several=False, gradient=False))
    asker = Asker([baselines, usual_settings, sampler], sampler)
    return Loop(space, tasks, store, scorer, asker, baselines, search)


@dataclass(frozen=True)
class Target:
    """The score that a search has to reach, between the best baseline's and the best known merge's.

    Both are (search score, test score).
    """

    baseline: tuple[float, float]
    known: tuple[float, float]

    @property
    def search(self) -> float:
        """The target on the search items."""
        return self._between(0)

    @property
    def test(self) -> float:
        """The target on the test items."""
        return self._between(1)

    def _between(self, side: int) -> float:
        return self.baseline[side] + TARGET_FRACTION * (self.known[side] - self.baseline[side])


def find_target(replayed: ReplayedSpace) -> Target:
    """The best known merge is that of the best method; of a method, the median winner of long searches."""
    known = []
    for method in replayed.methods:
        winners = [_long_search(replayed, method, LONG_SEED + n) for n in range(LONG_SEARCHES)]
        known.append(tuple(np.median(winners, axis=0).tolist()))
    landscape = replayed.landscape
    return Target((landscape.best_baseline("search"), landscape.best_baseline("test")), max(known))


def _long_search(replayed: ReplayedSpace, method: str, seed: int) -> tuple[float, float]:
    """(search score, test score) of the winner of CMA-ES from a random point, after 2,000 evaluations."""
    low, high = replayed.bounds(method)
    landscape, rng = replayed.landscape, np.random.default_rng(seed)
    bounds = np.stack([np.zeros(len(low)), np.ones(len(low))], axis=1)
    optimizer = cmaes.CMA(rng.random(len(low)), 0.3, bounds, population_size=20, seed=seed)
    best = (-np.inf, -np.inf)
    for _ in range(100):
        solutions = []
        for _ in range(20):
            unit = optimizer.ask()
            margins = landscape.margins_at(method, low + unit * (high - low))
            score = landscape.objective(margins, "search")
            solutions.append((unit, -score))
            best = max(best, (score, landscape.objective(margins, "test")))
        optimizer.tell(solutions)
    return best


@dataclass(frozen=True)
class ArmResult:
    """The results of an arm, by seed.

    search, test: items scored until the target was reached on that side (infinity: never); after: the best search score
    after each number of full evaluations in EVALUATIONS.
    """

    search: Sequence[float]
    test: Sequence[float]
    after: Mapping[int, Sequence[float]]


def measure(replayed: ReplayedSpace, arm: Arm, target: Target, seeds: Sequence[int]) -> ArmResult:
    """Runs an arm with every seed."""
    trajectories = [_run(replayed, arm, target, seed) for seed in seeds]
    after = {count: [one.best_after(count * replayed.items) for one in trajectories] for count in EVALUATIONS}
    search, test = ([one.items_to(side) for one in trajectories] for side in ("search", "test"))
    return ArmResult(search, test, after)


def _run(replayed: ReplayedSpace, arm: Arm, target: Target, seed: int) -> Trajectory:
    trajectory = Trajectory(target, BUDGET * replayed.items)
    with suppress(SearchEndedError):
        arm(replayed, seed, trajectory)
    return trajectory


def arms_of(replayed: ReplayedSpace) -> dict[str, Arm]:
    """The arms that are compared on a space; ours first."""
    one_method = {
        f"{label}{'' if len(replayed.methods) == 1 else f' on {method}'}": rival_arm(rival(method))
        for label, rival in (("mergekit-evolve", rivals.mergekit_evolve), ("mergenetic's GA", rivals.mergenetic))
        for method in replayed.methods
    }
    return {
        "ours": our_arm(),
        "ours, without racing": our_arm(racing=False),
        **({"ours, with tpe": our_arm(sampler="tpe")} if len(replayed.methods) > 1 else {}),
        **one_method,
        "Optuna's TPE": rival_arm(rivals.tpe),
        "random": rival_arm(rivals.random),
    }


@dataclass(frozen=True)
class SpaceResult:
    """The results of all arms on one space."""

    replayed: ReplayedSpace
    target: Target
    arms: dict[str, ArmResult]

    def to_json(self) -> dict[str, Any]:
        """The results, by arm."""
        arms = {name: asdict(result) for name, result in self.arms.items()}
        return {"space": self.replayed.name, "target": asdict(self.target), "arms": arms}


def measure_space(item_score: ItemScore, methods: Sequence[str], seeds: Sequence[int]) -> SpaceResult:
    """Finds the target of a space, then runs every arm."""
    replayed = ReplayedSpace(item_score, methods)
    target = find_target(replayed)
    arms = {name: measure(replayed, arm, target, seeds) for name, arm in arms_of(replayed).items()}
    return SpaceResult(replayed, target, arms)


def as_markdown(results: Sequence[SpaceResult], seeds: int) -> str:
    """One table for each space."""
    replayed = results[0].replayed
    lines = [
        "# Items scored until a search finds a merge of a given score: replayed scores",
        "",
        f"Over {seeds} seeds. A full evaluation scores {replayed.items} items. The searches of other projects may",
        f"spend {BUDGET} full evaluations, ours {OUR_TRIALS} trials (the default), baselines included. A run of ours",
        "that has not reached the target was thus stopped at a fraction of the others' budget, so `never` does not",
        "mean the same for both; the last columns compare the searches at equal cost.",
        "",
        f"The target is {TARGET_FRACTION:.0%} of the way from the best baseline to the best known merge, which is the",
        f"median winner of {LONG_SEARCHES} searches of 2,000 evaluations. One target is on the search items, and",
        "measures the search alone. The other is on the test items, which no search sees. A search has reached a",
        "target when the best candidate that it scored in full has reached it. Items: median (quartiles), and the",
        "share of seeds that reached the target.",
        "",
        "The benchmark was changed after runs with seeds 0 to 4, which are not reported. The score of an item became a",
        "probability: on accuracy, in the last table, the best known merge has about five test items of 640 more than",
        "the best baseline, and reaching the target is luck. The target on the search items was added: the best",
        "baseline on the search items, the base, is 0.012 behind the best one on the test items. The budgets were made",
        "smaller.",
        "",
        "A replay has no weights to take gradients of; for searches that begin with a gradient start see",
        "[search_efficiency.md](search_efficiency.md). Here the best known merge is so close to the best baseline that",
        "no search reaches the target on the test items reliably. Ours is the best on the search items at equal cost,",
        "but no better than random search on the test items and behind most others: it stays with the baselines that",
        "are best on the search items until a candidate is better there. With a choice of methods, `sampler: auto` was",
        "`tpe` before; it is `gp` within the best method now.",
        "",
        "The margins of the replayed merges are predicted by a regression of recorded ones. Its leave-one-out errors:",
        "",
        "| method | recorded | variance explained | outcomes right | error of the objective (accuracy) |",
        "|---|---|---|---|---|",
        *(
            f"| {one.method} | {len(one.points)} | {one.explained:.1%} | {one.agreement:.1%} | {one.error:.4f} |"
            for one in replayed.landscape.regressions.values()
        ),
        *(line for result in results for line in _table(result)),
    ]
    return "\n".join(lines) + "\n"


def _table(result: SpaceResult) -> list[str]:
    target = result.target
    after = " | ".join(f"search score after {count * result.replayed.items:,} items" for count in EVALUATIONS)
    return [
        "",
        f"## {result.replayed.name}",
        "",
        f"Search items: best baseline {target.baseline[0]:.4f}, best known {target.known[0]:.4f}, target "
        f"{target.search:.4f}. Test items: {target.baseline[1]:.4f}, {target.known[1]:.4f}, {target.test:.4f}.",
        "",
        f"| | items to the search target | reached | times ours | items to the test target | reached | {after} |",
        "|---" * (6 + len(EVALUATIONS)) + "|",
        *(_row(name, arm, result.arms["ours"]) for name, arm in result.arms.items()),
    ]


def _row(name: str, arm: ArmResult, ours: ArmResult) -> str:
    ratio = quartiles(arm.search)[1] / quartiles(ours.search)[1]
    times = f"{ratio:.1f}" if np.isfinite(ratio) and ratio > 0 else "-"
    scores = " | ".join(f"{np.median(row):.4f}" for row in arm.after.values())
    return f"| {name} | {_items_text(arm.search)} | {times} | {_items_text(arm.test)} | {scores} |"


def _items_text(items: Sequence[float]) -> str:
    low, middle, high = (f"{value:,.0f}" if np.isfinite(value) else "never" for value in quartiles(items))
    return f"{middle} ({low} to {high}) | {np.isfinite(items).mean():.0%}"


@click.command()
@click.option("--seeds", default=10, show_default=True, help="How many seeds for each arm.")
@click.option("--first-seed", default=100, show_default=True, help="The first seed; lower ones were for development.")
@click.option("--record", "seconds", type=float, help="Record margins of the demo's merges first, for so many seconds.")
def main(seeds: int, first_seed: int, seconds: float | None) -> None:
    """Replays the searches of all arms."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if seconds:
        record(open_plan(read_config(), CONFIG.name), seconds)
    chosen = range(first_seed, first_seed + seeds)
    results: list[SpaceResult] = []
    for item_score, methods in SPACES:
        results.append(measure_space(item_score, methods, chosen))
        (FOLDER / "search_efficiency_replayed.md").write_text(as_markdown(results, seeds))
        spaces = [result.to_json() for result in results]
        write_result("search_efficiency_replayed", {"budget": BUDGET, "seeds": list(chosen), "spaces": spaces})
    Console().print(Markdown(as_markdown(results, seeds)))


if __name__ == "__main__":
    main()

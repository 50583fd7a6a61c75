"""Items scored until a search has found a merge of a given test score: ours against the ways of others.

    python benchmarks/search_efficiency_replayed.py [--seeds N] [--record SECONDS]

Every search sees the scores that merges of the demo's checkpoints get on the search items, as a model fitted to
recorded ones predicts them (see ``search_landscape``); the test items decide when it has arrived, and no search sees
them. Writes results/benchmarks/search_efficiency_replayed.json and search_efficiency_replayed.md.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import click
import cmaes
import numpy as np
import optuna
import search_rivals as rivals
import torch
import yaml
from machine import FOLDER, write_result
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.markdown import Markdown
from search_common import BUDGET, OUR_TRIALS, Memory, OverError, quartiles
from search_landscape import Landscape, Score, baselines, read_config, record
from torch import Tensor

from mergesearch.evaluators import Item, LoadedModel, Metric
from mergesearch.evaluators.contract.evaluator import MeanOfItems
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.baselines import Baselines
from mergesearch.search.config import Config
from mergesearch.search.optimize.loop import Loop
from mergesearch.search.problem.problem import Job, open_job
from mergesearch.search.problem.tasks import Task
from mergesearch.search.space.space import Space
from mergesearch.search.study import trials as t

Array = NDArray[np.float64]
EVALUATIONS = (15, 30)
"""Full evaluations after whose items all arms are compared."""
PART = 0.9
"""How far the target is on the way from the best baseline's test score to the best known."""
LONG_SEARCHES, LONG_SEED = 5, 10_000
LAYERS = 4
NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{n}.mlp.up_proj.weight" for n in range(LAYERS)),
    "lm_head.weight",
]
"""Stand for the tensors of the demo's models: each has its layer's numbers."""


@dataclass
class Course:
    """What a search knows after each candidate: the items spent, and its best one's score on either side."""

    target: "Target"
    budget: int
    items: int = 0
    best: float = -np.inf
    test: float = -np.inf
    trace: list[tuple[int, float, float]] = field(default_factory=list)

    def see(self, items: int, value: float | None, test: float) -> None:
        """A candidate that cost so many items; value: on all search items, None where it was stopped."""
        self.items += items
        if value is not None and value > self.best:
            self.best, self.test = value, test
        self.trace.append((self.items, self.best, self.test))
        if self.items >= self.budget or np.isfinite([self.arrival("search"), self.arrival("test")]).all():
            raise OverError

    def arrival(self, side: str) -> float:
        """The items after which the best one's score on that side was first what it is to be; infinity where never."""
        place, score = (1, self.target.search) if side == "search" else (2, self.target.test)
        return next((float(row[0]) for row in self.trace if row[place] >= score - 1e-9), np.inf)

    def after(self, items: int) -> float:
        """The best one's score on the search items when so many were spent."""
        return max((best for spent, best, _ in self.trace if spent <= items), default=-np.inf)


class _Replayed(MeanOfItems):
    """Scores of items whose ids are their places, which the engine has put into the model."""

    metric = Metric("score")
    averages = True

    def score(self, subject: LoadedModel, items: Sequence[Item]) -> Tensor:
        scores = cast(_Engine, subject.model).scores
        return torch.tensor(scores[[int(item.id) for item in items]])


class _Engine:
    """Builds nothing: looks up what a candidate's scores are."""

    names = NAMES
    tokenizer = save = built = None

    def __init__(self, land: Landscape) -> None:
        self._land = land
        self.scores: Array = np.zeros(0)

    @property
    def model(self) -> "_Engine":
        return self

    views = model

    def build(self, recipe: Recipe) -> None:
        self.scores = self._land.scores(self._land.margins(recipe))


@dataclass(frozen=True)
class Replay:
    """A space to search, replayed. ``methods``: those of the config that it is made of."""

    name: str
    land: Landscape
    methods: Sequence[str]

    def job(self, **search: Any) -> Job:
        config = read_config(**search)
        space = self._space(config)
        tasks = [self._task(f"task {n}", places) for n, places in enumerate(self.land.places)]
        return Job(config, space, Baselines(space.models, space.base, {}), tasks, [], "")

    def _space(self, config: Config) -> Space:
        recipe: dict[str, Any] = {**config.recipe, "merge_method": {"search": list(self.methods)}}
        if len(self.methods) == 1:
            recipe["merge_method"] = self.methods[0]
        if "ties" not in self.methods:
            recipe["models"] = [_without_density(entry) for entry in recipe["models"]]
        return Space(recipe, LAYERS, "recipe")

    def _task(self, name: str, places: Mapping[str, Any]) -> Task:
        sides = {side: [Item(str(n), name, str(n)) for n in found] for side, found in places.items()}
        return Task(name, cast(Any, _Replayed()), 1.0, sides["search"], sides["test"])

    @property
    def items(self) -> int:
        """How many search items there are."""
        return sum(len(places["search"]) for places in self.land.places)


def _without_density(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "parameters": {"weight": entry["parameters"]["weight"]}}


class Full:
    """What the others search: see ``search_rivals.Problem``."""

    def __init__(self, replay: Replay, see: Callable[[int, float, Array], None]) -> None:
        self.space = replay.job().space
        self._replay = replay
        self._see = see

    def ranges(self, method: str) -> tuple[Array, Array]:
        chosen = next(one for one in self.space.methods if one.name == method)
        found = [cast(Any, hole.distribution) for hole in self.space.holes_of(chosen)]
        return np.array([one.low for one in found]), np.array([one.high for one in found])

    def score(self, method: str, values: Array) -> float:
        margins = self._replay.land.margins_at(method, np.clip(values, *self.ranges(method)))
        value = self._replay.land.value(margins, "search")
        self._see(self._replay.items, value, margins)
        return value


SPACES: list[tuple[Score, list[str]]] = [
    ("probability", ["task_arithmetic"]),
    ("probability", ["task_arithmetic", "ties"]),
    ("accuracy", ["task_arithmetic"]),
]


def _replay(metric: Score, methods: list[str]) -> Replay:
    replay = Replay(f"{metric.capitalize()}, {' or '.join(methods)}", Landscape(metric), methods)
    replay.land.know(lambda value: baselines(replay.job(), value))
    return replay


Arm = Callable[[Replay, int, Course], None]


def theirs(rival: rivals.Rival) -> Arm:
    """An arm that scores every candidate in full."""

    def search(replay: Replay, seed: int, course: Course) -> None:
        def see(items: int, value: float, margins: Array) -> None:
            course.see(items, value, replay.land.value(margins, "test"))

        rival(Full(replay, see), seed)

    return search


def ours(**wishes: Any) -> Arm:
    """The loop as it is, baselines and all, with these wishes in the config."""

    def search(replay: Replay, seed: int, course: Course) -> None:
        job = replay.job(seed=seed, trials=OUR_TRIALS, **wishes)

        def on_trial(trial: FrozenTrial) -> None:
            margins = replay.land.margins(Recipe.read(yaml.safe_load(trial.user_attrs[t.RECIPE])))
            value = trial.value if trial.state == optuna.trial.TrialState.COMPLETE else None
            test = replay.land.value(margins, "test")
            course.see(t.items_of(trial), value, test)

        loop = Loop(job, Memory(), optuna.create_study(direction="maximize"), cast(Any, _Engine(replay.land)))
        loop.run(on_trial)

    return search


@dataclass(frozen=True)
class Target:
    """What is to be reached, and between which it lies; (search, test) each."""

    baseline: tuple[float, float]
    known: tuple[float, float]

    @property
    def search(self) -> float:
        return self._between(0)

    @property
    def test(self) -> float:
        return self._between(1)

    def _between(self, side: int) -> float:
        return self.baseline[side] + PART * (self.known[side] - self.baseline[side])


def find_target(replay: Replay) -> Target:
    """Between the best baseline and the median of what long searches from random starts end at."""
    ends = []
    for method in replay.methods:
        low, high = Full(replay, _ignore).ranges(method)
        found = [_long_search(replay, method, low, high, LONG_SEED + n) for n in range(LONG_SEARCHES)]
        ends.append(tuple(np.median(found, axis=0).tolist()))
    scores = replay.land.baseline_values
    return Target((max(scores("search").values()), max(scores("test").values())), max(ends))


def _ignore(_items: int, _value: float, _margins: Array) -> None:
    pass


def _long_search(replay: Replay, method: str, low: Array, high: Array, seed: int) -> tuple[float, float]:
    """(search score, test score) of the winner of CMA-ES from a random point, for 2,000 evaluations."""
    rng = np.random.default_rng(seed)
    bounds = np.stack([np.zeros(len(low)), np.ones(len(low))], axis=1)
    optimizer = cmaes.CMA(rng.random(len(low)), 0.3, bounds, population_size=20, seed=seed)
    found = (-np.inf, -np.inf)
    for _ in range(100):
        told = []
        for _ in range(20):
            unit = optimizer.ask()
            margins = replay.land.margins_at(method, low + unit * (high - low))
            value = replay.land.value(margins, "search")
            told.append((unit, -value))
            found = max(found, (value, replay.land.value(margins, "test")))
        optimizer.tell(told)
    return found


@dataclass(frozen=True)
class Found:
    """What an arm came to, seed by seed: items until it arrived (infinity: never), and search scores on the way."""

    search: Sequence[float]
    test: Sequence[float]
    after: Mapping[int, Sequence[float]]


def measure(replay: Replay, arm: Arm, target: Target, seeds: Sequence[int]) -> Found:
    courses = [_run(replay, arm, target, seed) for seed in seeds]
    after = {count: [course.after(count * replay.items) for course in courses] for count in EVALUATIONS}
    return Found([c.arrival("search") for c in courses], [c.arrival("test") for c in courses], after)


def _run(replay: Replay, arm: Arm, target: Target, seed: int) -> Course:
    course = Course(target, BUDGET * replay.items)
    with suppress(OverError):
        arm(replay, seed, course)
    return course


def arms_of(replay: Replay) -> dict[str, Arm]:
    """What is compared on a space; ours first."""
    one_method = {
        f"{label}{'' if len(replay.methods) == 1 else f' on {method}'}": theirs(way(method))
        for label, way in (("mergekit-evolve", rivals.mergekit_evolve), ("mergenetic's GA", rivals.mergenetic))
        for method in replay.methods
    }
    return {
        "ours": ours(),
        "ours, without racing": ours(racing=False),
        **({"ours, with tpe": ours(sampler="tpe")} if len(replay.methods) > 1 else {}),
        **one_method,
        "Optuna's TPE": theirs(rivals.tpe),
        "random": theirs(rivals.random),
    }


def _line(name: str, found: Found, ours: Found) -> str:
    ratio = quartiles(found.search)[1] / quartiles(ours.search)[1]
    times = f"{ratio:.1f}" if np.isfinite(ratio) and ratio > 0 else "-"
    scores = " | ".join(f"{np.median(row):.4f}" for row in found.after.values())
    return f"| {name} | {_arrivals(found.search)} | {times} | {_arrivals(found.test)} | {scores} |"


def _arrivals(items: Sequence[float]) -> str:
    low, middle, high = (f"{value:,.0f}" if np.isfinite(value) else "never" for value in quartiles(items))
    return f"{middle} ({low} to {high}) | {np.isfinite(items).mean():.0%}"


def report(found: Sequence["Measured"], seeds: int) -> str:
    """The tables in Markdown."""
    replay = found[0].replay
    lines = [
        "# Items scored until a merge of a given score is found: replayed scores",
        "",
        f"Over {seeds} seeds. A candidate scored in full is {replay.items} items. The others may spend",
        f"{BUDGET} of them, ours {OUR_TRIALS} trials (the default), baselines counted: a run of ours that",
        "has not arrived was stopped at a fraction of what the others had, so that `never` is not the",
        f"same for both; the last columns compare at equal cost. Targets are {PART:.0%} of the way from",
        f"the best baseline to the best known, what {LONG_SEARCHES} searches of 2,000 evaluations end at",
        "in the median: one on the search items, which says how good the searching is, and one on the",
        "test items, which no search sees. A search has arrived when the best candidate that it has",
        "scored in full reaches the target. Items: median (quartiles), and the share of seeds that",
        "arrived.",
        "",
        "What was changed after trying seeds 0 to 4, none of which is reported: the score became a",
        "probability (on accuracy, the last table, the best known is some five test items of 640 above",
        "the best baseline, and arriving is luck), the target on the search items was added (what is best",
        "there is not best on the test items: base, for one, is the best baseline on the former and 0.012",
        "behind it on the latter), and the budgets were made smaller. A replay has no weights to take",
        "gradients of: what a search is worth that begins with a descent, as ours does where it can, is in",
        "[search_efficiency.md](search_efficiency.md). Here the best known merge is so little above the best",
        "baseline that no way arrives reliably on the test items. Ours is ahead on the search items for what it",
        "spends, but level with random in arriving on the test items, behind most others: it keeps to the",
        "baselines that look best on the search items until something is better there. What `auto` does where",
        "the method is a choice was `tpe` before, and is `gp` within the best method now.",
        "",
        "Margins of the replayed merges are a model's, fitted to recorded ones; with each of these left out in turn:",
        "",
        "| method | recorded | variance explained | outcomes right | error of the objective (accuracy) |",
        "|---|---|---|---|---|",
        *(
            f"| {one.method} | {len(one.points)} | {one.explained:.1%} | {one.agreement:.1%} | {one.error:.4f} |"
            for one in replay.land.fits.values()
        ),
        *(line for one in found for line in _table(one)),
    ]
    return "\n".join(lines) + "\n"


def _table(found: "Measured") -> list[str]:
    target = found.target
    spent = " | ".join(f"search score after {count * found.replay.items:,} items" for count in EVALUATIONS)
    return [
        "",
        f"## {found.replay.name}",
        "",
        f"Search items: best baseline {target.baseline[0]:.4f}, best known {target.known[0]:.4f}, target "
        f"{target.search:.4f}. Test items: {target.baseline[1]:.4f}, {target.known[1]:.4f}, {target.test:.4f}.",
        "",
        f"| | items to the search target | arrived | times ours | items to the test target | arrived | {spent} |",
        "|---" * (6 + len(EVALUATIONS)) + "|",
        *(_line(name, one, found.arms["ours"]) for name, one in found.arms.items()),
    ]


@dataclass(frozen=True)
class Measured:
    """All arms on one space."""

    replay: Replay
    target: Target
    arms: dict[str, Found]

    def to_json(self) -> dict[str, Any]:
        arms = {name: asdict(one) for name, one in self.arms.items()}
        return {"space": self.replay.name, "target": asdict(self.target), "arms": arms}


def measure_all(space: tuple[Score, list[str]], seeds: Sequence[int]) -> Measured:
    """Sets the target, then runs every arm."""
    replay = _replay(*space)
    target = find_target(replay)
    return Measured(
        replay, target, {name: measure(replay, arm, target, seeds) for name, arm in arms_of(replay).items()}
    )


@click.command()
@click.option("--seeds", default=10, show_default=True, help="How many seeds of each arm.")
@click.option("--first-seed", default=100, show_default=True, help="The first of them; others were for trying out.")
@click.option("--record", "seconds", type=float, help="Record the demo's scores anew first, for so many seconds.")
def main(seeds: int, first_seed: int, seconds: float | None) -> None:
    """Replays the searches of all arms."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if seconds:
        record(open_job(read_config(), "search_efficiency_replayed.yml"), seconds)
    chosen, found = range(first_seed, first_seed + seeds), []
    for space in SPACES:
        found.append(measure_all(space, chosen))
        (FOLDER / "search_efficiency_replayed.md").write_text(report(found, seeds))
        spaces = [one.to_json() for one in found]
        write_result("search_efficiency_replayed", {"budget": BUDGET, "seeds": list(chosen), "spaces": spaces})
    Console().print(Markdown(report(found, seeds)))


if __name__ == "__main__":
    main()

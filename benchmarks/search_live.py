"""Live searches for merges of the demo's checkpoints: every candidate is built and scored.

The objective is bits per byte of Python and C++ code that no model was trained on: a piece of each of the demo's
held-out files, divided into search and test items by a seed. All arms have the same space: a weight for each model and
layer, or for each model and tensor. A trajectory records the best candidate's search score, and its gain: how many bits
per byte it is below the uniform soup on the test items.
"""

import gc
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import search_rivals as rivals
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from search_common import BUDGET, OUR_TRIALS, Array, InMemoryRunFolder, SearchEndedError, bounds_of, ranges_of

from mergesearch.evaluators import LoadedModel
from mergesearch.files import write_text
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.baselines import UNIFORM
from mergesearch.search.candidates.gradient.start import items_worth
from mergesearch.search.candidates.plan import SearchPlan, open_plan
from mergesearch.search.config import Config
from mergesearch.search.problem.tasks import Scores
from mergesearch.search.scoring.live_model import open_engine
from mergesearch.search.session import Session
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_store import RunStore

DEMO = Path("results/demo")
LANGUAGES = ("python", "cpp")
SEARCH_FRACTION = 1 / 3
"""The share of the files that are search items: about 87 pieces of code."""
RANGE = {"search": [0.0, 1.5]}


@dataclass
class Trajectory:
    """The progress of a search: the items scored so far, the best candidate's search score, and its gain.

    The search ends after ``budget`` items, or at a gain of ``enough``.
    """

    budget: float
    enough: float
    items: float = 0.0
    best: float = -np.inf
    gain: float = -np.inf
    trace: list[tuple[float, float, float]] = field(default_factory=list)
    """(items, search score, gain) at each improvement."""

    def spend(self, items: float) -> None:
        """Adds items to those scored so far."""
        self.items += items

    def add(self, score: float, gain: Callable[[], float]) -> None:
        """Adds a candidate with its search score. Raises SearchEndedError at the end of the search."""
        if score > self.best:
            self.best, self.gain = score, gain()
            self.trace.append((self.items, self.best, self.gain))
        if self.items >= self.budget or self.gain >= self.enough:
            raise SearchEndedError


def write_pieces() -> dict[str, Path]:
    """For each language, a file with one piece of code of each held-out file."""
    return {language: _write_pieces(language) for language in LANGUAGES}


def _write_pieces(language: str) -> Path:
    """The first item of each file, with its right choice."""
    items = map(json.loads, (DEMO / "tasks" / f"demo_{language}.jsonl").read_text().splitlines())
    pieces: dict[str, str] = {}
    for item in items:
        pieces.setdefault(item["source"], item["context"] + item["choices"][item["answer"]])
    path = DEMO / "pieces" / f"{language}.jsonl"
    path.parent.mkdir(exist_ok=True)
    write_text(path, "".join(json.dumps({"source": name, "text": text}) + "\n" for name, text in pieces.items()))
    return path


def weight_by_layer() -> Any:
    """The ``weight`` of a recipe with one value for each layer."""
    return {**RANGE, "layers": "each"}


def weight_by_tensor() -> Any:
    """The ``weight`` of a recipe with one value for each tensor."""
    *names, _ = sorted(Checkpoint(str(DEMO / "base")).tensors)
    return [*({"filter": name, "value": dict(RANGE)} for name in names), {"value": dict(RANGE)}]


SPACES: dict[str, Callable[[], Any]] = {
    "a weight for each tensor": weight_by_tensor,
    "a weight for each layer": weight_by_layer,
}


class LiveSpace:
    """One space of merges with the checkpoints in memory. Identical candidates of rivals are scored once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._files = write_pieces()
        self._plans: dict[int, SearchPlan] = {}
        self._scores: dict[tuple[int, str, str], Scores] = {}
        problem = self.new_plan(0).problem
        self.space = problem.space
        self._engine = open_engine(problem, takes_gradients=False)
        self._live = LoadedModel(self._engine.model, self._engine.tokenizer)

    def new_plan(self, seed: int, **search: Any) -> SearchPlan:
        """The plan of a search with these keys under ``search``; ``seed`` is that of the split and of the search."""
        return open_plan(self._config(seed, **search), "search_live.py")

    def _config(self, seed: int, **search: Any) -> Config:
        models = [{"model": str(DEMO / name), "parameters": {"weight": SPACES[self._name]()}} for name in LANGUAGES]
        tasks = [
            {"task": language, "evaluator": "bits_per_byte", "data": str(path)}
            for language, path in self._files.items()
        ]
        split = {"search": SEARCH_FRACTION, "test": 1 - SEARCH_FRACTION, "seed": seed, "group": "source"}
        data = {
            "recipe": {"merge_method": "task_arithmetic", "base_model": str(DEMO / "base"), "models": models},
            "evaluate": {"tasks": tasks, "split": split, "batch_size": 128},
            "search": {"trials": OUR_TRIALS, "seed": seed, **search},
            "output": {"name": "live"},
        }
        return Config.model_validate(data)

    def _plan(self, seed: int) -> SearchPlan:
        """The plan with the tasks that this class scores. Only the last seed's is kept: its tasks keep their tokens."""
        if seed not in self._plans:
            self._plans = {seed: self.new_plan(seed)}
        return self._plans[seed]

    def items(self, seed: int) -> int:
        """How many search items there are."""
        return self._plan(seed).problem.tasks.search_items

    def objective(self, seed: int, recipe: Recipe, side: str) -> float:
        """Minus bits per byte, averaged over the languages."""
        tasks = self._plan(seed).problem.tasks
        key = (seed, side, recipe.phenotype(self._engine.names))
        if key not in self._scores:
            self._engine.build(recipe)
            self._scores[key] = tasks.score(self._live, side)
        return tasks.combined(side, self._scores[key])

    def gain(self, seed: int, recipe: Recipe) -> float:
        """Bits per byte below the uniform soup, on the test items."""
        soup = self._plan(seed).baselines.recipe_named(UNIFORM)
        return self.objective(seed, recipe, "test") - self.objective(seed, soup, "test")


class LiveBlackBox:
    """A live space as rivals take it; see ``search_rivals.BlackBox``."""

    def __init__(self, live: LiveSpace, seed: int, trajectory: Trajectory) -> None:
        self.space = live.space
        self._live, self._seed, self._trajectory = live, seed, trajectory
        self._method = self.space.methods[0]
        self._names = list(ranges_of(self.space, self._method))

    def bounds(self, method: str) -> tuple[Array, Array]:  # noqa: ARG002 - the space has one method
        """See ``BlackBox.bounds``."""
        return bounds_of(self.space, self._method)

    def score(self, method: str, values: Array) -> float:
        """See ``BlackBox.score``."""
        clipped = np.clip(values, *self.bounds(method)).tolist()
        recipe = self.space.fill(self._method, dict(zip(self._names, clipped, strict=True)))
        score = self._live.objective(self._seed, recipe, "search")
        self._trajectory.spend(self._live.items(self._seed))
        self._trajectory.add(score, lambda: self._live.gain(self._seed, recipe))
        return score

    def recommend(self, values: Array) -> None:
        """See ``BlackBox.recommend``: here a search hands over what it scored best, whatever it recommends."""


Arm = Callable[[LiveSpace, int, Trajectory], None]
"""Searches a space with a seed, and adds every candidate to the trajectory."""


def rival_arm(rival: rivals.Rival) -> Arm:
    """The search of another project, which scores every candidate in full."""
    return lambda live, seed, trajectory: rival(LiveBlackBox(live, seed, trajectory), seed)


class MeteredRunFolder(InMemoryRunFolder):
    """A run folder that charges the time of a gradient start, as the items that are scored in that time.

    ``spend`` gets the number of items; ``study`` is the run's.
    """

    def __init__(self, spend: Callable[[float], None], study: Study) -> None:
        super().__init__()
        self._spend, self._study = spend, study

    def write_json(self, name: str, content: Mapping[str, Any], durable: bool = True) -> None:
        """See ``RunFolder.write_json``."""
        before = items_worth(self._study, self)
        super().write_json(name, content, durable)
        self._spend(items_worth(self._study, self) - before)


def our_arm(**settings: Any) -> Arm:
    """Our own search, with its baselines and with these settings under ``search`` in the config."""

    def search(live: LiveSpace, seed: int, trajectory: Trajectory) -> None:
        def on_trial(trial: FrozenTrial) -> None:
            trajectory.spend(t.items_of(trial))
            score = trial.value if trial.state == TrialState.COMPLETE and trial.value is not None else -np.inf
            trajectory.add(score, lambda: live.gain(seed, t.recipe_of(trial)))

        study, plan = optuna.create_study(direction="maximize"), live.new_plan(seed, **settings)
        store = RunStore(MeteredRunFolder(trajectory.spend, study), study, plan.problem.tasks.items("search"))
        session = Session(plan, store)
        session.prepare()
        session.loop.run(on_trial)

    return search


EVOLVE = "mergekit-evolve"
ARMS: dict[str, Arm] = {
    EVOLVE: rival_arm(rivals.mergekit_evolve("task_arithmetic")),
    "ours": our_arm(),
    "ours without gradients": our_arm(start="none"),
    "random": rival_arm(rivals.random),
    "Optuna's TPE": rival_arm(rivals.tpe),
    "mergenetic's GA": rival_arm(rivals.mergenetic("task_arithmetic")),
}


def run_arm(live: LiveSpace, name: str, seed: int, enough: float = np.inf) -> list[tuple[float, float, float]]:
    """An arm's trajectory: (full evaluations, search score, gain) at each improvement.

    The search ends at a gain of ``enough``, if not before.
    """
    gc.collect()  # frees the tokens of earlier seeds' tasks
    items = live.items(seed)
    trajectory = Trajectory(BUDGET * items, enough)
    with suppress(SearchEndedError):
        ARMS[name](live, seed, trajectory)
    return [(round(spent / items, 3), round(best, 6), round(gain, 6)) for spent, best, gain in trajectory.trace]

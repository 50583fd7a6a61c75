"""Searches for merges of the demo's checkpoints as they really go: candidates are built and scored, not replayed.

What is searched for is few bits per byte of Python and C++ code that no model was trained on, a piece of each of the
demo's held-out files, dealt to the search and the test by a seed. All arms have the same space: a weight for each
model, by layer or by tensor. Beside the scores that a search sees, a course keeps those that its best candidate has on
the test items, in bits per byte below the uniform soup on the same ones.
"""

import gc
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
import search_rivals as rivals
import yaml
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from search_common import BUDGET, OUR_TRIALS, Memory, OverError

from mergesearch.evaluators import LoadedModel
from mergesearch.files import write_text
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.baselines import UNIFORM
from mergesearch.search.candidates.gradient.start import items_looked_at
from mergesearch.search.config import Config
from mergesearch.search.optimize.loop import Loop
from mergesearch.search.problem.problem import Job, open_job
from mergesearch.search.problem.tasks import Scores
from mergesearch.search.report.check_page import STEP_COST
from mergesearch.search.run import open_engine
from mergesearch.search.study import trials as t

Array = NDArray[np.float64]
DEMO = Path("results/demo")
LANGUAGES = ("python", "cpp")
SEARCHED = 1 / 3
"""The part of the files that a search sees: some 87 pieces of code."""
RANGE = {"search": [0.0, 1.5]}


@dataclass
class Course:
    """What a search knows after each candidate: the items spent, its best one's score, and that one's test gain.

    ``enough``: the test gain at which there is nothing more to wait for.
    """

    budget: float
    enough: float
    items: float = 0.0
    best: float = -np.inf
    gain: float = -np.inf
    trace: list[tuple[float, float, float]] = field(default_factory=list)

    def spend(self, items: float) -> None:
        self.items += items

    def see(self, value: float, gain: Callable[[], float]) -> None:
        """A candidate's score on all search items. Raises OverError where the course is at its end."""
        if value > self.best:
            self.best, self.gain = value, gain()
            self.trace.append((self.items, self.best, self.gain))
        if self.items >= self.budget or self.gain >= self.enough:
            raise OverError


def pieces() -> dict[str, Path]:
    """A file for each language with one piece of code of each held-out file: its first item, with the answer."""
    return {language: _pieces(language) for language in LANGUAGES}


def _pieces(language: str) -> Path:
    rows = map(json.loads, (DEMO / "tasks" / f"demo_{language}.jsonl").read_text().splitlines())
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row["source"], row["context"] + row["choices"][row["answer"]])
    file = DEMO / "pieces" / f"{language}.jsonl"
    file.parent.mkdir(exist_ok=True)
    lines = (json.dumps({"source": source, "text": text}) + "\n" for source, text in first.items())
    write_text(file, "".join(lines))
    return file


def by_layer() -> Any:
    """One weight a layer."""
    return {**RANGE, "layers": "each"}


def by_tensor() -> Any:
    """One weight a tensor."""
    *names, _ = sorted(Checkpoint(str(DEMO / "base")).tensors)
    return [*({"filter": name, "value": dict(RANGE)} for name in names), {"value": dict(RANGE)}]


SPACES: dict[str, Callable[[], Any]] = {"a weight for each tensor": by_tensor, "a weight for each layer": by_layer}


class Live:
    """One space, with the checkpoints in memory. Candidates that are the same are scored once, whatever the arm."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._files = pieces()
        self._jobs: dict[int, Job] = {}
        self._known: dict[tuple[int, str, str], Scores] = {}
        self.engine: Engine = open_engine(self.job(0))
        self.subject = LoadedModel(self.engine.model, self.engine.tokenizer)

    def config(self, seed: int, **search: Any) -> Config:
        """The seed is that of the split and of the search."""
        models = [{"model": str(DEMO / name), "parameters": {"weight": SPACES[self.name]()}} for name in LANGUAGES]
        tasks = [
            {"task": language, "evaluator": "bits_per_byte", "data": str(file)}
            for language, file in self._files.items()
        ]
        split = {"search": SEARCHED, "test": 1 - SEARCHED, "seed": seed, "group": "source"}
        data = {
            "recipe": {"merge_method": "task_arithmetic", "base_model": str(DEMO / "base"), "models": models},
            "evaluate": {"tasks": tasks, "split": split, "batch_size": 128},
            "search": {"trials": OUR_TRIALS, "seed": seed, **search},
            "output": {"name": "live"},
        }
        return Config.model_validate(data)

    def job(self, seed: int, **search: Any) -> Job:
        return open_job(self.config(seed, **search), "search_live.py")

    def split(self, seed: int) -> Job:
        """The job that says which items are on which side; its tasks are kept, and with them what they prepared."""
        if seed not in self._jobs:
            self._jobs = {seed: self.job(seed)}  # one at a time: each keeps its tokens
        return self._jobs[seed]

    @cached_property
    def space(self) -> Any:
        return self.job(0).space

    def items(self, seed: int) -> int:
        """How many search items there are."""
        return sum(len(task.search) for task in self.split(seed).tasks)

    def value(self, seed: int, recipe: Recipe, side: str) -> float:
        """The objective: minus bits per byte, the mean of both languages."""
        key = (seed, side, recipe.phenotype(self.engine.names))
        if key not in self._known:
            self.engine.build(recipe)
            job = self.split(seed)
            self._known[key] = job.score(self.subject, side, job.tasks)
        return self.split(seed).objective(side, self._known[key])

    def gain(self, seed: int, recipe: Recipe) -> float:
        """Bits per byte on the test items below the uniform soup."""
        soup = self.split(seed).baselines.recipe_named(UNIFORM)
        return self.value(seed, recipe, "test") - self.value(seed, soup, "test")


Arm = Callable[[Live, int, Course], None]


class _Full:
    """What the others search: see ``search_rivals.Problem``."""

    def __init__(self, live: Live, seed: int, course: Course) -> None:
        self.space = live.space
        self._live, self._seed, self._course = live, seed, course
        self._holes = self.space.holes_of(self.space.methods[0])

    def ranges(self, method: str) -> tuple[Array, Array]:  # noqa: ARG002
        found = [cast(Any, hole.distribution) for hole in self._holes]
        return np.array([one.low for one in found]), np.array([one.high for one in found])

    def score(self, method: str, values: Array) -> float:
        inside = np.clip(values, *self.ranges(method))
        point = {hole.name: float(value) for hole, value in zip(self._holes, inside, strict=True)}
        recipe = self.space.fill(self.space.methods[0], point)
        value = self._live.value(self._seed, recipe, "search")
        self._course.spend(self._live.items(self._seed))
        self._course.see(value, lambda: self._live.gain(self._seed, recipe))
        return value


def theirs(rival: rivals.Rival) -> Arm:
    """An arm that scores every candidate in full."""
    return lambda live, seed, course: rival(_Full(live, seed, course), seed)


class _Charged(Memory):
    """Takes the items of a descent for as many as it costs to go forward and back."""

    def __init__(self, spend: Callable[[float], None]) -> None:
        super().__init__()
        self._spend = spend

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        before = items_looked_at(self)
        super().write_json(name, content)
        self._spend(STEP_COST * (items_looked_at(self) - before))


def ours(**wishes: Any) -> Arm:
    """The loop as it is, baselines and all, with these wishes in the config."""

    def search(live: Live, seed: int, course: Course) -> None:
        job = live.job(seed, **wishes)

        def on_trial(trial: FrozenTrial) -> None:
            recipe = Recipe.read(yaml.safe_load(trial.user_attrs[t.RECIPE]))
            course.spend(t.items_of(trial))
            value = trial.value if trial.state == TrialState.COMPLETE and trial.value is not None else -np.inf
            course.see(value, lambda: live.gain(seed, recipe))

        loop = Loop(job, _Charged(course.spend), optuna.create_study(direction="maximize"), live.engine)
        loop.prepare()
        loop.run(on_trial)

    return search


EVOLVE = "mergekit-evolve"
ARMS: dict[str, Arm] = {
    EVOLVE: theirs(rivals.mergekit_evolve("task_arithmetic")),
    "ours": ours(),
    "ours without gradients": ours(start="none"),
    "random": theirs(rivals.random),
    "Optuna's TPE": theirs(rivals.tpe),
    "mergenetic's GA": theirs(rivals.mergenetic("task_arithmetic")),
}


def run_arm(live: Live, name: str, seed: int, enough: float = np.inf) -> list[tuple[float, float, float]]:
    """An arm's course in full evaluations: (spent, score, test gain) at each better candidate."""
    gc.collect()  # what an earlier seed's tasks keep
    count = live.items(seed)
    course = Course(BUDGET * count, enough)
    with suppress(OverError):
        ARMS[name](live, seed, course)
    return [(round(items / count, 3), round(best, 6), round(gain, 6)) for items, best, gain in course.trace]

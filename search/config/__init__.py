"""The config of a run: a recipe with holes, how to score it, how to search, where the results go."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, model_validator

from mergesearch.errors import UserError, nearest
from mergesearch.evaluators import EVALUATORS, EvaluatorOptions, Shared, find_evaluator, is_evaluator
from mergesearch.parsing import Strict, parse, read_yaml
from mergesearch.search.config.constraints import Constraint
from mergesearch.search.config.soup import Kind, Soup
from mergesearch.search.problem.objective import Aggregation
from mergesearch.search.samplers import SAMPLERS
from mergesearch.search.samplers.schedule import AUTO, Stage, Tuning

RESULTS = Path("results/runs")


class Split(Strict):
    """Which items the search may look at; the others are the test's.

    Items are dealt by a hash of their content, or of one field of it (``group``), so that equal ones stay together.
    """

    search: float = Field(0.5, gt=0, lt=1)
    test: float = Field(0.5, gt=0, lt=1)
    seed: int = 0
    group: str | None = None

    @model_validator(mode="after")
    def _everything_is_used(self) -> "Split":
        if abs(self.search + self.test - 1) > 1e-9:
            raise ValueError(f"search and test are {self.search:g} and {self.test:g}, expected a sum of 1")
        return self


Normalization = Literal["none", "leaderboard"]


class TaskEntry(Strict):
    """One task: its evaluator's options, and its share in the objective (0: shown in the verdict only).

    ``normalize`` and ``chance``: see ``Evaluate.normalize``; here they are said of this task alone.
    """

    weight: float = Field(1.0, ge=0)
    evaluator: str = "lm_eval"
    normalize: Normalization | None = None
    chance: float | None = Field(None, ge=0, lt=1)
    options: SerializeAsAny[EvaluatorOptions]


def _read_entry(data: Any) -> Any:
    """A task is written flat: weight and evaluator beside the evaluator's own keys."""
    if not isinstance(data, dict):
        raise ValueError(f"found {data!r}, expected keys: task, metric, weight, ...")
    if isinstance(data.get("options"), EvaluatorOptions):
        return data
    own = {key: data[key] for key in TaskEntry.model_fields if key in data and key != "options"}
    rest = {key: value for key, value in data.items() if key not in own}
    try:
        kind = find_evaluator(str(own.get("evaluator", "lm_eval")))
        if not is_evaluator(kind):
            rest, own["evaluator"] = {"function": own["evaluator"], **rest}, "function"
            kind = EVALUATORS["function"]
        return {**own, "options": parse(kind.Options, rest, "task")}
    except UserError as error:
        raise ValueError(str(error).replace("task: ", "")) from None


Task = Annotated[TaskEntry, BeforeValidator(_read_entry)]


class Evaluate(Strict):
    """The tasks. ``test_tasks``, where given, are what the verdict is held on, and ``tasks`` the search's alone.

    ``aggregate`` and ``normalize`` say how the tasks' values become the objective, or several: see ``Objective``.
    ``constraints`` are what a winner must keep; their tasks are scored whatever their weight. ``ensemble``:
    show beside the winner what averaging the models' outputs gives. ``quantization``: candidates are scored as
    bitsandbytes quantises them; what is written is not quantised.
    """

    include_path: str | None = None
    tasks: list[Task] = Field(min_length=1)
    test_tasks: list[Task] = Field(default_factory=list)
    split: Split | None = None
    batch_size: int = Field(32, ge=1)
    batch_tokens: int | None = Field(None, ge=64)
    max_length: int | None = Field(None, gt=1)
    aggregate: Aggregation = "mean"
    normalize: Normalization = "none"
    constraints: list[Constraint] = Field(default_factory=list)
    ensemble: bool = False
    quantization: Literal["4bit", "8bit"] | None = None
    mode: Literal["auto", "exact", "packed"] = "auto"
    compile: bool = False

    @model_validator(mode="after")
    def _something_counts(self) -> "Evaluate":
        if self.test_tasks and self.split:
            raise ValueError("found both split and test_tasks, expected one of them")
        for key, tasks in (("tasks", self.tasks), ("test_tasks", self.test_tasks)):
            if tasks and not any(task.weight for task in tasks):
                raise ValueError(f"every weight in {key} is 0, expected at least one above")
        if self.compile and (self.mode == "exact" or self.quantization):
            other = "quantization" if self.quantization else "mode: exact"
            raise ValueError(f"compile: found true beside {other}, expected one of them")
        return self

    def shared(self) -> Shared:
        """What all evaluators are told."""
        group = self.split.group if self.split else None
        include = Path(self.include_path) if self.include_path else None
        return Shared(
            include_path=include,
            group=group,
            batch_size=self.batch_size,
            max_length=self.max_length,
            mode=self.mode,
            compile=self.compile,
        )


def _known_sampler(name: str) -> str:
    if name != AUTO and name not in SAMPLERS:
        raise ValueError(f"there is no sampler {name!r}{nearest(name, (AUTO, *SAMPLERS))}")
    return name


class Racing(Strict):
    """Stopping candidates early. ``error``: the probability at most with which one that is truly better is dropped.

    ``first_block``: how many items a candidate is scored on before it is looked at for the first time.
    """

    error: float = Field(0.05, gt=0, le=0.5)
    first_block: int = Field(32, ge=1)


def _read_racing(data: Any) -> Any:
    """``racing: true`` is as if nothing were said, ``racing: false`` scores every candidate in full."""
    return Racing() if data is True else data


class Gradient(Strict):
    """How the gradient start descends: up to so many steps of Adam, each on a part of the search items.

    ``points`` is the number of legs; what each ends in becomes a trial, and the next one follows where that is better
    than what it began at. ``learning_rate`` is a part of each range: the first step of the first leg, half of it in the
    next one.
    ``loss``: of the items' ``targets`` (the default where they have any), or the ``entropy`` of what is predicted.
    """

    steps: int = Field(32, ge=1)
    items: float = Field(0.0625, gt=0, le=1)
    learning_rate: float = Field(0.1, gt=0, le=1)
    points: int = Field(4, ge=1)
    loss: Literal["targets", "entropy"] | None = None

    @model_validator(mode="after")
    def _points_are_steps(self) -> "Gradient":
        if self.points > self.steps:
            raise ValueError(f"points: found {self.points}, expected no more than the {self.steps} steps")
        return self


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def _read_duration(data: Any) -> Any:
    """Seconds as a number, or such as ``2h30m``, ``90m`` or ``45s``."""
    if not isinstance(data, str):
        return data
    found = re.fullmatch(r"(?:(?P<h>[\d.]+)h)?\s*(?:(?P<m>[\d.]+)m)?\s*(?:(?P<s>[\d.]+)s?)?", data.strip())
    try:
        parts = {unit: float(number) for unit, number in found.groupdict().items() if number} if found else {}
    except ValueError:
        parts = {}
    if not parts:
        raise ValueError(f"found {data!r}, expected seconds, or a time such as 2h30m, 90m or 45s")
    return sum(_UNITS[unit] * number for unit, number in parts.items())


class Search(Tuning):
    """How long and how. ``trials`` counts all of a run, baselines too; ``racing: false`` scores all of them in full.

    Whichever comes first ends a run, with its verdict: ``trials``; ``timeout``, in seconds or such as ``2h30m``, of
    the time in which trials were in work, all sessions together (the last trial is finished, and loading and the
    verdict come on top); and, once the baselines are scored, ``patience``, so many trials without a better one than
    the best, and a score of at least ``target``.

    ``sampler`` is one for the whole run, or ``schedule`` a list of stages; ``start: gradient`` puts before them the
    points that a descent on the search items leads to, ``auto`` does so where that pays. ``soups`` are scored after the
    baselines.
    """

    trials: int = Field(60, ge=1)
    soups: list[Kind] = Field(default_factory=list)
    timeout: Annotated[float, Field(gt=0), BeforeValidator(_read_duration)] | None = None
    patience: int | None = Field(None, ge=1)
    target: float | None = None
    sampler: Annotated[str, AfterValidator(_known_sampler)] = AUTO
    schedule: list[Stage] | None = Field(None, min_length=1)
    start: Literal["auto", "gradient", "none"] = "auto"
    gradient: Gradient = Gradient()
    seed: int = Field(0, ge=0)
    storage: str | None = None
    racing: Annotated[Racing | Literal[False], BeforeValidator(_read_racing)] = Racing()

    @model_validator(mode="after")
    def _one_plan(self) -> "Search":
        if self.schedule and self.sampler != AUTO:
            raise ValueError("found both sampler and schedule, expected one of them")
        for index, stage in enumerate((self.schedule or [])[:-1]):
            if stage.trials is None:
                raise ValueError(f"schedule[{index}].trials: is missing; only the last stage may go on to the end")
        if self.schedule:
            self.check_owner("schedule: give it to the stage")
        elif self.sampler != AUTO:
            self.check_owner(self.sampler)
        return self


class Output(Strict):
    """``name`` is the folder under ``results/runs``; ``model``: write the winner's weights there too."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    model: bool = True


WITH_A_SOUP = {"seed", "storage"}
"""What ``search`` may say beside ``soup``."""


class Config(Strict):
    """A whole config file: a ``recipe`` with holes to search, or a ``soup``, whose recipe follows from it."""

    recipe: dict[str, Any]
    soup: Soup | None = None
    evaluate: Evaluate
    search: Search = Search()
    output: Output
    device: Literal["cpu", "cuda", "auto"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _soup_has_a_recipe(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("soup") is None:
            return data
        if "recipe" in data:
            raise ValueError("found both recipe and soup, expected one of them")
        for key in data.get("search") or {}:
            if key in Search.model_fields.keys() - WITH_A_SOUP:
                raise ValueError(
                    f"search.{key}: found beside soup, which decides by itself what to score and when to end"
                )
        try:
            soup = parse(Soup, data["soup"], "soup")
        except UserError as error:
            raise ValueError(re.sub(r"^soup: (?=[\w.\[\]]+: )", "soup.", str(error), flags=re.MULTILINE)) from None
        return {**data, "soup": soup, "recipe": soup.recipe()}

    @classmethod
    def read(cls, file: Path, **overrides: Any) -> "Config":
        """A config from a file, with what the command line says (None: as in the file) put over it."""
        data = read_yaml(file)
        if isinstance(data, dict):
            data = _overridden(data, file.stem, overrides)
        return parse(cls, data, str(file))

    def dump(self) -> dict[str, Any]:
        """The config as it would be written, defaults filled in."""
        data = self.model_dump(exclude_none=True)
        if self.soup:
            del data["recipe"]
            data["search"] = {key: value for key, value in data["search"].items() if key in WITH_A_SOUP}
        for key in ("tasks", "test_tasks"):
            data["evaluate"][key] = [_flat(task) for task in data["evaluate"][key]]
        return data


def _overridden(data: dict[str, Any], stem: str, overrides: dict[str, Any]) -> dict[str, Any]:
    said = {"search": ("trials", "timeout", "seed", "storage"), "output": ("name",)}
    data = {"output": {"name": stem}, **data}
    for section, keys in said.items():
        values = {key: overrides[key] for key in keys if overrides.get(key) is not None}
        if values and isinstance(data.setdefault(section, {}), dict):
            data[section] = {**data[section], **values}
    return data


def _flat(task: dict[str, Any]) -> dict[str, Any]:
    return {**{key: value for key, value in task.items() if key != "options"}, **task["options"]}

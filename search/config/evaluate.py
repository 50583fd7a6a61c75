"""The ``evaluate`` section of a config: tasks, the split of their items, and how values become the objective."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from mergesearch.copies import here
from mergesearch.errors import Problems, nearest
from mergesearch.evaluators import EVALUATORS, EvaluatorOptions, Shared, find_evaluator, is_evaluator
from mergesearch.parsing import Strict, invalid, parse
from mergesearch.search.config.constraints import Constraint
from mergesearch.text import quoted

Aggregation = Literal["mean", "min", "geometric_mean", "pareto"]


class Split(Strict):
    """The share of the items for the search and for the test. Others are left unused.

    Items are assigned by a hash of their content, or of one of its fields (``group``), so equal items stay together.
    """

    search: float = Field(0.5, gt=0, lt=1)
    test: float = Field(0.5, gt=0, lt=1)
    seed: int = 0
    group: str | None = None

    @model_validator(mode="after")
    def _nothing_is_used_twice(self) -> "Split":
        if self.search + self.test - 1 > 1e-9:
            raise ValueError(f"search and test are {self.search:g} and {self.test:g}, expected a sum of 1 or less")
        return self


def _read_limit(value: Any) -> Any:
    """A number of items, or a fraction of them; 1 could be meant as either."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"found {quoted(value)}, expected a number of items, such as 1000, or a fraction, such as 0.1")
    if value == 1 or not (0 < value < 1 or (value > 1 and value == int(value))):
        raise ValueError(f"found {value:g}, expected a number of items, 2 or more, or a fraction between 0 and 1")
    return value if value < 1 else int(value)


Limit = Annotated[int | float, BeforeValidator(_read_limit)]


Normalization = Literal["none", "leaderboard"]


class TaskEntry(Strict):
    """One task: the options of its evaluator, and its weight in the objective (0: shown in the verdict only).

    ``normalize``, ``chance`` and ``limit`` override those of ``Evaluate`` for this task.
    """

    weight: float = Field(1.0, ge=0)
    evaluator: str = "lm_eval"
    normalize: Normalization | None = None
    chance: float | None = Field(None, ge=0, lt=1)
    limit: Limit | None = None
    options: SerializeAsAny[EvaluatorOptions]


def _read_entry(data: Any) -> Any:
    """In a config, the keys of a task and those of its evaluator are siblings."""
    if not isinstance(data, dict):
        raise ValueError(f"found {quoted(data)}, expected keys: task, metric, weight, ...")
    if isinstance(data.get("options"), EvaluatorOptions):
        return data
    own = {key: data[key] for key in TaskEntry.model_fields if key in data and key != "options"}
    rest = {key: value for key, value in data.items() if key not in own}
    problems = Problems()
    kind = problems.attempt(find_evaluator, str(own.get("evaluator", "lm_eval")))
    if kind and not is_evaluator(kind):
        rest, own["evaluator"] = {"function": own["evaluator"], **rest}, "function"
        kind = EVALUATORS["function"]
    if is_evaluator(kind):
        valid = {field.alias or name for name, field in kind.Options.model_fields.items()}
        unknown = rest.keys() - valid
        names = valid | TaskEntry.model_fields.keys() - {"options"}
        problems.found += [f"unknown key {key!r}{nearest(str(key), names)}" for key in rest if key in unknown]
        rest = {key: value for key, value in rest.items() if key not in unknown}
    options = problems.attempt(parse, kind.Options, rest, "task") if is_evaluator(kind) else None
    if problems.found:
        problems.attempt(parse, TaskEntry, {**own, "options": EvaluatorOptions(task="?")}, "task")
        raise invalid(problem.removeprefix("task: ") for problem in problems.found)
    return {**own, "options": options}


TaskKeys = Annotated[TaskEntry, BeforeValidator(_read_entry)]


class Evaluate(Strict):
    """The tasks. With ``test_tasks``, the verdict uses these, and ``tasks`` are for the search only.

    ``limit`` is how many items of each task are used, or which fraction of them; see ``limited``.

    ``aggregate`` and ``normalize`` define how the values of the tasks become the objective, or several: see
    ``Objective``. ``constraints`` restrict the winner; their tasks are scored whatever their weight. ``ensemble`` shows
    the average of the models' outputs beside the winner. With ``quantization``, candidates are scored as bitsandbytes
    quantises them; written models are not quantised.
    """

    include_path: str | None = None
    tasks: list[TaskKeys] = Field(min_length=1)
    test_tasks: list[TaskKeys] = Field(default_factory=list)
    split: Split | None = None
    limit: Limit | None = None
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
        """The settings that all evaluators share."""
        group = self.split.group if self.split else None
        include = Path(here(self.include_path)) if self.include_path else None
        return Shared(
            include_path=include,
            group=group,
            batch_size=self.batch_size,
            max_length=self.max_length,
            mode=self.mode,
            compile=self.compile,
        )

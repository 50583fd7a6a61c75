"""The config of a run: a recipe with holes, the tasks, the search, and the output. One module a section."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mergesearch.errors import UserError, located
from mergesearch.evaluators import EVALUATORS
from mergesearch.merge_ops.checkpoint.references import with_references
from mergesearch.merge_ops.recipe.recovery import Recovery
from mergesearch.parsing import Strict, parse, read_yaml
from mergesearch.search.config.evaluate import Evaluate
from mergesearch.search.config.overrides import with_values
from mergesearch.search.config.paths import absolute_paths, folder_of
from mergesearch.search.config.search import Search
from mergesearch.search.config.soup import Soup

__all__ = ["RESULTS", "Config", "Device", "Evaluate", "Output", "Search", "Soup", "read_sections"]

RESULTS = Path("results/runs")


class Output(Strict):
    """``name`` is the folder under ``results/runs``; ``model`` writes the recommended weights there as well."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    model: bool = True


WITH_A_SOUP = {"artifacts", "seed", "storage", "trial_timeout"}
"""The keys of ``search`` that are valid beside ``soup``."""


OF_ANY_MODEL = {"command", "function"}
"""The evaluators that take whatever model a builder makes."""


Device = Literal["cpu", "cuda", "auto"]
Tracker = Literal["wandb", "trackio", "mlflow", "tensorboard"]
"""The trackers of experiments that can be told of a run."""


class Config(Strict):
    """A config: a ``recipe`` with holes, or a ``soup``, from which the recipe follows.

    Paths are absolute: see ``absolute_paths``. Of a file they are relative to it, else to the current folder.

    ``recover`` says how the winner is recovered once the search has ended; see ``RecoverySource``.
    ``builder`` names a function, ``module:function`` or ``path/to/file.py:function``, that makes the live model from
    the path of a checkpoint, for models that transformers does not know. ``threads``: see ``chosen_threads``;
    ``workers``: see ``posts``. ``track`` names trackers of experiments that are told of the run: see ``tracked``.
    ``trust`` allows code that tasks and merge methods bring along to run: see ``trust_code``.
    """

    recipe: Annotated[dict[str, Any], BeforeValidator(with_references)]
    soup: Soup | None = None
    recover: Recovery | None = None
    evaluate: Evaluate
    search: Search = Search()
    output: Output
    device: Device = "auto"
    threads: int | None = Field(None, ge=1)
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    track: list[Tracker] = Field(default_factory=list)
    builder: str | None = Field(None, pattern=":")
    trust: bool = False

    @model_validator(mode="before")
    @classmethod
    def _paths_are_absolute_and_a_soup_has_a_recipe(cls, data: Any) -> Any:
        data = absolute_paths(data, Path.cwd())
        if not isinstance(data, dict) or data.get("soup") is None:
            return data
        if "recipe" in data:
            raise ValueError("found both recipe and soup, expected one of them")
        for key in data["search"] if isinstance(data.get("search"), dict) else ():
            if key in Search.model_fields.keys() - WITH_A_SOUP:
                raise ValueError(f"search.{key}: found beside soup, which decides itself what to score and when to end")
        try:
            soup = parse(Soup, data["soup"], "soup")
        except UserError:
            return {**data, "recipe": {}}  # the field says what is wrong
        return {**data, "soup": soup, "recipe": soup.recipe()}

    @model_validator(mode="after")
    def _the_winner_alone_is_recovered(self) -> "Config":
        if "recover" in self.recipe:
            raise ValueError("recipe.recover: put it beside recipe: a search recovers its winner, not every candidate")
        if self.recover and self.builder:
            raise ValueError("recover: found beside builder, expected a model of transformers")
        return self

    @model_validator(mode="after")
    def _builder_goes_with_the_tasks(self) -> "Config":
        if self.builder is None:
            return self
        for key in ("quantization", "ensemble"):
            if getattr(self.evaluate, key):
                raise ValueError(f"evaluate.{key}: found beside builder, expected a model of transformers")
        for entry in [*self.evaluate.tasks, *self.evaluate.test_tasks]:
            if entry.evaluator in EVALUATORS.keys() - OF_ANY_MODEL:
                raise ValueError(
                    f"evaluate: task {entry.options.task!r}: {entry.evaluator} needs a model of transformers, found "
                    f"builder; expected {' or '.join(sorted(OF_ANY_MODEL))}, or an evaluator of your own"
                )
        return self

    @classmethod
    def read(cls, file: Path, **overrides: Any) -> "Config":
        """Reads a config file; ``overrides`` are the command line's values, None for those that are not given."""
        return parse(cls, read_sections(file, **overrides), str(file))

    def dump(self) -> dict[str, Any]:
        """The config as a mapping that can be written as YAML, with defaults filled in."""
        data = self.model_dump(exclude_none=True)
        if self.soup:
            del data["recipe"]
            data["search"] = {key: value for key, value in data["search"].items() if key in WITH_A_SOUP}
        for key in ("tasks", "test_tasks"):
            data["evaluate"][key] = [_flat(task) for task in data["evaluate"][key]]
        return data


def read_sections(file: Path, **overrides: Any) -> Any:
    """The unchecked content of a config file, with the command line's values; see ``Config.read``.

    The override ``values`` has those of the form ``KEY=VALUE``. Raises UserError for a recipe.
    """
    data = read_yaml(file)
    if not isinstance(data, dict):
        return data
    if "merge_method" in data and not {"recipe", "evaluate"} & data.keys():
        raise UserError(
            f"{file}: is a recipe, not a config: `mergesearch merge {file} OUT` writes its model; a config has a "
            "recipe under recipe:, and tasks under evaluate:"
        )
    with located(str(file)):
        data = absolute_paths(data, folder_of(file))
        return with_values(_overridden(data, file.stem, overrides), overrides.get("values", ()), Config)


def _overridden(data: dict[str, Any], stem: str, overrides: dict[str, Any]) -> dict[str, Any]:
    keys_of = {"search": ("trials", "timeout", "seed", "storage", "artifacts"), "output": ("name",)}
    data = {**data, "output": data.get("output", {"name": stem})}
    data |= {key: overrides[key] for key in ("trust", "workers") if overrides.get(key)}
    if overrides.get("track"):
        data["track"] = list(overrides["track"])
    for section, keys in keys_of.items():
        values = {key: overrides[key] for key in keys if overrides.get(key) is not None}
        if values and isinstance(data.setdefault(section, {}), dict):
            data[section] = {**data[section], **values}
    return data


def _flat(task: dict[str, Any]) -> dict[str, Any]:
    return {**{key: value for key, value in task.items() if key != "options"}, **task["options"]}

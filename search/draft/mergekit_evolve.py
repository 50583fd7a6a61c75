"""Translates the config of mergekit-evolve: a genome, and the tasks that it is scored on.

Source: docs/evolve.md of https://github.com/arcee-ai/mergekit.
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.references import ModelName
from mergesearch.merge_ops.inputs.chat_templates import stored_template
from mergesearch.parsing import Strict, parse
from mergesearch.reading import read_json_object
from mergesearch.search.draft.draft import Draft, as_in
from mergesearch.search.draft.sections import SPLIT, places_of, run_name, with_notes

PARAMETERS = {
    "linear": ("weight",),
    "task_arithmetic": ("weight",),
    "ties": ("weight", "density"),
    "dare_ties": ("weight", "density"),
    "slerp": ("t",),
}
NORMALIZED = ("linear", "ties", "dare_ties")
TRIALS = 100
"""mergekit-evolve's ``--max-fevals``, where the command line does not say otherwise."""
OTHER_KEYS = {
    "shuffle": "which items are scored follows from a hash of their content",
    "random_init": "the sampler chooses where it begins",
}


class Genome(Strict):
    """The section ``genome``."""

    models: list[ModelName]
    merge_method: str
    base_model: ModelName | None = None
    tokenizer_source: str | None = None
    layer_granularity: int = 0
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: list[str] | None = None
    smooth: bool = False


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class EvolveTask(Strict):
    """One of the ``tasks``."""

    name: str
    weight: float = 1.0
    metric: str = "acc,none"


class Evolve(Strict):
    """A config of mergekit-evolve."""

    genome: Genome
    tasks: list[Annotated[EvolveTask, BeforeValidator(_named)]] = Field(default_factory=list)
    limit: int | None = Field(None, ge=1)
    num_fewshot: int | None = Field(None, ge=0)
    shuffle: bool | None = None
    random_init: bool | None = None
    apply_chat_template: bool = True
    fewshot_as_multiturn: bool = True


def translated(data: dict[str, Any], source: Path, file: Path, tasks: Sequence[dict[str, Any]]) -> Draft:
    """See ``translation.translated``."""
    evolve = parse(Evolve, data, str(source))
    genome = evolve.genome
    if genome.merge_method not in PARAMETERS:
        raise UserError(
            f"{source}: genome.merge_method: found {genome.merge_method!r}, expected one of {', '.join(PARAMETERS)}"
        )
    notes: dict[str, list[str]] = {"": [f"From {source.name}, a config of mergekit-evolve."]}
    recipe = _recipe(genome, source, file, notes)
    evaluate = _evaluate(evolve, source, tasks, notes)
    notes["search.trials"] = ["mergekit-evolve's --max-fevals is 100. `sampler: cmaes` is what it uses."]
    notes[""] += [f"{key} has no counterpart: {why}." for key, why in OTHER_KEYS.items() if key in data]
    config = {
        "recipe": recipe,
        "evaluate": evaluate,
        "search": {"trials": TRIALS},
        "output": {"name": run_name(file.stem)},
    }
    return Draft(config, with_notes(notes))


def _recipe(genome: Genome, source: Path, file: Path, notes: dict[str, list[str]]) -> dict[str, Any]:
    names = {name: as_in(file, name, places_of(source)) for name in (*genome.models, genome.base_model) if name}
    groups = _groups(genome, source, notes)
    method, base = genome.merge_method, genome.base_model
    holes = {name: _hole(genome, name, groups) for name in PARAMETERS[method]}
    models = [name for name in genome.models if name != base or method == "linear"]
    recipe: dict[str, Any] = {"merge_method": method}
    if method == "slerp":
        return {**recipe, **_slerp(models, base, names, groups, notes)}
    if base is not None and method != "linear":
        recipe["base_model"] = names[base]
        if len(models) < len(genome.models):
            notes["recipe.base_model"] = ["The base is no model beside itself: what it changed is zero."]
    elif base is not None:
        notes["recipe.models"] = ["base_model has no counterpart: linear has no base."]
    recipe["models"] = [{"model": names[name], "parameters": holes} for name in models]
    normalize = genome.normalize if genome.normalize is not None else method in NORMALIZED
    recipe["parameters"] = {"normalize": normalize}
    notes["recipe.parameters"] = ["int8_mask has no counterpart: masks take no memory of their own."]
    notes.setdefault("recipe.models", []).append("mergekit-evolve has no bounds; these are the ranges worth searching.")
    return {**recipe, **_rest(genome, source, file, notes)}


def _rest(genome: Genome, source: Path, file: Path, notes: dict[str, list[str]]) -> dict[str, Any]:
    notes["recipe.dtype"] = ["mergekit-evolve's merges have this dtype, whatever that of the models is."]
    found: dict[str, Any] = {"dtype": "bfloat16"}
    if genome.tokenizer_source:
        is_word = genome.tokenizer_source in ("base", "union")
        name = genome.tokenizer_source
        found["tokenizer_source"] = name if is_word else as_in(file, name, places_of(source))
    return found


def _slerp(
    models: Sequence[str], base: str | None, names: dict[str, str], groups: dict[str, Any], notes: dict[str, list[str]]
) -> dict[str, Any]:
    """For two models slerp; mergekit-evolve chooses the two with the largest weights of more."""
    every = list(dict.fromkeys([*([base] if base else []), *models]))
    if len(every) == 2:
        t = {"search": [0.0, 1.0], **groups}
        pair = [{"model": names[name]} for name in every]
        return {"base_model": names[every[0]], "models": pair, "parameters": {"t": t}, "dtype": "bfloat16"}
    notes["recipe.merge_method"] = [
        "mergekit-evolve merges, in each group of layers, the two models of the largest weights by slerp. That has no "
        "counterpart; multislerp is the mean of all of them on the sphere."
    ]
    hole = {"search": [0.0, 1.5], **groups}
    entries: list[dict[str, Any]] = [{"model": names[name], "parameters": {"weight": hole}} for name in models]
    return {"merge_method": "multislerp", "models": entries, "dtype": "bfloat16"}


def _hole(genome: Genome, name: str, groups: dict[str, Any]) -> Any:
    """The values of a parameter of a model: one for each filter, and for each group of layers."""
    low = -0.5 if genome.allow_negative_weights else 0.0
    high = 1.0 if genome.merge_method == "linear" else 1.5
    hole = {"search": [0.1, 1.0] if name == "density" else [low, high], **groups}
    if not genome.filters:
        return hole
    return [*({"filter": part, "value": dict(hole)} for part in genome.filters), {"value": dict(hole)}]


def _groups(genome: Genome, source: Path, notes: dict[str, list[str]]) -> dict[str, Any]:
    """The keys of a hole for each group of layers."""
    if genome.layer_granularity < 1:
        return {}
    layers = next(filter(None, (_layers(name, source) for name in genome.models)), None)
    if layers is None:
        notes.setdefault("recipe.models", []).append(
            f"layer_granularity: {genome.layer_granularity} is left out: the models' number of layers is not known "
            f"here. Add `layers: N` beside each search, N = layers / {genome.layer_granularity}."
        )
        return {}
    count = ceil(layers / genome.layer_granularity)
    if count == 1:
        return {}
    return {"curve": count} if genome.smooth else {"layers": "each" if count == layers else count}


def _layers(name: str, source: Path) -> int | None:
    for place in places_of(source):
        file = place / name / "config.json"
        if file.is_file():
            config = read_json_object(file)
            return next((int(config[key]) for key in ("num_hidden_layers", "n_layer") if key in config), None)
    return None


def _evaluate(
    evolve: Evolve, source: Path, tasks: Sequence[dict[str, Any]], notes: dict[str, list[str]]
) -> dict[str, Any]:
    common: dict[str, Any] = {} if evolve.num_fewshot is None else {"num_fewshot": evolve.num_fewshot}
    if evolve.apply_chat_template and _has_template(evolve.genome, source, notes):
        common |= {"apply_chat_template": True, "fewshot_as_multiturn": evolve.fewshot_as_multiturn}
    given = [_task(entry, notes) for entry in evolve.tasks]
    evaluate: dict[str, Any] = {"tasks": [*tasks] or [{**entry, **common} for entry in given], "split": dict(SPLIT)}
    if evolve.limit:
        evaluate["limit"] = 2 * evolve.limit
        notes["evaluate.limit"] = [f"limit: {evolve.limit} items for the search, and as many for the verdict."]
    notes["evaluate.tasks"] = [
        *notes.get("evaluate.tasks", ()),
        "mergekit-evolve's --task-search-path is `include_path` here.",
    ]
    return evaluate


def _task(entry: EvolveTask, notes: dict[str, list[str]]) -> dict[str, Any]:
    metric, weight = entry.metric.removesuffix(",none"), entry.weight
    if weight < 0:
        notes.setdefault("evaluate.tasks", []).append(
            f"{entry.name}: weight {weight:g} is {-weight:g} here: whether {metric} is better low is known."
        )
    return {"task": entry.name, "metric": metric, **({"weight": abs(weight)} if weight != 1 else {})}


def _has_template(genome: Genome, source: Path, notes: dict[str, list[str]]) -> bool:
    """Whether prompts can be chats, as newer versions of mergekit-evolve ask unless told otherwise."""
    folders = [place / name for name in (genome.base_model or genome.models[0],) for place in places_of(source)]
    known = [folder for folder in folders if folder.is_dir()]
    if known and stored_template(known[0]):
        return True
    why = "the model has no chat template" if known else "whether the model has a chat template is not known here"
    notes.setdefault("evaluate.tasks", []).append(
        f"mergekit-evolve asks in the chat template by default; {why}. It is `apply_chat_template: true` of a task."
    )
    return False

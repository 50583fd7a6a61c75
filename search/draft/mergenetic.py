"""Translates the config of mergenetic's scripts, which evaluate with lm-eval.

Source: ``ConfigLmEval`` and the experiments of https://github.com/tommasomncttn/mergenetic.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mergesearch.errors import UserError
from mergesearch.parsing import parse
from mergesearch.search.draft.draft import Draft, as_in, path_in
from mergesearch.search.draft.sections import BASELINES, SPLIT, places_of, run_name, with_notes

OTHER_KEYS = {
    "path_to_store_config": "results go to results/runs, or to --results",
    "path_to_store_merged_model": "candidates are built in memory",
    "mode": "scores are measured, not estimated from a few items; racing stops losing candidates early",
    "bench": "it belongs to the estimate of scores",
    "task_type": "lm-eval's tasks say how they are scored",
    "langs": "every task counts",
    "datasets": "tasks are lm-eval's, or evaluators of your own",
    "force_evaluation": "scores are kept with the run",
}


class Genetic(BaseModel):
    """The keys of a config of mergenetic that have a counterpart."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    run_id: str | None = None
    pop_size: int = Field(1, ge=1)
    n_iter: int = Field(1, ge=1)
    base_model: str | None = None
    models: dict[str, str] | list[str]
    dtype: str | None = None
    device: str | None = None
    metric: str = "acc"
    tasks: dict[str, dict[str, str]] | list[str] | None = None
    additional_templates_folder: str | None = None
    eval_batch_size: int | None = None
    seed: int | None = None
    n_samples: int | None = None
    load_in_4bit: bool = False


def translated(data: dict[str, Any], source: Path, file: Path, tasks: Sequence[dict[str, Any]]) -> Draft:
    """See ``translation.translated``."""
    notes: dict[str, list[str]] = {"": [f"From {source.name}, a config of mergenetic."]}
    genetic = parse(Genetic, data, str(source))
    notes[""] += [f"{key} has no counterpart: {why}." for key, why in OTHER_KEYS.items() if key in data]
    config: dict[str, Any] = {
        "recipe": _recipe(genetic, source, file, notes),
        "evaluate": _evaluate(genetic, source, file, tasks, notes),
        "search": _search(genetic, notes),
        "output": {"name": run_name(genetic.run_id or file.stem)},
    }
    if (genetic.device or "").startswith("cuda"):
        config["device"] = "auto"
        notes["device"] = [f"{genetic.device}: choose the GPU with CUDA_VISIBLE_DEVICES."]
    return Draft(config, with_notes(notes))


def _recipe(data: Genetic, source: Path, file: Path, notes: dict[str, list[str]]) -> dict[str, Any]:
    base = data.base_model
    given = dict.fromkeys(_values(data.models))
    models = [as_in(file, name, places_of(source)) for name in given if name != base]
    if not base or not models:
        raise UserError(f"{source}: found base_model {base!r} and {len(models)} other models, expected both")
    dtype = {"dtype": data.dtype.removeprefix("torch.")} if data.dtype else {}
    notes["recipe.merge_method"] = [
        "mergenetic's script chooses the merger, not its config; this is that of its examples."
    ]
    if len(models) == 1:
        name = as_in(file, base, places_of(source))
        t = {"search": [0.0, 1.0], "curve": 3}
        entries: list[dict[str, Any]] = [{"model": name}, {"model": models[0]}]
        return {"merge_method": "slerp", "base_model": name, "models": entries, "parameters": {"t": t}, **dtype}
    parameters = {"weight": {"search": [0.0, 1.5]}, "density": {"search": [0.1, 1.0]}}
    entries = [{"model": model, "parameters": parameters} for model in models]
    if len(models) < len(given):
        notes["recipe.base_model"] = ["The base is no model beside itself: what it changed is zero."]
    base_model = as_in(file, base, places_of(source))
    return {"merge_method": "dare_ties", "base_model": base_model, "models": entries, **dtype}


def _values(found: Any) -> Iterable[Any]:
    return found.values() if isinstance(found, Mapping) else found or ()


def _evaluate(
    data: Genetic, source: Path, file: Path, tasks: Sequence[dict[str, Any]], notes: dict[str, list[str]]
) -> dict[str, Any]:
    evaluate: dict[str, Any] = {}
    if data.additional_templates_folder:
        evaluate["include_path"] = path_in(file, data.additional_templates_folder, places_of(source))
        notes["evaluate.include_path"] = ["The folder is relative to mergenetic's own folder there."]
    if data.eval_batch_size:
        evaluate["batch_size"] = data.eval_batch_size
    evaluate |= {"tasks": [*tasks], "split": dict(SPLIT)} if tasks else _tasks(data, notes)
    if data.n_samples:
        notes["evaluate.tasks"] = [
            *notes.get("evaluate.tasks", ()),
            f"n_samples: {data.n_samples} has no counterpart: candidates are scored on all search items, and "
            "losing ones stop early. `limit: N` uses fewer items.",
        ]
    if data.load_in_4bit:
        notes["evaluate"] = ["load_in_4bit: `quantization: 4bit` scores candidates as bitsandbytes quantizes them."]
    return evaluate


def _tasks(data: Genetic, notes: dict[str, list[str]]) -> dict[str, Any]:
    """The tasks of the search, and those of the test where they are others."""
    found, metric = data.tasks, data.metric
    if not isinstance(found, Mapping):
        notes["evaluate.aggregate"] = ["A list of tasks is mergenetic's problem of several objectives."]
        several = {"aggregate": "pareto"} if len(list(found or ())) > 1 else {}
        return {"tasks": [_task(name, metric) for name in dict.fromkeys(found or ())], "split": dict(SPLIT), **several}
    searched, tested = (
        list(dict.fromkeys(str(name) for key, name in (found.get(side) or {}).items() if key != "base"))
        for side in ("search", "test")
    )
    if not tested or tested == searched:
        return {"tasks": [_task(name, metric) for name in searched], "split": dict(SPLIT)}
    return {
        "tasks": [_task(name, metric) for name in searched],
        "test_tasks": [_task(name, metric) for name in tested],
    }


def _task(name: object, metric: str) -> dict[str, Any]:
    return {"task": str(name), "metric": metric}


def _search(data: Genetic, notes: dict[str, list[str]]) -> dict[str, Any]:
    scored = data.pop_size * data.n_iter
    notes["search.trials"] = [
        f"pop_size {data.pop_size} x n_iter {data.n_iter} = {scored} candidates, at least {BASELINES}."
    ]
    return {"trials": BASELINES + max(scored, BASELINES), **({} if data.seed is None else {"seed": data.seed})}

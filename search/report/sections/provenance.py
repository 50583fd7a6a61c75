"""How the run was computed: seeds, versions, machine, time and cost; and its config."""

from collections.abc import Mapping
from typing import Any

from mergesearch.merge_ops.inputs.memory import size
from mergesearch.parsing import dump_yaml
from mergesearch.search.candidates.gradient.start import items_looked_at, seconds_descended
from mergesearch.search.report.page.elements import code, definitions, details, section
from mergesearch.search.scoring.cost import spoken
from mergesearch.search.study import trials as t
from mergesearch.search.study.database import without_password
from mergesearch.search.study.environment import Environment, read_environments
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.study.stopping import seconds_spent
from mergesearch.search.verdict.result import Verdict


def provenance(store: RunStore, _: Verdict) -> str:
    """The facts, and the config to be unfolded."""
    config: Mapping[str, Any] = store.study.user_attrs.get(t.CONFIG, {})
    facts = {**_seeds(config), **_time(store), **_machines(read_environments(store.folder.path))}
    return section("How it was computed", definitions(facts), details("The config", _config(config)))


def _seeds(config: Mapping[str, Any]) -> dict[str, str]:
    search, split = config.get("search", {}), config.get("evaluate", {}).get("split") or {}
    seeds = {"search": search.get("seed"), "split": split.get("seed")}
    return {"seeds": ", ".join(f"{name} {seed}" for name, seed in seeds.items() if seed is not None)}


def _time(store: RunStore) -> dict[str, str]:
    """When the trials were, and what they took; the verdict is not counted."""
    finished = [trial for trial in t.finished(store.study) if trial.datetime_start and trial.datetime_complete]
    if not finished:
        return {}
    begin = min(trial.datetime_start for trial in finished if trial.datetime_start)
    end = max(trial.datetime_complete for trial in finished if trial.datetime_complete)
    steps = {
        step: sum(trial.user_attrs.get(t.SECONDS, {}).get(step, 0.0) for trial in finished)
        for step in ("build", "score", "processor")
    }
    items = sum(map(t.items_of, finished))
    per_item = f", {1000 * steps['score'] / items:.2g} ms each" if items else ""
    descent = items_looked_at(store.folder)
    gradients = {"gradients": f"{spoken(seconds_descended(store.folder))}, on {descent:,} items"} if descent else {}
    return {
        "trials": f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, {spoken(seconds_spent(store.study))} of work",
        "building": spoken(steps["build"]),
        "scoring": f"{spoken(steps['score'])}, {items:,} items{per_item}; {spoken(steps['processor'])} of processors",
        **gradients,
    }


def _machines(environments: list[Environment]) -> dict[str, str]:
    facts = {}
    for number, each in enumerate(environments, 1):
        mark = f" {number}" if len(environments) > 1 else ""
        memory = f", {size(each.memory)} of memory" if each.memory else ""
        device = "" if each.device == "cpu" else f"{each.device}; "
        threads = f"{each.threads} thread{'s' * (each.threads > 1)} on {each.processors} processors"
        facts[f"machine{mark}"] = f"{device}{each.processor}, {threads}{memory}; {each.system}"
        facts[f"versions{mark}"] = ", ".join(f"{name} {version}" for name, version in each.versions.items())
    return facts


def _config(config: Mapping[str, Any]) -> str:
    search = dict(config.get("search", {}))
    if search.get("storage"):
        search["storage"] = without_password(search["storage"])
    return code(dump_yaml({**config, "search": search}), "config") if config else ""

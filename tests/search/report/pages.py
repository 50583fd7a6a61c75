"""A run folder that no search made, for tests of its report: many trials, some stopped early, and a verdict."""

from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from mergesearch.search.across.curve import Curve, TaskCurve
from mergesearch.search.report.html import write_report
from mergesearch.search.statistics import Estimate, Outcome
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.run_store import RunStore
from mergesearch.search.verdict.comparison import Comparison, Evidence
from mergesearch.search.verdict.result import CandidateRow, Verdict

from .kept import keep_items, keep_layers

LAYERS = 20
MODELS = ("code", "chat")
NASTY = "</script><img src=x onerror=alert(1)>"
RECIPE = {
    "merge_method": {"search": ["linear", "ties"]},
    "base_model": "models/base",
    "models": [
        {
            "model": f"models/{model}",
            "parameters": {
                "weight": [
                    {"filter": "mlp", "value": {"search": [0.0, 1.0], "layers": "each"}},
                    {"value": {"search": [0.0, 1.0], "curve": 2}},
                ]
            },
        }
        for model in MODELS
    ],
}
DIMENSIONS: dict[str, BaseDistribution] = {
    "merge_method": CategoricalDistribution(["linear", "ties"]),
    **{f"{m}.weight.mlp[{n}]": FloatDistribution(0.0, 1.0) for m in MODELS for n in range(LAYERS)},
    **{f"{m}.weight.rest[{n}]": FloatDistribution(0.0, 1.0) for m in MODELS for n in range(2)},
}
METRICS = {"a": "acc", "texts": "bits_per_byte", "a_task_of_a_long_name_indeed": "exact_match,strict-match"}
DECISIVE = "code.weight.mlp[3]"
"""The dimension that decides what a trial is worth."""
WRITTEN = "merge_method: linear\nmodels:\n- {model: models/code, parameters: {weight: 0.5}}\n"


def made_report(results: Path, trials: int = 60, baselines: int = 6) -> Path:
    """The folder of a run with its report; a third of the trials that are no baselines were stopped early."""
    store = made_store(results, trials, baselines)
    verdict = made_verdict(store)
    keep_layers(store.folder.path, verdict, MODELS, LAYERS)
    keep_items(store.folder.path, verdict, NASTY)
    write_report(store, verdict)
    return store.folder.path


def made_store(results: Path, trials: int = 60, baselines: int = 6) -> RunStore:
    """A run's study."""
    folder = RunFolder(results / "many-layers")
    folder.path.mkdir(parents=True)
    study = optuna.create_study(direction="maximize")
    study.set_user_attr(
        t.CONFIG, {"recipe": RECIPE, "search": {"seed": 7, "storage": "postgresql://me:secret@host/db"}}
    )
    rng = np.random.default_rng(0)
    study.add_trials([_trial(rng, number, number < baselines) for number in range(trials)])
    return RunStore(folder, study, {})


def _trial(rng: np.random.Generator, number: int, is_baseline: bool) -> FrozenTrial:
    params = {name: float(rng.random()) for name in DIMENSIONS} | {"merge_method": str(rng.choice(["linear", "ties"]))}
    value = 0.5 + 0.2 * float(params[DECISIVE]) + 0.02 * rng.standard_normal()
    stopped = not is_baseline and number % 3 == 0
    name = NASTY if number == 1 else f"models/organisation/a-long-name-of-a-model-{number}"
    attributes = {
        t.KIND: t.BASELINE if is_baseline else t.SAMPLED,
        **({t.NAME: name} if is_baseline else {}),
        t.RECIPE: WRITTEN,
        t.PHENOTYPE: str(number),
        t.ITEMS: 100 if stopped else 1000,
        t.VALUES: {"a": value, "b": value},
        t.SECONDS: {"build": 0.5, "score": 2.0, "processor": 3.0},
    }
    return create_trial(
        state=TrialState.PRUNED if stopped else TrialState.COMPLETE,
        value=value,
        params=params,
        distributions=DIMENSIONS,
        user_attrs=attributes,
    )


def made_verdict(store: RunStore) -> Verdict:
    """The verdict of such a run: its best trial is proven better than its baselines."""
    best = t.best([trial for trial in t.contenders(store.study) if t.kind_of(trial) == t.SAMPLED])
    baselines = t.of_kind(store.study, t.BASELINE)
    finished = t.finished(store.study)
    rows = [_row(trial) for trial in baselines]
    difference = Estimate(0.03, 0.01, 0.05)
    return Verdict(
        sentence=f"Use {t.label_of(best)}: it is proven better than every baseline.",
        beyond_chance=True,
        recommended=t.label_of(best),
        difference=difference,
        p=0.001,
        search_difference=Estimate(0.04, 0.02, 0.06),
        optimism=0.01,
        test_items=1000,
        trials=len(finished),
        stopped=len(t.stopped(store.study)),
        items_spent=sum(map(t.items_of, finished)),
        items_in_full=1000 * len(finished),
        test_looks=1,
        winner=_row(best),
        best_baseline=rows[0].name,
        comparisons=[Comparison(row.name, difference, 0.001, difference, 0.002) for row in rows],
        baselines=rows,
        metrics=METRICS,
        evidence=[Evidence(task, 500, 400, 0.5) for task in ("a", "b")],
        warnings=[f"a warning of {NASTY}"],
    )


def _row(trial: FrozenTrial) -> CandidateRow:
    value = t.score_of(trial)
    estimate = Estimate(value, value - 0.02, value + 0.02)
    tasks = {task: {"search": value, "test": value, "all": value} for task in METRICS}
    return CandidateRow(t.label_of(trial), trial.number, "ties", estimate, estimate, tasks)


def made_curve() -> Curve:
    """A curve of three tasks with hostile names, of which the first is proven to be better in the middle."""
    points = [n / 10 for n in range(11)]
    curves = []
    for task, height in ((NASTY, 0.2), ("a_task_of_a_long_name_indeed", 0.0), ("texts", -0.1)):
        levels = [0.5 + height * 4 * x * (1 - x) for x in points]
        values = [Estimate(level, level - 0.02, level + 0.02) for level in levels]
        differences = [Estimate(each - 0.5, each - 0.53, each - 0.47) for each in levels]
        outcomes = [Outcome(each, 0.001, each, 0.001) for each in differences]
        curves.append(TaskCurve(task, "acc", True, 1000, values, outcomes, outcomes))
    return Curve("wise-ft", f"model.{NASTY}", False, points, curves, [WRITTEN] * len(points), [f"a note of {NASTY}"])

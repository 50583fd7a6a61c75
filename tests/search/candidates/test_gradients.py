"""The gradient start: slopes against finite differences, what it looks at, and what a run makes of it."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from click.testing import CliRunner
from optuna.trial import FrozenTrial, TrialState, create_trial
from safetensors.torch import load_file, save_file

from mergesearch.errors import UserError
from mergesearch.evaluators import Item, LoadedModel
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.merge_ops.engine.engine import Engine
from mergesearch.parsing import dump_yaml
from mergesearch.search.candidates.gradient.calibration_loss import CalibrationLoss
from mergesearch.search.candidates.gradient.chart import Chart
from mergesearch.search.candidates.gradient.feasibility import StartChoice
from mergesearch.search.candidates.gradient.start import FILE, Descent, bandwidth_of, items_worth
from mergesearch.search.candidates.gradient.validation import Validation
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.cli import main
from mergesearch.search.config import Config
from mergesearch.search.optimize.callbacks import Watcher
from mergesearch.search.problem.problem import Problem, open_problem
from mergesearch.search.run import run
from mergesearch.search.scoring.live_model import open_engine
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder

from ...evaluators.helpers import widen_norms
from ...evaluators.lm_eval_tasks import MULTIPLE_CHOICE, choice_docs, write_task
from ...tolerances import close, path_length
from ..helpers import Data, go, killed, session_of


@pytest.fixture(scope="session")
def wide_models(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints in float64, with task vectors that are not small."""
    folder = tmp_path_factory.mktemp("wide")
    base = load_file(models / "base" / "model.safetensors")
    for name in ("base", "one", "two"):
        (folder / name).mkdir()
        for file in (models / name).iterdir():
            (folder / name / file.name).write_bytes(file.read_bytes())
        tensors = load_file(models / name / "model.safetensors")
        moved = {key: (base[key] + 3 * (value - base[key])).double() for key, value in tensors.items()}
        save_file(moved, folder / name / "model.safetensors", {"format": "pt"})
        config = json.loads((folder / name / "config.json").read_text())
        (folder / name / "config.json").write_text(json.dumps(config | {"dtype": "float64"}))
    return folder


STEP = 0.005
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
FORMS: dict[str, tuple[str, Any, Data]] = {
    "one value": ("task_arithmetic", {"search": [0.0, 1.5]}, {}),
    "curve": ("task_arithmetic", {"search": [0.0, 1.5], "curve": 3}, {}),
    "layers": ("task_arithmetic", {"search": [0.0, 1.5], "layers": "each"}, {}),
    "filters": (
        "task_arithmetic",
        [{"filter": "mlp", "value": {"search": [0.0, 1.5], "curve": 2}}, {"value": {"search": [0.0, 1.5]}}],
        {},
    ),
    "a factor on all": ("task_arithmetic", {"search": [0.0, 1.5]}, {"lambda": {"search": [0.3, 1.5]}}),
    "linear": ("linear", {"search": [0.1, 1.5]}, {}),
    "multislerp": ("multislerp", {"search": [0.1, 1.5]}, {}),
}


def wide_problem(config: Data, wide_models: Path, form: str, **search: Any) -> Problem:
    method, weight, shared = FORMS[form]
    entries = [{"model": str(wide_models / name), "parameters": {"weight": weight}} for name in ("one", "two")]
    recipe: Data = {"merge_method": method, "models": entries, "parameters": shared}
    if method == "task_arithmetic":
        recipe["base_model"] = str(wide_models / "base")
    data = config | {"recipe": recipe, "search": {"start": "gradient", **search}}
    return open_problem(Config.model_validate(data), "config")


def parts_of(problem: Problem) -> tuple[Engine, Chart, CalibrationLoss]:
    engine = open_engine(problem, takes_gradients=True)
    widen_norms(engine.model)
    settings = problem.config.search.gradient
    model = LoadedModel(engine.model, engine.tokenizer)
    loss = CalibrationLoss(problem.tasks, model, settings.items, settings.loss, 0)
    method = problem.space.methods[0]
    return engine, Chart(problem.space, engine, method, problem.space.start(method, {"weight": 0.4})), loss


def assert_slopes(problem: Problem, engine: Engine, chart: Chart, calibration: CalibrationLoss) -> None:
    """The slopes are differences by five points, at the usual settings and elsewhere.

    Rounding is far below what the steps themselves are off by, their own and the chart's over a thousandth of a range:
    some hundred-thousandths of the slope where a map is not affine.
    """
    (task,) = problem.tasks

    def loss_at(units: np.ndarray) -> float:
        engine.build(chart.recipe(units))
        losses = calibration._targets(task, task.search).losses(
            calibration.kinds[task.name], calibration.scales[task.name]
        )
        return sum(part.item() for part in losses)

    for units in (chart.origin, np.linspace(0.25, 0.8, len(chart.origin))):
        value, found = engine.coefficient_gradients(chart.recipe(units), lambda: calibration.backward(0))
        slopes = chart.jacobian(units).T @ np.array([number for numbers in found.values() for number in numbers])
        assert value == close(loss_at(units), path_length(engine.model, 64))
        expected = [
            sum(part * loss_at(units + times * row) for times, part in STENCIL) / STEP
            for row in STEP * np.eye(len(units))
        ]
        assert max(map(abs, expected)) > 1e-3
        assert slopes == pytest.approx(expected, rel=0, abs=1e-4 * max(map(abs, expected)))


@pytest.mark.parametrize("loss", ["targets", "entropy"])
@pytest.mark.parametrize("form", FORMS)
def test_slopes_are_finite_differences(config: Data, wide_models: Path, form: str, loss: str) -> None:
    problem = wide_problem(config, wide_models, form, gradient={"loss": loss, "items": 1.0})
    assert_slopes(problem, *parts_of(problem))


@pytest.fixture
def choices(config: Data, tmp_path: Path) -> Data:
    """The config with the accuracy of choices between two answers as its task."""
    rng = random.Random(0)
    docs = [
        {**doc, "choices": doc["choices"][:2], "gold": number % 2} for number, doc in enumerate(short_docs(rng, 48))
    ]
    write_task(tmp_path, "pairs", docs, MULTIPLE_CHOICE)
    config["evaluate"] |= {"tasks": [{"task": "pairs"}], "include_path": str(tmp_path)}
    config["evaluate"]["split"]["group"] = "source"
    return config


def short_docs(rng: random.Random, count: int) -> list[Data]:
    return [{**doc, "question": doc["question"][:24]} for doc in choice_docs(rng, count)]


def test_graded_slopes_are_finite_differences(choices: Data, wide_models: Path) -> None:
    problem = wide_problem(choices, wide_models, "curve", gradient={"items": 1.0})
    engine, chart, calibration = parts_of(problem)
    assert calibration.kinds == {"pairs": "graded"}
    engine.build(chart.recipe(chart.origin))
    calibration.measure_scales(0.5, 0)
    assert_slopes(problem, engine, chart, calibration)


def test_grades_are_scaled_by_the_models_own_spread(choices: Data, wide_models: Path) -> None:
    problem = wide_problem(choices, wide_models, "curve", gradient={"items": 1.0})
    engine, chart, calibration = parts_of(problem)
    engine.build(chart.recipe(chart.origin))
    (task,) = problem.tasks
    evaluator: Any = task.evaluator
    _, margins = evaluator.score_with_margins(LoadedModel(engine.model, engine.tokenizer), task.search)
    calibration.measure_scales(0.5, 0)
    scale = 0.5 * float(margins.square().mean().sqrt())
    assert calibration.scales == {"pairs": pytest.approx(scale, rel=1e-9)}
    expected = 1 - float((margins / scale).sigmoid().mean())
    found, _ = engine.coefficient_gradients(chart.recipe(chart.origin), lambda: calibration.backward(0))
    assert found == close(expected, path_length(engine.model, 64), torch.float32)


def test_the_loss_of_texts_is_the_metric(config: Data, wide_models: Path) -> None:
    problem = wide_problem(config, wide_models, "curve")
    engine, chart, calibration = parts_of(problem)
    engine.build(chart.recipe(chart.origin))
    task, subject = problem.tasks.all[0], LoadedModel(engine.model, engine.tokenizer)
    losses = [part.item() for part in calibration._targets(task, task.search).losses("targets")]
    value = task.value("search", task.evaluator.score(subject, task.search))
    assert sum(losses) == close(value, path_length(engine.model, 64))


def test_differences_are_taken_once_where_the_map_is_affine(config: Data, wide_models: Path) -> None:
    for form, count in (("curve", 1), ("linear", 2)):
        _, chart, _ = parts_of(wide_problem(config, wide_models, form))
        known = [chart.jacobian(np.full(len(chart.origin), share)) for share in (0.3, 0.7)]
        assert len({id(each) for each in known}) == count, form


def test_each_pass_sees_every_search_item_once(config: Data, wide_models: Path) -> None:
    problem = wide_problem(config, wide_models, "one value", gradient={"items": 0.34})
    *_, calibration = parts_of(problem)
    task = problem.tasks.all[0]
    count = round(0.34 * len(task.search))
    steps = len(task.search) // count
    passes = [[item for step in range(steps) for item in calibration.items(task, steps * n + step)] for n in (0, 1)]
    for items in passes:
        assert len(set(items)) == len(items) > len(task.search) - count
    assert passes[0] != passes[1]


@pytest.fixture
def guided(config: Data) -> Data:
    config["recipe"]["merge_method"] = {"search": ["ties", "task_arithmetic"]}
    gradient = {"steps": 6, "items": 0.5, "points": 3}
    config["search"] = {"trials": 17, "levels": "none", "start": "gradient", "gradient": gradient}
    return config


def course(results: Path) -> list[tuple[Any, ...]]:
    trials = t.finished(RunFolder(results / "small").open_study(None))
    return [(t.kind_of(trial), trial.user_attrs.get(t.NAME), trial.params, trial.value) for trial in trials]


@pytest.mark.parametrize("rate", [0.2, 0.1])
def test_legs_follow_while_they_pay_on_items_that_they_do_not_follow(guided: Data, tmp_path: Path, rate: float) -> None:
    guided["search"]["gradient"]["learning_rate"] = rate
    go(guided, tmp_path)
    kept, rows = json.loads((tmp_path / "small" / FILE).read_text()), course(tmp_path)
    places = [place for place, row in enumerate(rows) if row[0] == t.GRADIENT]
    assert places
    assert [rows[place][1] for place in places] == ["step 2", "step 4", "step 6"][: len(places)]
    assert [rows[place][2] for place in places] == list(kept["points"].values())
    assert kept["method"] == "task_arithmetic", "the one that is linear, although it is named last"
    assert kept["exact"]
    assert kept["loss"] == {"text": "targets"}
    assert kept["seconds"] > 0
    assert len(kept["losses"]) == 2 * len(places)
    folder, tasks = RunFolder(tmp_path / "small"), open_problem(Config.model_validate(guided), "config").tasks
    validation = Validation(tasks, folder, 0)
    assert kept["items"] == 2 * len(places) * round(0.5 * len(validation.followed["text"]))
    trials = t.finished(folder.open_study(None))
    able = [place for place, row in enumerate(rows) if row[2].get("merge_method") == "task_arithmetic"]
    for place in places:
        beginning = max((n for n in able if n < place), key=lambda n: rows[n][3])
        gain = validation.gain(trials[place], trials[beginning], 0.35)
        assert gain is not None
        assert (gain.value > 0) == (place != places[-1]) or len(places) == 3
    begun = [t.BASELINE] * 11 + [t.GRADIENT] * len(places)
    assert [row[0] for row in rows] == begun + [t.SAMPLED] * (16 - len(begun)) + [t.CENTRE]


def test_a_descent_that_pays_to_the_end_has_so_many_legs(
    guided: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bandwidths = []

    def pays(_: Validation, end: FrozenTrial, beginning: FrozenTrial, bandwidth: float) -> bool:
        bandwidths.append(bandwidth)
        return end.number > beginning.number

    monkeypatch.setattr(Validation, "pays", pays)
    go(guided, tmp_path)
    names = [row[1] for row in course(tmp_path) if row[0] == t.GRADIENT]
    assert names == ["step 2", "step 4", "step 6"]
    assert bandwidths == [bandwidth_of(0), bandwidth_of(1)]
    assert bandwidths[0] > bandwidths[1] > 0


@pytest.mark.parametrize("every", [1, 2])
def test_a_leg_has_to_gain_its_standard_error_on_items_of_other_clusters(
    choices: Data, tmp_path: Path, every: int
) -> None:
    """Of trials that were scored in full, and of one that was stopped."""
    (task,) = tasks = open_problem(Config.model_validate(choices), "config").tasks
    folder = RunFolder(tmp_path)
    validation = Validation(tasks, folder, 0)
    followed = validation.followed["pairs"]
    judged = [item for item in task.search if item not in followed]
    assert 0 < len(judged) <= 0.25 * len(task.search)
    assert not {item.fingerprint for item in judged} & {item.fingerprint for item in followed}
    items = list(task.search)[::every]
    assert any(item in judged for item in items)
    margins = torch.tensor([-2.0, 1.0, 3.0, -0.5] * 100, dtype=torch.float64)[: len(items)]
    better = margins + 2 * torch.tensor([float(item in judged) for item in items])
    lucky = margins + 2 * torch.tensor([float(item in followed) for item in items])
    for number, numbers in enumerate((margins, better, lucky, margins - 2, 3 * margins)):
        scores = {"pairs": (numbers > 0).double()}
        folder.save_scores(t.scores_name(number), scores, {"pairs": items}, {"pairs": numbers})
    first, *others = [create_trial(state=TrialState.COMPLETE, value=0.5) for _ in range(5)]
    for number, trial in enumerate((first, *others)):
        trial.number = number
    assert [validation.pays(trial, first, 0.35) for trial in (*others, first)] == [True, False, False, False, False]
    assert validation.pays(first, None, 0.35)
    first.number = 9
    assert not validation.pays(others[0], first, 0.35), "its scores are not there"


def test_the_descent_goes_down(guided: Data, tmp_path: Path) -> None:
    guided["search"]["gradient"] = {"steps": 12, "items": 1.0, "points": 1}
    go(guided, tmp_path)
    rows = course(tmp_path)
    start = max(row[3] for row in rows if row[0] == t.BASELINE and row[2].get("merge_method") == "task_arithmetic")
    assert [row[3] for row in rows if row[0] == t.GRADIENT][-1] > start


def test_the_descent_begins_at_the_best_baseline(config: Data, models: Path, tmp_path: Path) -> None:
    """Six times the usual 0.4 is far beyond all of them."""
    weight = {"search": [0.0, 0.5]}
    for number in range(6):
        copy = tmp_path / f"two-{number}"
        copy.mkdir()
        for file in (models / "two").iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    entries = [{"model": str(tmp_path / f"two-{n}"), "parameters": {"weight": weight}} for n in range(6)]
    config["recipe"] = {"merge_method": "task_arithmetic", "base_model": str(models / "base"), "models": entries}
    gradient = {"steps": 1, "points": 1, "learning_rate": 1e-6}
    config["search"] = {"trials": 22, "start": "gradient", "gradient": gradient}
    go(config, tmp_path)
    point = next(row[2] for row in course(tmp_path) if row[0] == t.GRADIENT)
    baselines = t.of_kind(RunFolder(tmp_path / "small").open_study(None), t.BASELINE)
    best = t.best([trial for trial in baselines if trial.params])
    # But for the step that was made, of Adam's one.
    assert list(point.values()) == pytest.approx(list(best.params.values()), rel=0, abs=1e-6)


def test_only_search_items_are_looked_at(guided: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, seen = BitsPerByte.targets, set()

    def watched(self: BitsPerByte, subject: LoadedModel, items: Sequence[Item]) -> Any:
        seen.update(items)
        return targets(self, subject, items)

    monkeypatch.setattr(BitsPerByte, "targets", watched)
    plan = open_plan(Config.model_validate(guided), "config")
    run(plan, tmp_path)
    assert seen == set(plan.problem.tasks.all[0].search)


@pytest.mark.parametrize(("place", "call"), [("targets", 3), ("score", 10), ("score", 12)])
def test_killed_and_resumed(
    guided: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, call: int
) -> None:
    """In the middle of the descent, and in the trials of its points."""
    guided["search"]["sampler"] = "cmaes"
    go(guided, tmp_path / "whole")
    killed(monkeypatch, place, call, guided, tmp_path / "torn")
    go(guided, tmp_path / "torn")
    assert course(tmp_path / "torn") == course(tmp_path / "whole")


def test_the_cost_is_what_is_scored_in_the_processor_time_of_the_legs(tmp_path: Path) -> None:
    folder, study = RunFolder(tmp_path), optuna.create_study()
    folder.write_json(FILE, asdict(Descent("linear", True, {}, items=10, seconds=9.0, processor=3.0)))
    assert items_worth(study, folder) == 0
    for items, processor in ((100, 1.5), (50, 0.5), (0, 0.0)):
        attributes = {t.ITEMS: items, t.SECONDS: {"build": 9.0, "score": 9.0, "processor": processor}}
        study.add_trial(create_trial(value=1.0, user_attrs=attributes))
    assert items_worth(study, folder) == 225
    assert items_worth(study, RunFolder(tmp_path / "none")) == 0


def test_methods_that_trim_are_followed_by_their_surrogate(guided: Data, tmp_path: Path) -> None:
    guided["recipe"]["merge_method"] = "ties"
    guided["search"]["trials"] = 13
    verdict = go(guided, tmp_path)
    kept = json.loads((tmp_path / "small" / FILE).read_text())
    assert verdict.items_descended == kept["items"] > 0
    assert verdict.items_worth > 0
    assert f"gradients were taken on {kept['items']} more" in (tmp_path / "small" / "report.html").read_text()
    assert not kept["exact"]
    densities = {point["one.density"] for point in kept["points"].values()}
    assert len(densities) == 1, "what the surrogate overlooks stays where it was"


def test_a_descent_that_fails_is_said_and_the_search_goes_on(
    guided: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> float:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(CalibrationLoss, "backward", broken)
    guided["search"]["trials"] = 13
    said: list[str] = []
    run(open_plan(Config.model_validate(guided), "config"), tmp_path, Watcher(stage=said.append))
    assert "the gradient start failed, and the search goes on without it: OutOfMemoryError: no memory" in said
    assert json.loads((tmp_path / "small" / FILE).read_text())["reason"] == "OutOfMemoryError: no memory"
    assert course(tmp_path)[-2][0] == t.SAMPLED


def test_no_method_that_weighs(config: Data) -> None:
    config["recipe"]["merge_method"] = "arcee_fusion"
    config["recipe"]["models"] = [{"model": config["recipe"]["models"][0]["model"], "parameters": {}}]
    config["search"] = {"start": "gradient"}
    with pytest.raises(UserError, match="gradient needs a method that weighs its models; arcee_fusion: none of them"):
        open_plan(Config.model_validate(config), "config")


def test_a_method_that_weighs_only_some_tensors(guided: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As every tensor shows, of which a few are looked at before the weights are loaded."""
    session = session_of(guided, tmp_path)
    monkeypatch.setattr(Engine, "coefficients", lambda *_: None)
    with pytest.raises(UserError, match="weighs its models; task_arithmetic, ties: none of them"):
        session.prepare()


def test_quantized_candidates_have_no_gradients(config: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergesearch.search.problem.task_set.check_available", lambda: None)
    config["search"] = {"start": "gradient"}
    config["evaluate"]["quantization"] = "4bit"
    with pytest.raises(UserError, match=r"search\.start: found gradient, .* beside evaluate\.quantization: 4bit"):
        open_plan(Config.model_validate(config), "config")


def test_slices_have_no_gradients(config: Data) -> None:
    model = config["recipe"]["models"][0]["model"]
    sources = [{"model": model, "layer_range": [0, 2]}]
    config["recipe"] = {"merge_method": "passthrough", "slices": [{"sources": sources}]}
    config["search"] = {"start": "gradient"}
    with pytest.raises(UserError, match=r"search\.start: found gradient, which cannot follow slices"):
        open_plan(Config.model_validate(config), "config")


def test_no_task_with_a_loss(config: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergesearch.search.candidates.gradient.feasibility.has_targets", lambda _: False)
    config["search"] = {"start": "gradient"}
    with pytest.raises(UserError, match=r"search\.start: found gradient, but no task has a loss to take it of: text"):
        open_plan(Config.model_validate(config), "config")


def test_targets_that_no_task_knows_are_found_before_the_first_trial(
    guided: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergesearch.evaluators.inference.losses.ContinuationTargets.has_gold", False)
    guided["search"]["gradient"]["loss"] = "targets"
    with pytest.raises(UserError, match=r"search\.gradient\.loss: found targets, but no task knows"):
        go(guided, tmp_path)
    assert course(tmp_path) == []


def test_what_is_followed_and_what_is_not_is_said(guided: Data, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def whole(model, tokenizer):\n    return 1.0\n")
    guided["evaluate"]["tasks"].append({"task": "whole", "evaluator": f"{file}:whole"})
    guided["search"]["trials"] = 9
    said: list[str] = []
    run(open_plan(Config.model_validate(guided), "config"), tmp_path, Watcher(stage=said.append))
    assert "gradient start: follows the loss (targets) of text; it does not see whole, which has no such loss" in said


def test_check_says_what_would_be_followed(guided: Data, tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text(dump_yaml(guided))
    shown = CliRunner().invoke(main, ["check", str(file)])
    assert shown.exit_code == 0, shown.output
    assert "gradient start: up to 6 steps down the gradient of text" in shown.output
    assert "signal: the metric itself, because no task has margins" in shown.output


@pytest.fixture
def automatic(config: Data) -> Data:
    """What ``start: auto`` takes the gradients for."""
    config["recipe"]["merge_method"] = "task_arithmetic"
    for entry in config["recipe"]["models"]:
        entry["parameters"] = {"weight": {"search": [0.0, 1.5], "curve": 3}}
    config["search"] = {"trials": 12, "gradient": {"steps": 2, "points": 1}}
    return config


def test_auto_descends_where_there_are_many_dimensions(automatic: Data, tmp_path: Path) -> None:
    plan = open_plan(Config.model_validate(automatic), "config")
    assert plan.start == StartChoice(True, "6 dimensions, and every task has a loss")
    assert plan.takes_gradients
    run(plan, tmp_path)
    assert [row[0] for row in course(tmp_path)][10:] == [t.GRADIENT, t.SAMPLED]
    file = tmp_path / "config.yml"
    file.write_text(dump_yaml(automatic))
    shown = " ".join(CliRunner().invoke(main, ["check", str(file)]).output.split())
    assert "gradient start: up to 2 steps down the gradient of text (6 dimensions, and every task has a" in shown
    assert "gradients take" in shown


def few(data: Data) -> None:
    data["recipe"]["models"][0]["parameters"] = {"weight": 0.4}


def trimmed(data: Data) -> None:
    data["recipe"]["merge_method"] = "ties"


def without_a_loss(data: Data, folder: Path) -> None:
    (folder / "mine.py").write_text("def whole(model, tokenizer):\n    return 1.0\n")
    data["evaluate"]["tasks"].append({"task": "whole", "evaluator": f"{folder / 'mine.py'}:whole"})


def unweighed(data: Data) -> None:
    data["recipe"]["merge_method"] = "arcee_fusion"
    data["recipe"]["models"] = [{"model": data["recipe"]["models"][0]["model"], "parameters": {}}]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (few, "gradients pay from 6 dimensions on, found 3"),
        (trimmed, "gradients ignore that ties trims, drops or elects elements"),
        (without_a_loss, "whole has no loss to take gradients of"),
        (unweighed, "gradient needs a method that weighs its models; arcee_fusion: none of them does"),
    ],
)
def test_auto_says_why_it_does_not_descend(automatic: Data, tmp_path: Path, change: Any, why: str) -> None:
    change(automatic, tmp_path) if change is without_a_loss else change(automatic)
    assert open_plan(Config.model_validate(automatic), "config").start == StartChoice(False, why)
    file = tmp_path / "config.yml"
    file.write_text(dump_yaml(automatic))
    shown = CliRunner().invoke(main, ["check", str(file)])
    assert f"gradient start: none, because {why}" in " ".join(shown.output.split())


def test_auto_leaves_what_was_asked_for(automatic: Data) -> None:
    automatic["search"]["start"] = "none"
    assert open_plan(Config.model_validate(automatic), "config").start == StartChoice()


def test_auto_goes_without_what_only_the_whole_model_shows_to_be_missing(
    automatic: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "coefficients", lambda *_: None)
    said: list[str] = []
    run(open_plan(Config.model_validate(automatic), "config"), tmp_path, Watcher(stage=said.append))
    assert any(line.startswith("no gradient start: ") for line in said)
    assert [row[0] for row in course(tmp_path)][9:11] == [t.BASELINE, t.SAMPLED]

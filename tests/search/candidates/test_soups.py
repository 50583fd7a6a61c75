"""Soups: the algorithms against plain ones, whole runs of the stage, and what cannot be averaged."""

import itertools
import json
import math
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from mergesearch.errors import UserError
from mergesearch.evaluators.inference.losses import ContinuationTargets
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.gradient.calibration_loss import CalibrationLoss
from mergesearch.search.candidates.learned_soup import DIGITS, SoupLearner
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.candidates.soups import Members, Steps, follow, greedy, pruned, uniform
from mergesearch.search.cli import main
from mergesearch.search.config import Config
from mergesearch.search.scoring.live_model import open_engine
from mergesearch.search.scoring.racing.race import Result
from mergesearch.search.scoring.scorer import Scorer
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.search.study.trials import recipe_of
from mergesearch.search.verdict.result import Verdict

from ..helpers import Data, go, killed, session_of

LETTERS = tuple("abcde")
ROUNDED = 5 * 0.51 * 10**-DIGITS
"""How far five weights of so many digits may sum up from one: half a unit each, and a little for the sum."""


def table(seed: int) -> dict[frozenset[str], float]:
    rng = random.Random(seed)
    subsets = itertools.chain.from_iterable(itertools.combinations(LETTERS, n) for n in range(1, 6))
    return {frozenset(subset): rng.random() for subset in subsets}


def ranked(scores: dict[frozenset[str], float]) -> list[str]:
    return sorted(LETTERS, key=lambda letter: -scores[frozenset(letter)])


def replayed(
    recipe: Callable[[Sequence[str]], Steps], scores: dict[frozenset[str], float]
) -> tuple[Members, list[Members]]:
    """What a recipe ends with, and what it wanted scored, begun anew for every question, as a killed run does."""
    known: list[Members] = []
    order = ranked(scores)
    while True:
        soup, ended = follow(
            recipe(order), known.__contains__, lambda new, old: scores[frozenset(new)] > scores[frozenset(old)]
        )
        if ended:
            return soup, known
        assert soup not in known
        known.append(soup)


@pytest.mark.parametrize("seed", range(20))
def test_greedy_is_algorithm_1(seed: int) -> None:
    scores = table(seed)
    order = ranked(scores)
    soup = [order[0]]
    for model in order[1:]:
        if scores[frozenset([*soup, model])] > scores[frozenset(soup)]:
            soup.append(model)
    assert replayed(greedy, scores)[0] == tuple(soup)


@pytest.mark.parametrize("seed", range(20))
def test_pruned_ends_where_leaving_out_any_one_does_not_help(seed: int) -> None:
    scores = table(seed)
    soup, tried = replayed(pruned, scores)
    assert tried[0] == tuple(ranked(scores)), "it starts from all"
    assert scores[frozenset(soup)] >= scores[frozenset(LETTERS)]
    for model in soup:
        smaller = frozenset(soup) - {model}
        assert not smaller or scores[smaller] <= scores[frozenset(soup)]


def test_uniform_asks_nothing() -> None:
    assert replayed(uniform, table(0)) == (tuple(ranked(table(0))), [])


def test_members_stay_in_the_order_of_their_rank() -> None:
    for seed, recipe in itertools.product(range(10), (greedy, pruned)):
        scores = table(seed)
        order = ranked(scores)
        for soup in replayed(recipe, scores)[1]:
            assert list(soup) == sorted(soup, key=order.index)


@pytest.fixture(scope="session")
def fine_tunes(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five: the base with a little noise, more of it each time."""
    folder = tmp_path_factory.mktemp("runs")
    start = load_file(models / "base" / "model.safetensors")
    for number in range(5):
        target = folder / f"checkpoint-{[900, 1000, 1100, 80, 5][number]}"
        shutil.copytree(models / "base", target)
        generator = torch.Generator().manual_seed(number)
        noisy = {k: v + 0.003 * (number + 1) * torch.randn(v.shape, generator=generator) for k, v in start.items()}
        save_file(noisy, target / "model.safetensors", {"format": "pt"})
    return folder


def soup_config(found: Path, base: Path, texts: Path) -> Data:
    """Of the models that are found there."""
    return {
        "soup": {
            "models": str(found),
            "base": str(base),
            "kinds": ["uniform", "greedy", "greedy_gain", "greedy_safe", "pruned"],
        },
        "evaluate": {
            "tasks": [{"evaluator": "bits_per_byte", "task": "text", "files": [str(texts / "*.txt")]}],
            "split": {"search": 0.5, "test": 0.5, "seed": 0},
        },
        "output": {"name": "soup"},
    }


@pytest.fixture
def soup(models: Path, fine_tunes: Path, texts: Path) -> Data:
    return soup_config(fine_tunes, models / "base", texts)


def trials_of(results: Path) -> list[Any]:
    return t.finished(RunFolder(results / "soup").open_study(None))


def members(trial: Any) -> frozenset[str]:
    return frozenset(entry.model for entry in recipe_of(trial).models)


def ends(results: Path) -> dict[str, Any]:
    return {trial.user_attrs[t.NAME]: trial for trial in trials_of(results) if t.kind_of(trial) == t.SOUP}


@pytest.fixture(scope="module")
def whole(models: Path, fine_tunes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Data, Path, Verdict]:
    """A run that nothing disturbed."""
    place = tmp_path_factory.mktemp("whole")
    rng = random.Random(0)
    for number in range(12):
        words = ("".join(rng.choices("abcdefghij", k=4)) for _ in range(12))
        (place / f"{number:02}.txt").write_text(" ".join(words) + ".\n")
    data = soup_config(fine_tunes / "checkpoint-*", models / "base", place)
    return data, place, go(data, place)


def test_what_a_soup_run_leaves(whole: tuple[Data, Path, Verdict]) -> None:
    data, place, verdict = whole
    folder = place / "soup"
    for name in ("config.yml", "study.log", "best.yml", "verdict.json", "report.html", "model/model.safetensors"):
        assert (folder / name).exists(), name
    assert [row.name for row in verdict.soups] == [
        "uniform soup",
        "greedy soup",
        "greedy soup (gain)",
        "greedy soup (safe)",
        "pruned soup",
    ]
    assert verdict.best_baseline in {row.name for row in verdict.baselines}
    assert len(verdict.baselines) == 6
    assert Verdict.from_json(json.loads((folder / "verdict.json").read_text())) == verdict
    assert go(data, place) == verdict, "a run that has ended is only read"


def test_the_soups_follow_from_the_scores(whole: tuple[Data, Path, Verdict]) -> None:
    """Each soup by the plain algorithm, over the scores that were recorded."""
    _, place, _ = whole
    scores = {members(trial): t.score_of(trial) for trial in trials_of(place)}
    singles = [trial for trial in trials_of(place) if t.kind_of(trial) == t.BASELINE][1:]
    order = [next(iter(members(trial))) for trial in sorted(singles, key=lambda trial: -t.score_of(trial))]
    found = ends(place)
    assert members(found["uniform soup"]) == frozenset(order)
    soup = frozenset(order[:1])
    for model in order[1:]:
        if scores[soup | {model}] > scores[soup]:
            soup |= {model}
    assert members(found["greedy soup"]) == soup
    assert t.score_of(found["greedy soup"]) >= max(map(t.score_of, singles))
    assert t.score_of(found["pruned soup"]) >= t.score_of(found["uniform soup"])
    assert members(found["greedy soup (gain)"]) <= members(found["greedy soup"]) <= members(found["greedy soup (safe)"])


def test_what_was_scored_on_the_way_wins_nothing_and_is_not_judged(whole: tuple[Data, Path, Verdict]) -> None:
    _, place, verdict = whole
    steps = {trial.number for trial in trials_of(place) if t.kind_of(trial) == t.STEP}
    assert steps
    assert verdict.winner.trial not in steps
    models = {trial.user_attrs[t.PHENOTYPE] for trial in trials_of(place) if trial.number not in steps}
    judged = {file.stem.removeprefix("test-") for file in (place / "soup" / "scores").glob("test-*")}
    assert judged
    assert judged <= models


def test_every_soup_that_was_scored_is_written_again_bit_for_bit(
    whole: tuple[Data, Path, Verdict], tmp_path: Path
) -> None:
    data, place, verdict = whole
    engine = open_engine(open_plan(Config.model_validate(data), "config").problem, takes_gradients=False)
    soups = [trial for trial in trials_of(place) if t.kind_of(trial) in (t.SOUP, t.STEP)]
    assert max(len(members(trial)) for trial in soups) == 5
    for trial in soups:
        engine.build(recipe_of(trial))
        merge(recipe_of(trial), tmp_path / str(trial.number))
        assert Checkpoint(str(tmp_path / str(trial.number))).digest() == engine.digest()
    written = Checkpoint(str(place / "soup" / "model")).digest()
    engine.build(recipe_of(trials_of(place)[verdict.recommended_row.trial]))
    assert written == engine.digest()


def test_the_same_members_always_give_the_same_recipe(whole: tuple[Data, Path, Verdict]) -> None:
    recipes: dict[frozenset[str], set[str]] = {}
    for trial in trials_of(whole[1]):
        recipes.setdefault(members(trial), set()).add(trial.user_attrs[t.RECIPE])
    assert all(len(found) == 1 for found in recipes.values())


@pytest.mark.parametrize(("place", "call"), [("score", 2), ("score", 13), ("tell", 8), ("save_scores", 9)])
def test_killed_and_resumed_is_as_if_nothing_had_happened(
    whole: tuple[Data, Path, Verdict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, call: int
) -> None:
    data, results, verdict = whole
    killed(monkeypatch, place, call, data, tmp_path)
    again = go(data, tmp_path)
    assert again.winner == verdict.winner or again.winner.name == verdict.winner.name
    assert [(trial.user_attrs[t.RECIPE], trial.value) for trial in trials_of(tmp_path)] == [
        (trial.user_attrs[t.RECIPE], trial.value) for trial in trials_of(results)
    ]
    assert (tmp_path / "soup" / "best.yml").read_bytes() == (results / "soup" / "best.yml").read_bytes()


def test_more_kinds_later(soup: Data, tmp_path: Path) -> None:
    soup["soup"]["kinds"] = ["uniform"]
    soup["output"]["model"] = False
    go(soup, tmp_path)
    before = len(trials_of(tmp_path))
    soup["soup"]["kinds"] = ["uniform", "greedy"]
    verdict = go(soup, tmp_path)
    assert [row.name for row in verdict.soups] == ["uniform soup", "greedy soup"]
    assert len(trials_of(tmp_path)) > before
    assert verdict.test_looks == 2


def test_an_ingredient_that_fails_is_left_out(
    soup: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fine_tunes: Path
) -> None:
    original, calls = BitsPerByte.score, itertools.count(1)

    def sometimes(self: BitsPerByte, *args: Any) -> torch.Tensor:
        if next(calls) == 3:
            raise FloatingPointError("item 3 is not a number")
        return original(self, *args)

    monkeypatch.setattr(BitsPerByte, "score", sometimes)
    soup["soup"]["kinds"] = ["greedy", "greedy_safe"]
    soup["output"]["model"] = False
    go(soup, tmp_path)
    order = [trial.user_attrs[t.NAME] for trial in trials_of(tmp_path)]
    (failed,) = (trial for trial in trials_of(tmp_path) if t.REASON in trial.user_attrs)
    assert members(failed) == {str(fine_tunes / "checkpoint-80")}
    assert order[6].startswith("soup of checkpoint-"), "the run goes on"
    assert "checkpoint-80" not in order[6], "what failed is the last in rank"


def test_folders_globs_and_lists_in_natural_order(fine_tunes: Path, soup: Data) -> None:
    expected = [str(fine_tunes / f"checkpoint-{number}") for number in (5, 80, 900, 1000, 1100)]
    for models in (str(fine_tunes), str(fine_tunes / "checkpoint-*"), expected):
        soup["soup"]["models"] = models
        config = Config.model_validate(soup)
        assert config.soup
        assert config.soup.models == expected
        assert Config.model_validate(config.dump()) == config, "what is written is what was read"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": "nowhere/*"}, r"soup\.models: .*nowhere/\*: none of its 0 entries"),
        ({"models": "/nowhere"}, r"soup\.models: /nowhere: there is no such folder"),
        ({"lerning": {}}, "soup: unknown key 'lerning'; did you mean 'learning'"),
        ({"models": ["one"]}, "found 1 checkpoint in one, expected two or more"),
        ({"models": 3}, "expected a folder, a glob or a list"),
        ({"kinds": ["gredy"]}, "soup.kinds"),
        ({"kind": ["greedy"]}, "unknown key 'kind'; did you mean 'kinds'"),
    ],
)
def test_bad_sections(soup: Data, tmp_path: Path, change: Data, message: str) -> None:
    soup["soup"] |= change
    file = tmp_path / "soup.yml"
    file.write_text(json.dumps(soup))
    with pytest.raises(UserError, match=message):
        Config.read(file)


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ({"recipe": {"merge_method": "linear"}}, "both recipe and soup"),
        ({"search": {"trials": 3}}, r"search\.trials: found beside soup"),
    ],
)
def test_what_does_not_go_with_a_soup(soup: Data, tmp_path: Path, addition: Data, message: str) -> None:
    file = tmp_path / "soup.yml"
    file.write_text(json.dumps(soup | addition))
    with pytest.raises(UserError, match=message):
        Config.read(file)


def other_head(fine_tunes: Path, target: Path) -> None:
    shutil.copytree(fine_tunes, target)
    file = target / "checkpoint-80" / "model.safetensors"
    tensors = load_file(file)
    generator = torch.Generator().manual_seed(9)
    tensors["lm_head.weight"] = 0.02 * torch.randn(tensors["lm_head.weight"].shape, generator=generator)
    save_file(tensors, file, {"format": "pt"})


def test_heads_that_started_apart_are_found(soup: Data, fine_tunes: Path, tmp_path: Path) -> None:
    other_head(fine_tunes, tmp_path / "runs")
    soup["soup"]["models"] = str(tmp_path / "runs")
    with pytest.raises(UserError, match=r"lm_head\.weight of .*checkpoint-80 has nothing in common.*started from"):
        open_plan(Config.model_validate(soup), "config")
    soup["soup"]["check_heads"] = False
    open_plan(Config.model_validate(soup), "config")


def classifiers(folder: Path, labels: Sequence[Sequence[str]]) -> Path:
    """Tiny classifiers that are one model but for the order of their labels, and of the rows of their heads."""
    from transformers import BertConfig, BertForSequenceClassification

    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    start = BertForSequenceClassification(BertConfig(vocab_size=8, max_position_embeddings=8, **size)).state_dict()
    for number, names in enumerate(labels):
        rows = sorted(range(len(names)), key=lambda row: names[row])
        heads = {key: value[rows] for key, value in start.items() if key.startswith("classifier.")}
        names_by_id = dict(enumerate(names))
        model = BertForSequenceClassification(
            BertConfig(vocab_size=8, max_position_embeddings=8, id2label=names_by_id, **size)
        )
        model.load_state_dict({**start, **heads})
        model.save_pretrained(folder / f"checkpoint-{number}")
    return folder


def test_labels_in_another_order_are_averaged_by_name(soup: Data, tmp_path: Path) -> None:
    runs = classifiers(tmp_path / "runs", [["no", "yes"], ["yes", "no"]])
    soup["soup"] = {"models": str(runs)}
    open_plan(Config.model_validate(soup), "config")
    references = [str(runs / f"checkpoint-{number}") for number in (0, 1)]
    entries = [{"model": reference, "parameters": {"weight": 0.5}} for reference in references]
    merge(Recipe.read({"merge_method": "linear", "models": entries}), tmp_path / "out")
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (references[0], tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_other_labels_are_found(soup: Data, tmp_path: Path) -> None:
    runs = classifiers(tmp_path / "runs", [["no", "yes"], ["no", "perhaps"]])
    soup["soup"] = {"models": str(runs)}
    with pytest.raises(UserError, match=r"checkpoint-\d: has other labels \(id2label\) than .*checkpoint-\d: "):
        open_plan(Config.model_validate(soup), "config")


def test_the_command(soup: Data, tmp_path: Path) -> None:
    soup["soup"]["kinds"] = ["uniform", "greedy"]
    file = tmp_path / "mine.yml"
    file.write_text(json.dumps(soup))
    checked = CliRunner().invoke(main, ["check", str(file)])
    assert "uniform, greedy of 5 models" in checked.output, checked.output
    done = CliRunner().invoke(main, ["soup", str(file), "--results", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    for label in ("checkpoint-1000", "uniform soup", "greedy soup", "Use "):
        assert label in done.output


def test_a_config_without_soup(config_file: Path) -> None:
    done = CliRunner().invoke(main, ["soup", str(config_file)])
    assert done.exit_code == 2
    assert "soup: is missing" in done.stderr


@pytest.mark.parametrize("kind", ["learned", "learned_layers"])
def test_learned_soups_are_better_than_where_they_began(soup: Data, tmp_path: Path, kind: str) -> None:
    soup["soup"] |= {"kinds": ["uniform", kind], "learning": {"steps": 12, "learning_rate": 0.3, "items": 1.0}}
    for name in ("a", "b"):
        go(soup, tmp_path / name)
    uniform_soup, learned = ends(tmp_path / "a").values()
    assert t.score_of(learned) > t.score_of(uniform_soup)
    assert (tmp_path / "a/soup/best.yml").read_bytes() == (tmp_path / "b/soup/best.yml").read_bytes()
    recipe = recipe_of(learned)
    weights = [entry.parameters["weight"] for entry in recipe.models]
    if kind == "learned":
        assert sum(weights) == pytest.approx(1, rel=0, abs=ROUNDED)
        return
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"):
        (tensor,) = (
            tensor for tensor in recipe.resolve(session_of(soup, tmp_path).live.engine.names) if tensor.name == name
        )
        assert sum(map(float, tensor.each["weight"])) == pytest.approx(1, rel=0, abs=ROUNDED)
        shutil.rmtree(tmp_path / "soup")
    assert len({str(weight) for weight in weights}) == 5


def test_a_step_goes_down_the_losses_slope(soup: Data, tmp_path: Path) -> None:
    """The first step of Adam is a whole one in each weight, against the sign of the derivative by its α."""
    soup["soup"] |= {"kinds": ["learned"], "learning": {"steps": 1, "learning_rate": 0.01, "items": 1.0}}
    session = session_of(soup, tmp_path)
    tasks, soups = session.plan.problem.tasks, session.plan.soups
    (task,) = tasks.counted("search")
    assert soups

    def loss(alpha: torch.Tensor) -> float:
        weights = dict(zip(soups.models, alpha.softmax(0).tolist(), strict=True))
        session.live.engine.build(soups.recipe(weights, "soup"))
        return task.value("search", task.evaluator.score(session.live.loaded, task.search))

    steps = 0.3 * torch.eye(5, dtype=torch.float64)
    slopes = torch.tensor([loss(step) - loss(-step) for step in steps])
    found = SoupLearner(soups, tasks, session.live, 0).learn(by_layer=False)
    weights = torch.tensor([float(entry.parameters["weight"]) for entry in found.models])
    expected = (-0.01 * slopes.sign()).softmax(0)
    torch.testing.assert_close(weights, expected, rtol=0, atol=0.51 * 10**-DIGITS)


def test_learned_soups_need_a_loss(soup: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    soup["soup"]["kinds"] = ["learned"]
    with monkeypatch.context() as patch:
        patch.setattr(BitsPerByte, "has_targets", False)
        with pytest.raises(UserError, match=r"soup\.kinds: text has no loss to learn from; leave out the learned"):
            open_plan(Config.model_validate(soup), "config")


def test_learned_soups_need_right_answers(soup: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soup["soup"]["kinds"] = ["learned"]
    monkeypatch.setattr(ContinuationTargets, "has_gold", False)
    with pytest.raises(UserError, match="task 'text': some items have no known right answer"):
        go(soup, tmp_path)
    assert not trials_of(tmp_path)


def test_learned_soups_need_the_weights_as_they_are(soup: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergesearch.search.problem.task_set.check_available", lambda: None)
    soup["soup"]["kinds"] = ["learned"]
    soup["evaluate"]["quantization"] = "8bit"
    with pytest.raises(UserError, match=r"learned soups, which need the weights as they are.*quantization: 8bit"):
        open_plan(Config.model_validate(soup), "config")


def test_a_soup_that_cannot_be_learned_fails_alone(soup: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverged(*_: Any) -> float:
        raise FloatingPointError("not a number")

    monkeypatch.setattr(CalibrationLoss, "backward", diverged)
    soup["soup"]["kinds"] = ["learned", "uniform"]
    go(soup, tmp_path)
    found = ends(tmp_path)
    assert found["learned soup"].user_attrs[t.REASON] == "FloatingPointError: not a number"
    assert t.score_of(found["uniform soup"]) > -math.inf


def test_soups_are_a_stage_of_a_search(config: Data, tmp_path: Path) -> None:
    config["search"] |= {"soups": ["greedy_safe", "pruned"], "trials": 18}
    verdict = go(config, tmp_path)
    trials = t.finished(RunFolder(tmp_path / "small").open_study(None))
    kinds = [t.kind_of(trial) for trial in trials]
    assert len(trials) == 18
    assert [kind for kind, _ in itertools.groupby(kinds) if kind not in (t.STEP, t.SOUP)] == [
        t.BASELINE,
        t.SAMPLED,
    ]
    assert kinds.index(t.SOUP) < kinds.index(t.SAMPLED)
    assert [row.name for row in verdict.soups] == ["greedy soup (safe)", "pruned soup"]


def test_soups_and_the_steps_to_them_are_never_raced(
    config: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced = []

    def race(scorer: Scorer, *_: object) -> Result:
        raced.append(scorer._store.study.get_trials(deepcopy=False)[-1].number)
        return scorer._score_in_full()

    monkeypatch.setattr(Scorer, "_scored_by_race", race)
    config["search"] |= {"soups": ["greedy_safe"], "trials": 18}
    go(config, tmp_path)
    kinds = [t.kind_of(trial) for trial in RunFolder(tmp_path / "small").open_study(None).trials]
    assert {kinds[number] for number in raced} == {t.SAMPLED}


def test_adapters_are_applied_to_the_base(soup: Data, tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / "adapters" / f"checkpoint-{number}"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")
    soup["soup"]["models"] = str(tmp_path / "adapters")
    config = Config.model_validate(soup)
    base = soup["soup"]["base"]
    assert config.soup
    assert config.soup.references == [f"{base}+{tmp_path}/adapters/checkpoint-{number}" for number in (1, 2)]
    del soup["soup"]["base"]
    with pytest.raises(ValueError, match="checkpoint-1 is a LoRA adapter: expected base"):
        Config.model_validate(soup)

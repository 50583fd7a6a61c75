"""Stacks of layers: their encoding, the recipes they make, the sampler that changes them, and a whole search."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.study import Study

from mergesearch.errors import UserError
from mergesearch.evaluators import LoadedModel
from mergesearch.evaluators.lm_eval import hflm as _wrapped
from mergesearch.evaluators.tasks.bits_per_byte import BitsPerByte
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.engine.engine import merge
from mergesearch.merge_ops.methods import find_method
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.search.candidates.plan import open_plan
from mergesearch.search.config import Config, Search
from mergesearch.search.run import run
from mergesearch.search.samplers import SAMPLERS, Branch, SamplerRequest, branches_of, make_sampler
from mergesearch.search.samplers.schedule import plan
from mergesearch.search.samplers.stack import MOVES, StackSampler, delete, insert, plain_stacks, repeat, swap
from mergesearch.search.space.space import Space
from mergesearch.search.space.stack_encoding import LENGTH, Block, Stack, StackShape, thinned
from mergesearch.search.study import trials as t
from mergesearch.search.study.run_folder import RunFolder
from mergesearch.seeds import derive

from ..helpers import rescored, session_of

optuna.logging.set_verbosity(optuna.logging.WARNING)
Data = dict[str, Any]
METHOD = find_method("passthrough")
SHAPE = StackShape((4, 4), 2, 3, 8)
LAYERS = 4
NAMES = [f"model.layers.{i}.{part}.weight" for i in range(LAYERS) for part in ("mlp.down_proj", "mlp.up_proj")]


def blocks(text: str) -> Stack:
    """``"a0 b1"``: block 0 of the first model, block 1 of the second."""
    return tuple(Block("ab".index(word[0]), int(word[1:])) for word in text.split())


def values_of(stack: Stack, shape: StackShape = SHAPE) -> dict[str, int]:
    found = shape.encode(stack)
    assert found is not None
    return found


def space(**spec: Any) -> Space:
    spec = {"models": ["x/a", "x/b"], "length": [3, 8], **spec}
    spec = {key: value for key, value in spec.items() if value is not None}
    return Space({"merge_method": "passthrough", "slices": {"search": spec}}, LAYERS, "recipe")


def runs(recipe: Recipe) -> list[tuple[str, int, int]]:
    return [(piece.sources[0].model[-1], *piece.sources[0].layer_range) for piece in recipe.slices]


def made(found: Space, stack: str, **values: Any) -> Recipe:
    assert found.stack
    assert found.stack.shape
    names = {name.replace("_", "."): value for name, value in values.items()}
    return found.fill(METHOD, {**found.start(METHOD, {}), **values_of(blocks(stack), found.stack.shape), **names})


# The encoding


@pytest.mark.parametrize(
    "stack",
    ["a0 a1 a2 a3", "a0 a1 b2 b3", "b0 b1 a2", "a0 a1 a1 a2 a3", "a0 b0 a1 b1", "a3 b3 a0", "a0 a1 a2 b0 b1 b2"],
)
def test_a_stack_is_read_back_from_its_indicators(stack: str) -> None:
    assert SHAPE.decode(values_of(blocks(stack))) == blocks(stack)


@pytest.mark.parametrize("stack", ["a0 a1", "a0 a0 a0", "a2 a1 a0", "a0 a1 a2 a3 b0 b1 b2 b3 a0"])
def test_what_the_indicators_cannot_say(stack: str) -> None:
    """Too short, too long, or going back more often than there are passes."""
    assert SHAPE.encode(blocks(stack)) is None


def test_every_value_is_a_stack_within_the_lengths() -> None:
    rng = random.Random(0)
    for _ in range(300):
        values = {name: rng.randint(d.low, d.high) for name, d in SHAPE.distributions.items()}  # type: ignore[attr-defined]
        stack = SHAPE.decode(values)
        assert SHAPE.shortest <= len(stack) <= SHAPE.longest
        assert len(stack) <= max(values[LENGTH], SHAPE.shortest)
        assert SHAPE.decode(values_of(stack)) == stack


def test_the_shape_is_known_from_the_dimensions() -> None:
    shape = StackShape((3, 5), 3, 2, 9)
    assert StackShape.of({"x": IntDistribution(0, 1), **shape.distributions}) == shape
    assert StackShape.of({"x": IntDistribution(0, 1)}) is None


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (99, list(range(10)))]
)
def test_thinned(count: int, expected: list[int]) -> None:
    assert thinned(range(10), count) == expected


@pytest.mark.parametrize("shortest", [1, 3, 4, 5, 7, 8, 11, 16])
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_the_whole_model_fits_whatever_the_lengths(shortest: int, passes: int) -> None:
    shape = StackShape((4, 4), passes, shortest, max(shortest, 2))
    if shortest <= 8 * passes:
        stack = shape.decode(values_of(shape.whole(1), shape))
        assert shape.shortest <= len(stack) <= shape.longest
        assert len(stack) != 4 or stack == blocks("b0 b1 b2 b3")


# The recipes


def test_a_stack_becomes_slices() -> None:
    merged = made(space(), "a0 a1 b2 b3 b1 b2")
    assert (
        merged.to_yaml()
        == Recipe.read(
            {
                "merge_method": "passthrough",
                "base_model": "x/a",
                "slices": [
                    {"sources": [{"model": "x/a", "layer_range": [0, 2]}]},
                    {"sources": [{"model": "x/b", "layer_range": [2, 4]}]},
                    {"sources": [{"model": "x/b", "layer_range": [1, 3]}]},
                ],
            }
        ).to_yaml()
    )
    sources = [part.sources[0] for part in merged.resolve(NAMES) if "down" in part.name]
    assert sources == [NAMES[0], NAMES[2], NAMES[4], NAMES[6], NAMES[2], NAMES[4]]


def test_blocks_are_several_layers() -> None:
    found = space(block=2, length=[4, 6])
    assert found.stack
    assert found.stack.shape == StackShape((2, 2), 2, 2, 3)
    assert runs(made(found, "a0 b1 a1")) == [("a", 0, 2), ("b", 2, 4), ("a", 2, 4)]


def test_the_search_starts_from_the_first_model() -> None:
    assert runs(space().fill(METHOD, space().start(METHOD, {}))) == [("a", 0, 4)]
    deeper = space(length=[6, 8])
    assert runs(deeper.fill(METHOD, deeper.start(METHOD, {}))) == [("a", 0, 3), ("a", 1, 4)]


def test_seams_scale_what_is_written_above_them() -> None:
    found = space(scale={"search": "auto"})
    assert [dimension.name for dimension in found.dimensions if dimension.name.startswith("seam")] == [
        "seam.0.0",
        "seam.0.1",
        "seam.1.0",
        "seam.1.1",
    ]
    merged = made(found, "a0 a1 b2 b3 a3", seam_0_1=2.0, seam_1_0=0.5)
    scales = {part.name: part.each["scale"][0] for part in merged.resolve(NAMES)}
    down = [scales[f"model.layers.{i}.mlp.down_proj.weight"] for i in range(5)]
    assert down == [1.0, 1.0, 0.5, 0.5, 1.0]
    assert {scale for name, scale in scales.items() if "up_proj" in name} == {1.0}
    assert "parameters" not in made(found, "a0 a1 b2 b3").to_yaml()


def test_depth_upscaling() -> None:
    found = space(preset="depth_upscaling", length=None, drop=[1, 3])
    assert [dimension.name for dimension in found.dimensions] == [
        "upscaling.lower",
        "upscaling.upper",
        "upscaling.drop",
    ]
    values = {"upscaling.lower": "a", "upscaling.upper": "b", "upscaling.drop": 1}
    assert runs(found.fill(METHOD, values)) == [("a", 0, 3), ("b", 1, 4)]
    assert runs(found.fill(METHOD, values | {"upscaling.upper": "a", "upscaling.drop": 2})) == [("a", 0, 4)]
    alone = space(preset="depth_upscaling", length=None, models=["x/a"], drop=1)
    assert runs(alone.fill(METHOD, {"upscaling.drop": 1})) == [("a", 0, 3), ("a", 1, 4)]


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("preset", [False, True])
def test_round_trip(sampler: str, preset: bool) -> None:
    options = {"preset": "depth_upscaling", "length": None} if preset else {"block": 2}
    found, study = space(scale={"search": "auto"}, **options), optuna.create_study(direction="maximize")
    for number in range(6):
        study.sampler = make_sampler(sampler, SamplerRequest(branches_of(found), 0, number))
        trial = study.ask()
        merged = found.ask(trial)
        assert found.fill(METHOD, study.trials[number].params) == merged
        assert list(merged.resolve(NAMES))
        study.tell(trial, float(number % 4))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"length": [3]}, "slices.search.length: found [3], expected [fewest layers, most layers]"),
        ({"length": [3, 99]}, "slices.search.length[1]: found 99, expected a whole number from 1 to 16"),
        ({"block": 3}, "slices.search.block: found 3, expected a divisor of the models' 4 layers"),
        ({"block": 4, "length": [5, 7]}, "length: found [5, 7], expected a range with a multiple of block, 4"),
        ({"model": ["a"]}, "unknown key 'model'; did you mean 'models'?"),
        ({"models": ["x/a", "x/a"]}, "expected each checkpoint once"),
        ({"models": []}, "slices.search.models: found [], expected a list of checkpoints"),
        ({"scale": 2}, "slices.search.scale: found 2, expected {search: [low, high]}"),
        ({"scale": {"search": 1.5}}, "slices.search.scale.search: found 1.5, expected [low, high] or auto"),
        ({"scale": {"search": [0, 1]}}, "scale.search: found a range that starts at 0, expected one"),
        ({"scale": {"search": "auto", "tensors": []}}, "scale.tensors: found [], expected a list of texts"),
        ({"preset": "depth_upscalng", "length": None}, "did you mean 'depth_upscaling'?"),
        ({"preset": "depth_upscaling"}, "unknown key 'length'"),
        (
            {"preset": "depth_upscaling", "length": None, "drop": [3, 1]},
            "drop: found [3, 1], expected the lower number",
        ),
    ],
)
def test_wrong_stacks(spec: Data, message: str) -> None:
    with pytest.raises(UserError) as error:
        space(**spec)
    assert message in str(error.value)


def test_a_stack_needs_keys_and_one_base() -> None:
    data = {"merge_method": "passthrough", "slices": {"search": "auto"}}
    with pytest.raises(UserError, match=r"slices\.search: found 'auto', expected keys: models, length, block"):
        Space(data, LAYERS, "recipe")
    data = {"merge_method": "passthrough", "base_model": {"search": ["a", "b"]}}
    with pytest.raises(UserError, match=r"base_model: found \{'search': .*\}, expected one model beside slices"):
        Space({**data, "slices": {"search": {"models": ["a"], "length": [1, 2]}}}, LAYERS, "recipe")


def test_a_stack_needs_passthrough() -> None:
    data = {"merge_method": "linear", "slices": {"search": {"models": ["x/a"], "length": [2, 4]}}}
    with pytest.raises(UserError, match=r"merge_method: found 'linear', expected passthrough beside slices\.search"):
        Space(data, LAYERS, "recipe")


# The sampler


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("shape", [SHAPE, StackShape((4,), 2, 1, 8)])
def test_moves_make_stacks(move: Any, shape: StackShape) -> None:
    rng, stack = random.Random(0), blocks("a0 a1 a2 a3")
    made = {move(stack, shape, rng) for _ in range(200)}
    assert len(made - {stack}) > 3
    assert all(0 <= block.model < len(shape.blocks) and 0 <= block.number < 4 for child in made for block in child)
    assert all(child for child in made)


def test_what_the_moves_do() -> None:
    rng, stack = random.Random(1), blocks("a0 a1 a2 a3")
    for _ in range(50):
        assert len(insert(stack, SHAPE, rng)) > 4
        assert set(delete(stack, SHAPE, rng)) <= set(stack)
        assert len(delete(stack, SHAPE, rng)) < 4 or delete(blocks("a0"), SHAPE, rng) == blocks("a0")
        assert [block.number for block in swap(stack, SHAPE, rng)] == [0, 1, 2, 3]
        longer = repeat(stack, SHAPE, rng)
        assert set(longer) == set(stack)
        assert len(longer) > 4


def test_plain_stacks() -> None:
    stacks = [SHAPE.decode(values) for values in plain_stacks(SHAPE)]
    for expected in (
        "a0 a1 a2 a3",
        "b0 b1 b2 b3",
        "a0 a1 b2 b3",
        "b0 b1 a2 a3",
        "a0 a1 a2 a1 a2 a3",
        "a0 a1 a2 b1 b2 b3",
    ):
        assert blocks(expected) in stacks


TARGET = blocks("a0 b1 b2 a1 a2 b3")


def likeness(stack: Sequence[Block]) -> float:
    """The length of the longest common subsequence with the target, less what is too much."""
    rows = [[0] * (len(TARGET) + 1) for _ in range(len(stack) + 1)]
    for i, one in enumerate(stack):
        for j, two in enumerate(TARGET):
            rows[i + 1][j + 1] = rows[i][j] + 1 if one == two else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1] - 0.1 * abs(len(stack) - len(TARGET))


BRANCH = Branch(SHAPE.distributions, {}, {})


def search(sampler: str, seed: int, trials: int, new: Study | None = None) -> Study:
    """A search for the target, from the first model; as the loop does, with a new sampler for every trial."""
    study = new or optuna.create_study(direction="maximize")
    for number in range(len(study.trials), trials):
        if number == 0:
            study.enqueue_trial(values_of(SHAPE.whole(0)))
        study.sampler = make_sampler(sampler, SamplerRequest([BRANCH], seed, number))
        trial = study.ask()
        values = {
            name: trial.suggest_int(name, d.low, d.high)  # type: ignore[attr-defined]
            for name, d in SHAPE.distributions.items()
        }
        study.tell(trial, likeness(SHAPE.decode(values)))
    return study


def test_it_beats_random_and_tpe_on_indicators() -> None:
    best = {
        name: sum(search(name, seed, 60).best_value for seed in range(4)) / 4 for name in ("stack", "tpe", "random")
    }
    assert best["stack"] > best["tpe"] + 0.3
    assert best["stack"] > best["random"] + 0.3


def test_it_tries_nothing_twice_and_the_plain_stacks_first() -> None:
    study = search("stack", 0, 40)
    stacks = [SHAPE.decode(trial.params) for trial in study.trials]
    assert len(set(stacks)) == 40
    plain = list(dict.fromkeys(SHAPE.decode(values) for values in plain_stacks(SHAPE)))
    assert stacks[: len(plain)] == plain


def test_its_state_is_the_study() -> None:
    """Gone on with in another process, it asks for what it would have asked for otherwise."""
    whole, torn = search("stack", 3, 30), search("stack", 3, 17)
    assert [trial.params for trial in search("stack", 3, 30, torn).trials] == [trial.params for trial in whole.trials]
    assert [trial.params for trial in search("stack", 4, 30).trials] != [trial.params for trial in whole.trials]


def test_numbers_beside_the_stack_stay_in_their_ranges() -> None:
    study = optuna.create_study(direction="minimize")
    for number in range(60):
        study.sampler = StackSampler(derive(0, number))
        trial = study.ask()
        x, y = trial.suggest_float("x", 0.01, 10, log=True), trial.suggest_int("y", 2, 8, step=3)
        choice = trial.suggest_categorical("choice", ["a", "b"])
        study.tell(trial, abs(x - 0.1) + y + (choice == "a"))
    assert {trial.params["y"] for trial in study.trials} == {2, 5, 8}
    assert study.best_params["choice"] == "b"
    assert study.best_value == pytest.approx(2.0, abs=0.05)


def test_auto_is_the_stack_sampler() -> None:
    assert plan(space(), Search()).stages[0].sampler == "stack"
    assert plan(space(preset="depth_upscaling", length=None), Search()).stages[0].sampler == "tpe"
    assert isinstance(space(preset="depth_upscaling", length=None).dimensions[0].distribution, CategoricalDistribution)


# A whole search


def stacked(config: Data, folder: Path, **spec: Any) -> Data:
    names = [str(folder / name) for name in ("one", "two")]
    search = {"models": names, "length": [1, 4], "repeats": 2, **spec}
    recipe = {"merge_method": "passthrough", "base_model": str(folder / "base"), "slices": {"search": search}}
    return config | {"recipe": recipe, "search": {"trials": 20, "seed": 0}}


def test_a_search_over_stacks_leaves_the_model_that_was_scored(config: Data, models: Path, tmp_path: Path) -> None:
    data = stacked(config, models, scale={"search": "auto"})
    plan = open_plan(Config.model_validate(data), "config")
    verdict = run(plan, tmp_path)
    folder = tmp_path / "small"
    study = RunFolder(folder).open_study(None)
    sampled = [trial for trial in t.completed(study) if t.kind_of(trial) != t.BASELINE]
    assert len(t.completed(study)) == 20
    depths = set()
    for trial in sampled:
        recipe = Recipe.read(yaml.safe_load(trial.user_attrs[t.RECIPE]))
        depths.add(sum(end - start for _, start, end in runs(recipe)))
    assert len(depths) >= 3
    assert verdict.trials == 20
    merge(Recipe.read(yaml.safe_load((folder / "recommended.yml").read_text())), tmp_path / "again")
    assert Checkpoint(str(tmp_path / "again")).digest() == Checkpoint(str(folder / "model")).digest()


def test_evaluators_get_ready_for_stacks_once_and_not_for_each_depth(
    config: Data, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, depths, wrap, score = list[Any](), set[int](), _wrapped.wrap, BitsPerByte.score

    def counted(*given: Any) -> Any:
        ready.append(given)
        return wrap(*given)

    def watched(self: BitsPerByte, subject: LoadedModel, *given: Any) -> Any:
        depths.add(sum("q_proj" in name for name, _ in subject.model.named_parameters()))
        return score(self, subject, *given)

    monkeypatch.setattr(_wrapped, "wrap", counted)
    monkeypatch.setattr(BitsPerByte, "score", watched)
    run(open_plan(Config.model_validate(stacked(config, models)), "config"), tmp_path)
    assert len(depths) >= 3
    assert len(ready) <= 4, "for whole models, for stacks, and in the verdict for both again"


def test_what_is_scored_live_is_what_the_written_stack_scores(config: Data, models: Path, tmp_path: Path) -> None:
    from mergesearch.search.evaluate import evaluate_model

    data = stacked(config, models)
    plan = open_plan(Config.model_validate(data), "config")
    run(plan, tmp_path)
    study = RunFolder(tmp_path / "small").open_study(None)
    sampled = [trial for trial in t.completed(study) if t.kind_of(trial) == t.SAMPLED]
    deep = max(sampled, key=lambda trial: trial.params[LENGTH])
    recipe = Recipe.read(yaml.safe_load(deep.user_attrs[t.RECIPE]))
    merge(recipe, tmp_path / "deep")
    found = evaluate_model(str(tmp_path / "deep"), plan.problem.config, "config")
    session = session_of(data, tmp_path / "other")
    session.live.engine.build(recipe)
    tasks = session.plan.problem.tasks
    both = [tasks.score(session.live.loaded, side)["text"] for side in ("search", "test")]
    task = tasks.all[0]
    items = [*task.search, *task.test]
    total = sum(item.weight * score for item, score in zip(items, [*both[0], *both[1]], strict=True))
    layers = deep.params[LENGTH]
    assert found.scores["text"].value.value == rescored(float(total) / sum(i.weight for i in items), layers)
    assert deep.value == rescored(-task.value("search", both[0]), layers)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"scale": {"search": "auto", "tensors": ["c_proj"]}}, "no tensor has 'c_proj' in its name"),
        ({"models": ["./nowhere"]}, "./nowhere: there is no such"),
    ],
)
def test_wrong_stacks_of_checkpoints(config: Data, models: Path, spec: Data, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_plan(Config.model_validate(stacked(config, models, **spec)), "config")

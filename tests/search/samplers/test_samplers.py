"""The contract suite of the samplers: every name in the table, on spaces of ranges, steps, choices and conditions."""

import copy
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from mergesearch.search.samplers import (
    SAMPLERS,
    Branch,
    HasCentre,
    SamplerRequest,
    StudyWithEstimates,
    branches_of,
    from_unit,
    grid_size,
    is_sequence,
    local,
    make_sampler,
    optuna_samplers,
    to_unit,
)
from mergesearch.search.study import trials as t

from ...tolerances import close

optuna.logging.set_verbosity(optuna.logging.WARNING)
NAMES = list(SAMPLERS)
CENTRED = ["local", "cmaes", "catcma"]
LEARNING = ["gp", "local", "cmaes", "catcma", "niches", "tpe"]
FEW = 12
"""Two more than a Gaussian process draws at random to begin with: its fits take a second or so each."""
Values = dict[str, Any]
Score = Callable[[Values], float]


@dataclass(frozen=True)
class Dimension:
    name: str
    distribution: BaseDistribution


@dataclass(frozen=True)
class Method:
    name: str
    has: frozenset[str]


@dataclass
class Shape:
    """A search space as samplers see it: holes, and which of them each method has."""

    numbers: Mapping[str, BaseDistribution]
    conditions: Mapping[str, set[str]] = field(default_factory=dict)
    is_stack: bool = False

    @property
    def methods(self) -> list[Method]:
        asked = {name: frozenset(has) for name, has in self.conditions.items()}
        return [Method(name, has) for name, has in asked.items()] or [Method("only", frozenset(self.numbers))]

    @property
    def dimensions(self) -> list[Dimension]:
        choice = {"merge_method": CategoricalDistribution(tuple(self.conditions))} if self.conditions else {}
        return [Dimension(name, found) for name, found in {**choice, **self.numbers}.items()]

    def dimensions_of(self, method: Method) -> list[Dimension]:
        return [dimension for dimension in self.dimensions if dimension.name in method.has]

    def ask(self, trial: Trial) -> Values:
        """The values that a run would ask for: the method's, then those that it has."""
        method = trial.suggest_categorical("merge_method", list(self.conditions)) if self.conditions else "only"
        has = next(each.has for each in self.methods if each.name == method)
        return {"merge_method": method} | {
            name: trial._suggest(name, found) for name, found in self.numbers.items() if name in has
        }


def ranges(count: int) -> dict[str, BaseDistribution]:
    return {f"x{number}": FloatDistribution(0, 1.5) for number in range(count)}


MIXED = {
    "x": FloatDistribution(0, 1),
    "log": FloatDistribution(1e-3, 10, log=True),
    "step": FloatDistribution(0, 1, step=0.25),
    "int": IntDistribution(2, 9),
    "wide": IntDistribution(0, 10**6),
    "choice": CategoricalDistribution(("a", "b", "c")),
    "one": FloatDistribution(0.5, 0.5),
}
SHAPES = {
    "ranges": Shape(ranges(3)),
    "mixed": Shape(MIXED),
    "conditional": Shape(
        {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1), "density": FloatDistribution(0, 1)},
        {"plain": {"x", "y"}, "sparse": {"x", "y", "density"}},
    ),
}


SHAPES["methods by layers"] = Shape(
    {
        **{f"slices[{part}].merge_method": CategoricalDistribution(("linear", "slerp", "ties")) for part in range(3)},
        **ranges(3),
    }
)
"""A hole for the method of each group of layers."""


def sphere(values: Values) -> float:
    """The optimum, 0, has every range at 0.3 of its width, and the last choices."""
    total = 0.0
    for name, value in values.items():
        found = MIXED.get(name, FloatDistribution(0, 1.5) if name.startswith("x") else FloatDistribution(0, 1))
        if name == "choice" or name.startswith("slices"):
            total -= value not in ("c", "ties")
        elif not isinstance(value, str):
            total -= (to_unit(found, value) - 0.3) ** 2
    return total


def new_study() -> Study:
    """A study that begins, as ours do, with trials without parameters."""
    study = optuna.create_study(direction="maximize")
    for value in (-9.0, -8.0):
        study.add_trial(optuna.trial.create_trial(value=value, user_attrs={t.KIND: t.BASELINE}))
    return study


class Run:
    """Trials of one sampler, made anew for each, or kept where the sampler says that this changes nothing."""

    def __init__(self, name: str, shape: Shape, seed: int = 0, kept: bool = False, **request: Any) -> None:
        self.study = new_study()
        self.name, self.shape, self.seed, self.request = name, shape, seed, request
        self._kept = self._made() if kept else None

    def _made(self) -> optuna.samplers.BaseSampler:
        finished = len(t.finished(self.study))
        return make_sampler(self.name, SamplerRequest(branches_of(self.shape), self.seed, finished, **self.request))

    def begin(self) -> tuple[Trial, Values]:
        self.study.sampler = self._kept or self._made()
        trial = self.study.ask()
        return trial, self.shape.ask(trial)

    def go(self, count: int, score: Score = sphere) -> list[Values]:
        points = []
        for _ in range(count):
            trial, point = self.begin()
            self.study.tell(trial, score(point))
            points.append(point)
        return points

    def interrupt(self, trial: Trial) -> None:
        """What the loop does with a trial whose process was killed while it was asked for."""
        trial.set_user_attr(t.REASON, t.INTERRUPTED)
        self.study.tell(trial, state=TrialState.FAIL)

    @property
    def own(self) -> list[FrozenTrial]:
        return [trial for trial in self.study.get_trials() if trial.params]


def count(name: str) -> int:
    return FEW if name == "gp" else 26


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_points(name: str, shape: str) -> None:
    one, two = (Run(name, SHAPES[shape]).go(FEW) for _ in range(2))
    assert one == two
    if name != "grid":
        assert Run(name, SHAPES[shape], seed=1).go(FEW) != one


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [name for name in NAMES if is_sequence(name)])
def test_a_sampler_that_is_kept_asks_what_one_made_anew_asks(name: str, shape: str) -> None:
    assert Run(name, SHAPES[shape], kept=True).go(40) == Run(name, SHAPES[shape]).go(40)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_points_lie_on_the_steps_within_the_bounds(name: str, shape: str) -> None:
    for point in Run(name, SHAPES[shape]).go(count(name)):
        for key, value in point.items():
            if key != "merge_method":
                assert SHAPES[shape].numbers[key]._contains(SHAPES[shape].numbers[key].to_internal_repr(value)), key
        if "step" in point:
            assert point["step"] % 0.25 == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "grid"])
def test_points_differ(name: str) -> None:
    points = Run(name, SHAPES["ranges"]).go(FEW)
    assert len({tuple(point.items()) for point in points}) == FEW


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cut", [3, 10])
def test_a_trial_that_was_killed_while_it_was_asked_for_changes_nothing(name: str, shape: str, cut: int) -> None:
    whole = Run(name, SHAPES[shape]).go(FEW)
    torn = Run(name, SHAPES[shape])
    points = torn.go(cut)
    torn.interrupt(torn.begin()[0])
    assert [*points, *torn.go(FEW - cut)] == whole


@pytest.mark.parametrize("name", NAMES)
def test_failed_and_stopped_trials_are_gone_on_from(name: str) -> None:
    """Every third fails, every fourth is stopped early with a value."""
    run = Run(name, SHAPES["mixed"])
    for number in range(count(name)):
        trial, point = run.begin()
        if number % 3 == 0:
            trial.set_user_attr(t.REASON, "out of memory")
            run.study.tell(trial, state=TrialState.FAIL)
        elif number % 4 == 0:
            trial.report(sphere(point), 0)
            run.study.tell(trial, state=TrialState.PRUNED)
        else:
            run.study.tell(trial, sphere(point))
    assert len(run.own) == count(name)


@pytest.mark.parametrize("score", [lambda _: 1.0, lambda point: float(point["x"] > 0.5)])
@pytest.mark.parametrize("name", NAMES)
def test_plateaus(name: str, score: Score) -> None:
    """Accuracies on few items are often equal."""
    assert len(Run(name, SHAPES["mixed"]).go(count(name), score)) == count(name)


def late_mean(name: str, shape: Shape, seeds: int, trials: int) -> float:
    """The mean of the last six trials of each seed."""
    runs = [Run(name, shape, seed) for seed in range(seeds)]
    for run in runs:
        run.go(trials)
    return sum(trial.value or 0.0 for run in runs for trial in run.own[-6:]) / (6 * seeds)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(name, shape, marks=[pytest.mark.slow] if (name, shape) == ("gp", "mixed") else [])
        for name in LEARNING
        for shape in SHAPES
    ],
)
def test_learns(name: str, shape: str) -> None:
    """The last trials are better than random ones, although some trials lie outside the space."""
    seeds, trials = (1, 18) if name == "gp" else (3, 80 if name == "catcma" else 40)
    assert late_mean(name, SHAPES[shape], seeds, trials) > 0.6 * late_mean("random", SHAPES[shape], 6, 6)


@pytest.mark.parametrize("name", NAMES)
def test_quiet(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_sampler(name, SamplerRequest(branches_of(SHAPES["ranges"]), 0))


def test_unknown() -> None:
    with pytest.raises(KeyError, match="did you mean 'cmaes'"):
        make_sampler("cmae", SamplerRequest([], 0))


@pytest.mark.parametrize("found", MIXED.values())
def test_coordinates(found: BaseDistribution) -> None:
    values = {from_unit(found, unit / 20) for unit in range(21)}
    for value in values:
        assert found._contains(found.to_internal_repr(value))
        assert from_unit(found, to_unit(found, value)) == (value if isinstance(value, str) else close(value, 64))
    if not isinstance(found, CategoricalDistribution):
        assert {found.low, found.high} <= values  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["gp", "local"])
def test_a_gaussian_process_learns_from_a_bounded_number_of_trials(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Better ones and later ones: here the first 20 are the best."""
    monkeypatch.setattr(optuna_samplers, "MOST_OF_GP", 30)
    monkeypatch.setattr(local, "MOST", 30)
    seen: list[int] = []
    for owner in (optuna.samplers.GPSampler, local.GaussianProcess):
        place = "_sample_relative_impl" if owner is optuna.samplers.GPSampler else "__init__"
        monkeypatch.setattr(owner, place, counting(getattr(owner, place), seen))
    run, rng = Run(name, SHAPES["ranges"]), random.Random(0)
    for number in range(60):
        point = {name: rng.uniform(0, 1.5) for name in SHAPES["ranges"].numbers}
        value = 1.0 if number < 20 else sphere(point)
        run.study.add_trial(
            optuna.trial.create_trial(params=point, distributions=dict(SHAPES["ranges"].numbers), value=value)
        )
    run.go(2)
    assert seen == [30, 30]


def counting(function: Callable[..., Any], seen: list[int]) -> Callable[..., Any]:
    """Notes how many trials or points a model is given."""

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(len(arguments[1] if isinstance(arguments[0], Study) else arguments[0]))
        return function(self, *arguments, **options)

    return counted


# --- cmaes


def enqueue(run: Run, point: Values, value: float, kind: str) -> None:
    run.study.enqueue_trial(point, user_attrs={t.KIND: kind})
    trial, asked = run.begin()
    assert asked == {"merge_method": "only", **point}
    run.study.tell(trial, value)


def test_cmaes_begins_around_the_best_point_and_takes_no_place_for_it() -> None:
    run = Run("cmaes", Shape(ranges(4)), sigma=0.01)
    for value, unit in ((0.5, 0.3), (0.9, 1.2), (0.1, 0.6)):
        enqueue(run, {f"x{i}": unit for i in range(4)}, value, t.BASELINE)
    for point in run.go(8):
        assert all(abs(point[f"x{i}"] - 1.2) < 0.1 for i in range(4))
    places = [trial.user_attrs[t.SLOT]["place"] for trial in run.own[3:]]
    assert places == [[0, 0, index] for index in range(8)]
    assert all(trial.user_attrs[t.SLOT]["begun"] == 3 for trial in run.own[3:])


def test_cmaes_takes_its_scale_from_the_points_of_the_gradient() -> None:
    import numpy as np

    run = Run("cmaes", Shape(ranges(2)), sigma=0.05, population=200)
    for number in range(3):
        enqueue(run, {"x0": 0.4 + 0.2 * number, "x1": 0.7 + 0.02 * number}, float(number), t.GRADIENT)
    points = run.go(100, lambda _: 0.0)
    wide, narrow = (np.std([point[name] for point in points]) for name in ("x0", "x1"))
    assert 4 < wide / narrow < 8, "0.4 to 0.04, held to a third of the mean at the low end"


def test_cmaes_stays_with_the_method_of_the_best_trial() -> None:
    run = Run("cmaes", SHAPES["conditional"])
    for method, value in (("plain", 0.2), ("sparse", 0.9)):
        point = {"merge_method": method, "x": 0.5, "y": 0.5} | ({"density": 0.5} if method == "sparse" else {})
        run.study.enqueue_trial(point)
        trial, _ = run.begin()
        run.study.tell(trial, value)
    assert {point["merge_method"] for point in run.go(12)} == {"sparse"}


def test_cmaes_asks_a_generation_by_several_workers() -> None:
    """Points of one generation do not depend on the order in which they end; while one lasts, more are drawn."""
    together, alone = Run("cmaes", SHAPES["ranges"]), Run("cmaes", SHAPES["ranges"])
    begun = [together.begin() for _ in range(7)]
    assert [point for _, point in begun] == alone.go(7)
    for trial, point in reversed(begun):
        together.study.tell(trial, sphere(point))
    assert together.go(6) == alone.go(6)
    slow, _ = together.begin()
    places = [trial.user_attrs[t.SLOT]["place"] for trial in together.own]
    assert places[-1] == [0, 1, 6]
    together.go(8)
    together.study.tell(slow, 1.0)
    together.go(3)
    places = [tuple(trial.user_attrs[t.SLOT]["place"]) for trial in together.own]
    assert len(set(places)) == len(places)


class Reread(Run):
    """Trials whose values the search reads otherwise from the twentieth on."""

    def begin(self) -> tuple[Trial, Values]:
        self.study.sampler = self._kept or self._made()
        trial = StudyWithEstimates(self.study, self._told).ask()
        return trial, self.shape.ask(trial)

    def _told(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return [*trials] if len(self.study.trials) < 20 else [self._turned(trial) for trial in trials]

    @staticmethod
    def _turned(trial: FrozenTrial) -> FrozenTrial:
        turned = copy.copy(trial)
        turned.value = None if trial.value is None else -trial.value
        return turned


@pytest.mark.parametrize("name", ["cmaes", "catcma"])
def test_what_a_generation_was_told_is_not_told_otherwise(name: str) -> None:
    """Its trials may be read otherwise by then: then what was drawn from it would not be drawn again."""
    kept, anew = (Reread(name, SHAPES["ranges"], kept=keep) for keep in (True, False))
    points = kept.go(40)
    assert points == anew.go(40)
    assert points[:18] == Run(name, SHAPES["ranges"]).go(40)[:18]
    assert points != Run(name, SHAPES["ranges"]).go(40)


def test_cmaes_is_the_packages() -> None:
    """The replay against one optimizer of the package that is asked and told as its documentation says."""
    import cmaes
    import numpy as np

    from mergesearch.seeds import derive

    points = Run("cmaes", Shape(ranges(5)), kept=True).go(40)
    optimizer = cmaes.CMA(
        mean=np.full(5, 0.5), sigma=0.3, bounds=np.array([[0.0, 1.0]] * 5), n_max_resampling=10, population_size=8
    )
    for generation in range(5):
        asked = []
        for index in range(8):
            optimizer.reseed_rng(derive(derive(0, "cmaes"), "candidate", 0, generation, index))
            asked.append(optimizer.ask())
        found = np.array([[point[f"x{i}"] for i in range(5)] for point in points[8 * generation : 8 * generation + 8]])
        assert found == close(1.5 * np.array(asked), 8)
        optimizer.tell([(x, float(((x - 0.3) ** 2).sum())) for x in asked])


def ended_so(ends: Mapping[int, float | None], pruned: bool = False) -> list[Values]:
    """The second generation after a first one in which some candidates ended otherwise than by their score."""
    run = Run("cmaes", Shape(ranges(3)), population=6)
    for index in range(6):
        trial, point = run.begin()
        value = ends.get(index, sphere(point))
        if value is None:
            run.study.tell(trial, state=TrialState.FAIL)
        elif pruned and index in ends:
            trial.report(value, 0)
            run.study.tell(trial, state=TrialState.PRUNED)
        else:
            run.study.tell(trial, value)
    return run.go(6)


def test_cmaes_ranks_failed_candidates_last() -> None:
    assert ended_so({0: None, 3: None}) == ended_so({0: -98.0, 3: -99.0})
    assert ended_so({0: None, 3: None}) != ended_so({})


def test_cmaes_counts_stopped_candidates_with_their_value() -> None:
    assert ended_so({1: 0.5, 4: -2.0}, pruned=True) == ended_so({1: 0.5, 4: -2.0})


def test_cmaes_begins_again_with_twice_the_population() -> None:
    """On a plateau the package's criteria end the evolution; the next one starts elsewhere."""
    run = Run("cmaes", Shape(ranges(2)), kept=True, population=4)
    run.go(140, lambda _: 0.0)
    places = [trial.user_attrs[t.SLOT]["place"] for trial in run.own]
    assert {place[2] for place in places if place[0] == 0} == set(range(4))
    assert {place[2] for place in places if place[0] == 1} == set(range(8))
    means = [run.own[places.index([restart, 0, 0])].params["x0"] for restart in (0, 1)]
    assert abs(means[0] - means[1]) > 0.1


def test_cmaes_begins_wider_around_a_baseline_than_around_what_a_sampler_chose() -> None:
    import numpy as np

    wide = {}
    for kind in (t.BASELINE, t.SAMPLED):
        run = Run("cmaes", Shape(ranges(2)), population=100)
        enqueue(run, {"x0": 0.75, "x1": 0.75}, 1.0, kind)
        wide[kind] = float(np.std([point["x0"] / 1.5 for point in run.go(60)]))
    assert 0.1 < wide[t.BASELINE] < 0.15
    assert wide[t.SAMPLED] < 0.06


# --- the centre of the distribution


def centre(run: Run) -> Values | None:
    sampler = run._made()
    assert isinstance(sampler, HasCentre)
    return sampler.centre(run.study)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CENTRED)
def test_the_centre_is_a_point_of_the_space_that_a_new_sampler_finds_again(name: str, shape: str) -> None:
    run = Run(name, SHAPES[shape])
    assert centre(run) is None
    run.go(26)
    found = centre(run)
    assert found is not None
    assert found == centre(run)
    assert found.keys() | {"one"} == run.own[-1].params.keys() | {"one"}
    for key, value in found.items():
        if key != "merge_method":
            assert SHAPES[shape].numbers[key]._contains(SHAPES[shape].numbers[key].to_internal_repr(value)), key


@pytest.mark.parametrize("name", CENTRED)
def test_the_centre_is_better_than_the_best_of_noisy_scores(name: str) -> None:
    """By the true values, of many points that were scored with much noise."""
    gains = []
    for seed in range(3):
        run, noise = Run(name, Shape(ranges(20)), seed), random.Random(seed)
        run.go(100, lambda point, noise=noise: sphere(point) + noise.gauss(0, 0.5))  # type: ignore[misc]
        found = centre(run)
        assert found is not None
        luckiest = max(run.own, key=lambda trial: trial.value or -99.0)
        gains.append(sphere(found) - sphere(luckiest.params))
    assert sum(gains) > 0.1, gains


# --- grid and qmc


def test_grid_has_every_point_once() -> None:
    shape = SHAPES["conditional"]
    branches = branches_of(shape)
    assert grid_size(branches, points=3) == 9 + 27
    points = Run("grid", shape, points=3).go(36)
    assert len({tuple(point.items()) for point in points}) == 36
    assert {point["x"] for point in points} == {0.0, 0.5, 1.0}
    assert points[:2] == [
        {"merge_method": "plain", "x": 0.0, "y": 0.0},
        {"merge_method": "plain", "x": 0.0, "y": 0.5},
    ]


def test_grid_takes_all_steps_and_choices() -> None:
    free = {key: MIXED[key] for key in ("step", "int", "choice")}
    assert grid_size([Branch(free, {}, {})]) == 5 * 8 * 3


def test_qmc_is_more_even_than_random() -> None:
    from scipy.stats import qmc

    uneven = {}
    for name in ("qmc", "random"):
        points = Run(name, Shape(ranges(2))).go(64)
        uneven[name] = qmc.discrepancy([[point["x0"] / 1.5, point["x1"] / 1.5] for point in points])
    assert uneven["qmc"] < 0.3 * uneven["random"]


def test_qmc_gives_few_values_the_same_share() -> None:
    points = Run("qmc", Shape({"step": MIXED["step"], "choice": MIXED["choice"]})).go(60)
    for key, count in (("step", 5), ("choice", 3)):
        values = [point[key] for point in points]
        assert all(abs(values.count(value) - 60 / count) <= 2 for value in values)


# --- fewer dimensions


def test_tied_dimensions_lie_on_a_curve() -> None:
    layers = {f"one.weight[{i}]": FloatDistribution(0, 1.5) for i in range(9)}
    run = Run("gp", Shape({**layers, "two.weight": FloatDistribution(0, 1)}), dimensions=4)
    for point in run.go(12):
        values = [point[name] for name in layers]
        first, second = values[:5], values[4:]
        for part in (first, second):
            steps = [b - a for a, b in pairwise(part)]
            assert steps == close([steps[0]] * 4, 16, magnitude=1.5)


def test_tied_dimensions_are_learned_from_points_that_are_on_no_curve() -> None:
    layers = Shape({f"one.weight[{i}]": FloatDistribution(0, 1.5) for i in range(40)})

    def score(point: Values) -> float:
        return -sum((point[f"one.weight[{i}]"] - 1.0 + i / 100) ** 2 for i in range(40))

    run = Run("gp", layers, dimensions=2)
    for seed in range(3):
        enqueue(run, {f"one.weight[{i}]": ((i * 7 + seed) % 15) / 10 for i in range(40)}, -9.0, t.GRADIENT)
    run.go(20, score)
    free = Run("gp", layers)
    free.go(20, score)
    best = [max(trial.value or -99.0 for trial in each.own) for each in (run, free)]
    assert best[0] > -0.5 > best[1]

"""The contract suite of the samplers: every name in the table, on plain and on conditional spaces."""

import warnings

import optuna
import pytest
from optuna.study import Study

from mergesearch.search.samplers import SAMPLERS, SEQUENCES, choose, make_sampler
from mergesearch.seeds import derive

optuna.logging.set_verbosity(optuna.logging.WARNING)
NAMES = [name for name, factory in SAMPLERS.items() if factory]


def ask(study: Study, name: str, seed: int = 0) -> dict[str, float]:
    """One trial of a conditional space; the best is x = 0.3, y = 0.6."""
    count = len(study.get_trials(deepcopy=False))
    study.sampler = make_sampler(name, seed if name in SEQUENCES else derive(seed, count))
    trial = study.ask()
    x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
    if trial.suggest_categorical("method", ["a", "b"]) == "b":
        trial.suggest_float("density", 0, 1)
    study.tell(trial, -((x - 0.3) ** 2) - (y - 0.6) ** 2)
    return dict(trial.params)


def new_study() -> Study:
    """A study that begins, as ours do, with trials without parameters."""
    study = optuna.create_study(direction="maximize")
    for value in (-9.0, -8.0):
        study.add_trial(optuna.trial.create_trial(value=value))
    return study


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_points(name: str) -> None:
    one, two = new_study(), new_study()
    assert [ask(one, name) for _ in range(14)] == [ask(two, name) for _ in range(14)]
    assert ask(new_study(), name, 1) != ask(new_study(), name, 0)


@pytest.mark.parametrize("name", NAMES)
def test_points_differ_and_lie_in_the_space(name: str) -> None:
    study = new_study()
    points = [ask(study, name) for _ in range(14)]
    assert len({point["x"] for point in points}) == 14
    assert all(0 <= value <= 1 for point in points for value in (point["x"], point["y"]))


@pytest.mark.parametrize("name", ["gp", "cmaes", "tpe"])
def test_learns_although_some_trials_lie_outside(name: str) -> None:
    """With trials without parameters in the study, a model-based sampler still beats random sampling on average."""

    def late_mean(sampler: str) -> float:
        values = []
        for seed in range(3):
            study = new_study()
            for number in range(30):
                study.sampler = make_sampler(sampler, derive(seed, number))
                trial = study.ask()
                x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
                study.tell(trial, -((x - 0.3) ** 2) - (y - 0.6) ** 2)
            values += [trial.value for trial in study.get_trials()[-10:]]
        return sum(values) / len(values)

    assert late_mean(name) > late_mean("random") + 0.05


class Shape:
    def __init__(self, dimensions: int, choices: bool = False, conditional: bool = False) -> None:
        self.holes = list(range(dimensions))
        self.has_choices = choices
        self.is_stack = False
        self.is_conditional = conditional


@pytest.mark.parametrize(
    ("shape", "trials", "expected"),
    [
        (Shape(6, choices=True), 60, "tpe"),
        (Shape(6, conditional=True), 60, "tpe"),
        (Shape(6), 60, "gp"),
        (Shape(20), 200, "gp"),
        (Shape(20), 1000, "cmaes"),
        (Shape(160), 200, "cmaes"),
    ],
)
def test_auto(shape: Shape, trials: int, expected: str) -> None:
    assert choose(shape, trials)[0] == expected


def test_unknown() -> None:
    with pytest.raises(KeyError, match="did you mean 'cmaes'"):
        make_sampler("cmae", 0)


@pytest.mark.parametrize("name", NAMES)
def test_quiet(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_sampler(name, 0)

"""What must be the same in every version and on every machine: recorded once, and compared to the last bit.

Published recipes name seeds, and a run that was begun with one version is gone on with by the next. So masks, splits,
the points of samplers, the recipes that they become and the names of recipes in a study are part of the format, as the
files are. What is recorded here depends on integers, on text, and on floating-point operations that IEEE 754 rounds
correctly and that come in one order (the inputs of merges are small multiples of 1/64): not on the processor, the
compiler, the number of threads or the mathematical library. Nothing whose last bits may differ belongs here.

To record anew, from the root of the checkout:

    python -m tests.end_to_end.test_same_bytes

That is allowed for a fact that is new; where one is meant to change, and the change log tells users that their recipes
or unfinished runs come out otherwise from now on; and where a new version of Optuna, SciPy or NumPy draws other numbers
(its pin in ``constraints.txt`` changes in the same commit). It is not allowed for a restructuring.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import TrialState
from safetensors.torch import load_file, save_file
from torch import Tensor

# All that this file takes from the project, with the functions below: names move, what is recorded does not.
import mergesearch
from mergesearch.evaluators import Item, split_items
from mergesearch.merge_ops.kernels import native_backend as native
from mergesearch.merge_ops.kernels.masks import fingerprint
from mergesearch.search.samplers import SamplerRequest, branches_of, make_sampler
from mergesearch.search.scoring.racing.bets import drawn
from mergesearch.search.space.space import Space
from mergesearch.seeds import derive

RECORDED = Path(__file__).with_suffix(".json")
Data = dict[str, Any]
optuna.logging.set_verbosity(optuna.logging.WARNING)


def every_dimension(space: Space) -> list[Any]:
    return list(space.dimensions)


def dimensions_of(space: Space, method: Any) -> list[Any]:
    """Those that are asked for a candidate of the method, beside the method itself."""
    return list(space.dimensions_of(method))


def seeds() -> Data:
    """Every random choice begins at one of these."""
    names: list[tuple[object, ...]] = [
        (0,),
        (0, "sampler", 12),
        (3, "bootstrap", "difference"),
        (7, "race"),
        (0, "ä", ""),
    ]
    return {
        "32 bits": {repr(each): derive(*each) for each in names},
        "64 bits": derive(0, "mask", "model", "tensor", bits=64),
        "128 bits": f"{derive(1, 'task', 'print', bits=128):x}",
    }


# Splits and the order of items


def items() -> list[Item]:
    """Items of two tasks: of one some with nearly the same text as others, of the other three in each group."""
    texts = [" ".join(f"word{(n * k + k * k) % 16}" for k in range(1, 13)) for n in range(30)]
    alone = [Item(f"a{n}", "a", f"print {n}", text=text) for n, text in enumerate(texts)]
    near = [Item(f"b{n}", "a", f"near {n}", text=f"{texts[n]} zebra") for n in range(4)]
    grouped = [Item(f"c{n}", "c", f"group {n // 3}") for n in range(18)]
    return [*alone, *near, *grouped]


def splits() -> Data:
    """The items of the search; the others are the test's."""
    asked = [(0.5, 0), (0.5, 1), (0.25, 7), (0.8, 2)]
    return {f"{part} {seed}": " ".join(item.id for item in split_items(items(), part, seed)[0]) for part, seed in asked}


def race() -> Data:
    """The order in which candidates are scored, from the rates of sixty items."""
    rates = 1.0 + np.arange(60) % 7
    return {str(seed): drawn(rates, derive(seed, "race")).tolist() for seed in (0, 3)}


# Spaces and samplers

ANIMALS = [{"model": f"models/{name}"} for name in ("cat", "dog")]


def entries(*parameters: Data) -> list[Data]:
    return [{**entry, "parameters": found} for entry, found in zip(ANIMALS, parameters, strict=True)]


RANGE = {"search": [0.0, 1.5]}
"""Ranges begin at 0: numpy's ``low + (high − low) · u`` is rounded once or twice as its compiler likes."""
SPACES: dict[str, Data] = {
    "curves": {
        "merge_method": "ties",
        "models": entries(
            {"weight": {**RANGE, "curve": 3}, "density": {"search": [0.25, 0.75], "step": 0.25}},
            {"weight": [{"filter": "mlp", "value": {**RANGE, "layers": "each"}}, {"value": {**RANGE, "name": "rest"}}]},
        ),
        "parameters": {"density": {"search": [0.125, 0.5, 1.0]}, "lambda": {"search": [0.0, 2.0]}},
    },
    "methods": {
        "merge_method": {"search": ["task_arithmetic", "dare_ties", "della"]},
        "models": entries({"weight": RANGE}, {"weight": {"same_as": "cat.weight"}}),
        "parameters": {"density": {"search": [0.0, 1.0], "step": 0.125}, "normalize": {"search": [True, False]}},
    },
    "models": {
        "merge_method": "linear",
        "base_model": {"search": ["models/base", "models/cat"]},
        "models": [
            {"model": "models/base", "include": {"search": [True, False]}, "parameters": {"weight": RANGE}},
            {"model": {"search": ["models/cat", "models/cow"]}, "parameters": {"weight": RANGE}},
            {"model": "models/dog", "parameters": {"weight": {"search": [1, 8], "int": True}}},
        ],
    },
    "sum": {
        "merge_method": "linear",
        "models": ANIMALS,
        "parameters": {"weight": {"search": "auto", "sums_to": 1, "curve": 2}, "normalize": False},
    },
    "order": {
        "merge_method": "add_difference",
        "order": {"search": "permutations"},
        "models": ANIMALS,
        "parameters": {"alpha": RANGE},
    },
    "slices": {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "models/cat", "layer_range": [0, {"search": [2, 3], "name": "seam"}]}]},
            {
                "merge_method": "slerp",
                "base_model": "models/cat",
                "sources": [{"model": f"models/{name}", "layer_range": [1, 4]} for name in ("cat", "dog")],
                "parameters": {"t": {"search": [0.0, 1.0], "curve": 2}},
            },
        ],
    },
    "stack": {
        "merge_method": "passthrough",
        "slices": {"search": {"models": ["models/cat", "models/dog"], "length": [3, 6], "repeats": 2}},
    },
}
LAYERS = 4
NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{n}.{part}.weight" for n in range(LAYERS) for part in ("self_attn.q_proj", "mlp.up_proj")),
    "model.norm.weight",
    "lm_head.weight",
]


def space_of(name: str) -> Space:
    return Space({"base_model": "models/base", **SPACES[name]}, LAYERS, "recipe")


def end(distribution: Any, upper: bool) -> Any:
    """The last or the first value of a dimension."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[-1 if upper else 0]
    return distribution.high if upper else distribution.low


def candidates(space: Space) -> dict[str, Any]:
    """Of each method the usual point, and two in which every other dimension is at its upper end."""
    found: dict[str, Any] = {}
    for method in space.methods:
        asked = dimensions_of(space, method)
        found[f"{method.name} middle"] = space.fill(method, space.start(method, {}))
        for odd in (0, 1):
            point = {each.name: end(each.distribution, (place + odd) % 2 == 1) for place, each in enumerate(asked)}
            found[f"{method.name} ends {odd}"] = space.fill(method, point)
    return found


def dimensions() -> Data:
    return {name: {each.name: repr(each.distribution) for each in every_dimension(space_of(name))} for name in SPACES}


def recipes() -> Data:
    """As a study and best.yml keep them."""
    return {
        f"{name}: {which}": recipe.to_yaml() for name in SPACES for which, recipe in candidates(space_of(name)).items()
    }


def phenotypes() -> Data:
    """By these a run finds that it has scored a candidate before, also one of an earlier version."""
    return {
        f"{name}: {which}": recipe.phenotype(NAMES)
        for name in SPACES
        for which, recipe in candidates(space_of(name)).items()
    }


ASKED = 16
SAMPLED = [(sampler, space) for sampler in ("random", "qmc", "grid") for space in ("curves", "methods", "models")]


class Asking:
    """A run that asks for points, with two baselines before them; its study is a file, as a run's is.

    The attributes are those that a run writes on its trials.
    """

    def __init__(self, journal: Path, sampler: str, space: str) -> None:
        self._journal, self._sampler, self._space = journal, sampler, space_of(space)
        study = self._study()
        for value in (0.25, 0.5):
            study.add_trial(optuna.trial.create_trial(value=value, user_attrs={"kind": "baseline"}))

    def _study(self) -> Study:
        storage = JournalStorage(JournalFileBackend(str(self._journal)))
        return optuna.create_study(storage=storage, study_name="run", direction="maximize", load_if_exists=True)

    def asked(self, count: int) -> list[Data]:
        """The next points, after the study was read anew."""
        study, points = self._study(), list[Data]()
        for _ in range(count):
            trial = self._begun(study)
            study.tell(trial, len(points) / 64)
            points.append(trial.params)
        return points

    def interrupt(self) -> None:
        """Begins a trial whose process is killed."""
        study = self._study()
        trial = self._begun(study)
        trial.set_user_attr("reason", "interrupted")
        study.tell(trial, state=TrialState.FAIL)

    def _begun(self, study: Study) -> optuna.trial.Trial:
        finished = [trial for trial in study.get_trials() if trial.user_attrs.get("reason") != "interrupted"]
        study.sampler = make_sampler(
            self._sampler, SamplerRequest(branches_of(self._space), seed=5, finished=len(finished))
        )
        trial = study.ask()
        self._space.ask(trial)
        return trial


def points() -> Data:
    """What these samplers ask for; the others follow from scores, and from functions whose last bits may differ."""
    found = {}
    with TemporaryDirectory() as folder:
        for number, (sampler, space) in enumerate(SAMPLED):
            found[f"{sampler}: {space}"] = Asking(Path(folder, f"{number}.log"), sampler, space).asked(ASKED)
    return found


# Merges

SHAPE = (16, 24)


def dyadic(seed: int, most: int = 64) -> Tensor:
    """Multiples of 1/64 between −1 and 1: sums and products of a few of them, and of halves, are exact in float32."""
    places = torch.arange(SHAPE[0] * SHAPE[1], dtype=torch.int64)
    steps = (places * (2 * seed + 7919) + places * places * 31 + seed * 104729) % (2 * most + 1) - most
    return (steps.double() / 64).float().reshape(SHAPE)


def merge_case(method: str, one: Data, two: Data, shared: Data | None = None, base: bool = True) -> Data:
    own = {"base_model": "base.safetensors"} if base else {}
    models = [{"model": f"{n}.safetensors", "parameters": found} for n, found in enumerate((one, two))]
    return {"merge_method": method, **own, "models": models, "parameters": shared or {}}


HALF = {"weight": 0.5, "density": 0.5}
QUARTER = {"weight": 1.0, "density": 0.25}
SIGNED = {"weight": 0.75}, {"weight": -0.5}
MERGES = {
    "linear": merge_case("linear", {"weight": 1.0}, {"weight": 3.0}, base=False),
    "linear, not normalized": merge_case("linear", *SIGNED, {"normalize": False}, base=False),
    "task_arithmetic": merge_case("task_arithmetic", {"weight": 0.5}, {"weight": 0.25}, {"lambda": 0.5}),
    "dare_linear": merge_case("dare_linear", HALF, QUARTER),
    "dare_linear, another seed": merge_case("dare_linear", HALF, QUARTER, {"seed": 11}),
    "dare_linear, not rescaled": merge_case("dare_linear", HALF, QUARTER, {"rescale": "none", "lambda": 2.0}),
    "dare_ties": merge_case("dare_ties", HALF, QUARTER, {"sign": "count"}),
    "ties": merge_case("ties", {"weight": 1.0, "density": 0.5}, {"weight": 1.0, "density": 0.75}),
    "magmax": merge_case("magmax", {}, {}),
}


def merged(case: Mapping[str, Any], dtype: torch.dtype, folder: Path) -> Data:
    """The beginning of the merge, and a hash of all of it."""
    for name, seed, most in (("base", 1, 64), ("0", 2, 48), ("1", 3, 56)):
        save_file({"w": dyadic(seed, most).to(dtype)}, folder / f"{name}.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        mergesearch.merge({**case, "dtype": str(dtype).removeprefix("torch.")}, "out")
    (file,) = (folder / "out").glob("*.safetensors")
    result = load_file(file)["w"]
    content = result.contiguous().view(torch.uint8).numpy().tobytes()
    return {"begins": result[0, :8].tolist(), "sha256": hashlib.sha256(content).hexdigest()}


def merges() -> Data:
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, case in MERGES.items():
            with TemporaryDirectory() as folder:
                found[f"{name}, {dtype}"] = merged(case, dtype, Path(folder))
    return found


def fingerprints() -> Data:
    """By these masks know a model's tensor, wherever it lies."""
    return {str(dtype): fingerprint(dyadic(4).to(dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float16)}


FACTS: dict[str, Callable[[], Data]] = {
    fact.__name__: fact for fact in (seeds, splits, race, dimensions, recipes, phenotypes, points, fingerprints, merges)
}


@pytest.fixture(scope="module")
def recorded() -> Data:
    found: Data = json.loads(RECORDED.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", FACTS)
def test_as_recorded(name: str, recorded: Data) -> None:
    now = json.loads(json.dumps(FACTS[name]()))
    assert now.keys() == recorded[name].keys()
    for key, value in now.items():
        assert value == recorded[name][key], key


def test_nothing_else_is_recorded(recorded: Data) -> None:
    assert recorded.keys() == FACTS.keys()


@pytest.mark.parametrize(("sampler", "space"), SAMPLED)
def test_points_of_a_run_that_was_killed_and_gone_on_with(
    sampler: str, space: str, recorded: Data, tmp_path: Path
) -> None:
    run, points = Asking(tmp_path / "study.log", sampler, space), []
    for count in (3, 9, ASKED - 12):
        points += run.asked(count)
        run.interrupt()
    assert points == recorded["points"][f"{sampler}: {space}"]


def test_compiled_and_plain_kernels_merge_alike(
    recorded: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of them served when the merges were recorded."""
    monkeypatch.setattr(native, "library", lambda: None)
    for name, case in MERGES.items():
        folder = tmp_path / name
        folder.mkdir()
        assert merged(case, torch.float32, folder) == recorded["merges"][f"{name}, torch.float32"], name


def as_text(found: Mapping[str, Data]) -> str:
    """JSON with a line for each value."""
    facts = [
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(f" {json.dumps(key)}: {json.dumps(each)}" for key, each in fact.items())
        for name, fact in found.items()
    ]
    return "{\n" + "\n},\n".join(facts) + "\n}\n}\n"


if __name__ == "__main__":
    RECORDED.write_text(as_text({name: fact() for name, fact in FACTS.items()}), encoding="utf-8")

"""The settings in which each merge method is measured, and its floor: what no program can do without.

``SETTINGS`` has every method of ``METHODS``; ``check_covered`` fails for one that is not listed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import click
from llama_checkpoints import TEXT
from merge_work import Work, linear_layers, matrices, run_backward, run_forward, solve, spectra

from mergesearch.merge_ops.methods import METHODS

Bytes = Callable[["Inputs"], int]
Seconds = Callable[[Work], float]
LINEAR = 1.3
"""The aim of linear combinations, as a multiple of the limit."""
TOKENS = 1024


@dataclass(frozen=True)
class Inputs:
    """What a merge reads.

    Attributes:
        shapes: of the tensors of one checkpoint.
        itemsize: bytes of an element.
        references: the number of checkpoints, the base included.
        models: the number of fine-tunes.
    """

    shapes: Mapping[str, tuple[int, ...]]
    itemsize: int
    references: int
    models: int

    @property
    def elements(self) -> int:
        """The number of elements of a checkpoint."""
        return sum(map(prod, self.shapes.values()))

    @property
    def checkpoint(self) -> int:
        """The bytes of a checkpoint."""
        return self.elements * self.itemsize


def once(inputs: Inputs) -> int:
    """Every checkpoint."""
    return inputs.references * inputs.checkpoint


def twice(inputs: Inputs) -> int:
    """Every checkpoint, for a rank or a threshold that is new, and again for the merge."""
    return 2 * once(inputs)


def three_times(inputs: Inputs) -> int:
    """Every checkpoint for a new rank, for what is summed from there on, and for the merge."""
    return 3 * once(inputs)


def with_ranks(inputs: Inputs) -> int:
    """Every checkpoint, and the rank of each element of each model, in two bytes."""
    return once(inputs) + 2 * inputs.models * inputs.elements


def with_information(inputs: Inputs) -> int:
    """Every checkpoint, and the Fisher information of each element of each model, in float32."""
    return once(inputs) + 4 * inputs.models * inputs.elements


def one_matrix(inputs: Inputs) -> int:
    """The base, and one matrix in float32 in place of all models' matrices."""
    return _with_matrices(inputs, 1)


def matrix_of_each(inputs: Inputs) -> int:
    """The base, and one matrix in float32 in place of each model's."""
    return _with_matrices(inputs, inputs.models)


def _with_matrices(inputs: Inputs, count: int) -> int:
    merged = sum(map(prod, matrices(inputs.shapes).values()))
    others = inputs.models * (inputs.elements - merged) * inputs.itemsize
    return inputs.checkpoint + others + 4 * count * merged


def solutions(inputs: Inputs) -> int:
    """The solution of each linear layer in float32, and all other tensors of every checkpoint."""
    solved = sum(map(prod, linear_layers(inputs.shapes).values()))
    return 4 * solved + inputs.references * (inputs.elements - solved) * inputs.itemsize


@dataclass(frozen=True)
class Setting:
    """How a method is measured.

    Attributes:
        varied: parameters that are another number in each candidate, as in a search.
        fixed: its other parameters.
        reads: the bytes that a candidate must read. What it writes is counted apart.
        work: the seconds that a candidate must compute beside reading and writing.
        looks: how often all inputs must be read to prepare the first candidate.
        prepares: the seconds of computing that the preparation needs.
        aim: the multiple of the limit that a candidate should stay below.
        in_mergekit: whether mergekit has the method.
    """

    varied: Mapping[str, float] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    reads: Bytes = once
    work: Seconds | None = None
    looks: int = 0
    prepares: Seconds | None = None
    aim: float = 3.0
    in_mergekit: bool = True


WEIGHT = {"weight": 0.5}
SPARSE = {"weight": 0.5, "density": 0.5}
CALIBRATED = {"calibration": TEXT, "calibration_tokens": TOKENS}
SETTINGS: dict[str, Setting] = {
    "linear": Setting(WEIGHT, aim=LINEAR),
    "slerp": Setting({"t": 0.4}, looks=1, aim=LINEAR),
    "nuslerp": Setting(WEIGHT, looks=1, aim=LINEAR),
    "multislerp": Setting(WEIGHT, looks=1, aim=LINEAR),
    "karcher": Setting(looks=1, aim=LINEAR),
    "model_stock": Setting(looks=1, aim=LINEAR),
    "task_arithmetic": Setting(WEIGHT, aim=LINEAR),
    "ties": Setting(SPARSE, reads=twice, looks=1, aim=1.5),
    "dare_linear": Setting(SPARSE, aim=1.8),
    "dare_ties": Setting(SPARSE, aim=1.8),
    "della_linear": Setting(SPARSE, reads=with_ranks, looks=1),
    "della": Setting(SPARSE, reads=with_ranks, looks=1),
    "breadcrumbs": Setting({**SPARSE, "gamma": 0.01}, reads=twice, looks=1),
    "breadcrumbs_ties": Setting({**SPARSE, "gamma": 0.01}, reads=twice, looks=1),
    "sce": Setting({"select_topk": 0.5}, reads=three_times, looks=1),
    "consensus_ta": Setting({**WEIGHT, "mask_scale": 0.4}, in_mergekit=False),
    "magmax": Setting({"lambda": 0.5}, in_mergekit=False),
    "ram": Setting({"epsilon": 5e-4}),
    "ramplus_tl": Setting({"epsilon": 5e-4, "r": 0.1, "alpha": 0.2}, reads=twice),
    "tsv": Setting(WEIGHT, reads=matrix_of_each, looks=1, prepares=spectra("tsv"), in_mergekit=False),
    "iso_c": Setting({"lambda": 0.5}, reads=one_matrix, looks=1, prepares=spectra("iso_c"), in_mergekit=False),
    "fisher": Setting(WEIGHT, CALIBRATED, reads=with_information, prepares=run_backward, in_mergekit=False),
    "regmean": Setting(
        {"alpha": 0.5}, CALIBRATED, reads=solutions, work=solve, prepares=run_forward, in_mergekit=False
    ),
    "arcee_fusion": Setting(looks=3),
    "nearswap": Setting({"t": 5e-4}),
    "cosine_add": Setting({"alpha": 0.2}, looks=1, in_mergekit=False),
    "wise_ft": Setting({"alpha": 0.4}, aim=LINEAR, in_mergekit=False),
    "add_difference": Setting({"alpha": 0.4}, aim=LINEAR, in_mergekit=False),
    "train_difference": Setting({"alpha": 0.4}, in_mergekit=False),
    "passthrough": Setting({"scale": 0.5}, aim=LINEAR),
}


def check_covered() -> None:
    """Raises ClickException unless the settings have every method and no other."""
    if missing := METHODS.keys() ^ SETTINGS.keys():
        raise click.ClickException(f"benchmarks/merge_methods.py: SETTINGS and METHODS differ in {sorted(missing)}")


def counts_of(method: str, counts: Sequence[int]) -> list[int]:
    """The numbers of fine-tunes that a method is measured with: those of ``counts``, as far as it takes them."""
    most = METHODS[method].max_models
    return list(dict.fromkeys(count if most is None else min(count, most) for count in counts))


def recipe_of(method: str, paths: Sequence[str], count: int, number: int = 0) -> dict[str, Any]:
    """The data of a recipe that merges ``count`` fine-tunes. ``paths`` has the base first.

    Each ``number`` gives other values of the parameters that vary.
    """
    base, *fine_tunes = paths[: count + 1]
    setting = SETTINGS[method]
    folder = Path(base).parent
    fixed = {key: str(folder / value) if value == TEXT else value for key, value in setting.fixed.items()}
    varied = {key: value * (1 + number / 100) for key, value in setting.varied.items()}
    return {
        "merge_method": method,
        "models": [{"model": model} for model in fine_tunes],
        "parameters": {**fixed, **varied},
        "dtype": Path(base).name.split("-")[0],
        **({"base_model": base} if METHODS[method].base != "input" else {}),
    }

"""The ``soup`` section of a config: where the ingredients lie, and whether they can be averaged at all."""

import re
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mergesearch.errors import UserError, listed
from mergesearch.parsing import Strict

Kind = Literal["uniform", "greedy", "greedy_gain", "greedy_safe", "pruned", "learned", "learned_layers"]
ADAPTER = "adapter_config.json"
LEAST_COSINE = 0.2
"""Tensors of fine-tunes of one model point almost the same way; those of separate random starts are near 0."""


def _found(models: Any) -> list[str]:
    """Folders, globs and names as the checkpoints that they stand for, in natural order. Raises ValueError."""
    patterns = [models] if isinstance(models, str) else models
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"found {models!r}, expected a folder, a glob or a list of these")
    found = list(dict.fromkeys(model for pattern in patterns for model in _expanded(pattern)))
    if len(found) < 2:
        raise ValueError(
            f"found {len(found)} checkpoint{'s' * (len(found) != 1)} in {listed(patterns)}, expected two or more"
        )
    return found


def _expanded(pattern: str) -> list[str]:
    if has_magic(pattern) and not Path(pattern).exists():
        # pathlib's takes no absolute pattern.
        return _checkpoints(glob(pattern), pattern)  # noqa: PTH207
    path = Path(pattern)
    if path.is_absolute() and not path.exists():
        raise ValueError(f"{pattern}: there is no such folder")
    if path.is_dir() and not _holds_weights(path):
        return _checkpoints([str(child) for child in path.iterdir()], pattern)
    return [pattern]


def _checkpoints(paths: Sequence[str], pattern: str) -> list[str]:
    found = sorted((path for path in paths if _holds_weights(Path(path))), key=_natural)
    if not found:
        raise ValueError(f"{pattern}: none of the {len(paths)} entries there is a folder with .safetensors files")
    return found


def _holds_weights(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and any(path.glob("*.safetensors"))


def _natural(path: str) -> list[tuple[int, str]]:
    """checkpoint-900 before checkpoint-1000."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]


class Learning(Strict):
    """How the coefficients of learned soups are found: ``steps`` of Adam, each on that part of the search ``items``."""

    steps: int = Field(30, ge=1)
    learning_rate: float = Field(0.1, gt=0)
    items: float = Field(0.25, gt=0, le=1)


class Soup(Strict):
    """What to average, and how: ``models`` is a folder of checkpoints, a glob, or a list of both.

    ``base`` is scored beside them and is what LoRA adapters among them are applied to; it is no ingredient.
    ``check_heads: false`` averages models whose output layers have nothing in common.
    """

    models: Annotated[list[str], BeforeValidator(_found)]
    base: str | None = None
    kinds: list[Kind] = Field(["uniform", "greedy", "greedy_safe", "pruned"], min_length=1)
    learning: Learning = Learning()
    check_heads: bool = True
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None

    @model_validator(mode="after")
    def _adapters_have_a_base(self) -> "Soup":
        bare = [model for model in self.models if "+" not in model and (Path(model) / ADAPTER).exists()]
        if bare and self.base is None:
            raise ValueError(f"{bare[0]} is a LoRA adapter: expected base, the model that it was trained on")
        return self

    @property
    def references(self) -> list[str]:
        """The ingredients as recipes name them."""
        adapted = (f"{self.base}+{m}" if (Path(m) / ADAPTER).exists() else m for m in self.models)
        return [model for model in adapted if model != self.base]

    def recipe(self) -> dict[str, Any]:
        """The recipe of a search over nothing: all of the ingredients, which have one layout and one dtype."""
        base, dtype = {"base_model": self.base}, {"dtype": self.dtype}
        models = [{"model": model, "parameters": {"weight": 1.0}} for model in self.references]
        fixed = {key: value for key, value in {**base, **dtype}.items() if value is not None}
        return {**fixed, "merge_method": "linear", "models": models}


def check_shared_start(references: Sequence[str]) -> None:
    """Raises UserError where the ingredients' heads did not start from the same values, or have other labels.

    An average of heads that were initialised apart is worse than each (they are near orthogonal), and the greedy soup
    then ends with a single model and no word of why.
    """
    from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint

    first, *others = map(Checkpoint, references)
    for other in others:
        if _labels(first) != _labels(other):
            raise UserError(f"soup: {other.reference} has other labels (id2label) than {first.reference}")
        for name, cosine in _cosines(first, other):
            if cosine < LEAST_COSINE:
                raise UserError(
                    f"soup: {name} of {other.reference} has nothing in common with {first.reference}'s (cosine "
                    f"{cosine:.2f}): an average needs fine-tunes that started from the same values, output layer "
                    "included; save the model once with its new head and start every training from there, "
                    "or say `check_heads: false`"
                )


def _labels(checkpoint: Any) -> Any:
    return checkpoint.config.get("id2label") if checkpoint.folder else None


def _cosines(one: Any, two: Any) -> Iterator[tuple[str, float]]:
    """Of the matrices outside the stacks of layers, heads among them."""
    from mergesearch.merge_ops.recipe.recipe import layer_of

    for name, info in one.tensors.items():
        if len(info.shape) > 1 and info.dtype.is_floating_point and layer_of(name) is None and name in two.tensors:
            a, b = (checkpoint.tensor(name).flatten().double() for checkpoint in (one, two))
            norms = float(a.norm() * b.norm())
            if a.shape == b.shape and norms > 0:
                yield name, float(a @ b) / norms

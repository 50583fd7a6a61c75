"""The ``soup`` section of a config: which checkpoints to average, and how."""

import re
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mergesearch.copies import here
from mergesearch.errors import listed
from mergesearch.merge_ops.checkpoint.references import ModelReference, parse_reference
from mergesearch.parsing import Strict
from mergesearch.text import quoted

SoupKind = Literal["uniform", "greedy", "greedy_gain", "greedy_safe", "pruned", "learned", "learned_layers"]
ADAPTER = "adapter_config.json"


def _found(models: Any) -> list[str]:
    """The checkpoints that folders, globs and names refer to, in natural order. Raises ValueError."""
    patterns = [models] if isinstance(models, str) else models
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"found {quoted(models)}, expected a folder, a glob or a list of these")
    found = list(dict.fromkeys(model for pattern in patterns for model in _expanded(pattern)))
    if len(found) < 2:
        raise ValueError(
            f"found {len(found)} checkpoint{'s' * (len(found) != 1)} in {listed(patterns)}, expected two or more"
        )
    return found


def _expanded(pattern: str) -> list[str]:
    if has_magic(pattern) and not Path(here(pattern)).exists():
        # pathlib's takes no absolute pattern.
        return _checkpoints(glob(pattern), pattern)  # noqa: PTH207
    path = Path(here(pattern))
    if path.is_absolute() and not path.exists():
        raise ValueError(f"{pattern}: there is no such folder")
    if path.is_dir() and not _holds_weights(path):
        return _checkpoints([str(child) for child in path.iterdir()], pattern)
    return [pattern]


def _checkpoints(paths: Sequence[str], pattern: str) -> list[str]:
    found = sorted((path for path in paths if _holds_weights(Path(path))), key=_natural)
    if not found:
        raise ValueError(f"{pattern}: none of its {len(paths)} entries is a folder with .safetensors files")
    return found


def _holds_weights(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and any(path.glob("*.safetensors"))


def _natural(path: str) -> list[tuple[int, str]]:
    """checkpoint-900 before checkpoint-1000."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]


def _is_adapter(model: str) -> bool:
    return (Path(here(model)) / ADAPTER).exists()


class Learning(Strict):
    """How learned soups are trained: ``steps`` of Adam, each on the share ``items`` of the search items."""

    steps: int = Field(30, ge=1)
    learning_rate: float = Field(0.1, gt=0)
    items: float = Field(0.25, gt=0, le=1)


class Soup(Strict):
    """What to average: ``models`` is a folder of checkpoints, a glob, or a list of both.

    ``base`` is scored as a baseline, and LoRA adapters among the models are applied to it; it is not averaged.
    ``check_heads: false`` allows models whose output layers have nothing in common; ``on_config_mismatch`` and
    ``dequantize`` are as in a recipe.
    """

    models: Annotated[list[str], BeforeValidator(_found)]
    base: str | None = None
    kinds: list[SoupKind] = Field(["uniform", "greedy", "greedy_safe", "pruned"], min_length=1)
    learning: Learning = Learning()
    check_heads: bool = True
    on_config_mismatch: Literal["warn"] | None = None
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None
    dequantize: bool = False

    @model_validator(mode="after")
    def _adapters_have_a_base(self) -> "Soup":
        bare = [model for model in self.models if _is_adapter(model)]
        if bare and self.base is None:
            raise ValueError(f"{bare[0]} is a LoRA adapter: expected base, the model that it was trained on")
        return self

    @property
    def references(self) -> list[str]:
        """The averaged models as recipes refer to them."""
        adapted = (
            str(ModelReference(parse_reference(str(self.base)).model, model)) if _is_adapter(model) else model
            for model in self.models
        )
        return [model for model in adapted if model != self.base]

    def recipe(self) -> dict[str, Any]:
        """A recipe without holes that refers to all of the models."""
        given: dict[str, Any] = {
            "base_model": self.base,
            "dtype": self.dtype,
            "on_config_mismatch": self.on_config_mismatch,
            "dequantize": self.dequantize or None,
        }
        models = [{"model": model, "parameters": {"weight": 1.0}} for model in self.references]
        fixed = {key: value for key, value in given.items() if value is not None}
        return {**fixed, "merge_method": "linear", "models": models}

"""The sections of a recipe as pydantic models."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mergesearch.merge_ops.checkpoint.references import ModelName
from mergesearch.merge_ops.recipe.parameter_settings import OptionalSettings, blank_as
from mergesearch.parsing import Strict

Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "float64"],
    BeforeValidator(lambda name: name.removeprefix("torch.") if isinstance(name, str) else name),
]


# Old mergekit recipes have ``model:PATH``.
TokenizerSource = Annotated[
    ModelName | None,
    BeforeValidator(lambda source: source.removeprefix("model:") if isinstance(source, str) else source),
]


class ModelInput(Strict):
    """One model of a recipe, with its own parameters."""

    model: ModelName
    parameters: OptionalSettings


class SliceSource(Strict):
    """Layers of one model: from the first index up to, but without, the second."""

    model: ModelName
    layer_range: tuple[int, int]
    parameters: OptionalSettings


class OutputSlice(Strict):
    """The next layers of the result, with the recipe's method and base or with their own.

    ``residual_weight`` is accepted because mergekit accepts and ignores it.
    """

    sources: list[SliceSource] = Field(min_length=1)
    base_model: ModelName | None = None
    merge_method: str | None = None
    residual_weight: float | None = None
    parameters: OptionalSettings


class OutputModule(Strict):
    """One stack of layers of a model that has several."""

    slices: Annotated[list[OutputSlice], blank_as(list)] = Field(default_factory=list)
    models: Annotated[list[ModelInput], blank_as(list)] = Field(default_factory=list)
    parameters: OptionalSettings


class FrozenLayers(Strict):
    """Layers of the result: from the first index up to, but without, the second."""

    layers: tuple[int, int]

"""The sections of a recipe as pydantic models."""

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.references import Alignment, ModelName, parse_reference, wrong_data
from mergesearch.merge_ops.recipe.parameter_settings import OptionalSettings, blank_as
from mergesearch.parsing import Strict

AlignBy = Literal["weights", "activations", "orthogonal"]
NO_ALIGNMENT = "none"
"""The value of ``align`` for a model that stays as it is."""
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "float64"],
    BeforeValidator(lambda name: name.removeprefix("torch.") if isinstance(name, str) else name),
]


# Old mergekit recipes have ``model:PATH``.
TokenizerSource = Annotated[
    ModelName | None,
    BeforeValidator(lambda source: source.removeprefix("model:") if isinstance(source, str) else source),
]


class Align(Strict):
    """``align``: the entries of a model are put in the order that fits another model best.

    ``to`` is that model, by default the base, or the first model. ``data`` is the file that both run on to compare
    activations. ``spec`` is a YAML file of groups, or a function that builds the module, for models that transformers
    does not know.
    """

    by: AlignBy = "weights"
    data: str | None = Field(default=None, min_length=1)
    to: ModelName | None = None
    spec: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        if problem := wrong_data(self.by, self.data):
            raise ValueError(problem)
        return self

    @model_serializer
    def _short(self) -> Any:
        given = {"data": self.data, "to": self.to, "spec": self.spec}
        longer = {key: value for key, value in given.items() if value is not None}
        return {"by": self.by, **longer} if longer else self.by


def _read_align(value: Any) -> Any:
    if value == NO_ALIGNMENT:
        return None
    return {"by": value} if isinstance(value, str) else value


OptionalAlign = Annotated[Align | None, BeforeValidator(_read_align)]


class _Aligned(Strict):
    """A model that may be aligned."""

    model: ModelName
    align: OptionalAlign = None

    def reference(self, anchor: str) -> str:
        """The reference of the model, or of its copy that is aligned to ``anchor`` where the key names no other."""
        to = self.align.to or anchor if self.align else self.model
        if self.align is None or to == self.model:
            return self.model
        parsed = parse_reference(self.model)
        if parsed.aligned:
            raise UserError(f"align: found for {self.model}, expected a model that is not aligned")
        return str(replace(parsed, aligned=Alignment(to, self.align.by, self.align.spec, self.align.data)))


class ModelInput(_Aligned):
    """One model of a recipe, with its own parameters."""

    parameters: OptionalSettings


class SliceSource(_Aligned):
    """Layers of one model: from the first index up to, but without, the second."""

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

"""Recipes: mergekit's YAML, read, written, and resolved to a method and its numbers for every tensor."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mergesearch.errors import UserError
from mergesearch.files import digest
from mergesearch.merge_ops.checkpoint.references import ModelName
from mergesearch.merge_ops.methods import Method, find_method
from mergesearch.merge_ops.recipe.group_checks import check_group
from mergesearch.merge_ops.recipe.layout import (
    Entry,
    Group,
    Layouts,
    Place,
    layer_of,
    relative_depths,
    sliced_places,
    whole_places,
)
from mergesearch.merge_ops.recipe.resolution import Resolver, TensorRecipe, frozen_place, inputs_of
from mergesearch.merge_ops.recipe.settings import PlainSettings, Settings, check_parameters, nothing_is
from mergesearch.merge_ops.recipe.vocabulary_config import TokenizerConfig
from mergesearch.parsing import Strict, dump_yaml, parse

__all__ = ["Recipe", "TensorRecipe", "check_parameters", "layer_of", "relative_depths"]

Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "float64"],
    BeforeValidator(lambda name: name.removeprefix("torch.") if isinstance(name, str) else name),
]


def _without_kind(source: Any) -> Any:
    """Old recipes say ``model:PATH``."""
    return source.removeprefix("model:") if isinstance(source, str) else source


FOREIGN = {
    "experts": "is a config of mergekit-moe, which makes a mixture of experts; expected one that merges weights",
    "gate_mode": "is a config of mergekit-moe, which makes a mixture of experts; expected one that merges weights",
    "genome": "is a config of mergekit-evolve; expected a recipe (to search, put {search: [low, high]} for a number)",
}
"""Keys of mergekit's other files, and what these are."""


class ModelInput(Strict):
    """One model of a recipe, with the parameters that are its own."""

    model: ModelName
    parameters: Settings


class SliceSource(Strict):
    """Some layers of one model: from the first number up to, but without, the second."""

    model: ModelName
    layer_range: tuple[int, int]
    parameters: Settings


class OutputSlice(Strict):
    """The next layers of the result, by the recipe's method and base or by their own.

    ``residual_weight`` is accepted for mergekit's sake, which ignores it.
    """

    sources: list[SliceSource] = Field(min_length=1)
    base_model: ModelName | None = None
    merge_method: str | None = None
    residual_weight: float | None = None
    parameters: Settings


class OutputModule(Strict):
    """One stack of layers of a model that has several."""

    slices: Annotated[list[OutputSlice], nothing_is(list)] = Field(default_factory=list)
    models: Annotated[list[ModelInput], nothing_is(list)] = Field(default_factory=list)
    parameters: Settings


class FrozenLayers(Strict):
    """Layers of the result, from the first number up to, but without, the second."""

    layers: tuple[int, int]


class Recipe(Strict):
    """The full description of one merged model: of whole ``models``, of ``slices``, or of ``modules`` with slices.

    ``frozen`` are texts in tensors' names, or layers, that stay the base's whatever the method does with the others.
    """

    merge_method: str
    models: Annotated[list[ModelInput], nothing_is(list)] = Field(default_factory=list)
    slices: Annotated[list[OutputSlice], nothing_is(list)] = Field(default_factory=list)
    modules: Annotated[dict[str, OutputModule], nothing_is(dict)] = Field(default_factory=dict)
    base_model: ModelName | None = None
    parameters: Settings
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: Annotated[ModelName | None, BeforeValidator(_without_kind)] = None
    tokenizer: TokenizerConfig | None = None
    chat_template: str | None = None
    on_mismatch: Literal["base", "overlap"] | None = None
    frozen: Annotated[list[str | FrozenLayers], nothing_is(list)] = Field(default_factory=list)
    name: str | None = None

    @classmethod
    def read(cls, data: Any, where: str = "recipe") -> "Recipe":
        """A recipe from a YAML document, checked against its method; raises UserError."""
        _check_kind(data, where)
        recipe = parse(cls, data, where)
        try:
            recipe._check()
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return recipe

    @property
    def references(self) -> list[str]:
        """Every checkpoint that the recipe names, the template of the result first."""
        base = [self.base_model] if self.base_model else []
        groups = [group for groups in self.groups.values() for group in groups]
        bases = [group.base for group in groups if group.base]
        return list(dict.fromkeys(base + [entry.model for group in groups for entry in group.entries] + bases))

    @property
    def tokenizers(self) -> list[str]:
        """The models that the recipe names for their tokenizer alone."""
        source = self.vocabulary.source if self.vocabulary else None
        return [] if source in (None, "base", "union") else [str(source)]

    @property
    def target_dtype(self) -> Dtype | None:
        """The dtype of the result; None: that of the inputs."""
        return self.out_dtype or self.dtype

    @property
    def vocabulary(self) -> TokenizerConfig | None:
        """How the result's vocabulary is made; None: every model's is the same."""
        return TokenizerConfig(source=self.tokenizer_source) if self.tokenizer_source else self.tokenizer

    @property
    def keeps_shapes(self) -> bool:
        """Whether the result has the tensors of the template, name by name and shape by shape."""
        return bool(self.models) and self.vocabulary is None

    @cached_property
    def method(self) -> Method:
        return find_method(self.merge_method)

    @property
    def methods(self) -> list[Method]:
        """The recipe's method, and those that slices have of their own."""
        groups = [group for groups in self.groups.values() for group in groups]
        return list({method.name: method for method in (self.method, *(group.method for group in groups))}.values())

    @property
    def inputs(self) -> list[Entry]:
        """The models that the method combines in the first group, beside the base where it takes task vectors."""
        return inputs_of(next(iter(self.groups.values()))[0])

    @cached_property
    def groups(self) -> dict[str, list[Group]]:
        """For each module (the only one has the name ""), its groups from the first layer to the last."""
        if not self.modules:
            return {"": self._groups(self.models, self.slices, (self.parameters,), "")}
        return {
            name: self._groups(m.models, m.slices, (m.parameters, self.parameters), f"modules.{name}.")
            for name, m in self.modules.items()
        }

    def to_yaml(self) -> str:
        return dump_yaml(self.model_dump(exclude_defaults=True, exclude_none=True))

    def resolve(self, names: Sequence[str], layouts: Layouts | None = None) -> Iterator[TensorRecipe]:
        """The method's numbers for each tensor of the result; raises UserError where one is missing or invalid.

        ``names`` are the template's tensors; ``layouts`` each checkpoint's, by reference, where they differ.
        """
        if self.models:
            places = whole_places(self.groups[""][0], names)
        else:
            alike = dict.fromkeys(self.references, names)
            places = iter(sliced_places(self.groups, names, layouts or alike))
        template = self.references[0] if self.models and self.on_mismatch else None
        resolver = Resolver(template)
        if not self.frozen:
            return map(resolver.resolve, places)
        return self._resolve_around_frozen(list(places), resolver)

    def _resolve_around_frozen(self, places: Sequence[Place], resolver: Resolver) -> Iterator[TensorRecipe]:
        for entry in self.frozen:
            if not any(_covers(entry, place.name) for place in places):
                raise UserError(f"frozen: {entry if isinstance(entry, str) else entry.layers} is no part of the model")
        for place in places:
            frozen = any(_covers(entry, place.name) for entry in self.frozen)
            yield frozen_place(place) if frozen else resolver.resolve(place)

    def phenotype(self, names: Sequence[str]) -> str:
        """A hash that two recipes share when they build the same tensors from the same checkpoints."""
        tensors = [self._described(tensor) for tensor in self.resolve(names)]
        vocabulary = self.vocabulary.model_dump() if self.vocabulary else None
        content = [self.target_dtype, self.merge_method, tensors, vocabulary, self.on_mismatch]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _described(self, tensor: TensorRecipe) -> dict[str, Any]:
        """What says how the tensor is made; of files their contents, wherever they lie."""
        files = {name: digest(Path(str(tensor.shared[name]))) for name in tensor.files}
        return {**asdict(tensor), "shared": {**tensor.shared, **files}}

    def _groups(
        self,
        models: Sequence[ModelInput],
        slices: Sequence[OutputSlice],
        settings: tuple[PlainSettings, ...],
        where: str,
    ) -> list[Group]:
        if models:
            entries = [Entry(entry.model, entry.parameters) for entry in models]
            return [_with_base(entries, Group((), self.base_model, settings, f"{where}models", self.method))]
        return [
            _with_base(
                [Entry(source.model, source.parameters, source.layer_range) for source in piece.sources],
                Group(
                    (),
                    piece.base_model or self.base_model,
                    (piece.parameters, *settings),
                    f"{where}slices[{index}].sources",
                    find_method(piece.merge_method) if piece.merge_method else self.method,
                ),
            )
            for index, piece in enumerate(slices)
        ]

    def _check(self) -> None:
        check_parameters(self.parameters, "parameters", self.methods)
        self._check_forms()
        for module, entry in self.modules.items():
            check_parameters(entry.parameters, f"modules.{module}.parameters", self.methods)
        for group in (group for groups in self.groups.values() for group in groups):
            check_group(group)
        if self.frozen and not all(group.base for groups in self.groups.values() for group in groups):
            raise UserError("frozen: needs base_model, whose tensors it keeps")
        if self.tokenizer and self.tokenizer_source:
            raise UserError("tokenizer_source: is there beside tokenizer; give one of them")

    def _check_forms(self) -> None:
        given = [key for key in ("models", "slices", "modules") if getattr(self, key)]
        if len(given) != 1:
            found = "[]" if not given else " and ".join(given)
            raise UserError(f"models: found {found}, expected one of models, slices, modules, with at least one entry")
        for name, module in self.modules.items():
            if bool(module.slices) == bool(module.models):
                raise UserError(f"modules.{name}: expected either slices or models")


def _check_kind(data: Any, where: str) -> None:
    """Raises UserError for mergekit's files that are no recipes."""
    for key in FOREIGN.keys() & (data if isinstance(data, dict) else {}).keys():
        raise UserError(f"{where}: {FOREIGN[key]}")


def _covers(frozen: str | FrozenLayers, name: str) -> bool:
    if isinstance(frozen, str):
        return frozen in name
    place = layer_of(name)
    return place is not None and frozen.layers[0] <= place[1] < frozen.layers[1]


def _with_base(entries: list[Entry], group: Group) -> Group:
    """The group with these entries and the base among them: it has the layers on which the others agree."""
    base = group.base
    if base and all(entry.model != base for entry in entries):
        ranges = {entry.layers for entry in entries}
        layers = next(iter(ranges)) if len(ranges) == 1 else None
        entries = [*entries, Entry(base, {}, layers, implied=True)]
    return replace(group, entries=tuple(entries))

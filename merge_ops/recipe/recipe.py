"""Recipes: mergekit's YAML, parsed, written, and resolved to a method and its parameters for every tensor."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mergesearch.errors import Problems, UserError, located
from mergesearch.files import digest
from mergesearch.merge_ops.checkpoint.references import ModelName
from mergesearch.merge_ops.methods import Method, find_method
from mergesearch.merge_ops.recipe.after_merge import Repair
from mergesearch.merge_ops.recipe.group_checks import check_group
from mergesearch.merge_ops.recipe.layout import (
    GroupInput,
    Layouts,
    MergeGroup,
    ResultTensor,
    layer_of,
    sliced_tensors,
    unsliced_tensors,
)
from mergesearch.merge_ops.recipe.parameter_settings import (
    OptionalSettings,
    ParameterSettings,
    blank_as,
    check_parameters,
)
from mergesearch.merge_ops.recipe.recovery import Recovery
from mergesearch.merge_ops.recipe.resolution import Resolver, TensorRecipe, frozen_recipe
from mergesearch.merge_ops.recipe.schema import (
    Dtype,
    FrozenLayers,
    ModelInput,
    OutputModule,
    OutputSlice,
    TokenizerSource,
)
from mergesearch.merge_ops.recipe.unknown_keys import without_unknown_keys
from mergesearch.merge_ops.recipe.vocabulary_config import TokenizerConfig
from mergesearch.parsing import Strict, dump_yaml, parse
from mergesearch.say import Say

__all__ = ["Recipe", "check_parameters", "layer_of"]

OTHER_TOOLS = {
    "experts": "is a config of mergekit-moe, which makes a mixture of experts; expected one that merges weights",
    "gate_mode": "is a config of mergekit-moe, which makes a mixture of experts; expected one that merges weights",
    "genome": "is a config of mergekit-evolve; expected a recipe (to search, put {search: [low, high]} for a number)",
}
"""Keys of the files of mergekit's other tools, with the message for each."""

STEPS_AFTER_MERGE = ("repair", "recover")
"""The keys of steps after the merge."""


class Recipe(Strict):
    """The full description of one merged model: of whole ``models``, of ``slices``, or of ``modules`` with slices.

    ``frozen`` lists parts of tensor names, or layers, whose tensors stay the base's. ``name`` is the name by which
    other documents of the same file refer to the result.
    """

    merge_method: str
    models: Annotated[list[ModelInput], blank_as(list)] = Field(default_factory=list)
    slices: Annotated[list[OutputSlice], blank_as(list)] = Field(default_factory=list)
    modules: Annotated[dict[str, OutputModule], blank_as(dict)] = Field(default_factory=dict)
    base_model: ModelName | None = None
    parameters: OptionalSettings
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: TokenizerSource = None
    tokenizer: TokenizerConfig | None = None
    chat_template: str | None = None
    on_mismatch: Literal["base", "overlap"] | None = None
    on_config_mismatch: Literal["warn"] | None = None
    dequantize: bool = False
    frozen: Annotated[list[str | FrozenLayers], blank_as(list)] = Field(default_factory=list)
    repair: Repair | None = None
    recover: Recovery | None = None
    name: str | None = None

    @classmethod
    def read(cls, data: Any, where: str = "recipe", warn: Say | None = None) -> "Recipe":
        """Returns the recipe of a YAML document.

        Args:
            data: the content of the document.
            where: the start of messages.
            warn: gets a warning for every unknown key or parameter, as mergekit ignores them. None: they are errors.

        Raises:
            UserError: the recipe is not valid.
        """
        for key in OTHER_TOOLS.keys() & (data if isinstance(data, dict) else {}).keys():
            raise UserError(f"{where}: {OTHER_TOOLS[key]}")
        if warn is not None:
            data = without_unknown_keys(data, cls.model_fields, where, warn)
        recipe = parse(cls, data, where)
        with located(where):
            recipe._check(warn and (lambda line: warn(f"{where}: {line}")))
        return recipe

    @property
    def references(self) -> list[str]:
        """The references of all checkpoints. The first is the template of the result."""
        base = [self.base_model] if self.base_model else []
        groups = self._all_groups
        bases = [group.base for group in groups if group.base]
        return list(dict.fromkeys(base + [entry.model for group in groups for entry in group.inputs] + bases))

    @property
    def tokenizers(self) -> list[str]:
        """The references of models that are used for their vocabulary alone."""
        vocabulary = self.vocabulary
        if vocabulary is None:
            return []
        sources = [] if vocabulary.source in ("base", "union") else [str(vocabulary.source)]
        return list(dict.fromkeys([*sources, *vocabulary.models]))

    @property
    def recovery_parents(self) -> list[str]:
        """The references of the models that the merged model is recovered from. Raises UserError as ``parents_of``."""
        named = (entry.model for group in self._all_groups for entry in group.inputs if not entry.implied)
        return self.recover.parents_of(list(dict.fromkeys(named)), self.base_model) if self.recover else []

    @property
    def target_dtype(self) -> Dtype | None:
        """The dtype of the result. None means that of the inputs."""
        return self.out_dtype or self.dtype

    @property
    def vocabulary(self) -> TokenizerConfig | None:
        """How the result's vocabulary is made. None means that all models have the same."""
        return TokenizerConfig(source=self.tokenizer_source) if self.tokenizer_source else self.tokenizer

    @property
    def keeps_shapes(self) -> bool:
        """Whether the result has the template's tensors: the same names, and in one vocabulary the same shapes."""
        return bool(self.models)

    @property
    def steps_after_merge(self) -> dict[str, Any]:
        """The steps after the merge, by their keys, with the digests of files in place of their paths."""
        steps: dict[str, Any] = {}
        if self.repair:
            steps["repair"] = {**self.repair.model_dump(exclude={"builder"}), "data": digest(Path(self.repair.data))}
        if self.recover:
            known = {"data"} if self.recover.digest else None
            steps["recover"] = {**self.recover.model_dump(exclude=known), "from": self.recovery_parents}
        return steps

    @property
    def has_steps_after_merge(self) -> bool:
        """Whether the merged tensors are changed afterwards."""
        return self.repair is not None or self.recover is not None

    @property
    def only_model(self) -> str | None:
        """The reference of the one checkpoint that the result is, or None if the recipe changes or merges any."""
        given = self.model_dump(exclude_defaults=True, exclude_none=True)
        entries = given.pop("models", [])
        settings = entries[0].get("parameters", {}) if len(entries) == 1 else None
        others = given.keys() - {"merge_method", "dtype", "out_dtype", "name", "on_config_mismatch", "dequantize"}
        is_itself = not others and self.merge_method == "linear" and settings in ({}, {"weight": 1.0})
        return self._all_groups[0].inputs[0].model if is_itself else None

    @cached_property
    def method(self) -> Method:
        """The recipe's method. Slices may have others."""
        return find_method(self.merge_method)

    @cached_property
    def groups(self) -> dict[str, list[MergeGroup]]:
        """The groups of each module from the first layer to the last. Without modules, the one key is ""."""
        if not self.modules:
            return {"": self._groups(self.models, self.slices, (self.parameters,), "")}
        return {
            name: self._groups(m.models, m.slices, (m.parameters, self.parameters), f"modules.{name}.")
            for name, m in self.modules.items()
        }

    @property
    def _all_groups(self) -> list[MergeGroup]:
        return [group for groups in self.groups.values() for group in groups]

    def to_yaml(self) -> str:
        """Returns the recipe as YAML, without keys that have their default."""
        return dump_yaml(self.model_dump(exclude_defaults=True, exclude_none=True))

    def resolve(self, names: Sequence[str], layouts: Layouts | None = None) -> Sequence[TensorRecipe]:
        """Returns the method, inputs and parameters of each tensor of the result.

        Without slices, the result of the last call is kept: the phenotype of a candidate and its tensors need the same.

        Args:
            names: the template's tensor names.
            layouts: each checkpoint's tensor names, by reference, if they differ from the template's.

        Raises:
            UserError: a parameter is missing or not valid, or a layer or stack does not exist.
        """
        if not self.models:
            return tuple(self._resolve(names, layouts))
        if (key := tuple(names)) not in self._resolved:
            self._resolved.clear()
            self._resolved[key] = tuple(self._resolve(names, layouts))
        return self._resolved[key]

    @cached_property
    def _resolved(self) -> dict[tuple[str, ...], tuple[TensorRecipe, ...]]:
        return {}

    def _resolve(self, names: Sequence[str], layouts: Layouts | None) -> Iterator[TensorRecipe]:
        if self.models:
            tensors = unsliced_tensors(self.groups[""][0], names)
        else:
            same = dict.fromkeys(self.references, names)
            tensors = iter(sliced_tensors(self.groups, names, layouts or same))
        template = self.references[0] if self.models and self.on_mismatch else None
        resolver = Resolver(template)
        if not self.frozen:
            return map(resolver.resolve, tensors)
        return self._resolve_with_frozen(list(tensors), resolver)

    def _resolve_with_frozen(self, tensors: Sequence[ResultTensor], resolver: Resolver) -> Iterator[TensorRecipe]:
        for entry in self.frozen:
            if not entry:
                raise UserError("frozen: found an empty text, expected a part of a tensor's name")
            if not any(_covers(entry, tensor.name) for tensor in tensors):
                raise UserError(f"frozen: {entry if isinstance(entry, str) else entry.layers} is no part of the model")
        for tensor in tensors:
            is_frozen = any(_covers(entry, tensor.name) for entry in self.frozen)
            yield frozen_recipe(tensor) if is_frozen else resolver.resolve(tensor)

    def phenotype(self, names: Sequence[str], copies: Mapping[str, str] | None = None) -> str:
        """Returns a hash that two recipes share if they build the same tensors from the same checkpoints.

        Args:
            names: as for ``resolve``.
            copies: for each tensor that is a copy the content that it is a copy of, whatever method makes it.
        """
        copies = copies or {}
        tensors = [copies.get(entry.name) or _described(entry) for entry in self.resolve(names)]
        vocabulary = self.vocabulary.model_dump() if self.vocabulary else None
        content = [self.target_dtype, None if copies else self.merge_method, tensors, vocabulary, self.on_mismatch]
        content += [self.steps_after_merge] if self.has_steps_after_merge else []
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _groups(
        self,
        models: Sequence[ModelInput],
        slices: Sequence[OutputSlice],
        parameter_levels: tuple[ParameterSettings, ...],
        where: str,
    ) -> list[MergeGroup]:
        if models:
            anchor = self.base_model or models[0].model
            inputs = [GroupInput(entry.reference(anchor), entry.parameters) for entry in models]
            return [
                _with_base(inputs, MergeGroup((), self.base_model, parameter_levels, f"{where}models", self.method))
            ]
        return [
            _with_base(
                [
                    GroupInput(
                        source.reference(output.base_model or self.base_model or output.sources[0].model),
                        source.parameters,
                        source.layer_range,
                    )
                    for source in output.sources
                ],
                MergeGroup(
                    (),
                    output.base_model or self.base_model,
                    (output.parameters, *parameter_levels),
                    f"{where}slices[{index}].sources",
                    find_method(output.merge_method) if output.merge_method else self.method,
                ),
            )
            for index, output in enumerate(slices)
        ]

    def _check(self, warn: Say | None) -> None:
        """Raises UserError with all problems that can be told apart."""
        problems = Problems()
        method = problems.attempt(lambda: self.method)
        problems.attempt(self._check_forms)
        groups = problems.attempt(lambda: self._all_groups) or []
        methods = list({each.name: each for each in (method, *(group.method for group in groups)) if each}.values())
        sections = {"parameters": self.parameters} if methods else {}
        sections |= {f"modules.{name}.parameters": module.parameters for name, module in self.modules.items()}
        for where, parameters in sections.items():
            problems.attempt(check_parameters, parameters, where, methods, warn)
        for group in groups:
            problems.attempt(check_group, group, warn)
        problems.attempt(self._check_beside, groups)
        if groups:
            problems.attempt(lambda: self.recovery_parents)
        problems.check()

    def _check_beside(self, groups: Sequence[MergeGroup]) -> None:
        if self.frozen and not all(group.base for group in groups):
            raise UserError("frozen: needs base_model, whose tensors it keeps")
        if self.tokenizer and self.tokenizer_source:
            raise UserError("tokenizer_source: found beside tokenizer, expected only one of them")

    def _check_forms(self) -> None:
        given = [key for key in ("models", "slices", "modules") if getattr(self, key)]
        if len(given) != 1:
            found = "[]" if not given else " and ".join(given)
            raise UserError(f"models: found {found}, expected one of models, slices, modules, with at least one entry")
        for name, module in self.modules.items():
            if bool(module.slices) == bool(module.models):
                raise UserError(f"modules.{name}: expected either slices or models")


def _described(tensor_recipe: TensorRecipe) -> dict[str, Any]:
    """Returns the recipe of a tensor with the digests of files in place of their paths."""
    files = {name: digest(Path(str(tensor_recipe.shared[name]))) for name in tensor_recipe.files}
    own = {field.name: getattr(tensor_recipe, field.name) for field in fields(tensor_recipe)}
    return {**own, "shared": {**tensor_recipe.shared, **files}}


def _covers(frozen: str | FrozenLayers, name: str) -> bool:
    if isinstance(frozen, str):
        return frozen in name
    layer = layer_of(name)
    return layer is not None and frozen.layers[0] <= layer[1] < frozen.layers[1]


def _with_base(inputs: list[GroupInput], group: MergeGroup) -> MergeGroup:
    """Returns the group with these inputs and the base. An implied base has the layers that all others have."""
    base = group.base
    if base and all(entry.model != base for entry in inputs):
        ranges = {entry.layers for entry in inputs}
        layers = next(iter(ranges)) if len(ranges) == 1 else None
        inputs = [*inputs, GroupInput(base, {}, layers, implied=True)]
    return replace(group, inputs=tuple(inputs))

"""The tensors that a recipe makes: their inputs, shapes, dtypes and vocabulary. No tensor data is read for this."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property, reduce

import torch

from mergesearch.errors import UserError
from mergesearch.merge_ops.assembly.candidate_cache import TensorProperties
from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.assembly.unmerged_names import (
    copies,
    integer_warnings,
    kept,
    layouts_without,
    mismatch_warnings,
    twins,
    unused_names,
    unused_warnings,
)
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.inputs.compatibility import check_compatible
from mergesearch.merge_ops.inputs.guessed_names import is_embedding
from mergesearch.merge_ops.inputs.sentence_modules import module_warnings
from mergesearch.merge_ops.inputs.shape_match import check_kinds, check_match, is_matched
from mergesearch.merge_ops.inputs.vocabulary_match import check_rows, tokenizer_warnings
from mergesearch.merge_ops.recipe.parameter_settings import filters_of
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.recipe.resolution import TensorRecipe
from mergesearch.text import quoted


class ResultLayout:
    """The tensors of one recipe's result.

    Attributes:
        template: the reference of the checkpoint that gives the result its architecture.
        template_names: its tensor names.
        copies: the name of the tensor that each of these copies: the recipe's checkpoints tie both, while another
            checkpoint of the engine does not.
        tensor_recipes: the recipe of each tensor by name. A copy has that of the tensor that it copies, and so has a
            tensor that equals another one in all checkpoints.
        properties: the properties of each tensor by name.
        infos: the shape and dtype of each tensor by name, without copies.

    Raises:
        UserError: a parameter or a layer is missing, the checkpoints do not match and the recipe does not set
            ``on_mismatch``, nothing matches although it does, they have different vocabularies and the recipe has no
            ``tokenizer``, or they are no models of one kind and the recipe does not set ``on_config_mismatch``.
    """

    def __init__(self, merger: Merger, recipe: Recipe) -> None:
        self._recipe = recipe
        self._cache = merger.cache
        self.template = recipe.references[0]
        inputs = {reference: merger.inputs[reference] for reference in recipe.references}
        self._inputs = inputs
        self._unused = unused_names(inputs, self.template)
        self._layouts = layouts_without(inputs, () if recipe.models else self._unused)
        self._copies = merger.copies
        self.template_names = list(self._layouts[self.template])
        self.copies = copies(inputs, self.template)
        self._twins = twins(inputs, self.template) if recipe.models else {}
        self.tensor_recipes = self._resolved()
        self._check_match()
        self.properties = {name: self._properties(entry) for name, entry in self.tensor_recipes.items()}
        self._check_anything_is_merged()
        dtype = torch_dtype(recipe.target_dtype)
        written = {name: properties for name, properties in self.properties.items() if name not in self.copies}
        self.infos = {name: _with_dtype(properties.info, dtype) for name, properties in written.items()}
        self._config_warnings = self._check_configs()
        self._vocabulary_warnings = self._check_vocabularies()

    @cached_property
    def warnings(self) -> list[str]:
        """What the user should know about the inputs, one line each."""
        checkpoints = [entry.checkpoint for entry in self._inputs.values()]
        vocabulary = self._copies.warnings if self._copies else tokenizer_warnings(checkpoints)
        return [
            *self._config_warnings,
            *self._vocabulary_warnings,
            *vocabulary,
            *self._mismatch_warnings(),
            *self._filter_warnings(),
            *unused_warnings(self._inputs, self.template, self._unused),
            *integer_warnings(self._inputs, self.template, sorted(self.infos.keys() - self._unused)),
            *module_warnings(checkpoints),
            *(line for checkpoint in checkpoints for line in checkpoint.warnings),
        ]

    def info_of(self, reference: str, name: str) -> TensorInfo | None:
        """Returns the info of an input's tensor, or None if there is no such tensor."""
        return self._layouts[reference].get(name)

    def is_merged(self, name: str) -> bool:
        """Returns whether a method merges the whole tensor. Others are copied, or merged in part."""
        properties, models = self.properties[name], self.tensor_recipes[name].models
        return bool(models) and properties.matched and properties.info.dtype.is_floating_point

    def _resolved(self) -> dict[str, TensorRecipe]:
        resolved = {entry.name: entry for entry in self._recipe.resolve(self.template_names, self._layouts)}
        if self._recipe.models:
            unmerged = self._unused | self._inputs[self.template].computed
            resolved |= {name: kept(resolved[name], self.template) for name in unmerged}
        return {**resolved, **{copy: resolved[name] for copy, name in {**self._twins, **self.copies}.items()}}

    def _check_match(self) -> None:
        entries = list(self.tensor_recipes.values())
        key = (bool(self._recipe.models), *(entry.provenance for entry in entries))
        if self._recipe.on_mismatch is not None or key in self._cache.matched:
            return
        layouts = layouts_without(self._inputs, {*self._unused, *self.copies, *self._twins})
        check_match(entries, layouts, self.info_of, layers=bool(self._recipe.models))
        self._cache.matched.add(key)

    def _check_anything_is_merged(self) -> None:
        names = [name for name, entry in self.tensor_recipes.items() if entry.models]
        if self._recipe.on_mismatch == "base" and names and not any(map(self.is_merged, names)):
            raise UserError(
                f"on_mismatch: base: the models have no tensor of {self.template} in the same shape: nothing would be "
                "merged; these are not fine-tunes of one model"
            )

    def _mismatch_warnings(self) -> Iterable[str]:
        if self._recipe.on_mismatch is None:
            return []
        unmerged = [name for name in self.infos if not self.properties[name].matched]
        partly = [name for name in unmerged if self._recipe.on_mismatch == "overlap" and self.overlap(name) is not None]
        return mismatch_warnings(sorted(set(unmerged) - set(partly)), partly, self.template)

    def _filter_warnings(self) -> list[str]:
        names = {*self.infos, *self.template_names}
        filters = dict.fromkeys(filters_of(self._recipe.model_dump()))
        unused = [each for each in filters if not any(each in name for name in names)]
        return [f"filter {quoted(each)}: no tensor has this in its name" for each in unused]

    def overlap(self, name: str) -> tuple[slice, ...] | None:
        """Returns the corner that all inputs of a tensor have. None if a shape has other dimensions, or is missing."""
        infos = [self.info_of(*key) for key in self.tensor_recipes[name].shape_inputs]
        shapes = [info.shape for info in infos if info]
        if len(shapes) < len(infos) or len({len(shape) for shape in shapes}) > 1:
            return None
        return tuple(slice(min(sizes)) for sizes in zip(*shapes, strict=True))

    def _check_configs(self) -> list[str]:
        recipe = self._recipe
        lenient, same_depth = recipe.on_config_mismatch == "warn", bool(recipe.models)
        has_template = bool(recipe.chat_template or recipe.vocabulary)
        flags = (lenient, same_depth, has_template, recipe.on_mismatch == "base")
        key = (*recipe.references, *flags)
        if key not in self._cache.config_warnings:
            models = list(self._inputs.values())
            self._cache.config_warnings[key] = check_compatible(models, *flags)
        return self._cache.config_warnings[key]

    def _check_vocabularies(self) -> list[str]:
        """Checks that the rows of merged embeddings stand for the same tokens."""
        warnings = dict[str, None]()
        for name in filter(is_embedding, self.infos):
            models = dict.fromkeys(reference for reference, _ in self.tensor_recipes[name].inputs)
            if len(models) > 1 and (self.is_merged(name) or self._recipe.on_mismatch == "overlap"):
                key = (*models, self.infos[name].shape[0])
                if key not in self._cache.vocabulary_warnings:
                    entries = [self._inputs[reference] for reference in models]
                    self._cache.vocabulary_warnings[key] = check_rows(entries, self.infos[name].shape[0])
                warnings |= dict.fromkeys(self._cache.vocabulary_warnings[key])
        return list(warnings)

    def _properties(self, tensor_recipe: TensorRecipe) -> TensorProperties:
        key = (self._recipe.base_model, tensor_recipe.provenance)
        if key not in self._cache.properties:
            self._cache.properties[key] = self._compute_properties(tensor_recipe)
        return self._cache.properties[key]

    def _compute_properties(self, tensor_recipe: TensorRecipe) -> TensorProperties:
        owner = self._owner(tensor_recipe)
        check_kinds(tensor_recipe, self.info_of)
        return TensorProperties(is_matched(tensor_recipe, self.info_of), owner, self._info(tensor_recipe, owner))

    def _owner(self, tensor_recipe: TensorRecipe) -> tuple[str, str]:
        """Returns the base's tensor, or the first existing one if the base has none."""
        base = tensor_recipe.base or self._recipe.base_model
        base_first = sorted(tensor_recipe.shape_inputs, key=lambda entry: entry[0] != base)
        return next(entry for entry in base_first if self.info_of(*entry))

    def _info(self, tensor_recipe: TensorRecipe, owner: tuple[str, str]) -> TensorInfo:
        """Returns the owner's shape with the widest dtype of the inputs."""
        info = self.info_of(*owner)
        assert info is not None
        if not info.dtype.is_floating_point:
            return info
        dtypes = [entry.dtype for entry in (self.info_of(*key) for key in tensor_recipe.inputs) if entry]
        floats = [dtype for dtype in dtypes if dtype.is_floating_point]
        return TensorInfo(info.shape, reduce(torch.promote_types, floats, info.dtype))


def _with_dtype(info: TensorInfo, dtype: torch.dtype | None) -> TensorInfo:
    return info if dtype in (None, info.dtype) or not info.dtype.is_floating_point else replace(info, dtype=dtype)


def torch_dtype(name: str | None) -> torch.dtype | None:
    """Returns ``torch.float32`` for ``"float32"``, and None for None."""
    return None if name is None else getattr(torch, name)

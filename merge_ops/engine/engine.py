"""The engine: builds the models of recipes from checkpoints, live or on disk, by the same code."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.after_merge.merged_model import MergedModel
from mergesearch.merge_ops.after_merge.steps import StepsAfterMerge
from mergesearch.merge_ops.assembly.assembly import Assembly
from mergesearch.merge_ops.assembly.coefficient_gradients import (
    Coefficients,
    backward_in_place,
    coefficient_gradients,
    coefficients,
    input_weights,
    is_exact,
)
from mergesearch.merge_ops.assembly.effective_coefficients import PartCoefficients, effective_coefficients
from mergesearch.merge_ops.assembly.merger import MemoryReserve, Merger
from mergesearch.merge_ops.assembly.result_layout import torch_dtype
from mergesearch.merge_ops.checkpoint.checkpoint import common_dtype, tensors_digest
from mergesearch.merge_ops.engine.depth import VariableDepthModel
from mergesearch.merge_ops.engine.options import DEFAULTS, MergeOptions
from mergesearch.merge_ops.engine.standalone_models import LoadedCheckpoint, StandaloneModels
from mergesearch.merge_ops.inputs.memory import MemoryPlan
from mergesearch.merge_ops.kernels.finite import first_not_finite, not_finite
from mergesearch.merge_ops.live import live
from mergesearch.merge_ops.live.built import Builder, find_builder
from mergesearch.merge_ops.output.folder import write_folder
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.recipe.vocabulary_config import TokenizerConfig
from mergesearch.text import NO_TEXT
from mergesearch.trust import require_trust

__all__ = ["Engine", "MemoryReserve", "Merger", "check_output", "find_device", "merge", "torch_dtype"]


class Engine:
    """Keeps checkpoints in memory, with one live model into which candidates are built.

    ``model`` and ``tokenizer`` are what transformers loads.

    Args:
        references: the references of the checkpoints. Recipes may have no others.
        template: the reference of the checkpoint that gives the live model its architecture, config and tokenizer.
        dtype: the dtype of the live model's floats. By default that of the checkpoints, if they all have the same.
        device: the device of the live model.
        reserve: what the memory plan leaves room for.
        standalone: the references of checkpoints that are other models than the template with other weights. A recipe
            of such a checkpoint alone is a live model of its own, with its config and tokenizer.
        builder: makes the live model, instead of transformers.
        dequantize: let transformers dequantize checkpoints that are quantized.
        named_paths: as for ``Checkpoint``.
        tokenizer: the vocabulary of the live model, and of all recipes but those of standalone checkpoints. None: that
            of the checkpoints.
        base: as for ``Merger``.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a live model is made from, and where
        self,
        references: Sequence[str],
        template: str,
        dtype: str | None = None,
        device: str = "cpu",
        reserve: MemoryReserve | None = None,
        standalone: Collection[str] = (),
        builder: Builder | None = None,
        dequantize: bool = False,
        named_paths: Mapping[str, Path] | None = None,
        tokenizer: TokenizerConfig | None = None,
        base: str | None = None,
    ) -> None:
        self._merger = Merger(
            references, True, device, named_paths, reserve, dequantize=dequantize, tokenizer=tokenizer, base=base
        )
        self._template = template
        self._dtype = torch_dtype(dtype) or common_dtype(list(self._merger.originals.values()))
        self._merger.check_values()
        checkpoint = self._merger.checkpoints[template]
        self.model: nn.Module
        self.tokenizer: Any
        self.model, self.tokenizer = live.load(checkpoint, device, self._dtype, builder)
        views = live.bind_aligned(self.model, self._merger.inputs[template])
        self._views = {name: views[name] for name in self.names if name in views}
        self._template_model = LoadedCheckpoint(self.model, self.tokenizer, self._views)
        self._standalone_models = StandaloneModels(self._merger, self._dtype, standalone, builder)
        self._sliced_model = VariableDepthModel(self._merger, self.model, self._dtype)
        self._steps_after_merge = StepsAfterMerge(self._merger, builder)
        self._has_fixed_depth = builder is not None
        self._built: Recipe | None = None

    @property
    def names(self) -> list[str]:
        """The tensors' names."""
        return self._merger.names

    def build(self, recipe: Recipe) -> nn.Module:
        """Builds the recipe's model into the live model and returns it. The previous model is overwritten.

        A recipe of slices is built into a live model of its own depth, which becomes ``model``; so does the model of a
        standalone checkpoint, with its tokenizer.

        Raises:
            UserError: the recipe has another dtype than the live model, or another vocabulary. Nothing was written.
            FloatingPointError: a tensor of the merged model has NaN or infinite values.
        """
        self._built = None
        template = self._template_model
        self.model, tokenizer, self._views = self._standalone_models.find(recipe) or template
        self.tokenizer = tokenizer or template.tokenizer
        finite: set[str] = set()
        if self._standalone_models.has(recipe):
            self._check_dtype(recipe)
        elif recipe.keeps_shapes:
            finite = self._write_views(self._assembly(recipe))
        elif self._has_fixed_depth:
            raise UserError("slices: a model that `builder` makes has the layers that it has; expected models")
        else:
            self.model, self._views = self._sliced_model.build(self._checked_assembly(recipe))
        if recipe.has_steps_after_merge:
            assembly = Assembly(self._merger, recipe)
            self._steps_after_merge.take(MergedModel(self.model, self.tokenizer, self._views, assembly))
            finite = set()
        unsure = {name: view for name, view in self._views.items() if name not in finite}
        if (name := first_not_finite(unsure)) is not None:
            raise FloatingPointError(f"{name} of the merged model has {not_finite(self._views[name])}")
        self._built = recipe
        return self.model

    def _write_views(self, assembly: Assembly) -> set[str]:
        """Writes the assembly's tensors; returns the names of some that are finite for certain.

        Tensors that its template does not have and does not need are the engine's.
        """
        made = self._made_views(assembly)
        finite = assembly.write(made)
        for name in self._views.keys() - made.keys():
            self._views[name].copy_(self._merger.tensor(self._template, name))
        return finite

    def _made_views(self, assembly: Assembly) -> dict[str, Tensor]:
        return {name: view for name, view in self._views.items() if name in assembly.layout.tensor_recipes}

    def phenotype(self, recipe: Recipe, contents: Mapping[str, Mapping[str, str]]) -> str:
        """Returns a hash that recipes share if they build the same tensors.

        Tensors that are copies of inputs count by the content that they copy, so that recipes that leave one model are
        equal to that model. The tensors of two such recipes have the same bits.

        Args:
            recipe: the recipe.
            contents: by reference and the checkpoint's own name a digest of each tensor. Tensors without one count by
                reference and name.
        """
        if not recipe.keeps_shapes:
            return recipe.phenotype(self.names)
        assembly = Assembly(self._merger, recipe)
        copied = {name: key for name in self.names if (key := assembly.copied(name))}
        return recipe.phenotype(self.names, {name: self._content(*key, contents) for name, key in copied.items()})

    def _content(self, reference: str, name: str, contents: Mapping[str, Mapping[str, str]]) -> str:
        own = self._merger.inputs[reference].own_names[name]
        known = {} if self._merger.copies else contents.get(reference, {})
        return known.get(own, f"{reference} {name}")

    def coefficients(self, recipe: Recipe) -> dict[str, Coefficients] | None:
        """Returns each merged tensor's coefficients of the base and the models, or None if a tensor has none.

        Trimming, dropping and election are ignored.
        """
        assembly = self._assembly(recipe)
        return coefficients(assembly, list(self._made_views(assembly)))

    def is_linear(self, recipe: Recipe) -> bool:
        """Returns whether the recipe's model is exactly the linear combination of ``coefficients``."""
        assembly = self._assembly(recipe)
        return is_exact(assembly, list(self._made_views(assembly)))

    def input_weights(self, recipe: Recipe) -> dict[str, dict[tuple[str, str], float]] | None:
        """Returns the weight of every input tensor in every tensor, or None if the recipe is no weighted sum.

        Recipes with the same weights build the same model, up to rounding. An input is a reference and a tensor's name.
        """
        assembly = self._assembly(recipe)
        return input_weights(assembly, list(self._made_views(assembly)))

    def coefficient_gradients(
        self, recipe: Recipe, backward: Callable[[], float]
    ) -> tuple[float, dict[str, Coefficients]]:
        """Builds the recipe and returns its loss and the gradients by its ``coefficients``.

        The gradients overwrite the live model, so that another candidate must be built afterwards.

        Args:
            recipe: the recipe.
            backward: computes the live model's loss, leaves the gradients on the parameters, and returns the loss.
        """
        self.build(recipe)
        self._built = None
        loss = backward_in_place(self.model, backward)
        assembly = self._assembly(recipe)
        return loss, coefficient_gradients(assembly, self._made_views(assembly))

    def effective_coefficients(self, base: str | None = None) -> list[PartCoefficients]:
        """Returns which models the parts of the live model come from. Empty for a standalone checkpoint.

        Every tensor of the recipe's checkpoints is read once. ``base`` is that of whole models whose recipe names none.
        """
        recipe = self._built_recipe
        if self.is_standalone(recipe):
            return []
        assembly = Assembly(self._merger, recipe)
        return effective_coefficients(assembly, self._merger, lambda name: self._tensor(assembly, name), base)

    def _assembly(self, recipe: Recipe) -> Assembly:
        if not recipe.keeps_shapes:
            raise UserError("the recipe has slices: it cannot be built into the live model, whose shape is fixed")
        return self._checked_assembly(recipe)

    def _checked_assembly(self, recipe: Recipe) -> Assembly:
        if recipe.vocabulary != self._merger.tokenizer:
            raise UserError("the recipe has another vocabulary than the live model, whose shape is fixed")
        self._check_dtype(recipe)
        return Assembly(self._merger, recipe)

    def _check_dtype(self, recipe: Recipe) -> None:
        checkpoints = [self._merger.originals[reference] for reference in recipe.references]
        dtype = torch_dtype(recipe.target_dtype) or common_dtype(checkpoints)
        if dtype != self._dtype:
            raise UserError(f"dtype: found {dtype} in the recipe, expected the live model's {self._dtype}")

    @property
    def views(self) -> Mapping[str, Tensor]:
        """Views into the live model's parameters by the tensors' names. Writing to a view changes the model."""
        return self._views

    @property
    def memory(self) -> MemoryPlan:
        """Where the checkpoints are kept. As text, it is one line for the user."""
        return self._merger.memory_plan

    def digest(self) -> str:
        """Returns the SHA-256 of the tensors that ``save`` writes. It equals ``Checkpoint.digest`` of the folder."""
        assembly = self._result(self._built_recipe, self._merger_of(self._built_recipe))
        return tensors_digest((name, self._tensor(assembly, name)) for name in sorted(assembly.infos))

    def _tensor(self, assembly: Assembly, name: str) -> Tensor:
        """Returns the live model's tensor. One that the model does not use is made by the assembly."""
        if name in self._views:
            return self._views[name]
        info = assembly.infos[name]
        made = torch.empty(info.shape, dtype=info.dtype)
        assembly.write_tensor(name, made)
        return made

    def write(self, recipe: Recipe, out: Path, recipe_text: str | None = None, verify: bool = False) -> None:
        """Writes the recipe's model to the folder ``out``, as ``merge`` does.

        A recipe with steps after the merge is built into the live model, unless it is there.
        """
        merger = self._merger_of(recipe)
        result, record = self._result(recipe, merger), self._steps_after_merge.recoverer.record
        recovery = asdict(record) if recipe.recover and record else None
        write_folder(result, merger, out, recipe_text, verify, recovery)

    def keep_recovered(self, folder: Path) -> None:
        """Keeps in a folder what recovery makes of models, so that it is not made again."""
        self._steps_after_merge.recoverer.folder = folder

    def _result(self, recipe: Recipe, merger: Merger) -> Assembly:
        """Returns the tensors of the recipe's result: the live model's, where steps after the merge changed them."""
        if not recipe.has_steps_after_merge:
            return Assembly(merger, recipe)
        if self._built != recipe:
            self.build(recipe)
        return Assembly(merger, recipe, self._views)

    def warnings(self, recipe: Recipe) -> list[str]:
        """Returns what a user should know of the recipe and its inputs."""
        return Assembly(self._merger, recipe).layout.warnings

    def _merger_of(self, recipe: Recipe) -> Merger:
        """Returns the engine's merger, or for a standalone checkpoint one that has its names for tensors and labels."""
        if not self._standalone_models.has(recipe):
            return self._merger
        return Merger(recipe.references, device=self._merger.device, dequantize=self._merger.dequantizes)

    def parameters(self, recipe: Recipe) -> int:
        """Returns how many numbers the tensors have that ``write`` writes; what is tied counts once."""
        return sum(prod(info.shape) for info in Assembly(self._merger_of(recipe), recipe).infos.values())

    def is_standalone(self, recipe: Recipe) -> bool:
        """Returns whether the recipe is a checkpoint that has a live model of its own."""
        return self._standalone_models.has(recipe)

    @property
    def built(self) -> Recipe | None:
        """The recipe in the live model, or None if none was built yet."""
        return self._built

    def save(self, out: Path) -> None:
        """Writes the model of the recipe that was built last, as ``write`` does."""
        self.write(self._built_recipe, out)

    @property
    def _built_recipe(self) -> Recipe:
        if self._built is None:
            raise RuntimeError("no recipe was built into the live model yet")
        return self._built


def merge(
    recipe: Recipe,
    out: Path,
    named_paths: Mapping[str, Path] | None = None,
    recipe_text: str | None = None,
    options: MergeOptions = DEFAULTS,
) -> None:
    """Writes the recipe's model to the folder ``out``, as transformers loads it. Writes nothing if it fails.

    It takes the memory of the largest tensor's inputs and result; with steps after the merge, that of all models and a
    live model. Beside the weights, the folder has the config,
    tokenizer and generation config of the base (the first model if there is no base), changed as the recipe asks, a
    model card, and the recipe.

    Args:
        recipe: the recipe.
        out: the folder, which must not exist or be empty.
        named_paths: as for ``Checkpoint``.
        recipe_text: the recipe to write, if ``recipe`` is one of several documents.
        options: what is not part of the recipe.

    Raises:
        UserError: ``out`` is not empty, or the recipe cannot be merged.
    """
    check_output(out)
    if recipe.has_steps_after_merge:
        _merge_in_memory(recipe, out, named_paths, recipe_text, options)
        return
    allow_nan, dequantize = options.allow_nan, recipe.dequantize
    merger = Merger(
        recipe.references,
        named_paths=named_paths,
        allow_nan=allow_nan,
        dequantize=dequantize,
        tokenizer=recipe.vocabulary,
        base=recipe.base_model,
    )
    options.say(str(merger.stream_plan))
    if merger.copies:
        options.say(merger.copies.summary)
    assembly = Assembly(merger, recipe)
    for warning in assembly.layout.warnings:
        options.warn(warning)
    write_folder(assembly, merger, out, recipe_text, options.verify)


def _merge_in_memory(
    recipe: Recipe, out: Path, named_paths: Mapping[str, Path] | None, recipe_text: str | None, options: MergeOptions
) -> None:
    """Writes the model of a recipe with steps after the merge, which need a live model."""
    references, dtype = recipe.references, recipe.target_dtype
    if (builder := recipe.repair.builder if recipe.repair else None) is not None:
        require_trust(builder, "repair: builder")
    engine = Engine(
        references,
        references[0],
        dtype,
        builder=find_builder(builder) if builder else None,
        dequantize=recipe.dequantize,
        named_paths=named_paths,
        tokenizer=recipe.vocabulary,
        base=recipe.base_model,
    )
    options.say(str(engine.memory))
    for warning in engine.warnings(recipe):
        options.warn(warning)
    engine.write(recipe, out, recipe_text, options.verify)


def check_output(out: Path) -> None:
    """Raises UserError unless ``out`` does not exist or is an empty folder. A device or a broken link is neither.

    Its name has to be UTF-8, as libraries demand that write files there.
    """
    if NO_TEXT.search(str(out)):
        raise UserError(f"{out}: is no path in UTF-8; choose another path")
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: already exists; choose another path or remove it")


def find_device(name: str) -> str:
    """Returns the device for ``cpu``, ``cuda`` or ``auto``, which is the GPU if there is one.

    Raises:
        UserError: the name is ``cuda`` and there is no GPU.
    """
    available = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and available != "cuda":
        raise UserError("device: found 'cuda', but torch sees no GPU here; use cpu or auto")
    return available if name == "auto" else name

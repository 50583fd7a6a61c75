"""Assembles the tensors of one recipe's result from a merger's open checkpoints."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mergesearch.merge_ops.assembly.candidate_cache import MethodInputs
from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.assembly.result_layout import ResultLayout
from mergesearch.merge_ops.checkpoint.tensor_files import StoredBytes, TensorInfo
from mergesearch.merge_ops.kernels.combine import combine, combine_all
from mergesearch.merge_ops.kernels.masks import mask_key
from mergesearch.merge_ops.kernels.plans import Pass, Plan
from mergesearch.merge_ops.kernels.threads import SMALL, run_jobs
from mergesearch.merge_ops.methods import BASE, ParameterValues, find_method
from mergesearch.merge_ops.recipe.recipe import Recipe
from mergesearch.merge_ops.recipe.resolution import TensorRecipe
from mergesearch.merge_ops.statistics.tensor_statistics import InputTensor, TensorStatistics

InputKey = tuple[str, str]
"""A checkpoint's reference and a tensor's name."""


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of a candidate: the method's plan and the inputs of the kernels."""

    plan: Plan
    base: Tensor | None
    models: Sequence[Tensor]

    def into(self, out: Tensor) -> Pass:
        """Returns the pass that writes the tensor to ``out``."""
        return Pass(self.plan, self.base, self.models, out)


class Assembly:
    """The tensors of one recipe's result. Raises UserError as ``ResultLayout`` does.

    Args:
        merger: the open checkpoints.
        recipe: the recipe.
        finished: tensors by name that are made already, as those that steps after the merge have changed.
    """

    def __init__(self, merger: Merger, recipe: Recipe, finished: Mapping[str, Tensor] | None = None) -> None:
        self.recipe = recipe
        self._finished = finished or {}
        self.layout = ResultLayout(merger, recipe)
        self._merger = merger

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """The shape and dtype of each tensor of the result."""
        return self.layout.infos

    def write(self, outs: Mapping[str, Tensor]) -> set[str]:
        """Writes tensors to ``outs``, which has them by name; returns the names of some that are finite for certain."""
        if self._merger.keeps_all:
            copies = {name: key for name in outs if (key := self.copied(name))}
            finite = {id(out) for out in combine_all(self._passes(outs, copies))}
            checked = {} if self._merger.allows_nan else copies
            exact = {name for name, key in checked.items() if self._is_exact(name, key)}
            return exact | {name for name, out in outs.items() if id(out) in finite}
        for (name, out), following in zip(outs.items(), [*list(outs)[1:], None], strict=True):
            if following is not None:
                self._merger.prefetch(self.layout.tensor_recipes[following].inputs)
            self.write_tensor(name, out)
        return set()

    def _is_exact(self, name: str, copied: InputKey) -> bool:
        """Returns whether a tensor that is a copy of an input has its values, in its dtype."""
        return self.layout.info_of(*copied) == self.infos.get(name)

    def _passes(self, outs: Mapping[str, Tensor], copies: Collection[str]) -> Iterator[Pass]:
        """Yields a pass for each tensor that is merged, and writes the others, the ``copies`` among them."""
        plans = self._planned_at_once({name: out for name, out in outs.items() if name not in copies})
        for name, out in outs.items():
            planned = plans.get(name) or (None if name in copies else self.planned(name))
            if planned is None:
                self.write_tensor(name, out)
            else:
                yield planned.into(out)

    def _planned_at_once(self, outs: Mapping[str, Tensor]) -> dict[str, PlannedTensor | None]:
        """Plans the small tensors of heavy methods on several threads. Large ones are left to torch's own threads."""
        heavy = [name for name, out in outs.items() if self._is_heavy(name, out.numel())]
        if self._merger.device != "cpu" or len(heavy) < 2:
            return {}
        # The first one computes what all tensors of a model share.
        first, others = self.planned(heavy[0]), [partial(self.planned, name) for name in heavy[1:]]
        return dict(zip(heavy, [first, *run_jobs(others)], strict=True))

    def _is_heavy(self, name: str, size: int) -> bool:
        return 0 < size <= SMALL and find_method(self.layout.tensor_recipes[name].method).heavy

    def copied(self, name: str) -> InputKey | None:
        """Returns the input of which a tensor is a copy, whatever the tensors are, or None. No tensor is read."""
        if name in self._finished:
            return None
        tensor_recipe, properties = self.layout.tensor_recipes[name], self.layout.properties[name]
        if not properties.matched:
            return None
        if not self.layout.is_merged(name):
            return properties.owner
        values = ParameterValues(tensor_recipe.shared, tensor_recipe.each, lambda _: ())
        method, has_base = find_method(tensor_recipe.method), tensor_recipe.base is not None
        index = method.copied(values, len(tensor_recipe.models), has_base)
        if index is None or (index == BASE and not has_base):
            return None
        return tensor_recipe.inputs[0] if index == BASE else tensor_recipe.model_inputs[index]

    def stored(self, name: str) -> StoredBytes | None:
        """Returns the place of a tensor's bytes in a checkpoint's file, if it is a copy of them, or None."""
        copied = self.copied(name)
        if copied is None or self.layout.info_of(*copied) != self.infos[name]:
            return None
        return self._merger.stored(*copied)

    def reads(self, name: str) -> Sequence[InputKey]:
        """Returns the inputs that ``write_tensor`` or ``check_inputs`` reads, or most of them."""
        if name in self._finished:
            return []
        tensor_recipe, properties = self.layout.tensor_recipes[name], self.layout.properties[name]
        if self.stored(name) and self._merger.allows_nan:
            return []
        if not properties.matched or not properties.info.dtype.is_floating_point:
            return [properties.owner]
        copied = self.copied(name)
        return [copied] if copied else [key for key in tensor_recipe.inputs if self.layout.info_of(*key)]

    def check_inputs(self, name: str) -> None:
        """Reads a tensor's inputs. Raises UserError if one has NaN or infinite values, unless these are allowed."""
        for key in self.reads(name):
            self._merger.tensor(*key)

    def write_tensor(self, name: str, out: Tensor) -> bool:
        """Writes one tensor to ``out``. Tensors that are not floats are copied from the base.

        Returns whether the tensor is finite for certain, if its inputs are.
        """
        tensor_recipe, properties = self.layout.tensor_recipes[name], self.layout.properties[name]
        if name in self._finished:
            out.copy_(self._finished[name].view(out.shape))
        elif not properties.matched:
            self._write_mismatched(tensor_recipe, out)
        elif not (properties.info.dtype.is_floating_point and tensor_recipe.models):
            out.copy_(self._merger.tensor(*properties.owner))
        elif copied := self.copied(name):
            out.copy_(self._merger.tensor(*copied))
            return self._is_exact(name, copied)
        else:
            return self._combine(tensor_recipe, self._read(tensor_recipe.inputs), out)
        return False

    def _write_mismatched(self, tensor_recipe: TensorRecipe, out: Tensor) -> None:
        """Writes the base's tensor. With ``on_mismatch: overlap``, merges the corner that all inputs have."""
        owner = self.layout.properties[tensor_recipe.name].owner
        out.copy_(self._read([owner])[owner])
        overlap = self.layout.overlap(tensor_recipe.name) if self.recipe.on_mismatch == "overlap" else None
        if overlap is not None and out.is_floating_point():
            tensors = self._read(tensor_recipe.inputs)
            corners = {key: tensor[overlap].contiguous() for key, tensor in tensors.items()}
            self._combine(tensor_recipe, corners, out[overlap])

    def planned(self, name: str) -> PlannedTensor | None:
        """Returns the plan and inputs of a tensor, or None if the tensor is copied or merged only in part."""
        if not self.layout.is_merged(name):
            return None
        tensor_recipe = self.layout.tensor_recipes[name]
        return self._plan(tensor_recipe, self._method_inputs(tensor_recipe))

    def _combine(self, tensor_recipe: TensorRecipe, tensors: Mapping[InputKey, Tensor], out: Tensor) -> bool:
        planned = self._plan(tensor_recipe, self._with_statistics(tensor_recipe, tensors))
        on_device = out.device.type == torch.device(self._merger.device).type
        target = out if on_device else torch.empty_like(out, device=self._merger.device)
        is_finite = combine(planned.plan, planned.base, planned.models, target)
        if target is not out:
            out.copy_(target)
        return is_finite

    def _plan(self, tensor_recipe: TensorRecipe, inputs: MethodInputs) -> PlannedTensor:
        def mask_keys(seed: int) -> tuple[int, ...]:
            return tuple(mask_key(seed, fingerprint, tensor_recipe.name) for fingerprint in inputs.fingerprints)

        values = ParameterValues(tensor_recipe.shared, tensor_recipe.each, mask_keys)
        plan = find_method(tensor_recipe.method).decide(inputs.statistics, values)
        return PlannedTensor(plan, inputs.base, inputs.models)

    def _method_inputs(self, tensor_recipe: TensorRecipe) -> MethodInputs:
        if not self._merger.keeps_all:
            return self._with_statistics(tensor_recipe, self._read(tensor_recipe.inputs))
        cache, key = self._merger.cache.method_inputs, tensor_recipe.provenance
        if key not in cache:
            cache[key] = self._with_statistics(tensor_recipe, self._read(tensor_recipe.inputs))
        return cache[key]

    def _with_statistics(self, tensor_recipe: TensorRecipe, tensors: Mapping[InputKey, Tensor]) -> MethodInputs:
        merger, reference, source = self._merger, tensor_recipe.base, tensor_recipe.base_source
        base = InputTensor(reference, tensors[reference, source]) if reference and source else None
        models = [tensors[key] for key in tensor_recipe.model_inputs]
        statistics = TensorStatistics(
            tensor_recipe.name,
            base,
            list(map(InputTensor, _statistics_sources(tensor_recipe), models)),
            cache=merger.statistics if merger.statistics is not None else {},
            whole=merger.model_statistics,
        )
        return MethodInputs(base.data if base else None, models, statistics)

    def _read(self, keys: Sequence[InputKey]) -> dict[InputKey, Tensor]:
        """Reads those of the inputs that exist."""
        return {key: self._merger.tensor(*key) for key in keys if self.layout.info_of(*key)}


def _statistics_sources(tensor_recipe: TensorRecipe) -> list[str]:
    """Returns what identifies each model's tensor in the cache of statistics: the reference, and the name if needed.

    A model can be an input several times, with different layers.
    """
    models = tensor_recipe.models
    return [
        f"{model}#{source}" if models.count(model) > 1 else model
        for model, source in zip(models, tensor_recipe.sources, strict=True)
    ]

"""Resolves the settings of a group to a method's parameters for one tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergesearch.copies import here
from mergesearch.errors import UserError, nearest
from mergesearch.merge_ops.methods import Method, Parameter, Scalar, find_method
from mergesearch.merge_ops.recipe.layout import GroupInput, MergeGroup, ResultTensor
from mergesearch.merge_ops.recipe.parameter_settings import form_of, value_for


@dataclass(frozen=True)
class TensorRecipe:
    """How one tensor is made.

    Hashes of recipes that runs store depend on the names of the attributes.

    Attributes:
        name: the tensor's name in the result.
        base: the reference of the base that task vectors are taken from.
        models: the references of the models that are merged. None of them means that the tensor is the base's.
        shared: the parameters that all models share.
        each: the parameters of each model, in the order of ``models``.
        sources: the tensor's name in the checkpoint of each model.
        base_source: the tensor's name in the base.
        method: the name of the method.
        template: the checkpoint whose tensor of this name is replaced, if the recipe has ``on_mismatch``.
    """

    name: str
    base: str | None
    models: tuple[str, ...]
    shared: Mapping[str, Scalar]
    each: Mapping[str, tuple[Scalar, ...]]
    sources: tuple[str, ...]
    base_source: str | None
    method: str
    template: str | None = None

    @property
    def provenance(self) -> tuple[Any, ...]:
        """The tensor and its inputs without the parameters. Most candidates of a search share it."""
        return self.name, self.base, self.base_source, self.models, self.sources, self.template

    @property
    def files(self) -> list[str]:
        """The names of the parameters that are paths of files."""
        return [p.name for p in find_method(self.method).parameters if p.kind == "file" and p.name in self.shared]

    @property
    def inputs(self) -> list[tuple[str, str]]:
        """The reference and the tensor name of every input. The base is the first if there is one."""
        base = [(self.base, self.base_source)] if self.base and self.base_source else []
        return [*base, *self.model_inputs]

    @property
    def model_inputs(self) -> list[tuple[str, str]]:
        """The inputs without the base, in the order of ``models``."""
        return list(zip(self.models, self.sources, strict=True))

    @property
    def shape_inputs(self) -> list[tuple[str, str]]:
        """The tensors that must have one shape: the template's, and the inputs."""
        template = [(self.template, self.name)] if self.template else []
        return list(dict.fromkeys([*template, *self.inputs]))


@dataclass(frozen=True)
class _GroupParameters:
    """The indices of a group's inputs that are merged, and the parameters of a tensor."""

    merged: list[int]
    shared: Mapping[str, Scalar]
    each: Mapping[str, tuple[Scalar, ...]]


class Resolver:
    """Resolves the tensors of one recipe. Parameters that several tensors share are computed once.

    ``template`` is the template of every tensor, if the recipe has ``on_mismatch``.
    """

    def __init__(self, template: str | None = None) -> None:
        self._template = template
        self._forms: dict[int, set[str]] = {}
        self._parameters: dict[tuple[Any, ...], _GroupParameters] = {}

    def resolve(self, tensor: ResultTensor) -> TensorRecipe:
        """Returns the recipe of one tensor. Raises UserError if a parameter is missing or not valid."""
        key = self._parameter_key(tensor)
        if key not in self._parameters:
            self._parameters[key] = _group_parameters(tensor)
        parameters, group = self._parameters[key], tensor.group
        base_source = _source_of(group.task_vector_base, tensor)
        return TensorRecipe(
            name=tensor.name,
            base=group.task_vector_base if base_source else None,
            models=tuple(group.inputs[i].model for i in parameters.merged),
            shared=parameters.shared,
            each=parameters.each,
            sources=tuple(tensor.sources[i] for i in parameters.merged),
            base_source=base_source,
            method=group.method.name,
            template=self._template,
        )

    def _parameter_key(self, tensor: ResultTensor) -> tuple[Any, ...]:
        """The group, with the depth if a setting has a gradient, and with the names if a setting has filters."""
        group = id(tensor.group)
        if group not in self._forms:
            self._forms[group] = _forms(tensor.group)
        if "filters" in self._forms[group]:
            return group, tensor.depth, tensor.name, tensor.sources
        return (group, tensor.depth) if "gradient" in self._forms[group] else (group,)


def _forms(group: MergeGroup) -> set[str]:
    levels = (*group.parameter_levels, *(entry.parameters for entry in group.inputs))
    return {form_of(setting) for settings in levels for setting in settings.values()}


def _source_of(reference: str | None, tensor: ResultTensor) -> str | None:
    """Returns the tensor's name in the checkpoint of that reference, or None if it is no input."""
    sources = zip(tensor.group.inputs, tensor.sources, strict=True)
    return next((source for entry, source in sources if entry.model == reference), None)


def _group_parameters(tensor: ResultTensor) -> _GroupParameters:
    group, method = tensor.group, tensor.group.method
    base = group.task_vector_base
    merged = [i for i, entry in enumerate(group.inputs) if entry.model != base and _is_merged(entry, tensor)]
    shared = {p.name: _shared_value(p, tensor) for p in method.parameters if not p.per_model}
    _check_files(method, shared)
    each = {p.name: tuple(_own_value(p, i, tensor) for i in merged) for p in method.parameters if p.per_model}
    return _GroupParameters(merged, shared, each)


def _check_files(method: Method, shared: Mapping[str, Scalar]) -> None:
    for name in (p.name for p in method.parameters if p.kind == "file"):
        path = Path(here(str(shared[name])))
        if not path.is_file():
            names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(f"parameters: {name}: there is no file {path}{nearest(path.name, names)}")


def frozen_recipe(tensor: ResultTensor) -> TensorRecipe:
    """Returns the recipe of a frozen tensor: the base's tensor as it is."""
    group = tensor.group
    source = _source_of(group.base, tensor) or tensor.name
    return TensorRecipe(tensor.name, group.base, (), {}, {}, (), source, group.method.name)


def _is_merged(entry: GroupInput, tensor: ResultTensor) -> bool:
    """As in mergekit, a base that is not listed is merged like a model only where it has all parameters of a model."""
    group, method = tensor.group, tensor.group.method
    if not entry.implied:
        return True
    if method.max_models is not None and len(group.merged_inputs) >= method.max_models:
        return False
    needed = [p for p in method.parameters if p.per_model]
    return all(value_for(p, group.parameter_levels, tensor.name, tensor.depth) is not None for p in needed)


def _shared_value(parameter: Parameter, tensor: ResultTensor) -> Scalar:
    value = value_for(parameter, tensor.group.parameter_levels, tensor.name, tensor.depth)
    return _required(value, parameter.name, tensor, "")


def _own_value(parameter: Parameter, index: int, tensor: ResultTensor) -> Scalar:
    entry = tensor.group.inputs[index]
    levels = (entry.parameters, *tensor.group.parameter_levels)
    value = value_for(parameter, levels, tensor.sources[index], tensor.depth)
    return _required(value, parameter.name, tensor, f" of {entry.model}")


def _required(value: Scalar | None, name: str, tensor: ResultTensor, owner: str) -> Scalar:
    if value is None:
        raise UserError(f"parameters: {name!r}{owner} is missing for the tensor {tensor.name}")
    return value

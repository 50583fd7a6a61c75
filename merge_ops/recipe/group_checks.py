"""Checks whether a method can take the models and parameters of a group."""

from mergesearch.errors import Problems, UserError
from mergesearch.merge_ops.recipe.layout import MergeGroup
from mergesearch.merge_ops.recipe.parameter_settings import check_parameters
from mergesearch.say import Say


def check_group(group: MergeGroup, warn: Say | None = None) -> None:
    """Raises UserError if the method cannot take the inputs of the group, or if a parameter is not valid.

    ``warn`` is as for ``check_parameters``.
    """
    methods, problems = [group.method], Problems()
    for check in (_check_base, _check_duplicates, _check_count):
        problems.attempt(check, group)
    for index, entry in enumerate(group.inputs):
        problems.attempt(check_parameters, entry.parameters, f"{group.where}[{index}].parameters", methods, warn)
    if group.where.endswith(".sources"):
        where = f"{group.where.removesuffix('.sources')}.parameters"
        problems.attempt(check_parameters, group.parameter_levels[0], where, methods, warn)
    problems.attempt(_check_base_layers, group)
    problems.check()


def _check_base(group: MergeGroup) -> None:
    if group.method.base == "required" and not group.base:
        raise UserError(f"base_model: is missing; {group.method.name} needs it")


def _check_count(group: MergeGroup) -> None:
    method, count = group.method, len(group.merged_inputs)
    if count < method.min_models or (method.max_models is not None and count > method.max_models):
        beside = " beside base_model" if method.base == "required" else ""
        raise UserError(f"{group.where}: found {count}{beside}, {method.name} takes {method.model_count}")


def _check_duplicates(group: MergeGroup) -> None:
    listed = [(entry.model, entry.layers) for entry in group.inputs]
    for model, layers in listed:
        count = listed.count((model, layers))
        if model == group.task_vector_base:
            count = sum(model == other for other, _ in listed)
        if count > 1:
            raise UserError(f"{group.where}: {model} is listed {count} times, expected once")


def _check_base_layers(group: MergeGroup) -> None:
    implied = next((entry for entry in group.inputs if entry.implied), None)
    ranges = {entry.layers for entry in group.inputs if not entry.implied}
    if implied and len(ranges) > 1 and group.method.base != "input":
        raise UserError(
            f"{group.where}: the base {implied.model} is not listed, and the layers of the others differ; "
            "list the base with its layer_range"
        )

"""Whether a method can take the models and parameters that a group gives it."""

from mergesearch.errors import UserError
from mergesearch.merge_ops.recipe.layout import Group
from mergesearch.merge_ops.recipe.resolution import base_of, inputs_of
from mergesearch.merge_ops.recipe.settings import check_parameters


def check_group(group: Group) -> None:
    """Raises UserError for inputs that the method cannot take, or parameters that are wrong."""
    method = group.method
    if method.base == "required" and not group.base:
        raise UserError(f"base_model: is missing; {method.name} needs it")
    _check_once(group)
    count = len(inputs_of(group))
    if count < method.fewest or (method.most is not None and count > method.most):
        beside = " beside base_model" if method.base == "required" else ""
        raise UserError(f"{group.where}: found {count}{beside}, {method.name} takes {method.count_in_words}")
    for index, entry in enumerate(group.entries):
        check_parameters(entry.parameters, f"{group.where}[{index}].parameters", [method])
    if group.where.endswith(".sources"):
        check_parameters(group.settings[0], f"{group.where.removesuffix('.sources')}.parameters", [method])
    _check_base_layers(group)


def _check_once(group: Group) -> None:
    once = [(entry.model, entry.layers) for entry in group.entries]
    for model, layers in once:
        count = once.count((model, layers))
        if model == base_of(group):
            count = sum(model == other for other, _ in once)
        if count > 1:
            raise UserError(f"{group.where}: {model} is listed {count} times, expected once")


def _check_base_layers(group: Group) -> None:
    implied = next((entry for entry in group.entries if entry.implied), None)
    ranges = {entry.layers for entry in group.entries if not entry.implied}
    if implied and len(ranges) > 1 and group.method.base != "input":
        raise UserError(f"{group.where}: the base {implied.model} is not listed, and the layers of the others differ")

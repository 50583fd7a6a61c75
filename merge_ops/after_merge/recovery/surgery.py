"""Surgery: a low-rank correction of the layers that write to the residual stream, folded into their weights.

Representation surgery (Yang et al., arXiv:2402.02705; SurgeryV2, arXiv:2410.14389) corrects what a merged model's
layers give out, with a module of low rank for each task. One model for all tasks has no room for such modules, and its
config no place. The nearest thing that can be folded is a correction of the weights themselves, the same for all texts:

    min over Δ of rank r:  Σ_parents Σ_tokens ‖y_parent − (W + Δ) x‖² / tokens  +  λ ‖Δ‖²

where x is what the layer gets in the merged model, whose earlier layers are corrected already, and y_parent what the
same layer of the parent gives out for the same token of the parent's text. That is a reduced-rank ridge regression
(Izenman, Journal of Multivariate Analysis 5, 1975), with λ = ``ridge`` times the mean square of x.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.after_merge.recovery.parents import Parents
from mergesearch.merge_ops.after_merge.recovery.sequences import Batch, run
from mergesearch.merge_ops.recipe.recovery import Recovery
from mergesearch.steps import followed, step, units

Outputs = Mapping[str, list[Tensor]]
"""For each layer its goal for each batch, [tokens, width], float32."""


class _EnoughSeenError(Exception):
    """Ends a forward pass: the modules that are asked about have run."""


def operate(
    student: nn.Module, settings: Recovery, batches: Mapping[str, Sequence[Batch]], parents: Parents
) -> list[float]:
    """Corrects ``student`` in place; returns for each layer the squared error before, relative to the goals.

    Needs memory for all parents' outputs of all layers that are corrected.
    """
    plan = _Plan.of(student, next(iter(batches.values()))[0])
    goals = {name: _goals(parents, name, each, plan) for name, each in batches.items()}
    names = list(plan.watched)
    with step("recovering", len(names), "layers"), units(len(names)), torch.no_grad():
        return [_correct(student, name, plan.watched[name], settings, batches, goals) for name in followed(names)]


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """Returns the linear layers of a model's blocks by name. Raises UserError if there is none."""
    from transformers.pytorch_utils import Conv1D

    blocks = tuple(f"{name}." for name in _blocks(model))
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(blocks)
    }
    if not found:
        raise UserError(f"recover: {type(model).__name__} has no linear layers in a stack, which surgery corrects")
    return found


def _blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks by name: the members of stacks that are in no other stack."""
    stacks = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [name for name in stacks if not any(name.startswith(f"{other}.") for other in stacks)]
    return {f"{name}.{n}": block for name in outer for n, block in enumerate(stacks[name])}


@dataclass(frozen=True)
class _Plan:
    """The layers that are corrected in the order in which they run, each with the module whose output is the goal.

    They are as wide as their block, and no other layer gets their input: what ends attention and MLP. The goal of a
    block's last module, if it is linear, is that of the block: the correction makes up for what is added to, too.
    """

    watched: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module, inputs: Batch) -> "_Plan":
        layers, blocks = linear_layers(model), _blocks(model)
        asked = {name: module for name, module in model.named_modules() if not list(module.children())}
        seen: list[tuple[str, Tensor, int]] = []
        with torch.no_grad(), _hooked(asked | blocks, lambda name, x, y: seen.append((name, x, y.shape[-1]))):
            run(model, inputs)
        width = {name: size for name, _, size in seen}
        users = Counter((x.data_ptr(), x.shape) for name, x, _ in seen if name in layers)
        alone = [name for name, x, _ in seen if name in layers and users[x.data_ptr(), x.shape] == 1]
        block_of = {name: block for name in asked for block in blocks if name.startswith(f"{block}.")}
        last = {block_of[name]: name for name, *_ in seen if name in block_of}
        writers = [name for name in alone if width[name] == width[block_of[name]]]
        return cls({name: block_of[name] if last[block_of[name]] == name else name for name in writers})


def _goals(parents: Parents, reference: str, batches: Sequence[Batch], plan: _Plan) -> Outputs:
    with parents.opened(reference) as model:
        found = dict(model.named_modules())
        if missing := [name for name in plan.watched.values() if name not in found]:
            raise UserError(f"recover: {reference} has no layer {missing[0]}, which the merged model has")
        goals: dict[str, list[Tensor]] = {name: [] for name in plan.watched}
        layer_of = {watched: layer for layer, watched in plan.watched.items()}
        modules = {name: found[name] for name in layer_of}
        with _hooked(modules, lambda name, _, y: goals[layer_of[name]].append(_rows(y))):
            for inputs in batches:
                run(model, inputs)
    return goals


def _correct(  # noqa: PLR0913, PLR0917 - what a fit depends on
    student: nn.Module,
    layer: str,
    watched: str,
    settings: Recovery,
    batches: Mapping[str, Sequence[Batch]],
    goals: Mapping[str, Outputs],
) -> float:
    """Fits and folds the correction of a layer; returns the relative error before."""
    gram: Any = 0.0
    product: Any = 0.0
    wrong, size = 0.0, 0.0
    for name, each in batches.items():
        share = 1 / len(batches) / sum(inputs["input_ids"].numel() for inputs in each)
        for inputs, goal in zip(each, goals[name][layer], strict=True):
            x, y = _around(student, layer, watched, inputs)
            missing = goal.double() - y
            gram, product = gram + share * (x.T @ x), product + share * (x.T @ missing)
            wrong += share * float(missing.square().sum())
            size += share * float(goal.double().square().sum())
    module = student.get_submodule(layer)
    _fold(module, _correction(gram, product, settings))
    return wrong / size


def _correction(gram: Tensor, product: Tensor, settings: Recovery) -> Tensor:
    """Δᵀ [in, out] of the rank: the ridge solution, projected to where its outputs vary most; float64."""
    penalty = settings.ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solution: Tensor = torch.linalg.solve(gram + penalty, product)
    variation = solution.T @ product  # = solutionᵀ (gram + penalty) solution
    _, directions = torch.linalg.eigh((variation + variation.T) / 2)
    kept: Tensor = directions[:, -settings.rank :]
    change: Tensor = solution @ kept @ kept.T
    return change


def _fold(module: Any, change: Tensor) -> None:
    module.weight.add_((change.T if isinstance(module, nn.Linear) else change).to(module.weight.dtype))


def _around(model: nn.Module, layer: str, watched: str, inputs: Batch) -> tuple[Tensor, Tensor]:
    """The input of a layer and the output of the watched module, [tokens, width], float64."""
    found: dict[str, Tensor] = {}

    def see(name: str, x: Tensor, y: Tensor) -> None:
        if name == layer:
            found["x"] = _rows(x).double()
        if name == watched:
            found["y"] = _rows(y).double()
            raise _EnoughSeenError

    modules = {name: model.get_submodule(name) for name in (layer, watched)}
    with _hooked(modules, see), suppress(_EnoughSeenError):
        run(model, inputs)
    return found["x"], found["y"]


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


@contextmanager
def _hooked(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Within, ``see`` gets the name, the input and the output of each of the layers that runs."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def seen(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            y = output[0] if isinstance(output, tuple) else output
            see(name, inputs[0] if inputs else y, y)

        return seen

    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

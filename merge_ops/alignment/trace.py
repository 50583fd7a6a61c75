"""The symmetries of a model, derived from what it computes.

A module is run once, and every operation of torch tells which axes of its inputs and outputs are the same. Axes of the
model's inputs and outputs are fixed, and so are those of operations that no rule is known for.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from mergesearch.merge_ops.alignment.axes import Axis
from mergesearch.merge_ops.alignment.resolved import Resolved
from mergesearch.merge_ops.alignment.rules import KEEPS_COUNTS, Call, Labels, rule_of
from mergesearch.merge_ops.alignment.spec import AxisGroups

INDICES = {"indices", "index"}
"""The arguments that pick entries."""


def derive(
    module: nn.Module, inputs: Mapping[str, Any] | Sequence[Any], inner: Collection[str] = frozenset()
) -> AxisGroups:
    """Returns the symmetries of a module.

    Args:
        module: the module, in evaluation mode. Its tensors may have no values (torch's fake tensors).
        inputs: the arguments of its ``forward``. Their values do not matter; their axes should have more than one
            entry.
        inner: the keys of the module's output that are intermediate results, which may change.
    """
    tracer = _Tracer(module)
    with torch.no_grad(), _without_fast_paths(), tracer.recorded_outputs(module), tracer:
        result = module(**inputs) if isinstance(inputs, Mapping) else module(*inputs)
    for tensor in outputs_of(result, inner):
        for axis in tracer.axes(tensor):
            axis.fix()
    tracer.fix_unused()
    found = Resolved(tracer.tensors, tracer.appearances, tracer.selections)
    return AxisGroups(found.groups, found.tensors, found.of(tracer.outputs), tuple(tracer.notes()))


def outputs_of(result: Any, inner: Collection[str] = frozenset()) -> list[Tensor]:
    """Returns the tensors of a module's output, but those under the keys of intermediate results."""
    if isinstance(result, Mapping):
        result = {key: value for key, value in result.items() if key not in inner}
    return [tensor for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]


@contextmanager
def _without_fast_paths() -> Iterator[None]:
    """torch's own fused layers of transformers, which are one operation each, are not used."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Labels every tensor of a run with its axes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._labels: Any = WeakTensorKeyDictionary()
        self._counted: Any = WeakTensorKeyDictionary()
        self._used: Any = WeakTensorKeyDictionary()
        self._unknown: Counter[str] = Counter()
        self._unused: list[str] = []
        self._owned: dict[str, Tensor] = module.state_dict(keep_vars=True)
        for tensor in self._owned.values():
            if tensor not in self._labels:
                self._labels[tensor] = [Axis(size, not tensor.is_floating_point()) for size in tensor.shape]
        self.tensors: dict[str, Labels] = {name: self._labels[tensor] for name, tensor in self._owned.items()}
        self.appearances: list[tuple[Axis, ...]] = [tuple(labels) for labels in self.tensors.values()]
        self.selections: list[tuple[Labels, Axis]] = []
        self.outputs: dict[str, Labels] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if not func._schema.name.startswith("aten::"):
            return func(*args, **kwargs)
        rule = rule_of(func)
        if rule is None and (decomposed := self._decomposed(func, args, kwargs)) is not NotImplemented:
            return decomposed
        result = func(*args, **kwargs)
        outputs = [tensor for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        arguments = _named(func, args, kwargs)
        if outputs and 0 in outputs[0].shape:
            rule = None
        labels = rule(Call(self, arguments, outputs)) if rule else None
        if labels is None:
            labels = self._fixed(func, arguments, outputs)
        self._count(func, arguments, outputs)
        for tensor, own in zip(outputs, labels, strict=True):
            self._label(tensor, list(own))
        return result

    def axes(self, tensor: Tensor) -> Labels:
        self._used[tensor] = True
        if tensor not in self._labels:
            self._labels[tensor] = [Axis(size, fixed=True) for size in tensor.shape]
        return self._labels[tensor]  # type: ignore[no-any-return]

    def counted(self, tensor: Tensor) -> Axis | None:
        return self._counted.get(tensor)  # type: ignore[no-any-return]

    def counts(self, tensor: Tensor, axis: Axis) -> None:
        self._counted[tensor] = axis

    def selects(self, places: Labels, axis: Axis) -> None:
        self.selections.append((list(places), axis))

    def appears(self, axes: Sequence[Axis]) -> None:
        self.appearances.append(tuple(axes))

    @contextmanager
    def recorded_outputs(self, module: nn.Module) -> Iterator[None]:
        """Inside this block the axes of each module's output are kept."""
        with ExitStack() as stack:
            for name, part in module.named_modules():
                handle = part.register_forward_hook(lambda _, __, result, name=name: self._record(name, result))
                stack.callback(handle.remove)
            yield

    def _record(self, name: str, result: Any) -> None:
        tensors = [tensor for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        if len(tensors) == 1:
            self.outputs[name] = self.axes(tensors[0])

    def fix_unused(self) -> None:
        """Fixes tensors that the run did not use, and whatever they may be tied to: every axis of such a size."""
        unused = {name: tensor for name, tensor in self._owned.items() if tensor not in self._used and tensor.ndim}
        sizes = {size for tensor in unused.values() for size in tensor.shape if size > 1}
        for labels in self.tensors.values() if unused else ():
            for axis in labels:
                for leaf in axis.leaves():
                    if leaf.size in sizes or axis.size in sizes:
                        leaf.fix()
        self._unused = sorted(unused)

    def notes(self) -> Iterator[str]:
        """Yields what fixed axes for want of knowledge."""
        for name, count in sorted(self._unknown.items()):
            yield f"{name}: no rule for this operation of torch; it keeps its axes in order ({count} x)"
        for name in self._unused:
            yield f"{name}: is not used by the forward pass that was traced; axes of its sizes keep their order"

    def _decomposed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns the result by simpler operations, each of which is traced, or NotImplemented."""
        with self:
            if func in decomposition_table:
                return decomposition_table[func](*args, **kwargs)
            return func.decompose(*args, **kwargs) if func._can_decompose() else NotImplemented

    def _fixed(self, func: Any, arguments: Mapping[str, Any], outputs: Sequence[Tensor]) -> list[Labels]:
        """The rule of unknown operations."""
        inputs = [tensor for tensor in tree_leaves(dict(arguments)) if isinstance(tensor, Tensor)]
        free = [axis for tensor in inputs for axis in self.axes(tensor) if not axis.is_fixed]
        for axis in free:
            axis.fix()
        if free:
            self._unknown[func._schema.name.removeprefix("aten::")] += 1
        return [[Axis(size, fixed=True) for size in tensor.shape] for tensor in outputs]

    def _count(self, func: Any, arguments: Mapping[str, Any], outputs: Sequence[Tensor]) -> None:
        """Passes on what integers count, or fixes it where an operation changes them."""
        name = func._schema.name.removeprefix("aten::")
        for key, value in arguments.items():
            for tensor in tree_leaves(value):
                axis = self._counted.get(tensor) if isinstance(tensor, Tensor) else None
                if axis is None or (key in INDICES and rule_of(func) is not None):
                    continue
                if name not in KEEPS_COUNTS:
                    axis.fix()
                for output in outputs:
                    self._counted[output] = axis

    def _label(self, tensor: Tensor, labels: Labels) -> None:
        """Gives an output its axes. One that is also an input, as it is changed in place, has some already."""
        if tensor in self._labels:
            for axis, own in zip(labels, self._labels[tensor], strict=True):
                axis.join(own)
        else:
            self._labels[tensor] = labels
        self.appears(labels)


def _named(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a call by name, with the defaults of those that are not given."""
    parameters = func._schema.arguments
    given = dict(zip((parameter.name for parameter in parameters), args, strict=False))
    defaults = {p.name: p.default_value for p in parameters if p.has_default_value()}
    return {**defaults, **given, **kwargs}

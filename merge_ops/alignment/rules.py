"""What each operation of torch does with the axes of its inputs."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from mergesearch.merge_ops.alignment.axes import Axis, in_a_row, product, viewed

Labels = list[Axis]


class Trace(Protocol):
    """What rules know and tell of the model."""

    def axes(self, tensor: Tensor) -> Labels:
        """Returns the axes of a tensor. Those of a constant are fixed."""

    def counted(self, tensor: Tensor) -> Axis | None:
        """Returns the axis whose entries the tensor's integers count, if they do (``topk``)."""

    def counts(self, tensor: Tensor, axis: Axis) -> None:
        """Says that the tensor's integers count the entries of this axis."""

    def selects(self, places: Labels, axis: Axis) -> None:
        """Says that each of these places has chosen one entry of the axis."""

    def appears(self, axes: Sequence[Axis]) -> None:
        """Says that there is a tensor of these axes."""


class Call:
    """A call of an operation: its arguments by name, and the tensors that it returned."""

    def __init__(self, trace: Trace, arguments: Mapping[str, Any], outputs: Sequence[Tensor]) -> None:
        self.trace, self.arguments, self.outputs = trace, arguments, outputs

    def __getitem__(self, name: str) -> Any:
        """Returns an argument."""
        return self.arguments[name]

    def get(self, *names: str, default: Any = None) -> Any:
        """Returns the first of these arguments that there is."""
        return next((self.arguments[name] for name in names if name in self.arguments), default)

    def axes(self, name: str = "self") -> Labels:
        """Returns the axes of an argument."""
        return list(self.trace.axes(self.arguments[name]))

    def dim(self, name: str = "dim", of: str = "self") -> int:
        """Returns an argument that is a dimension, counted from the front."""
        ndim: int = self.arguments[of].ndim
        return int(self.get(name, default=0)) % max(1, ndim)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first output."""
        return tuple(self.outputs[0].shape)


Rule = Callable[[Call], Sequence[Labels] | None]
"""Returns the axes of each output. Joins axes of inputs, or fixes them. None: there is no rule for this call."""


def join_broadcast(shape: Sequence[int], inputs: Sequence[Labels]) -> Labels:
    """Joins axes as torch broadcasts them, and returns those of the result."""
    result = []
    for place in range(-len(shape), 0):
        present = [labels[place] for labels in inputs if len(labels) >= -place and labels[place].size != 1]
        for axis in present[1:]:
            present[0].join(axis)
        result.append(present[0] if present else Axis(shape[place]))
    return result


def entrywise(call: Call) -> list[Labels]:
    """Functions of single entries."""
    tensors = [value for value in call.arguments.values() if isinstance(value, Tensor)]
    tensors += [t for value in call.arguments.values() if isinstance(value, list | tuple) for t in _tensors(value)]
    axes = join_broadcast(call.shape, [call.trace.axes(tensor) for tensor in tensors])
    return [axes for _ in call.outputs]


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]


def reduction(call: Call) -> list[Labels]:
    """Sums, means, norms and the like, over some axes or all."""
    axes, dims = call.axes(), call.get("dim", "dims")
    dims = range(len(axes)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    reduced = {dim % len(axes) for dim in dims} if axes else set()
    kept = [axis for dim, axis in enumerate(axes) if dim not in reduced]
    call.trace.appears(kept)
    if call.get("keepdim", default=False):
        kept = [Axis(1) if dim in reduced else axis for dim, axis in enumerate(axes)]
    for output in call.outputs:
        if output.dtype == torch.int64 and call["self"].dtype.is_floating_point and len(reduced) == 1:
            call.trace.counts(output, axes[min(reduced)])
    return [kept for _ in call.outputs]


def view(call: Call) -> list[Labels]:
    return [viewed(call.axes(), output.shape) for output in call.outputs]


def restrided(call: Call) -> list[Labels] | None:
    """A view of a contiguous tensor as another one."""
    tensor, output = call["self"], call.outputs[0]
    is_whole = tensor.numel() == output.numel() and tensor.storage_offset() == output.storage_offset()
    return view(call) if is_whole and tensor.is_contiguous() and output.is_contiguous() else None


def permute(call: Call) -> list[Labels]:
    axes = call.axes()
    return [[axes[dim] for dim in call["dims"]]]


def transpose(call: Call) -> list[Labels]:
    axes = call.axes()
    if len(axes) > 1:
        one, other = (call.dim("dim0"), call.dim("dim1")) if "dim0" in call.arguments else (0, 1)
        axes[one], axes[other] = axes[other], axes[one]
    return [axes]


def expand(call: Call) -> list[Labels]:
    axes, shape = call.axes(), call.shape
    axes = [Axis(1) for _ in range(len(shape) - len(axes))] + axes
    return [[axis if axis.size == size else Axis(size) for axis, size in zip(axes, shape, strict=True)]]


def repeat(call: Call) -> list[Labels]:
    axes, times = call.axes(), call["repeats"]
    axes = [Axis(1) for _ in range(len(times) - len(axes))] + axes
    return [[product([Axis(count), axis]) for count, axis in zip(times, axes, strict=True)]]


def select(call: Call) -> list[Labels]:
    axes, dim = call.axes(), call.dim()
    axes.pop(dim).fix()
    return [axes for _ in call.outputs]


def piece(call: Call) -> list[Labels]:
    """A slice."""
    axes, dim = call.axes(), call.dim()
    size = axes[dim].size
    start, end, step = *slice(call.get("start"), call.get("end")).indices(size)[:2], call.get("step", default=1)
    if step != 1 or end <= start:
        axes[dim].fix()
        axes[dim] = Axis(call.shape[dim], fixed=True)
    elif (start, end) != (0, size):
        bounds = [bound for bound in (start, end) if 0 < bound < size]
        axes[dim] = axes[dim].cut(*bounds)[int(start > 0)]
    return [axes]


def split(call: Call) -> list[Labels]:
    axes, dim = call.axes(), call.dim()
    sizes = [output.shape[dim] for output in call.outputs]
    pieces = axes[dim].cut(*list(accumulate(sizes))[:-1]) if all(sizes) else [Axis(s, fixed=True) for s in sizes]
    return [[*axes[:dim], own, *axes[dim + 1 :]] for own in pieces]


def cat(call: Call) -> list[Labels]:
    tensors = [tensor for tensor in call["tensors"] if tensor.numel() or tensor.ndim > 1]
    inputs, dim = [call.trace.axes(tensor) for tensor in tensors], call["dim"] if "dim" in call.arguments else 0
    dim %= len(inputs[0])
    others = [[axis for at, axis in enumerate(labels) if at != dim] for labels in inputs]
    joined = join_broadcast([axis.size for axis in others[0]], others)
    row = in_a_row([labels[dim] for labels in inputs])
    return [[*joined[:dim], row, *joined[dim:]]]


def pad(call: Call) -> list[Labels]:
    axes, pads = call.axes(), call["pad"]
    if min(pads) < 0:
        return positional(call)
    for at, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True), 1):
        axes[-at] = in_a_row([Axis(before), axes[-at], Axis(after)])
    return [axes]


def positional(call: Call) -> list[Labels]:
    """Operations along one axis, or the last two, in which places count: cumulative sums, shifts, triangles."""
    axes = call.axes()
    dims = call.get("dim", "dims", default=(-2, -1))
    moved = {dim % len(axes) for dim in ([dims] if isinstance(dims, int) else dims)}
    _fix(call, axes, moved)
    return [_resized(axes, output, moved) for output in call.outputs]


def _fix(call: Call, axes: Labels, dims: set[int]) -> None:
    for dim in dims:
        axes[dim].fix()
    call.trace.appears([axis for dim, axis in enumerate(axes) if dim not in dims])


def _resized(axes: Labels, output: Tensor, dims: set[int]) -> Labels:
    return [
        Axis(output.shape[dim], fixed=True) if dim in dims and axis.size != output.shape[dim] else axis
        for dim, axis in enumerate(axes)
    ]


def spatial(dimensions: int) -> Rule:
    """Pooling and resizing of the last so many axes."""

    def rule(call: Call) -> list[Labels]:
        axes = call.axes("self" if "self" in call.arguments else "input")
        moved = set(range(len(axes) - dimensions, len(axes)))
        _fix(call, axes, moved)
        return [_resized(axes, output, moved) for output in call.outputs]

    return rule


def ranked(call: Call) -> list[Labels]:
    """Sorting, all or the largest."""
    axes, dim = call.axes(), call.dim() if "dim" in call.arguments else -1
    call.trace.appears([axis for at, axis in enumerate(axes) if at != dim % len(axes)])
    places = Axis(call.shape[dim], fixed=True)
    call.trace.counts(call.outputs[1], axes[dim])
    axes[dim] = places
    return [axes, axes]


def matmul(call: Call) -> list[Labels]:
    """Products of two matrices, with a batch dimension or not."""
    one = call.axes("self" if "mat1" not in call.arguments else "mat1")
    other = call.axes("mat2" if "mat2" in call.arguments else "vec" if "vec" in call.arguments else "tensor")
    one[-1].join(other[-2 if len(other) > 1 else 0])
    result = [*one[:-1], *([other[-1]] if len(other) > 1 else [])]
    if len(one) == 3:
        one[0].join(other[0])
    added = [call.axes()] if "mat1" in call.arguments else []
    return [join_broadcast(call.shape, [result, *added])]


def attention(call: Call) -> list[Labels]:
    """Fused attention: queries, keys and values of shape (batch, heads, tokens, size of a head)."""
    query, key, value = call.axes("query"), call.axes("key"), call.axes("value")
    query[3].join(key[3])
    key[2].join(value[2])
    outer = join_broadcast([axis.size for axis in query[:2]], [query[:2], key[:2], value[:2]])
    scores = [*outer, query[2], key[2]]
    mask = call.get("attn_mask", "attn_bias")
    if mask is not None:
        join_broadcast([axis.size for axis in scores], [scores, call.trace.axes(mask)])
    call.trace.appears(scores)
    return [[*outer, query[2], value[3]], *([Axis(size, fixed=True) for size in o.shape] for o in call.outputs[1:])]


def convolution(call: Call) -> list[Labels]:
    axes, weight, groups = call.axes("input"), call.axes("weight"), call["groups"]
    inputs, inner, outputs = Axis(axes[1].size // groups), Axis(weight[1].size), Axis(weight[0].size // groups)
    group = Axis(groups)
    axes[1].join(product([group, inputs]))
    if call["transposed"]:
        weight[0].join(product([group, inputs]))
        out = product([group, inner])
    else:
        inner.join(inputs)
        weight[0].join(product([group, outputs]))
        out = product([group, outputs])
    weight[1].join(inner)
    if call["bias"] is not None:
        out.join(call.axes("bias")[0])
    for axis in weight[2:]:
        axis.fix()
    is_pointwise = all(axis.size == 1 for axis in weight[2:]) and tuple(call.shape[2:]) == tuple(
        axis.size for axis in axes[2:]
    )
    moved = set() if is_pointwise else set(range(2, len(axes)))
    _fix(call, axes, moved)
    return [_resized([axes[0], out, *axes[2:]], call.outputs[0], moved)]


def batch_norm(call: Call) -> list[Labels]:
    axes = call.axes("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call.get(name) is not None:
            axes[1].join(call.axes(name)[0])
    others: list[Labels] = [[Axis(size, fixed=True) for size in output.shape] for output in call.outputs[1:]]
    return [axes, *others]


def _pick(call: Call, axis: Axis, indices: Tensor, places: Labels) -> None:
    counted = call.trace.counted(indices)
    if counted is None:
        axis.fix()
    else:
        axis.join(counted)
        call.trace.selects(places, counted)


def embedding(call: Call) -> list[Labels]:
    rows, *others = call.axes("weight")
    places = call.axes("indices")
    _pick(call, rows, call["indices"], places)
    return [[*places, *others]]


def index(call: Call) -> list[Labels]:
    axes, given = call.axes(), list(call["indices"])
    places = [dim for dim, indices in enumerate(given) if indices is not None]
    tensors = [given[dim] for dim in places]
    shape: Sequence[int] = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))  # type: ignore[no-untyped-call]
    picked = join_broadcast(shape, [call.trace.axes(tensor) for tensor in tensors])
    for dim, tensor in zip(places, tensors, strict=True):
        _pick(call, axes[dim], tensor, picked)
    rest = [axis for dim, axis in enumerate(axes) if dim not in places]
    at = places[0] if places[-1] - places[0] == len(places) - 1 else 0
    return [[*rest[:at], *picked, *rest[at:]]]


def index_select(call: Call) -> list[Labels]:
    axes, dim = call.axes(), call.dim()
    places = call.axes("index") or [Axis(1)]
    _pick(call, axes[dim], call["index"], places)
    return [[*axes[:dim], *places, *axes[dim + 1 :]]]


def gather(call: Call) -> list[Labels]:
    axes, places, dim = call.axes(), call.axes("index"), call.dim()
    for at, (own, place) in enumerate(zip(axes, places, strict=True)):
        if at != dim and own.size == place.size:
            own.join(place)
        elif at != dim:
            own.fix()
            place.fix()
    call.trace.appears([axis for at, axis in enumerate(axes) if at != dim])
    _pick(call, axes[dim], call["index"], places)
    return [places]


def constant(call: Call) -> list[Labels]:
    """Tensors of equal entries, which any permutation leaves as they are."""
    return [[Axis(size) for size in output.shape] for output in call.outputs]


_TABLE: tuple[tuple[str, Rule], ...] = (
    ("copy _to_copy detach alias lift_fresh lift_fresh_copy native_dropout dropout", entrywise),
    ("view _unsafe_view reshape unsqueeze squeeze view_as _reshape_alias", view),
    ("as_strided", restrided),
    ("select unbind", select),
    ("transpose t numpy_T", transpose),
    ("permute", permute),
    ("expand", expand),
    ("repeat", repeat),
    ("slice", piece),
    ("split split_with_sizes chunk", split),
    ("cat", cat),
    ("constant_pad_nd", pad),
    ("cumsum cumprod cummax cummin logcumsumexp flip roll renorm tril triu", positional),
    ("topk sort", ranked),
    ("argmax argmin", reduction),
    ("mm bmm mv dot addmm addmv", matmul),
    ("convolution", convolution),
    ("_native_batch_norm_legit_no_training native_batch_norm cudnn_batch_norm _native_batch_norm_legit", batch_norm),
    ("embedding", embedding),
    ("index", index),
    ("index_select", index_select),
    ("gather", gather),
    ("zeros ones full empty zeros_like ones_like full_like empty_like empty_strided", constant),
    ("new_zeros new_ones new_full new_empty new_empty_strided fill zero", constant),
)
RULES = {name: rule for names, rule in _TABLE for name in names.split()}
"""The rule of each operation that is not entrywise, a reduction, attention or spatial."""
_KEEPS = (
    "view _unsafe_view reshape unsqueeze squeeze expand permute transpose t clone _to_copy detach alias slice select "
    "lift_fresh lift_fresh_copy split split_with_sizes unbind repeat"
)
KEEPS_COUNTS = frozenset(_KEEPS.split())
"""Operations whose results have the integers of their input."""
SPATIAL = (
    "max_pool",
    "avg_pool",
    "_adaptive_avg_pool",
    "adaptive_max_pool",
    "upsample_",
    "reflection_pad",
    "replication_",
)
"""The beginnings of the names of operations on an image's axes."""


def rule_of(operation: Any) -> Rule | None:
    """Returns the rule of an operation, or None if it is not known."""
    name = operation._schema.name.removeprefix("aten::")
    name = name.removesuffix("_") if not name.startswith("__") else name
    if name in RULES:
        return RULES[name]
    if name.startswith(("_scaled_dot_product", "scaled_dot_product")):
        return attention
    if name.startswith(SPATIAL):
        return spatial(int(next((c for c in name if c.isdigit()), 2)))
    if torch.Tag.reduction in operation.tags:
        return reduction
    return entrywise if _is_entrywise(operation, name) else None


def _is_entrywise(operation: Any, name: str) -> bool:
    return torch.Tag.pointwise in operation.tags or name in ("where", "masked_fill", "nan_to_num")

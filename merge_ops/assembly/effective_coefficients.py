"""Which models the parts of a built model come from: effective coefficients, for any merge method.

Let d = θ − θ_0 be the change of a part of the model and t_i = θ_i − θ_0 the task vectors of the inputs. The effective
coefficients c minimize |d − Σ c_i t_i|², so they solve the normal equations ⟨t_i, t_j⟩ c = ⟨t_i, d⟩. The inner products
are sums over tensors in float64, and each tensor is read once. Inputs that cannot be told apart in a part, as equal
ones, share their coefficients by the pseudo-inverse; an input that equals the base there has 0.

Without a base the same holds with θ_0 = 0: the coefficients are those of the models themselves. The change is then
counted from the nearest model, and the models' own from their plain mean.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergesearch.merge_ops.assembly.assembly import Assembly, InputKey
from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.checkpoint.tensor_files import TensorInfo
from mergesearch.merge_ops.recipe.layout import layer_of
from mergesearch.merge_ops.recipe.resolution import TensorRecipe
from mergesearch.merge_ops.statistics.gram import gram

Array = NDArray[np.float64]
RANK = 1e-12
"""Eigenvalues below this share of the largest count as 0, of the inner products of vectors of length 1."""


@dataclass(frozen=True)
class Input:
    """A model, and which of its layers is merged; None where it is the layer of the same number, or none."""

    model: str
    layer: int | None = None


@dataclass(frozen=True)
class Part:
    """A part of a model: a module of a layer, a layer (``module`` is empty), a module of all layers, or the whole.

    ``stack`` is the name of the stack of layers, ``layer`` None where the part is no part of one layer. Parts of names
    that are numbers, as those of experts, are ``*`` in ``module``.
    """

    stack: str = ""
    layer: int | None = None
    module: str = ""


@dataclass(frozen=True)
class PartCoefficients:
    """What a part of a built model consists of.

    Attributes:
        part: the part.
        inputs: its inputs.
        coefficients: the effective coefficient of each input.
        deltas: the length of each input's change, relative to that of the base.
        change: the length of the merged change, relative to that of the base.
        explained: the share of the squared change that the coefficients explain, from 0 to 1. What rounding to the
            result's dtype changes counts as explained. None where the part is not changed.
    """

    part: Part
    inputs: Sequence[Input]
    coefficients: Sequence[float]
    deltas: Sequence[float]
    change: float
    explained: float | None


@dataclass(frozen=True)
class _Sums:
    """Sums of inner products over tensors.

    Attributes:
        products: [k + 1, k + 1], of the changes of the k inputs and of the merge, from the base if there is one.
        base: the squared length of the base; None without one.
        rounding: the expected square of what rounding to the dtype changes.
    """

    products: Array
    base: float | None
    rounding: float

    def __add__(self, other: "_Sums") -> "_Sums":
        base = None if self.base is None or other.base is None else self.base + other.base
        return _Sums(self.products + other.products, base, self.rounding + other.rounding)


def effective_coefficients(
    assembly: Assembly, merger: Merger, built: Callable[[str], Tensor], base: str | None = None
) -> list[PartCoefficients]:
    """Returns the effective coefficients of each part of a model, from the parts of single layers to the whole.

    Of a stack of layers from several places, only parts of single layers are known.

    Args:
        assembly: the model's assembly.
        merger: the open checkpoints.
        built: from a tensor's name to the built tensor.
        base: the reference of the base of whole models whose recipe names none.
    """
    sums: dict[tuple[Part, tuple[Input, ...]], _Sums] = {}
    for name, inputs, origin in _tensors(assembly, merger, base):
        present = {each: key for each, key in inputs.items() if _has_shape(merger, key, assembly.infos[name])}
        found = _sums(merger, built(name), list(present.values()), origin)
        spread = _spread(found, [list(inputs).index(each) for each in present], len(inputs))
        for part in _parts(name, in_place=bool(assembly.recipe.models)):
            key = part, tuple(inputs)
            sums[key] = sums[key] + spread if key in sums else spread
    return [_solved(part, inputs, total) for (part, inputs), total in sums.items()]


def _tensors(
    assembly: Assembly, merger: Merger, base: str | None
) -> Iterator[tuple[str, dict[Input, InputKey], InputKey | None]]:
    """Yields each float tensor of the result with its inputs and its base.

    Left out are those that the base does not have in this shape, and of slices those that are the base's.
    """
    recipe = assembly.recipe
    base = recipe.base_model or base
    models = [reference for reference in recipe.references if reference != base]
    for name, info in assembly.infos.items():
        if not info.dtype.is_floating_point:
            continue
        if recipe.models:
            origin, inputs = (base, name) if base else None, {Input(model): (model, name) for model in models}
        else:
            inputs, origin = _sliced(assembly.layout.tensor_recipes[name])
        if (recipe.models or inputs) and (origin is None or _has_shape(merger, origin, info)):
            yield name, inputs, origin


def _sliced(tensor_recipe: TensorRecipe) -> tuple[dict[Input, InputKey], InputKey | None]:
    """Returns the inputs of a tensor of slices, with their layers, and its base."""
    inputs = {}
    for model, source in tensor_recipe.model_inputs:
        layer = layer_of(source)
        inputs[Input(model, layer[1] if layer else None)] = (model, source)
    has_base = tensor_recipe.base and tensor_recipe.base_source
    return inputs, tensor_recipe.inputs[0] if has_base else None


def _has_shape(merger: Merger, key: InputKey, info: TensorInfo) -> bool:
    own = merger.inputs[key[0]].tensors.get(key[1])
    return own is not None and own.shape == info.shape


def _sums(merger: Merger, built: Tensor, inputs: Sequence[InputKey], origin: InputKey | None) -> _Sums:
    """Returns the inner products of one tensor."""
    tensors = [*(merger.tensor(*key) for key in inputs), built.to(merger.device)]
    base = merger.tensor(*origin) if origin else None
    products = np.array(gram(tensors, base))
    square = float(products[-1, -1]) if base is None else gram(tensors[-1:])[0][0]
    rounding = square * torch.finfo(built.dtype).eps ** 2 / 12
    return _Sums(products, None if base is None else gram([base])[0][0], rounding)


def _spread(sums: _Sums, places: Sequence[int], count: int) -> _Sums:
    """Returns the sums of ``count`` inputs from those of some: the others have no such tensor, and are 0."""
    chosen = [*places, count]
    products = np.zeros((count + 1, count + 1))
    products[np.ix_(chosen, chosen)] = sums.products
    return _Sums(products, sums.base, sums.rounding)


def _parts(name: str, in_place: bool) -> Iterator[Part]:
    """Yields the parts that a tensor belongs to. Parts of several layers need layers that stay where they were."""
    layer, module = layer_of(name), _module(name)
    if layer is None:
        yield Part(module=module)
    else:
        stack, index = layer
        yield Part(stack, index, module)
        yield Part(stack, index)
        if in_place:
            yield Part(stack, module=module)
    if in_place:
        yield Part()


def _module(name: str) -> str:
    """Returns the part of a tensor's name that says what it is: without its layer, and without ``weight``."""
    layer = layer_of(name)
    words = name.removeprefix(f"{layer[0]}.").split(".")[1:] if layer and layer[0] else name.split(".")
    if layer and not layer[0]:
        words = words[1:]
    words = words[:-1] if words[-1] in ("weight", "bias") and len(words) > 1 else words
    return ".".join("*" if word.isdecimal() else word for word in words)


def _solved(part: Part, inputs: Sequence[Input], sums: _Sums) -> PartCoefficients:
    coefficients, residual = least_squares(sums.products)
    change, lengths, base = _lengths(sums)
    unexplained = max(0.0, residual - sums.rounding)
    return PartCoefficients(
        part,
        inputs,
        coefficients.tolist(),
        [_ratio(length, base) for length in lengths],
        _ratio(change, base),
        None if change <= sums.rounding else max(0.0, 1 - unexplained / change),
    )


def _lengths(sums: _Sums) -> tuple[float, list[float], float]:
    """Returns the squared lengths of the merged change, of each input's change, and of what they are changes of."""
    products, squares = sums.products, np.diag(sums.products)
    if sums.base is not None:
        return float(squares[-1]), squares[:-1].tolist(), sums.base
    inner, onto, merged = products[:-1, :-1], products[:-1, -1], float(squares[-1])
    if not len(inner):
        return 0.0, [], merged
    distances = np.maximum(merged - 2 * onto + squares[:-1], 0)
    from_mean = np.maximum(squares[:-1] - 2 * inner.mean(1) + inner.mean(), 0)
    return float(distances.min()), from_mean.tolist(), float(inner.mean())


def least_squares(products: Array) -> tuple[Array, float]:
    """Returns the coefficients of the last vector on the others, and the square of what they leave.

    Args:
        products: the inner products of all vectors. The vectors are taken as of length 1 to find their rank.
    """
    inner, onto, square = products[:-1, :-1], products[:-1, -1], float(products[-1, -1])
    lengths = np.sqrt(np.diag(inner))
    lengths = np.where(lengths > 0, lengths, 1.0)
    inverse = np.linalg.pinv(inner / np.outer(lengths, lengths), rcond=RANK, hermitian=True)
    coefficients = inverse @ (onto / lengths) / lengths
    return coefficients, max(0.0, square - float(onto @ coefficients))


def _ratio(one: float, other: float) -> float:
    """Returns the ratio of two lengths from their squares."""
    return sqrt(one / other) if other > 0 else inf if one > 0 else 0.0

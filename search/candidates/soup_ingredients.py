"""Whether models can be averaged at all: their output layers must have started from the same values."""

from collections.abc import Iterator, Sequence

from mergesearch.errors import UserError
from mergesearch.merge_ops.assembly.merger import Merger
from mergesearch.merge_ops.recipe.layout import layer_of

LEAST_COSINE = 0.2
"""Tensors of fine-tunes of one model point almost the same way; those of separate random starts are near 0."""


def check_shared_start(references: Sequence[str], dequantize: bool = False) -> None:
    """Raises UserError where the models' output layers did not start from the same values.

    The average of layers with separate random starts is worse than each of them, since they are nearly orthogonal; the
    greedy soup then ends with a single model, without an explanation.
    """
    merger = Merger(references, dequantize=dequantize)
    first, *others = references
    for other in others:
        for name, cosine in _cosines(merger, first, other):
            if cosine < LEAST_COSINE:
                raise UserError(
                    f"soup: {name} of {other} has nothing in common with {first}'s (cosine "
                    f"{cosine:.2f}): an average needs fine-tunes that started from the same values, output layer "
                    "included; save the model once with its new head and start every training from there, "
                    "or say `check_heads: false`"
                )


def _cosines(merger: Merger, one: str, two: str) -> Iterator[tuple[str, float]]:
    """The cosine of each matrix outside the stacks of layers; output layers are among them."""
    for name, info in merger.inputs[one].tensors.items():
        is_output = len(info.shape) > 1 and info.dtype.is_floating_point and layer_of(name) is None
        if is_output and name in merger.inputs[two].tensors:
            a, b = (merger.tensor(reference, name).flatten().double() for reference in (one, two))
            norms = float(a.norm() * b.norm())
            if a.shape == b.shape and norms > 0:
                yield name, float(a @ b) / norms

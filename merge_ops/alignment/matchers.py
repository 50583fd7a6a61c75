"""The ways to align a model, by the values of ``align``: by weights, by activations, and by rotation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.alignment.activations import activation_sources, output_products, weights_of_the_rest
from mergesearch.merge_ops.alignment.matching import Source, match, weight_sources
from mergesearch.merge_ops.alignment.models import run_inputs
from mergesearch.merge_ops.alignment.orthogonal import OrthogonalAlignment
from mergesearch.merge_ops.alignment.spec import AxisGroups
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.references import Alignment
from mergesearch.merge_ops.inputs.standalone import make_same_tokens
from mergesearch.merge_ops.inputs.tokenizer import load_tokenizer
from mergesearch.merge_ops.live.calibration_data import Batch, calibration_batch

TOKENS = 8192
"""The number of tokens that are read of a text."""
EXAMPLES = 8
"""How many sequences or images run through both models at a time."""


@dataclass(frozen=True)
class Side:
    """One of two models: the checkpoint, its tensors by the names of the groups, and the module, if there is one.

    Attributes:
        checkpoint: the checkpoint.
        tensors: the module's tensors, or copies of those that are stored; float32 or wider.
        stored: the same tensors, or views of them, by stored name.
        module: the module that computes with ``tensors``.
    """

    checkpoint: Checkpoint
    tensors: Mapping[str, Tensor]
    stored: Mapping[str, Tensor]
    module: nn.Module | None = None

    def runnable(self, alignment: Alignment) -> nn.Module:
        """The module. Raises UserError if there is none."""
        if self.module is None:
            raise UserError(
                f"{self.checkpoint.reference}: align: {alignment.by}: needs a model that can be run, and "
                f"{alignment.spec} only names groups; give a function that builds the module as `spec`, or use align: "
                "weights"
            )
        return self.module


Move = Callable[[str], Tensor]
"""Returns a tensor of the model as it fits the anchor, by its name in ``state_dict``. The model is not changed."""
Matcher = Callable[[AxisGroups, Side, Side, Alignment], Move]
"""Finds how the first side fits the second."""


def by_weights(spec: AxisGroups, model: Side, anchor: Side, _: Alignment) -> Move:
    """Weight matching."""
    return _permuting(spec, model, weight_sources(spec, anchor.tensors, model.tensors))


def by_activations(spec: AxisGroups, model: Side, anchor: Side, alignment: Alignment) -> Move:
    """Activation matching; by weights where there are no activations, as inside of experts."""
    found = activation_sources(spec, _products(spec, model, anchor, alignment))
    rest = weights_of_the_rest(spec, found, weight_sources(spec, anchor.tensors, model.tensors))
    return _permuting(spec, model, {**found, **rest})


def by_rotation(spec: AxisGroups, model: Side, anchor: Side, alignment: Alignment) -> Move:
    """Orthogonal alignment, of which data tells the rotation if there is any."""
    module = model.runnable(alignment)
    found = OrthogonalAlignment(spec, module, model.checkpoint.reference, run_inputs(module))
    products = _products(spec, model, anchor, alignment) if alignment.data else None
    return found.move(anchor.tensors, model.tensors, products)


MATCHERS: dict[str, Matcher] = {"weights": by_weights, "activations": by_activations, "orthogonal": by_rotation}


def _permuting(spec: AxisGroups, model: Side, sources: Mapping[str, Source]) -> Move:
    permutations = match(spec, sources).permutations
    return lambda name: spec.permuted(permutations, name, model.tensors[name])


def _products(spec: AxisGroups, model: Side, anchor: Side, alignment: Alignment) -> Any:
    modules = anchor.runnable(alignment), model.runnable(alignment)
    return output_products(spec.outputs, *modules, _data(model, anchor, alignment).parts(EXAMPLES))


def _data(model: Side, anchor: Side, alignment: Alignment) -> Batch:
    tokenizers = [load_tokenizer(side.checkpoint) for side in (anchor, model)]
    if None not in tokenizers and not make_same_tokens(*tokenizers):
        raise UserError(
            f"{model.checkpoint.reference}: align: {alignment.by}: its tokenizer makes other tokens of a text than "
            f"that of {anchor.checkpoint.reference}; use align: weights"
        )
    known = next((tokenizer for tokenizer in tokenizers if tokenizer is not None), None)
    module = anchor.runnable(alignment)
    return calibration_batch(module, known, anchor.checkpoint.reference, str(alignment.data), TOKENS)

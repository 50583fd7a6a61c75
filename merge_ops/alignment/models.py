"""The symmetries of models of transformers, from their config alone."""

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.alignment.spec import AxisGroups
from mergesearch.merge_ops.alignment.trace import derive, outputs_of
from mergesearch.merge_ops.checkpoint.architecture import without_weights
from mergesearch.merge_ops.live.calibration_data import Batch

INNER = frozenset(["past_key_values", "hidden_states", "attentions", "encoder_last_hidden_state", "encoder_outputs"])
"""Outputs of transformers' models that are intermediate results."""
TOKENS = {"input_ids": (2, 7), "decoder_input_ids": (2, 5)}
"""The shapes of texts."""
IMAGE = 224
"""The width of images for models whose config has none."""
SAMPLES = 4000
"""The length of sounds."""


def symmetries(config: Mapping[str, Any]) -> AxisGroups:
    """Returns the symmetries of the model of a ``config.json``.

    Raises:
        Exception: whatever transformers or torch raise on a model that cannot be run without weights.
    """
    return _symmetries(json.dumps(config, sort_keys=True))


@lru_cache(maxsize=8)
def _symmetries(config: str) -> AxisGroups:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = without_weights(json.loads(config)).eval()
        run_as_traced(model)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            _make_fake(model, mode)
            return derive(model, example_inputs(model), INNER)


def run_as_traced(model: nn.Module) -> None:
    """Lets a model of transformers use operations that can be followed. It computes the same."""
    for module in model.modules():
        if hasattr(module, "config"):
            config: Any = module.config
            config._attn_implementation = "eager"
            config._experts_implementation = "batched_mm"


def module_symmetries(module: Any) -> AxisGroups:
    """Returns the symmetries of a module of another library.

    Raises:
        UserError: the module has no ``dummy_inputs`` to run it on.
    """
    inputs = getattr(module, "dummy_inputs", None)
    if not isinstance(inputs, Mapping | Sequence):
        raise UserError(
            f"align: {type(module).__name__}: dummy_inputs: found {inputs!r}, expected the arguments of forward, as a "
            "dict by name or a tuple; the function that builds the module has to set it"
        )
    return derive(module.eval(), inputs)


def example_inputs(model: Any) -> dict[str, Any]:
    """Returns arguments for the ``forward`` of a model of transformers: short texts, small images, short sounds."""
    size = getattr(model.config.get_text_config(), "vocab_size", 2)
    return {
        name: torch.arange(prod(shape)).remainder(size).view(shape)
        if name in TOKENS
        else torch.arange(prod(shape)).mul(37).remainder(101).div(50).sub(1).view(shape).to(model.dtype)
        for name, shape in _shapes(model).items()
    }


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each argument."""
    config = model.config
    shapes = {model.main_input_name: _shape(model.main_input_name, config)}
    if config.is_encoder_decoder:
        shapes["decoder_input_ids"] = TOKENS["decoder_input_ids"]
    has_tokens_of_images = any(hasattr(config, key) for key in ("image_token_id", "image_token_index"))
    if hasattr(config, "vision_config") and not has_tokens_of_images:  # texts and images beside each other
        shapes |= {"input_ids": TOKENS["input_ids"], "pixel_values": _shape("pixel_values", config.vision_config)}
    return shapes


def _shape(name: str, config: Any) -> tuple[int, ...]:
    if name in TOKENS:
        return TOKENS[name]
    if name == "pixel_values":
        size = getattr(config, "image_size", IMAGE)
        return (2, config.num_channels, *(size if isinstance(size, list | tuple) else (size, size)))
    if name == "input_features":
        return (2, config.num_mel_bins, 2 * config.max_source_positions)
    if name == "input_values":
        return (2, SAMPLES)
    raise ValueError(f"forward takes {name}, of which nothing is known")


def run_inputs(model: Any) -> Batch:
    """Returns an input of a model: short texts or small images, or what a builder's module says."""
    if hasattr(model, "main_input_name"):
        return Batch(example_inputs(model))
    dtype = next(model.parameters()).dtype
    inputs = model.dummy_inputs
    named = inputs if isinstance(inputs, Mapping) else dict(enumerate(inputs))
    moved = {str(name): t.to(dtype) if t.is_floating_point() else t for name, t in named.items()}
    return Batch(moved, positional=not isinstance(inputs, Mapping))


def outputs(model: Any) -> Tensor:
    """Returns the outputs of a model on ``run_inputs``, as one vector."""
    result = outputs_of(run_inputs(model).run(model), INNER)
    return torch.cat([tensor.flatten() for tensor in result if tensor.is_floating_point()])


def _make_fake(model: nn.Module, mode: Any) -> None:
    """Replaces the model's tensors, on the meta device, by fake ones that seem to be on the CPU. Ties are kept."""
    from torch._subclasses.fake_tensor import FakeTensor

    fake: dict[int, Any] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for key, tensor in own.items():
                if tensor is not None and id(tensor) not in fake:
                    plain = FakeTensor(mode, tensor.detach().to("meta"), torch.device("cpu"))
                    is_parameter = isinstance(tensor, nn.Parameter)
                    fake[id(tensor)] = nn.Parameter(plain, requires_grad=False) if is_parameter else plain
                if tensor is not None:
                    own[key] = fake[id(tensor)]

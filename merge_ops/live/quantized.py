"""A quantized copy of a live model, for scoring: what bitsandbytes would load from the written candidate."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.live.live import no_progress_bars


def check_available() -> None:
    """Raises UserError if bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise UserError("quantization: needs bitsandbytes, which is not installed: pip install bitsandbytes")


def quantized(live: Any, bits: int, built: Callable[[], object]) -> nn.Module:
    """Returns a copy of a live model with quantized linear layers, at transformers' settings for bitsandbytes.

    The copy follows the live model: at the first call after ``built`` returned another object, its weights are
    quantized again from those of the live model.

    Args:
        live: the live model.
        bits: 4 or 8.
        built: returns an object that identifies what is in the live model.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    check_available()
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    options = {
        "quantization_config": config,
        "dtype": live.dtype,
        "device_map": {"": live.device},
        "trust_remote_code": False,
    }
    with no_progress_bars():
        copy = type(live).from_pretrained(live.name_or_path, **options)
    copy.eval().requires_grad_(False)
    last_built: list[object] = [object()]

    def follow(*_: Any) -> None:
        if last_built[0] is not built():
            _requantize(copy, live)
            last_built[0] = built()

    copy.register_forward_pre_hook(follow)
    return copy  # type: ignore[no-any-return]


def _requantize(copy: nn.Module, live: nn.Module) -> None:
    with torch.no_grad():
        for name, module in copy.named_modules():
            for key, parameter in module.named_parameters(recurse=False):
                source = live.get_parameter(f"{name}.{key}".lstrip("."))
                module.register_parameter(key, _with_values(parameter, source))


def _with_values(parameter: nn.Parameter, source: Tensor) -> nn.Parameter:
    """Returns the parameter with the values of ``source``, quantized in the same way or copied."""
    from bitsandbytes.nn import Int8Params, Params4bit

    new: nn.Parameter
    if isinstance(parameter, Params4bit):
        keys = ("quant_type", "blocksize", "compress_statistics", "quant_storage")
        options = {key: getattr(parameter, key) for key in keys}
        new = Params4bit(source.clone(), requires_grad=False, **options).to(source.device)
    elif isinstance(parameter, Int8Params):
        new = Int8Params(source.clone(), requires_grad=False, has_fp16_weights=False).to(source.device)
    else:
        new = parameter
        parameter.copy_(source)
    return new

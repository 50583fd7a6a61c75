"""A live model's quantised double, for scoring: what a user of bitsandbytes would load from the written candidate."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from mergesearch.errors import UserError
from mergesearch.merge_ops.live.live import quiet


def check_available() -> None:
    """Raises UserError where bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise UserError("quantization: needs bitsandbytes, which is not installed: pip install bitsandbytes")


def quantized(live: Any, bits: int, built: Callable[[], object]) -> nn.Module:
    """A second model whose linear layers have ``bits`` 4 or 8, at bitsandbytes' settings in transformers.

    Its weights follow those of ``live``: they are quantised anew, from full precision, at the first call after
    ``built`` gives another object. Raises UserError where there is no bitsandbytes.
    """
    check_available()
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    options = {"quantization_config": settings, "dtype": live.dtype, "device_map": {"": live.device}}
    with quiet():
        double = type(live).from_pretrained(live.name_or_path, **options)
    double.eval().requires_grad_(False)
    seen: list[object] = [object()]

    def follow(*_: Any) -> None:
        if seen[0] is not built():
            _requantize(double, live)
            seen[0] = built()

    double.register_forward_pre_hook(follow)
    return double  # type: ignore[no-any-return]


def _requantize(double: nn.Module, live: nn.Module) -> None:
    with torch.no_grad():
        for name, module in double.named_modules():
            for key, parameter in module.named_parameters(recurse=False):
                module.register_parameter(key, _like(parameter, live.get_parameter(f"{name}.{key}".lstrip("."))))


def _like(parameter: nn.Parameter, source: Tensor) -> nn.Parameter:
    """The parameter with the values of ``source``: quantised in the same way, or copied."""
    from bitsandbytes.nn import Int8Params, Params4bit

    made: nn.Parameter
    if isinstance(parameter, Params4bit):
        kept = ("quant_type", "blocksize", "compress_statistics", "quant_storage")
        settings = {key: getattr(parameter, key) for key in kept}
        made = Params4bit(source.clone(), requires_grad=False, **settings).to(source.device)
    elif isinstance(parameter, Int8Params):
        made = Int8Params(source.clone(), requires_grad=False, has_fp16_weights=False).to(source.device)
    else:
        made = parameter
        parameter.copy_(source)
    return made

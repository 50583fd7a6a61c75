"""Recognizes quantized checkpoints, whose tensors are codes of numbers and cannot be merged."""

import re
from collections.abc import Mapping
from typing import Any

from mergesearch.errors import UserError
from mergesearch.merge_ops.checkpoint.checkpoint import Checkpoint
from mergesearch.merge_ops.checkpoint.config_sections import sections
from mergesearch.reading import read_bytes

GGUF = b"GGUF"
"""The first bytes of a GGUF file."""
CODES = re.compile(
    r"\.(?:qweight|qzeros|weight_packed|weight_scale_inv|SCB|W_q)$"  # GPTQ, AWQ, compressed-tensors, fp8, bnb, HQQ
    r"|\.(?:codes|codebooks)$"  # AQLM
    r"|\.weight[.:](?:absmax|quant_map|nested_absmax|quant_state\.\w+|_data|qdata)$|\._weight_qdata$"  # bnb, torchao
)
"""Names of tensors that only quantized checkpoints have."""
PLAIN = frozenset({"F64", "F32", "F16", "BF16", "BOOL", "I64", "I32", "I16", "I8", "U8"})
"""The dtypes of plain checkpoints; integers are those of buffers."""
WEIGHT = re.compile(r"\.weight$")
"""Names of tensors that are floats in plain checkpoints. Causal masks of bytes or booleans are called biases."""


def check_plain(checkpoint: Checkpoint) -> None:
    """Raises UserError if the checkpoint is quantized. The message names the scheme, and a tensor that shows it."""
    signs = signs_of_quantization(checkpoint)
    if signs:
        raise UserError(
            f"{checkpoint.reference}: is quantized ({'; '.join(signs)}); expected float weights: give the model before "
            "its quantization, or say `dequantize: true` in the recipe"
        )


def signs_of_quantization(checkpoint: Checkpoint) -> list[str]:
    """Returns what shows that the checkpoint is quantized: an entry of its config, and a tensor. Empty if it is not."""
    if _is_gguf(checkpoint):
        return ["it is a GGUF file"]
    method = quantization_method(checkpoint)
    signs = [f"config.json: quantization_config: {method}"] if method else []
    code = _code(checkpoint.stored_dtypes)
    if code:
        signs.append(f"{code} has dtype {checkpoint.stored_dtypes[code]}")
    elif method:
        signs.append("its tensors are floats: if they are plain weights, remove quantization_config")
    return signs


def quantization_method(checkpoint: Checkpoint) -> str | None:
    """Returns the method that ``quantization_config`` names, or None if the config has none."""
    config = checkpoint.config if checkpoint.has_config else {}
    found = next((s["quantization_config"] for s in sections(config) if s.get("quantization_config")), None)
    if found is None:
        return None
    return _method(found) if isinstance(found, dict) else str(found)


def _method(config: Mapping[str, Any]) -> str:
    if config.get("load_in_4bit") or config.get("load_in_8bit"):
        return "bitsandbytes"
    return str(config.get("quant_method", "of an unknown method"))


def _code(dtypes: Mapping[str, str]) -> str | None:
    """Returns the name of the first tensor that is no plain tensor of numbers, or None."""
    return next((name for name, dtype in dtypes.items() if _is_code(name, dtype, dtypes)), None)


def _is_code(name: str, dtype: str, dtypes: Mapping[str, str]) -> bool:
    is_integer = dtype in PLAIN and dtype[0] in "IUB" and dtype != "BF16"
    is_packed = name.endswith("_blocks") and f"{name.removesuffix('_blocks')}_scales" in dtypes  # MXFP4
    return dtype not in PLAIN or bool(CODES.search(name)) or is_packed or (is_integer and bool(WEIGHT.search(name)))


def _is_gguf(checkpoint: Checkpoint) -> bool:
    path = checkpoint.path
    if path.is_dir():
        return any(path.glob("*.gguf")) and not any(path.glob("*.safetensors"))
    return path.is_file() and read_bytes(path, len(GGUF)) == GGUF

"""The names of tensors in ``adapter_model.safetensors``: which module each belongs to, and what it is to the module."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

PREFIX = "base_model.model."
WRAPPERS = ("base_layer", "modules_to_save", "original_module")
PART = re.compile(r"\.(?:lora_(?P<embedding>embedding_)?(?P<side>[AB])|lora_magnitude_vector)(?:\.weight)?$")
FACTOR = re.compile(r"\.(?:lora_(?:(?:embedding_)?[AB]|down|up)|hada_w\d_[ab]|lokr_w\d(?:_[ab])?)(?:\.|$)")
"""Also in the files of other libraries, such as those for diffusion models."""
BIAS = ".lora_B.bias"
TOKENS = ".token_adapter.trainable_tokens_delta"

Role = Literal["A", "B", "magnitude", "bias", "rows", "whole"]


@dataclass(frozen=True)
class Key:
    """A name in an adapter's file, taken apart.

    Attributes:
        stored: the name.
        module: the module in the model that was trained; for ``whole``, the parameter.
        role: what the tensor is: a factor, the magnitude of DoRA, the bias of B, rows for tokens, or a whole parameter.
        embedding: whether the factor is that of an embedding, which PEFT stores transposed.
        nesting: how many adapters lie around this one, where several parameters of a module have one.
    """

    stored: str
    module: str
    role: Role
    embedding: bool = False
    nesting: int = 0


def is_factor(name: str) -> bool:
    """Returns whether a tensor's name is that of a factor in an adapter, or in a model that PEFT has wrapped."""
    return bool(FACTOR.search(name))


def read_keys(names: Iterable[str]) -> list[Key]:
    """Returns the keys of an adapter's tensors.

    Leaves out what PEFT's old files have of the base beside a module that is saved whole.
    """
    stored = set(names)
    superseded = {name for name in stored if name.replace(".original_module.", ".modules_to_save.") in stored - {name}}
    return [_read_key(name) for name in sorted(stored - superseded)]


def _read_key(stored: str) -> Key:
    name = stored.removeprefix(PREFIX)
    for ending, role in ((BIAS, "bias"), (TOKENS, "rows")):
        if name.endswith(ending):
            return Key(stored, _unwrapped(name.removesuffix(ending)), role)  # type: ignore[arg-type]
    match = PART.search(name)
    if match is None:
        return Key(stored, _unwrapped(name), "whole")
    module = name[: match.start()]
    inner = module
    while inner.endswith(".base_layer"):
        inner = inner.removesuffix(".base_layer")
    nesting = (len(module) - len(inner)) // len(".base_layer")
    role = match["side"] or "magnitude"
    return Key(stored, _unwrapped(inner), role, bool(match["embedding"]), nesting)  # type: ignore[arg-type]


def _unwrapped(name: str) -> str:
    """Returns the name without the modules that PEFT puts around others."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)

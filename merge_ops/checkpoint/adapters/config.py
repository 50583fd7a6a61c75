"""``adapter_config.json`` of PEFT: what of it decides how an adapter changes a model."""

import re
import time
from functools import lru_cache
from math import sqrt
from pathlib import Path
from typing import Annotated, Any

import regex
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from mergesearch.errors import UserError, listed
from mergesearch.parsing import parse
from mergesearch.reading import read_json_object
from mergesearch.text import quoted

ADAPTER_CONFIG = "adapter_config.json"
UNSUPPORTED = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
OF_TRAINING = ("corda_config", "eva_config", "loftq_config", "lora_ga_config", "megatron_config", "runtime_config")
"""Settings that are nothing to a merge; ``init_lora_weights`` says what of them matters."""
VARIANT = re.compile(r"use_\w+|\w+_config")
"""The keys by which PEFT switches variants of LoRA on."""
HARMLESS_STARTS = ("gaussian", "eva", "orthogonal", "mica")
"""Values of ``init_lora_weights`` with which A and B are added to the base as it is."""
REBUILT_STARTS = ("pissa", "olora")
"""Values with which the base has to lose something first, which depends on the base alone."""
ALL = "all-linear"
"""The value of ``target_modules`` for all modules but the output embedding."""
PATTERN_SECONDS = 0.5
PATTERN_LENGTH = 1000

Rank = Annotated[int, Field(gt=0)]
Row = Annotated[int, Field(ge=0)]


class AdapterConfig(BaseModel):
    """The keys of ``adapter_config.json`` that matter to a merge. Others are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    peft_type: str
    r: Rank | None = None
    lora_alpha: float = 8
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    ensure_weight_tying: bool = False
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, float] | None = None
    modules_to_save: list[str] | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    target_parameters: list[str] | None = None
    trainable_token_indices: list[Row] | dict[str, list[Row]] | None = None
    init_lora_weights: bool | str | None = True
    base_model_name_or_path: str | None = None
    task_type: str | None = None
    _matching: float = PrivateAttr(0.0)

    @model_validator(mode="before")
    @classmethod
    def _refuse_other_methods(cls, data: Any) -> Any:
        known = {*cls.model_fields, *OF_TRAINING}
        variants = [key for key in data if isinstance(key, str) and VARIANT.fullmatch(key) and key not in known]
        unsupported = [key for key in dict.fromkeys([*UNSUPPORTED, *variants]) if data.get(key)]
        if unsupported:
            raise ValueError(f"{unsupported[0]}: is not supported; merge the adapter with PEFT first")
        return data

    @field_validator("peft_type")
    @classmethod
    def _is_lora(cls, value: str) -> str:
        if value != "LORA":
            raise ValueError(f"found {quoted(value)}, expected 'LORA'; merge the adapter with PEFT first")
        return value

    @field_validator("init_lora_weights")
    @classmethod
    def _has_its_base(cls, value: bool | str | None) -> bool | str | None:
        if isinstance(value, str) and value.lower() not in (*HARMLESS_STARTS, *REBUILT_STARTS):
            raise ValueError(
                f"found {quoted(value)}: the adapter is for another base, which cannot be made from the model alone; "
                "save it by PEFT's path_initial_model_for_weight_conversion, or write true if the model is the base "
                "that was saved in the training"
            )
        return value

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _are_patterns(cls, patterns: dict[str, Any] | None) -> dict[str, Any] | None:
        for key in patterns or {}:
            if len(key) > PATTERN_LENGTH:
                raise ValueError(f"found a pattern of {len(key)} characters, expected {PATTERN_LENGTH} at most")
            try:
                _pattern(key)
            except regex.error as error:
                raise ValueError(f"{quoted(key)} is not a regular expression: {error}") from None
        return patterns

    @field_validator("target_modules", "exclude_modules", "layers_pattern")
    @classmethod
    def _are_names(cls, names: list[str] | str | None) -> list[str] | str | None:
        if isinstance(names, str):
            cls._are_patterns({names: None})
        return names

    @property
    def residual(self) -> str | None:
        """What the base has to lose before the adapter is added: ``pissa``, ``olora`` or None."""
        start = self.init_lora_weights
        return start.lower() if isinstance(start, str) and start.lower() in REBUILT_STARTS else None

    def rank(self, module: str) -> int | None:
        """Returns the rank that the config has for a module, or None if it has none."""
        rank: int | None = self._pattern_value(self.rank_pattern or {}, module, self.r)
        return rank

    def scale(self, module: str, rank: int) -> float:
        """Returns the factor of B A: α/r, or α/√r if rank-stabilized."""
        alpha = float(self._pattern_value(self.alpha_pattern or {}, module, self.lora_alpha))
        return alpha / (sqrt(rank) if self.use_rslora else rank)

    def targets(self, module: str) -> bool:
        """Returns whether PEFT gives the module factors. It ignores those that a file has for others.

        With ``ensure_weight_tying``, the modules that share a target's weight are targets too, without a name here.
        """
        if self.ensure_weight_tying:
            return True
        owners = [name.rpartition(".")[0] for name in self.target_parameters or ()]
        if self._names(self.exclude_modules or [], module):
            return False
        if not self.target_modules or self.target_modules == ALL or self._names(owners, module):
            return True
        return self._names(self.target_modules, module) and self._has_layer_of(module)

    def _names(self, modules: list[str] | str, module: str) -> bool:
        if isinstance(modules, str):
            return bool(self._match(modules, modules, module))
        return any(not name or f".{module}".endswith(f".{name}") for name in modules)

    def _has_layer_of(self, module: str) -> bool:
        """Returns whether a module is in one of ``layers_to_transform``, which count for a list of names only."""
        layers, patterns = self.layers_to_transform, self.layers_pattern or r"(?:.*?\.)?[^.]*"
        if layers in (None, []) or isinstance(self.target_modules, str):
            return True
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            found = self._match(rf"(?:.*?\.)?{pattern}\.(?P<layer>\d+)\..*", pattern, module)
            if found:
                return int(found["layer"]) in (layers if isinstance(layers, list) else [layers])
        return False

    def saves(self, name: str) -> bool:
        """Returns whether the parameter belongs to a module of ``modules_to_save``."""
        return any(f".{module}." in f".{name}" for module in self.modules_to_save or ())

    def token_rows(self, module: str) -> list[int] | None:
        """Returns the rows of ``trainable_token_indices`` for a module, or None if it has none."""
        rows = self.trainable_token_indices
        if not isinstance(rows, dict):
            return rows
        return next((own for key, own in rows.items() if f".{module}".endswith(f".{key}")), None)

    def _pattern_value(self, patterns: dict[str, Any], module: str, default: Any) -> Any:
        return next((value for key, value in patterns.items() if self._matches(key, module)), default)

    def _matches(self, key: str, module: str) -> bool:
        """Matches as PEFT does, the first key that matches the end of the name."""
        return bool(self._match(rf"(.*\.)?({key})", key, module))

    def _match(self, pattern: str, key: str, module: str) -> Any:
        """Returns the match of a whole name, or None. ``key`` is what the config has of the pattern."""
        left = 20 * PATTERN_SECONDS - self._matching
        before = time.monotonic()
        try:
            return _pattern(pattern).fullmatch(module, timeout=min(left, PATTERN_SECONDS)) if left > 0 else None
        except TimeoutError:
            raise UserError(
                f"{ADAPTER_CONFIG}: matching the pattern {quoted(key)} against {quoted(module)} took more than "
                f"{PATTERN_SECONDS:g} s; write a pattern without nested repetitions"
            ) from None
        finally:
            self._matching += time.monotonic() - before


@lru_cache(maxsize=10_000)
def _pattern(key: str) -> Any:
    return regex.compile(key)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Reads an adapter's config. Raises UserError if the folder is not that of a LoRA adapter that can be merged."""
    file = folder / ADAPTER_CONFIG
    if not file.exists():
        raise UserError(f"is not an adapter's folder: it has no {ADAPTER_CONFIG}{_inner_adapters(folder)}")
    try:
        return parse(AdapterConfig, read_json_object(file), ADAPTER_CONFIG)
    except UserError as error:
        raise UserError(*(problem.removeprefix(f"{folder}/") for problem in error.problems)) from None


def _inner_adapters(folder: Path) -> str:
    """Names the adapters below a folder in which PEFT saved several."""
    inner = sorted(file.parent.name for file in folder.glob(f"*/{ADAPTER_CONFIG}")) if folder.is_dir() else []
    return f"; it has adapters in {listed(inner)}: write one of these folders" if inner else ""

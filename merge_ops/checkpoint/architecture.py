"""What transformers knows of a checkpoint's model class: names, tied weights, modules and shapes. No weights are read.

transformers renames tensors while it loads them, ties some to others, drops some, and initializes others itself. Its
own functions decide here, on a model without weights (on the meta device).
"""

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

from torch import nn

FIRST_NUMBER = re.compile(r"(?:^|(?<=\.))\d+(?=\.)")
"""The number of the layer in a name."""


@dataclass(frozen=True)
class LiveName:
    """What transformers makes of a stored name.

    Attributes:
        name: the name in the model. A tensor that transformers fuses with others (``experts.3.up_proj``) keeps a name
            of its own, with the prefix that the model has.
        loaded: whether the model takes the tensor. False if transformers drops it.
    """

    name: str
    loaded: bool


class Architecture:
    """A model class of transformers with a config.

    Args:
        model: a model of transformers, with or without weights. Of any other module, names stay as they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self._tensors: Mapping[str, Any] = model.state_dict(keep_vars=True)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter and stored buffer, by its name in the model."""
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def live_names(self, stored: Iterable[str]) -> dict[str, LiveName]:
        """Returns what transformers makes of each of the names that are stored in one checkpoint.

        Of two tensors that are stored for one parameter, transformers loads the first.
        """
        names = self._renamed(stored) if self._is_of_transformers else self._unchanged(stored)
        taken: set[str] = set()
        live = {}
        for own, name in names:
            live[own] = LiveName(name.name, name.loaded and name.name not in taken)
            taken.add(name.name)
        return live

    @cached_property
    def tied(self) -> list[tuple[str, ...]]:
        """The groups of names that are one parameter, as the config says. The first name is that of the source."""
        groups: dict[int, list[str]] = {}
        for name, tensor in self._tensors.items():
            groups.setdefault(id(tensor), []).append(name)
        sources = set(getattr(self.model, "all_tied_weights_keys", {}).values())
        return [tuple(sorted(group, key=lambda n: n not in sources)) for group in groups.values() if len(group) > 1]

    def may_be_missing(self, name: str) -> bool:
        """Returns whether a model without a stored tensor for this parameter or buffer is still the same model.

        So it is where transformers computes it, and in the pooler of a model without a head, which nothing else uses.
        """
        patterns = getattr(self.model, "_keys_to_ignore_on_load_missing", None) or ()
        is_bare = getattr(self.model, "base_model", None) is self.model
        return any(re.search(pattern, name) for pattern in patterns) or (is_bare and name.startswith("pooler."))

    def module_of(self, name: str) -> nn.Module | None:
        """Returns the module that owns a parameter, given by its name in the model, or None if there is none."""
        try:
            return self.model.get_submodule(name.rpartition(".")[0])  # type: ignore[no-any-return]
        except AttributeError:
            return None

    @cached_property
    def embeddings(self) -> frozenset[str]:
        """The names in the model of the parameters in its input and output embeddings, biases too.

        Embeddings of single tokens beside the matrix are none of them: they have no row for each token.
        """
        modules = [self._module_by(getter) for getter in ("get_input_embeddings", "get_output_embeddings")]
        parameters = [[*module.parameters(recurse=False)] for module in modules if module is not None]
        ids = {id(p) for own in parameters for p in own if p.shape[:1] == max(own, key=lambda p: p.ndim).shape[:1]}
        return frozenset(name for name, tensor in self._tensors.items() if id(tensor) in ids)

    def _module_by(self, getter: str) -> nn.Module | None:
        """Returns the module that a method of the model returns, or None if the model has no such module."""
        try:
            return getattr(self.model, getter)()  # type: ignore[no-any-return]
        except (AttributeError, NotImplementedError):  # A model of images has no tokens.
            return None

    @cached_property
    def _is_of_transformers(self) -> bool:
        from transformers import PreTrainedModel

        return isinstance(self.model, PreTrainedModel)

    def _unchanged(self, stored: Iterable[str]) -> Iterator[tuple[str, LiveName]]:
        return ((name, LiveName(name, name in self._tensors)) for name in stored)

    def _renamed(self, stored: Iterable[str]) -> Iterator[tuple[str, LiveName]]:
        """Yields the live names as ``transformers.core_model_loading.convert_and_load_state_dict_in_model`` does."""
        from transformers import core_model_loading as loading
        from transformers.conversion_mapping import get_model_conversion_mapping

        transforms = get_model_conversion_mapping(self.model)
        renamings = [entry for entry in transforms if isinstance(entry, loading.WeightRenaming)]
        converters = [entry for entry in transforms if isinstance(entry, loading.WeightConverter)]
        # Some renamings depend on the names before: the order is part of the rule.
        for own in sorted(stored, key=loading.dot_natural_key):
            yield own, self._live_name(own, loading.apply_renamings(own, renamings), converters)

    def _live_name(self, own: str, renamed: str, converters: list[Any]) -> LiveName:
        from transformers.core_model_loading import apply_converters

        fused, converter = apply_converters(renamed, converters)
        target = self._with_prefix(fused)
        if target in self._tensors:
            return LiveName(_moved(renamed, fused, target) if converter else target, True)
        if own in self._tensors:
            return LiveName(self._with_prefix(own), True)
        # A layer that the model does not have gets the prefix of the first layer.
        fused, _ = apply_converters(FIRST_NUMBER.sub("0", renamed, count=1), converters)
        first = self._with_prefix(fused)
        return LiveName(_moved(renamed, fused, first) if first in self._tensors else renamed, False)

    def _with_prefix(self, name: str) -> str:
        """Returns the name with the base model's prefix, or without it, if that is a name in the model."""
        from transformers.core_model_loading import rename_source_key

        renamed, _ = rename_source_key(name, [], [], self.model.base_model_prefix, self._tensors)
        return str(renamed)


def _moved(plain: str, fused: str, target: str) -> str:
    """Returns ``plain`` with the change of prefix from ``fused`` to ``target``."""
    if target.endswith(fused):
        return target.removesuffix(fused) + plain
    return plain.removeprefix(fused.removesuffix(target))


class Configured(Protocol):
    """What may have a ``config.json``: a checkpoint."""

    @property
    def has_config(self) -> bool:
        """Whether there is a ``config.json``."""

    @property
    def config(self) -> dict[str, Any]:
        """Its content."""


def architecture(checkpoint: Configured) -> Architecture | None:
    """Returns the checkpoint's architecture, or None if it has no config, or one that transformers cannot build.

    Code that comes with a checkpoint is never run.
    """
    return architecture_of(checkpoint.config) if checkpoint.has_config else None


def architecture_of(config: Mapping[str, Any]) -> Architecture | None:
    """Returns the architecture of the content of a ``config.json``, or None if transformers cannot build it."""
    return _architecture(json.dumps(config, sort_keys=True))


@lru_cache(maxsize=8)
def _architecture(config: str) -> Architecture | None:
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Architecture(without_weights(json.loads(config)))
    except Exception:  # Whatever the reason: transformers could not load the model, either.
        return None
    finally:
        logging.set_verbosity(before)


def model_class(config: Mapping[str, Any]) -> Any:
    """Returns transformers' class for the content of a ``config.json``, or None if transformers does not have it."""
    import transformers

    names = config.get("architectures") or [None]
    if names[0] is not None:
        return getattr(transformers, names[0], None)
    kind = config.get("model_type")
    if kind not in transformers.CONFIG_MAPPING or transformers.CONFIG_MAPPING[kind] not in transformers.MODEL_MAPPING:
        return None
    found = transformers.MODEL_MAPPING[transformers.CONFIG_MAPPING[kind]]
    return found[0] if isinstance(found, tuple) else found


def config_object(config: Mapping[str, Any]) -> Any:
    """Returns transformers' object for the content of a ``config.json`` whose class it has."""
    # transformers writes infinite numbers in a form of its own.
    plain = json.loads(json.dumps(config), object_hook=lambda o: float(o["__float__"]) if [*o] == ["__float__"] else o)
    return model_class(config).config_class.from_dict(plain)


def without_weights(config: Mapping[str, Any]) -> nn.Module:
    """Returns transformers' model of a ``config.json`` on the meta device, tied as the config says."""
    import torch
    from transformers import initialization

    kind, described = model_class(config), config_object(config)
    with torch.device("meta"), initialization.no_init_weights(), initialization.meta_device_safe_creation_ops():
        model: Any = kind(described)
    model.tie_weights()
    return model  # type: ignore[no-any-return]

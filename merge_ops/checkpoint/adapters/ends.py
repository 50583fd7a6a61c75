"""Tied parameters under an adapter: which tensors of the result each one is.

As PEFT merges: products are added to the one tensor that both ends are, and a module that is saved whole
(``modules_to_save``) becomes a tensor of its own, unless ``ensure_weight_tying`` says otherwise.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.adapters.config import AdapterConfig
from mergesearch.merge_ops.checkpoint.adapters.keys import Key
from mergesearch.merge_ops.checkpoint.adapters.names import BaseNames


class Ends:
    """The tensors of the result by parameter.

    Args:
        names: the base's names.
        config: the adapter's config.
        keys: the names in the adapter's file, taken apart.
    """

    def __init__(self, names: BaseNames, config: AdapterConfig, keys: Sequence[Key]) -> None:
        self._names, self._config, self._keys = names, config, keys

    @cached_property
    def apart(self) -> list[tuple[str, ...]]:
        """The groups of tied parameters that the adapter takes apart.

        Raises:
            UserError: it takes apart more than two, which no config can say.
        """
        saved = [key.module for key in self._keys if key.role == "whole" and self._config.saves(key.module)]
        parameters = filter(None, map(self._names.parameter, saved))
        groups = dict.fromkeys(group for group in map(self._names.group, parameters) if len(group) > 1)
        if self._config.ensure_weight_tying:
            return []
        for group in groups:
            if len(group) > 2:
                raise UserError(
                    f"modules_to_save: {listed(group)} are one tensor of the model, and cannot be taken apart; merge "
                    "the adapter with PEFT first"
                )
        return list(groups)

    @property
    def parts(self) -> list[str]:
        """The tensors of the groups that are taken apart."""
        return [name for group in self.apart for name in self._own(group)]

    def of(self, parameter: str) -> list[str]:
        """Returns the names of the tensors that a parameter is in the result."""
        group = self._names.group(parameter)
        return self._own([parameter]) if group in self.apart else self._names.stored(group)

    def source(self, name: str) -> str | None:
        """Returns the base's tensor that a tensor of the result starts from, or None if the base has none."""
        if self._names.is_stored(name):
            return name
        return next(iter(self._names.stored(self._names.group(name))), None)

    def _own(self, parameters: Iterable[str]) -> list[str]:
        return [name for parameter in parameters for name in self._names.stored([parameter]) or [parameter]]

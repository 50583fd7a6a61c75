"""From the tensors of an adapter's file to changes of the base's parameters."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mergesearch.errors import UserError, listed
from mergesearch.merge_ops.checkpoint.adapters.changes import (
    Change,
    Experts,
    Layout,
    NewRows,
    Product,
    Shape,
    Shift,
    Stored,
    Whole,
    product_shape,
)
from mergesearch.merge_ops.checkpoint.adapters.config import AdapterConfig
from mergesearch.merge_ops.checkpoint.adapters.keys import Key, Role
from mergesearch.merge_ops.checkpoint.adapters.names import BaseNames
from mergesearch.text import quoted

Factors = dict[Role, Key]
LAYOUTS: tuple[Layout, ...] = ("rows", "columns")
"""How matrices are stored where the model's modules are not known."""


@dataclass(frozen=True)
class Planned:
    """A change of a parameter.

    Attributes:
        key: the name in the adapter's file, for messages.
        parameter: the base's name of the parameter, or None if the base has none.
        change: the change.
        own: the one stored tensor that changes, if not all that the parameter is stored as.
    """

    key: str
    parameter: str | None
    change: Change
    own: str | None = None


class Planner:
    """Plans what an adapter does to its base.

    Args:
        config: the adapter's config.
        keys: the names in the adapter's file, taken apart.
        stored: the shapes of the adapter's tensors.
        base: the shapes of the base's tensors.
        names: the base's names.
    """

    def __init__(
        self,
        config: AdapterConfig,
        keys: Sequence[Key],
        stored: Mapping[str, Shape],
        base: Mapping[str, Shape],
        names: BaseNames,
    ) -> None:
        self._config, self._keys, self._shapes, self._base, self._names = config, keys, stored, base, names

    def changes(self) -> list[Planned]:
        """Returns the changes in the order in which they are applied: saved tensors, products, rows of tokens.

        Raises:
            UserError: a part of an update is missing or does not fit the others.
        """
        products = (planned for group in self._factors.values() for planned in self._of_factors(group))
        return [*self._wholes(), *products, *self._rows()]

    def _wholes(self) -> Iterator[Planned]:
        self._check_saved()
        architecture = self._names.architecture
        for key in self._having("whole"):
            parameter = self._names.parameter(key.module)
            resizable = architecture is None or parameter in architecture.embeddings
            yield Planned(key.stored, parameter, Whole(self._tensor(key), resizable))

    def _check_saved(self) -> None:
        """Raises UserError if a module of the base is in ``modules_to_save``, and the file has nothing of it."""
        stored = [key.module for key in self._having("whole")]
        for module in self._config.modules_to_save or ():
            mentions = [f".{module}." in f".{name}" for name in stored]
            if not any(mentions) and self._names.has_module(module) and not self._config.ensure_weight_tying:
                raise UserError(f"modules_to_save: found {quoted(module)}, and the file has none of its tensors")

    def _rows(self) -> Iterator[Planned]:
        for key in self._having("rows"):
            rows = self._config.token_rows(key.module)
            if rows is None:
                raise UserError(f"{key.stored}: trainable_token_indices has no entry for {key.module}")
            parameter = self._names.parameter(f"{key.module}.weight")
            yield Planned(key.stored, parameter, NewRows(self._tensor(key), tuple(rows)))

    def _of_factors(self, group: Factors) -> Iterator[Planned]:
        if not {"A", "B"} <= group.keys():
            key = next(iter(group.values()))
            raise UserError(f"{key.module}.weight: expected lora_A and lora_B, found {listed(group)}")
        if self._config.use_dora != ("magnitude" in group):
            found = "no lora_magnitude_vector" if self._config.use_dora else group["magnitude"].stored
            raise UserError(
                f"use_dora: found {str(self._config.use_dora).lower()}, and {found} for {group['A'].module}"
            )
        target = self._target_parameter(group["A"])
        if target is None:
            yield from self._of_module(group)
        elif len(self._names.shape(target)) == 3:
            yield from self._of_experts(group, target)
        else:
            yield self._product(group, target, "rows")

    def _of_module(self, group: Factors) -> Iterator[Planned]:
        module = group["A"].module
        candidates = (self._names.parameter(f"{module}.{name}") for name in ("weight", "in_proj_weight"))
        parameter = next(filter(None, candidates), None)
        yield self._product(group, parameter, self._layout(group, parameter) if parameter else "rows")
        if "bias" in group:
            scale = self._config.scale(module, self._rank(group, module))
            bias = self._names.parameter(f"{module}.bias")
            yield Planned(group["bias"].stored, bias, Shift(self._tensor(group["bias"]), scale))

    def _product(self, group: Factors, parameter: str | None, layout: Layout) -> Planned:
        module = group["A"].module
        scale = self._config.scale(module, self._rank(group, module))
        magnitude = self._tensor(group["magnitude"]) if "magnitude" in group else None
        residual = None if layout == "embedding" else self._config.residual
        change = Product(self._tensor(group["A"]), self._tensor(group["B"]), layout, scale, magnitude, residual)
        return Planned(group["A"].stored, parameter, change)

    def _of_experts(self, group: Factors, parameter: str) -> Iterator[Planned]:
        count = self._names.shape(parameter)[0]
        scale = self._config.scale(parameter, self._rank(group, parameter, count))
        transposed = bool(getattr(self._names.owner(parameter), "is_transposed", False))
        a, b = self._tensor(group["A"]), self._tensor(group["B"])
        for own, piece in self._names.pieces(parameter).items():
            yield Planned(group["A"].stored, parameter, Experts(a, b, count, transposed, scale, piece), own)

    def _target_parameter(self, key: Key) -> str | None:
        """Returns the parameter of ``target_parameters`` that the factor is for, or None if it is a module's weight.

        PEFT wraps a module once for each of its parameters, the first one innermost.
        """
        targets = self._config.target_parameters or ()
        names = self._names.parameters_of(key.module, targets)
        if not names:
            return None
        if key.nesting >= len(names):
            raise UserError(f"{key.stored}: target_parameters has {len(names)} parameters of {key.module}")
        return names[len(names) - 1 - key.nesting]

    def _rank(self, group: Factors, module: str, experts: int = 1) -> int:
        rank = next(iter(self._shapes[group["A"].stored]), 0) // experts
        configured = self._config.rank(module)
        if rank == 0 or configured not in (None, rank):
            raise UserError(f"{group['A'].stored}: found rank {rank}, expected {configured or 'at least 1'}")
        return rank

    def _layout(self, group: Factors, parameter: str) -> Layout:
        """Returns how the base stores the weight: as its module says; where that is not known, as the shapes say."""
        a, b = (self._shapes[group[side].stored] for side in ("A", "B"))
        known = self._names.layout(parameter)
        if group["A"].embedding or known == "embedding":
            if group["A"].embedding != (known == "embedding") and known is not None:
                raise UserError(f"{group['A'].stored}: found the factors of another kind of layer than {parameter}'s")
            return "embedding"
        if known is not None:
            return known
        if len(a) > 2:
            return "kernel"
        fitting = self._fitting(a, b, parameter)
        if len(fitting) == len(LAYOUTS):
            return self._layout_of_squares(group["A"])
        return fitting[0] if fitting else "rows"

    def _fitting(self, a: Shape, b: Shape, parameter: str) -> list[Layout]:
        """Returns the layouts in which the product of the factors has the shape of the weight."""
        if not (len(a) == len(b) == 2 and a[0] == b[1]):
            return []
        shapes = [self._base[own] for own in self._names.stored(self._names.group(parameter))]
        return [layout for layout in LAYOUTS if product_shape(layout, a, b) in shapes]

    def _layout_of_squares(self, key: Key) -> Layout:
        """Returns the layout that the config says, unless other layers of the adapter show that it is not true."""
        said: Layout = "columns" if self._config.fan_in_fan_out else "rows"
        if self._shown - {said}:
            raise UserError(
                f"{key.stored}: fan_in_fan_out: found {str(self._config.fan_in_fan_out).lower()}, which other layers "
                "contradict, and the matrix is square: give a model with a config.json that transformers knows"
            )
        return said

    @cached_property
    def _shown(self) -> set[Layout]:
        """The layouts of those layers whose shapes leave no other."""
        shown: set[Layout] = set()
        for group in self._factors.values():
            parameter = self._names.parameter(f"{next(iter(group.values())).module}.weight")
            if {"A", "B"} <= group.keys() and parameter and not group["A"].embedding:
                a, b = (self._shapes[group[side].stored] for side in ("A", "B"))
                fitting = self._fitting(a, b, parameter)
                shown |= set(fitting) if len(fitting) == 1 else set()
        return shown

    @cached_property
    def _factors(self) -> dict[tuple[str, int], Factors]:
        """The parts of each update, embeddings first: where both ends are tied, PEFT merges that one first."""
        groups: dict[tuple[str, int], Factors] = {}
        for key in sorted(self._keys, key=lambda key: not key.embedding):
            if key.role not in ("whole", "rows"):
                group = groups.setdefault((key.module, key.nesting), {})
                if key.role in group:
                    raise UserError(f"{key.stored}: the adapter has it twice, also as {group[key.role].stored}")
                group[key.role] = key
        return groups

    def _having(self, role: Role) -> list[Key]:
        return [key for key in self._keys if key.role == role]

    def _tensor(self, key: Key) -> Stored:
        return Stored(key.stored, self._shapes[key.stored])

"""Groups that a user names, for tensors of a model that nothing else is known of."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from mergesearch.errors import UserError, located, nearest
from mergesearch.merge_ops.alignment.spec import Axes, AxisGroups, Group, Part, Product, Structure
from mergesearch.parsing import Strict, parse, read_yaml


class Place(Strict):
    """An axis of a tensor that has the entries of a group: each ``inner`` times in a row, and all ``outer`` times."""

    axis: int = Field(ge=0)
    inner: int = Field(default=1, ge=1)
    outer: int = Field(default=1, ge=1)

    def structure(self, size: int, group: str) -> Structure:
        """The axis."""
        parts = (Part(self.outer), Part(size // (self.inner * self.outer), group), Part(self.inner))
        kept = tuple(part for part in parts if part.size != 1 or part.group)
        return kept[0] if len(kept) == 1 else Product(kept)


def _places(value: Any) -> Any:
    places = value if isinstance(value, list) else [value]
    return [{"axis": place} if isinstance(place, int) and not isinstance(place, bool) else place for place in places]


Places = Annotated[list[Place], BeforeValidator(_places), Field(min_length=1)]


class SpecFile(Strict):
    """``groups``: by name of the group and of the tensor, the axis or axes that have the group's entries."""

    groups: dict[str, dict[str, Places]] = Field(min_length=1)


def read_spec(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> AxisGroups:
    """Returns the groups of a YAML file.

    Args:
        path: the file.
        shapes: the shapes of the model's tensors by name.

    Raises:
        UserError: the file is wrong, or names a tensor or axis that there is not, or entries of other numbers.
    """
    file = parse(SpecFile, read_yaml(path), str(path))
    with located(str(path)):
        groups = {name: _group(name, tensors, shapes) for name, tensors in file.groups.items()}
        return AxisGroups(groups, dict(_tensors(file, shapes)))


def _group(name: str, tensors: Mapping[str, list[Place]], shapes: Mapping[str, tuple[int, ...]]) -> Group:
    sizes: dict[int, str] = {}
    for tensor, places in tensors.items():
        for place in places:
            sizes.setdefault(_size(name, tensor, place, shapes), f"{tensor}, axis {place.axis}")
    if len(sizes) != 1:
        found = " and ".join(f"{size} in {where}" for size, where in list(sizes.items())[:2])
        raise UserError(f"groups.{name}: found {found or 'no tensors'}, expected one number of entries")
    return Group(name, next(iter(sizes)))


def _size(name: str, tensor: str, place: Place, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if tensor not in shapes:
        raise UserError(f"groups.{name}: the model has no tensor {tensor!r}{nearest(tensor, shapes)}")
    if place.axis >= len(shapes[tensor]):
        raise UserError(f"groups.{name}.{tensor}: axis: found {place.axis}, expected one below {len(shapes[tensor])}")
    size, block = shapes[tensor][place.axis], place.inner * place.outer
    if size % block:
        raise UserError(f"groups.{name}.{tensor}: axis {place.axis} has {size} entries, expected a multiple of {block}")
    return size // block


def _tensors(file: SpecFile, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Axes]]:
    for tensor in dict.fromkeys(tensor for tensors in file.groups.values() for tensor in tensors):
        axes: list[Structure] = [Part(size) for size in shapes[tensor]]
        for group, tensors in file.groups.items():
            for place in tensors.get(tensor, ()):
                own = axes[place.axis]
                if not isinstance(own, Part) or own.group is not None:
                    raise UserError(f"groups.{group}.{tensor}: axis {place.axis} is that of another group already")
                axes[place.axis] = place.structure(shapes[tensor][place.axis], group)
        yield tensor, tuple(axes)

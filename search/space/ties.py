"""Settings that take over another place's: ``{same_as: NAME}``."""

from collections.abc import Mapping
from dataclasses import dataclass

from mergesearch.errors import UserError, nearest
from mergesearch.search.space.paths import Place


@dataclass(frozen=True)
class Tie:
    """A place whose setting is another place's."""

    place: Place
    source: Place


def source_of(place: Place, by_name: Mapping[str, Place], where: str) -> Place:
    """The hole that a tie leads to, through other ties where need be."""
    seen = [place.name]
    while "same_as" in place.spec:
        name = place.spec["same_as"]
        if name not in by_name:
            raise UserError(f"{where}.same_as: there is no hole {name!r}{nearest(str(name), by_name)}")
        if name in seen:
            raise UserError(f"{where}.same_as: goes round in a circle: {' -> '.join([*seen, str(name)])}")
        seen.append(str(name))
        place = by_name[name]
    return place


def value_is_list(place: Place) -> bool:
    """Whether a hole stands for several values over depth."""
    return "curve" in place.spec or "layers" in place.spec

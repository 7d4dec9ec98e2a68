"""The third host through which a host is reached that cannot be reached directly. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

STICK = 1.25    # a chosen third host stays while no other makes the way this much shorter


class Way(NamedTuple):
    """One possible way: through ``host``, ``there`` seconds from us and ``on`` seconds from it to the target."""

    host: str
    there: float
    on: float

    @property
    def length(self) -> float:
        return self.there + self.on


def best(ways: Iterable[Way], chosen: str | None) -> Way | None:
    """The shortest way, ties by name; the chosen one while it is possible and not much longer. None: no way."""
    possible = {way.host: way for way in ways}
    if not possible:
        return None
    shortest = min(possible.values(), key=lambda way: (way.length, way.host))
    kept = possible.get(chosen) if chosen is not None else None
    return kept if kept is not None and kept.length <= STICK * shortest.length else shortest

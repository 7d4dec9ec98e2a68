"""What hosts tell each other about whom they reach directly. Pure.

A host tells all hosts that it knows, reached or not, in parts of one datagram each: the sorted names cut into pieces.
A part in which a host came into or out of reach since it was last told goes first, the others in turn. A hearer keeps
parts as they came and looks into them only when it needs a third host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flyproxy.control.mesh.wire import ENTRIES_MAX, PARTS_MAX, distance_in, entries

Reached = Sequence[tuple[bytes, float | None]]
"""(host hash, distance in seconds, None: not directly), in an order that stays."""


@dataclass(slots=True)
class Telling:
    """What we tell. ``versions`` counts for each part how often somebody in it came into or out of reach."""

    parts: list[bytes] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    _shape: list[tuple[tuple[bytes, bool], ...]] = field(default_factory=list)

    def write(self, reached: Reached) -> None:
        """Make the parts anew."""
        cuts = [reached[at:at + ENTRIES_MAX] for at in range(0, len(reached), ENTRIES_MAX)][:PARTS_MAX]
        shape = [tuple((name, far is not None) for name, far in cut) for cut in cuts]
        versions = self.versions + [0] * (len(cuts) - len(self.versions))
        self.versions = [
            version + (index >= len(self._shape) or shape[index] != self._shape[index])
            for index, version in enumerate(versions[:len(cuts)])]
        self.parts, self._shape = [entries(cut) for cut in cuts], shape


@dataclass(slots=True)
class Told:
    """What one peer was told: for each part its version and when."""

    parts: dict[int, tuple[int, int]] = field(default_factory=dict)
    turn: int = 0

    def next(self, telling: Telling) -> tuple[int, int, bytes]:
        """(part, parts, entries) for the next ping; (0, 0, b"") while there is nothing to tell."""
        if not telling.parts:
            return 0, 0, b""

        def rank(part: int) -> tuple[bool, int]:
            version, turn = self.parts.get(part, (-1, -1))
            return version == telling.versions[part], turn
        part = min(range(len(telling.parts)), key=rank)
        self.turn += 1
        self.parts[part] = telling.versions[part], self.turn
        return part, len(telling.parts), telling.parts[part]


@dataclass(slots=True)
class Hearsay:
    """What one peer told us: its parts, the one that came last at the end."""

    parts: dict[int, bytes] = field(default_factory=dict)
    count: int = 0

    def take(self, part: int, count: int, vector: bytes) -> None:
        """A part came; another number of parts makes the old ones void."""
        if count != self.count:
            self.parts.clear()
            self.count = count
        self.parts.pop(part, None)
        if count:
            self.parts[part] = vector

    def distance(self, name: bytes) -> float | None:
        """Seconds from that peer to the host; None: it does not reach it directly, or did not say."""
        for vector in reversed(self.parts.values()):
            found, far = distance_in(vector, name)
            if found:
                return far
        return None

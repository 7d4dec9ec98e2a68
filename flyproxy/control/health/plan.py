"""When each check is due: pure, no clock and no socket; ``now`` is CLOCK_MONOTONIC seconds handed in.

A check that is new or changed is first due right after its grace period, so that its machine is soon known; the wait
after that first probe is cut by a steady fraction of the interval (its jitter), so that a thousand machines added
together are spread over the interval from then on. A check that did not change keeps its place. One probe of a check is
out at a time: it becomes due again one interval after it was *started*, or as soon as it has ended where that is later.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from zlib import crc32

FIRST_SPREAD = 1.0      # seconds over which first probes are spread
SHORTEST = 1.0
LONGEST = 60.0


@dataclass(frozen=True, slots=True)
class Check:
    """One check of one machine. ``address`` has no brackets; durations are seconds, already clamped."""

    machine: str
    app: str
    name: str
    address: str
    port: int
    interval: float
    timeout: float
    grace: float
    http: HttpRequest | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.machine, self.name


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What an HTTP check sends. ``headers`` are (name, value) in order; ``tls`` speaks https to the machine."""

    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    tls: bool = False
    server_name: str = ""
    verify: bool = True


def clamped(seconds: float) -> float:
    """An interval or timeout of a service check: 1 s to 60 s, as fly.toml documents."""
    return min(max(seconds, SHORTEST), LONGEST)


def spread(key: tuple[str, str]) -> float:
    """A steady fraction in [0, 1) for a check, the same on every start."""
    return crc32("\0".join(key).encode()) / 2**32


@dataclass(slots=True)
class Entry:
    check: Check
    due: float
    running: bool = False
    spread: bool = False
    stamp: int = 0


@dataclass(slots=True)
class Plan:
    """The checks and their due times. ``stamp`` tells a live heap item from one that was replaced."""

    jitter: Callable[[tuple[str, str]], float] = spread
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    heap: list[tuple[float, int, tuple[str, str]]] = field(default_factory=list)
    stamps: int = 0

    def replace(self, checks: Iterable[Check], now: float) -> None:
        """Make ``checks`` the whole plan; unchanged ones keep their due time and their running probe."""
        wanted = {check.key: check for check in checks}
        for key in [key for key, entry in self.entries.items() if wanted.get(key) != entry.check]:
            del self.entries[key]
        for key, check in wanted.items():
            if key not in self.entries:
                entry = self.entries[key] = Entry(check, 0.0)
                self._schedule(entry, now + check.grace + self.jitter(key) * FIRST_SPREAD)
        if len(self.heap) > 2 * len(self.entries) + 64:
            self.heap = [(entry.due, entry.stamp, key) for key, entry in self.entries.items() if not entry.running]
            heapq.heapify(self.heap)

    def next_due(self) -> float | None:
        """When to look again; None while nothing waits."""
        self._drop_dead()
        return self.heap[0][0] if self.heap else None

    def take_due(self, now: float) -> list[Check]:
        """The checks to probe now; each is out until ``finished`` is called with it."""
        taken = []
        while (due := self.next_due()) is not None and due <= now:
            _, _, key = heapq.heappop(self.heap)
            entry = self.entries[key]
            entry.running, entry.due = True, now
            taken.append(entry.check)
        return taken

    def finished(self, check: Check, now: float) -> bool:
        """A probe ended. False when the check is no longer planned, so that its verdict must be thrown away."""
        entry = self.entries.get(check.key)
        if entry is None or entry.check != check or not entry.running:
            return False
        part = 1.0 if entry.spread else (1.0 + self.jitter(check.key)) / 2
        entry.running, entry.spread = False, True
        self._schedule(entry, max(now, entry.due + check.interval * part))
        return True

    def _schedule(self, entry: Entry, due: float) -> None:
        self.stamps += 1
        entry.due, entry.stamp = due, self.stamps
        heapq.heappush(self.heap, (due, entry.stamp, entry.check.key))

    def _drop_dead(self) -> None:
        while self.heap:
            _, stamp, key = self.heap[0]
            entry = self.entries.get(key)
            if entry is not None and entry.stamp == stamp and not entry.running:
                return
            heapq.heappop(self.heap)

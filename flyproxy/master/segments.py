"""Shared memory and eventfds as the master makes and hands them out: who may write what.

The mode of a descriptor is the guard: a role that only reads gets one that cannot be mapped for writing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from flyproxy.boot import SEGMENTS
from flyproxy.settings import Settings

WRITES: Mapping[str, frozenset[str]] = {
    "worker": frozenset({"root", "load", "counters", "logs"}),  # own beat, own words, own area, own ring
    "state": frozenset({"root", "table0", "table1", "load"}),  # active table, the table, its machines' words
    "control": frozenset({"load", "logs"}),  # the hosts' words, the rings' read positions
}
PROCS_STEP = 16
PROCS_MAX = 64


def procs_for(settings: Settings) -> int:
    """Process indexes: enough for all generations of all slots where that fits, in steps of 16, at most 64."""
    workers = settings.workers
    wanted = max(workers.count, workers.slots) * workers.max_generations
    return min(PROCS_MAX, max(2 * workers.count, -(-wanted // PROCS_STEP) * PROCS_STEP))


class Kept(NamedTuple):
    """The descriptors of segments and eventfds that the last program of this process made."""

    procs: int
    segments: Mapping[str, int]
    wakes: Mapping[int, int]


class Segments:
    """All segments and eventfds of this master: new ones, or those ``kept`` over an upgrade (raises ValueError when
    they have another layout than this program's)."""

    def __init__(self, settings: Settings, kept: Kept | None = None) -> None:
        from flyproxy._speedups.shm.beat import Root, read_only_fd
        from flyproxy._speedups.shm.table import TableReader

        self.procs, segments, wakes = kept or _made(settings)
        self.fds, self.wakes = dict(segments), dict(wakes)
        self.root = Root(self.fds, writable=True, wake_fds=self.wakes)
        self._read_only = {name: read_only_fd(fd) for name, fd in self.fds.items()}
        self.table = TableReader(self._read_only)

    def for_role(self, role: str) -> dict[str, int]:
        """Descriptors in the order of SEGMENTS, writable only where the role writes."""
        return {name: (self.fds if name in WRITES[role] else self._read_only)[name] for name in SEGMENTS}

    def wake(self, proc: int) -> None:
        """Makes the engine of a process index look at its words now."""
        os.eventfd_write(self.wakes[proc], 1)


def _made(settings: Settings) -> Kept:
    from flyproxy._speedups.shm.beat import create_segments

    table, procs = settings.table, procs_for(settings)
    segments = create_segments(
        apps=table.apps, hostnames=table.hostnames, addresses=table.addresses, machines=table.machines,
        procs=procs, slots=settings.workers.slots,
    )  # fmt: skip
    return Kept(procs, segments, {proc: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for proc in range(procs)})

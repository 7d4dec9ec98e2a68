"""Many records at once, straight into the store of a running daemon, and the daemon's shared memory to see them arrive.

One transaction instead of one for each record: the way of a restored backup, and 100 times faster than commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from flyproxy._speedups.shm.beat import Root
from flyproxy._speedups.shm.table import TableReader
from flyproxy.state import records
from flyproxy.state.records import Record
from flyproxy.state.sqlite import SqliteStore
from tests.kit.wait import until

MEMFD = "/memfd:flyproxy-"
Place = tuple[str, str]
"""Scope and key."""


def place_of(record: Record, scope: str = "") -> Place:
    own, key = records.key_of(record)
    return own or scope, key


def write(database: Path, put: Iterable[Record] = (), delete: Iterable[Record] = ()) -> int:
    """One commit: tombstones for ``delete``, then ``put``. Returns the revision at which all of it holds."""

    async def work() -> int:
        store = SqliteStore(str(database))
        revision = 0
        with store._writing.transaction("IMMEDIATE") as connection:
            for record in delete:
                revision = store._store(connection, *place_of(record), None, None)
            for record in put:
                revision = store._store(connection, *place_of(record), records.encode(record), None)
        store._pokes.send()
        await store.close()
        return revision

    return asyncio.run(work())


class View:
    """A daemon's segments, seen from outside as any reader sees them; found through one of its processes."""

    def __init__(self, pid: int) -> None:
        fds = _segments(pid)
        try:
            self.root = Root(fds, False)
            self.table = TableReader(fds)
        finally:
            for fd in fds.values():
                os.close(fd)

    def revision(self) -> int:
        """The lowest revision that the engine of any ready worker has read; -1 without workers."""
        beats = [self.root.proc(proc) for proc in self.root.live()]
        return min((beat.revision for beat in beats if beat.state == "ready"), default=-1)

    def wait(self, revision: int, patience: float = 10.0) -> None:
        """Until every ready worker serves ``revision``."""
        until(lambda: self.revision() >= revision, f"every worker reads revision {revision}", patience, every=0.001)


def _segments(pid: int) -> dict[str, int]:
    """Descriptors of our own for the memfds that the process has, by the names that the doors use."""
    fds: dict[str, int] = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a connection that has ended since
            name = os.readlink(link).removesuffix(" (deleted)")
            if name.startswith(MEMFD) and (segment := name.removeprefix(MEMFD)) not in fds:
                fds[segment] = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
    return fds

"""Shared memory for tests of the master without the compiled part: the same promises, a layout of its own."""

from __future__ import annotations

import mmap
import os
import struct
from types import SimpleNamespace
from typing import Any

from flyproxy.boot import SEGMENTS
from flyproxy.master.segments import Kept, procs_for
from flyproxy.settings import Settings

NOBODY = 0xFFFFFFFF
STATES = ("free", "starting", "ready", "draining")
BEAT = struct.Struct("<IIQQQQQI")  # pid, state, turns, engine_ns, python_ns, revision, generation, connections
BEATS_AT, BEAT_STEP, SIZE = 4096, 64, 4096 + 64 * 64


class FakeRoot:
    """Stands in for flyproxy._speedups.shm.beat.Root."""

    def __init__(self, fds: dict[str, int], writable: bool) -> None:
        self.memory = mmap.mmap(fds["root"], SIZE)

    def slot_owner(self, slot: int) -> int | None:
        (owner,) = struct.unpack_from("<I", self.memory, 4 * slot)
        return None if owner == NOBODY else owner

    def set_slot_owner(self, slot: int, proc: int | None) -> None:
        struct.pack_into("<I", self.memory, 4 * slot, NOBODY if proc is None else proc)

    def claim_proc(self, proc: int, pid: int) -> None:
        BEAT.pack_into(self.memory, BEATS_AT + proc * BEAT_STEP, pid, 1, 0, 0, 0, 0, 0, 0)

    def set_proc_state(self, proc: int, name: str) -> None:
        struct.pack_into("<I", self.memory, BEATS_AT + proc * BEAT_STEP + 4, STATES.index(name))

    def reclaim_proc(self, proc: int) -> None:
        self.claim_proc(proc, 0)
        self.set_proc_state(proc, "free")

    def proc(self, proc: int) -> Any:
        names = ("pid", "state", "engine_turns", "engine_ns", "python_ns", "revision", "generation", "connections")
        values = BEAT.unpack_from(self.memory, BEATS_AT + proc * BEAT_STEP)
        return SimpleNamespace(**dict(zip(names, values, strict=True)))

    def beat(self, proc: int, engine_ns: int, python_ns: int, connections: int) -> None:
        """What engine and Python side of a real worker write."""
        at = BEATS_AT + proc * BEAT_STEP + 8
        (turns,) = struct.unpack_from("<Q", self.memory, at)
        struct.pack_into("<QQQQQI", self.memory, at, turns + 1, engine_ns, python_ns, 1, 1, connections)


class FakeSegments:
    """Stands in for flyproxy.master.segments.Segments."""

    def __init__(self, settings: Settings, kept: Kept | None = None) -> None:
        self.procs, fds, wakes = kept or made(settings)
        self.fds, self.wakes = dict(fds), dict(wakes)
        self.root = FakeRoot(self.fds, writable=True)
        counts = {"apps": 0, "machines": 0}
        self.table = SimpleNamespace(generation=1, published_ns=1, revision=1, usage=lambda: counts)

    def for_role(self, role: str) -> dict[str, int]:
        return self.fds

    def wake(self, proc: int) -> None:
        os.eventfd_write(self.wakes[proc], 1)


def made(settings: Settings) -> Kept:
    procs, fds = procs_for(settings), {name: os.memfd_create(name, os.MFD_CLOEXEC) for name in SEGMENTS}
    os.ftruncate(fds["root"], SIZE)
    root = FakeRoot(fds, writable=True)
    for slot in range(settings.workers.slots):
        root.set_slot_owner(slot, None)
    return Kept(procs, fds, {proc: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for proc in range(procs)})

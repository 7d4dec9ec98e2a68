"""Shared memory as the master hands it on: to the program that takes its place, or not at all."""

from __future__ import annotations

import mmap
import struct

import pytest

from flyproxy.master.segments import Kept, Segments
from flyproxy.settings import Settings, Table, Workers

SETTINGS = Settings(workers=Workers(count=2, slots=4), table=Table(apps=10, hostnames=10, addresses=10, machines=10))


def kept(segments: Segments) -> Kept:
    return Kept(segments.procs, segments.fds, segments.wakes)


def test_kept_segments_are_the_same_memory() -> None:
    first = Segments(SETTINGS)
    first.root.set_slot_owner(3, 7)
    second = Segments(SETTINGS, kept(first))
    assert second.root.slot_owner(3) == 7 and second.wakes == first.wakes
    second.root.set_slot_owner(3, None)
    assert first.root.slot_owner(3) is None


def test_segments_of_another_layout_are_refused() -> None:
    first = Segments(SETTINGS)
    with mmap.mmap(first.fds["root"], 4096) as memory:
        at = memory.find(struct.pack("<Q", first.root.layout))
        memory[at] ^= 1
    with pytest.raises(ValueError, match="layout hash differs"):
        Segments(SETTINGS, kept(first))

"""The words of the load segment that say how far each host is."""

from __future__ import annotations

import mmap
import os
import struct

import pytest

from flyproxy._speedups._testing_hosts import LIMITS
from flyproxy._speedups.shm import beat
from flyproxy._speedups.shm.closeness import STATES, Closeness
from tests.shm.world import World

LAST = LIMITS["hosts"] - 1


def test_what_control_writes_is_what_engines_read(world: World) -> None:
    door, engine = world.closeness(), world.peers()
    assert [door.get(slot) for slot in (0, LAST)] == [("unknown", 0, None)] * 2
    door.set(0, "direct", 0xFFFFFFFF, None)
    door.set(1, "via", 42_000, LAST)
    door.set(LAST, "down", 7, None)
    assert [engine.word(slot) for slot in (0, 1, 2, LAST)] == [
        (STATES["direct"], 0xFFFFFFFF, 0),
        (STATES["via"], 42_000, LAST),
        (STATES["unknown"], 0, 0),
        (STATES["down"], 7, 0),
    ]
    onlooker = Closeness(world.fds, False)
    assert [onlooker.get(slot) for slot in (0, 1, LAST)] == [
        ("direct", 0xFFFFFFFF, None), ("via", 42_000, LAST), ("down", 7, None),
    ]  # fmt: skip
    door.set(1, "unknown", 0, None)
    assert engine.word(1) == (0, 0, 0)


def test_a_slot_that_does_not_exist_reads_as_not_measured(world: World) -> None:
    assert [world.peers().word(slot) for slot in (LAST + 1, 0xFFFFFFFE, 0xFFFFFFFF)] == [(0, 0, 0)] * 3


@pytest.mark.parametrize(("slot", "state", "rtt_us", "via", "message"), [
    (LAST + 1, "direct", 1, None, "host slot 1024 does not exist; host slots are 0 to 1023"),
    (-1, "direct", 1, None, "host slot -1 does not exist"),
    (0, "near", 1, None, "'near' is not one of unknown, direct, via, down"),
    (0, "direct", -1, None, "rtt_us = -1"), (0, "direct", 1 << 32, None, "rtt_us = 4294967296"),
    (0, "via", 1, None, "via = None with state 'via'"), (0, "direct", 1, 2, "via = 2 with state 'direct'"),
    (3, "via", 1, 3, "via = 3 with state 'via' of host slot 3; name another"),
    (0, "via", 1, LAST + 1, "via 1024 does not exist"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_and_nothing_changes(
    world: World, slot: int, state: str, rtt_us: int, via: int | None, message: str
) -> None:
    door = world.closeness()
    for at in (0, 3):
        door.set(at, "direct", 5, None)
    with pytest.raises(ValueError, match=message):
        door.set(slot, state, rtt_us, via)  # type: ignore[arg-type]
    assert [door.get(at) for at in (0, 3)] == [("direct", 5, None)] * 2


def test_a_reader_cannot_write(world: World) -> None:
    fds = {name: beat.read_only_fd(fd) for name, fd in world.fds.items()}
    try:
        with pytest.raises(ValueError, match="opened for reading"):
            Closeness(fds, False).set(0, "down", 0, None)
        with pytest.raises(PermissionError):
            Closeness(fds, True)
    finally:
        for fd in fds.values():
            os.close(fd)


def test_a_word_that_nobody_of_ours_wrote_is_no_state(world: World) -> None:
    with mmap.mmap(world.fds["load"], os.fstat(world.fds["load"]).st_size) as load:
        struct.pack_into("Q", load, world.peers().places()["host_words"] + 8, 0xFFEE_0001_0000_0005)
    assert world.closeness().get(1) == ("unknown", 5, None)

"""Access-log rings: lines come out as they went in, in order; a full ring refuses."""

from __future__ import annotations

import mmap
import os
import struct

import pytest

from tests.shm.children import in_child, status_of
from tests.shm.world import World

RING = 4 << 20
STRIDE = RING + 4096  # of one process: head, tail and data in whole pages


def test_lines_come_out_in_order_once(world: World) -> None:
    one, two, logs = world.worker(0), world.worker(1), world.logs()
    lines = [b"x" * n for n in (1, 2, 100, 4096)]
    assert all(one.log(line) for line in lines)
    assert two.log(b"other")
    assert logs.drain(0, 2) == lines[:2]
    assert logs.drain(0, 10) == lines[2:]
    assert logs.drain(0, 10) == []
    assert logs.drain(1, 10) == [b"other"]


def test_a_line_that_is_too_long_is_refused(world: World) -> None:
    worker = world.worker()
    assert not worker.log(b"x" * 4097)
    assert world.logs().drain(0, 10) == []


def test_a_full_ring_refuses_and_goes_on_when_drained(world: World) -> None:
    worker, logs = world.worker(), world.logs()
    taken = 0
    while worker.log(b"%08d" % taken + b"y" * 992):
        taken += 1
    assert taken == RING // 1004
    assert not worker.log(b"z" * 1000)
    assert [line[:8] for line in logs.drain(0, 3)] == [b"%08d" % i for i in range(3)]
    assert worker.log(b"last" * 250)
    rest = logs.drain(0, taken)
    assert len(rest) == taken - 2
    assert rest[-1] == b"last" * 250


@pytest.mark.parametrize("length", [1, 7, 250, 4093, 4096])
def test_records_wrap_at_any_place(world: World, length: int) -> None:
    worker, logs = world.worker(), world.logs()
    written = 0
    while written < 2 * RING + 3 * length:
        batch = [bytes([i & 0xFF]) * length for i in range(min(1000, RING // (length + 4)))]
        if length == 1:
            batch = batch * 100
        assert all(worker.log(line) for line in batch)
        assert logs.drain(0, len(batch) + 1) == batch
        written += len(batch) * (length + 4)


def test_writer_and_reader_at_the_same_time(world: World) -> None:
    world.root.claim_proc(0, 1)
    total = 60_000

    def write() -> int:
        worker, sent = world.worker(0), 0
        while sent < total:
            if worker.log(b"%d:" % sent + b"x" * (sent * 7 % 300)):
                sent += 1
            else:
                os.sched_yield()
        return 0

    pid = in_child(write)
    logs, seen = world.logs(), 0
    while seen < total:
        for line in logs.drain(0, 1000):
            number, _, rest = line.partition(b":")
            assert int(number) == seen
            assert rest == b"x" * (seen * 7 % 300)
            seen += 1
    assert status_of(pid) == 0


@pytest.mark.parametrize(("head", "tail", "length"), [
    (100, 0, 0xFFFFFFFF), (100, 0, 97), (RING + 1, 0, 1), (5, 10, 1), (3, 0, 1), (100, 0, 4097),
])  # fmt: skip
def test_a_damaged_ring_starts_anew(world: World, head: int, tail: int, length: int) -> None:
    with mmap.mmap(world.fds["logs"], STRIDE) as ring:
        struct.pack_into("Q", ring, 0, head)
        struct.pack_into("Q", ring, 64, tail)
        struct.pack_into("I", ring, 128, length)
    logs = world.logs()
    assert logs.drain(0, 10) == []
    worker = world.worker()
    assert worker.log(b"again")
    assert logs.drain(0, 10) == [b"again"]


def test_a_new_worker_goes_on_in_the_ring_of_the_dead(world: World) -> None:
    world.worker(0).log(b"last words")
    world.root.reclaim_proc(0)
    world.worker(0).log(b"first words")
    assert world.logs().drain(0, 10) == [b"last words", b"first words"]


def test_a_ring_that_does_not_exist_is_named(world: World) -> None:
    with pytest.raises(ValueError, match="process index 16 does not exist"):
        world.logs().drain(16, 1)

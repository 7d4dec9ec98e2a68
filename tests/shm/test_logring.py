"""Access-log rings: lines come out as they went in, in order; a full ring refuses."""

from __future__ import annotations

import errno
import mmap
import os
import select
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
    assert logs.take(2) == [*lines[:2], b"other"]
    assert logs.take(10) == lines[2:]
    assert logs.take(10) == []


def test_a_line_that_is_too_long_is_refused(world: World) -> None:
    worker = world.worker()
    assert not worker.log(b"x" * 4097)
    assert world.logs().take(10) == []


def test_a_full_ring_refuses_and_goes_on_when_drained(world: World) -> None:
    worker, logs = world.worker(), world.logs()
    taken = 0
    while worker.log(b"%08d" % taken + b"y" * 992):
        taken += 1
    assert taken == RING // 1001
    assert not worker.log(b"z" * 1000)
    assert [line[:8] for line in logs.take(3)] == [b"%08d" % i for i in range(3)]
    assert worker.log(b"last" * 250)
    rest = logs.take(taken)
    assert len(rest) == taken - 2
    assert rest[-1] == b"last" * 250


@pytest.mark.parametrize("length", [1, 7, 250, 4093, 4096])
def test_lines_wrap_at_any_place(world: World, length: int) -> None:
    worker, logs = world.worker(), world.logs()
    written = 0
    while written < 2 * RING + 3 * length:
        batch = [bytes([32 + i % 200]) * length for i in range(min(1000, RING // (length + 1)))]
        if length == 1:
            batch = batch * 100
        assert all(worker.log(line) for line in batch)
        assert logs.take(len(batch) + 1) == batch
        written += len(batch) * (length + 1)


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
        for line in logs.take(1000):
            number, _, rest = line.partition(b":")
            assert int(number) == seen
            assert rest == b"x" * (seen * 7 % 300)
            seen += 1
    assert status_of(pid) == 0


@pytest.mark.parametrize(("head", "tail"), [(RING + 1, 0), (5, 10), (5000, 0)])
def test_a_damaged_ring_starts_anew(world: World, head: int, tail: int) -> None:
    with mmap.mmap(world.fds["logs"], STRIDE) as ring:
        struct.pack_into("Q", ring, 0, head)
        struct.pack_into("Q", ring, 64, tail)
    logs = world.logs()
    assert logs.take(10) == []
    worker = world.worker()
    assert worker.log(b"again")
    assert logs.take(10) == [b"again"]


def test_a_new_worker_goes_on_in_the_ring_of_the_dead(world: World) -> None:
    world.worker(0).log(b"last words")
    world.root.reclaim_proc(0)
    world.worker(0).log(b"first words")
    assert world.logs().take(10) == [b"last words", b"first words"]


def test_all_rings_are_written_as_they_lie(world: World, tmp_path: Path) -> None:
    one, two, logs = world.worker(0), world.worker(1), world.logs()
    for n in range(3):
        one.log(b"one %d" % n)
        two.log(b"two %d" % n)
    with (tmp_path / "log").open("wb") as file:
        assert logs.write(file.fileno(), False) == (6, 0, 0, False)
        assert logs.write(file.fileno(), False) == (0, 0, 0, False)
    assert (tmp_path / "log").read_bytes() == b"one 0\none 1\none 2\ntwo 0\ntwo 1\ntwo 2\n"


def test_lines_are_written_whole_wherever_they_wrap(world: World, tmp_path: Path) -> None:
    worker, logs, total = world.worker(), world.logs(), 0
    with (tmp_path / "log").open("wb") as file:
        while total * 1000 < 2 * RING:
            for _ in range(3000):
                assert worker.log(b"%08d" % total + b"x" * (total * 7 % 1000))
                total += 1
            assert logs.write(file.fileno(), False) == (3000, 0, 0, False)
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert lines == [b"%08d" % n + b"x" * (n * 7 % 1000) for n in range(total)]


def test_what_is_refused_is_lost_and_makes_room(world: World) -> None:
    worker, logs = world.worker(), world.logs()
    while worker.log(b"x" * 1000):
        pass
    assert logs.fullest() == pytest.approx(1.0, abs=0.001)
    with open("/dev/full", "wb", buffering=0) as full:
        assert logs.write(full.fileno(), False) == (0, RING // 1001, errno.ENOSPC, False)
    assert logs.fullest() == 0.0
    assert worker.log(b"x" * 1000)


def test_a_slow_descriptor_gives_room_while_it_goes_on(world: World) -> None:
    worker, logs = world.worker(), world.logs()
    while worker.log(b"x" * 1000):
        pass
    while worker.log(b""):  # full to the last byte
        pass
    reading, writing = os.pipe()
    with ThreadPoolExecutor(1) as pool:
        writes = pool.submit(logs.write, writing, False)
        left = RING
        while not worker.log(b"room"):
            if select.select([reading], [], [], 0.01)[0]:  # the place may be given back after its last byte was read
                left -= len(os.read(reading, 65536))
        assert not writes.done(), "there is room before everything is written"
        while left:
            left -= len(os.read(reading, 65536))
        assert writes.result(10) == (RING // 1001 + RING % 1001, 0, 0, False)
    os.close(reading)
    os.close(writing)


def test_no_python_runs_while_a_write_blocks(world: World) -> None:
    """The GIL is free: the thread that reads the pipe could not end the write otherwise."""
    worker, logs = world.worker(), world.logs()
    for _ in range(1000):
        worker.log(b"x" * 1000)
    reading, writing = os.pipe()
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(read_exactly, reading, 1000 * 1001)
        assert logs.write(writing, False) == (1000, 0, 0, False)
        assert got.result(10) == (b"x" * 1000 + b"\n") * 1000
    os.close(reading)
    os.close(writing)


def read_exactly(fd: int, n: int) -> bytes:
    data = b""
    while len(data) < n:
        data += os.read(fd, n - len(data))
    return data

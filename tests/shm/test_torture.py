"""Readers in processes of their own while a writer churns and everybody is killed at random.

No reader ever sees a record that is not whole, and the table goes on.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

from flyproxy._speedups.shm.table import TableFull, TableWriter
from tests.kit.wait import until
from tests.shm.children import in_child, status_of
from tests.shm.world import KEY, World, port

APPS = 6
HOSTS = [f"h{i}.test".encode() for i in range(APPS)]
REGIONS = ("yyz", "ams", "syd")
READERS = 2


def promised_services(version: int, n: int) -> list[dict[str, object]]:
    """Every part holds the same version: the readers' loop checks that (app_torn in _testing_shm)."""
    return [
        {
            "internal_port": 100 + i,
            "concurrency": "requests",
            "soft_limit": version,
            "hard_limit": version,
            "balance": "hash" if i % 2 else "least",
            "ports": [port(1000 + i, "http", idle_timeout=version)],
        }
        for i in range(n)
    ]


def change(writer: TableWriter, rng: random.Random, version: int) -> None:
    """One random record, whole in itself."""
    app, id, kind = rng.randrange(APPS), f"m{rng.randrange(150)}", rng.random()
    if kind < 0.6:
        address = struct.pack("=4I", *[version] * 4)
        health, cordoned = rng.choice(("passing", "passing", "critical")), rng.random() < 0.1
        writer.put_machine(id, f"a{app}", address, version, rng.choice(REGIONS), "h", health, cordoned)
    elif kind < 0.75:
        writer.remove_machine(id)
    elif kind < 0.95:
        writer.put_app(f"a{app}", promised_services(version, rng.randrange(1, 4)))
    else:
        writer.put_hostname(HOSTS[app].decode(), f"a{rng.randrange(APPS)}")


def churn(writer: TableWriter, rng: random.Random, versions: Iterator[int]) -> None:
    """One commit of a few changes. Refusals belong to it: ids and memory wait for readers that do not run."""
    for _ in range(rng.randrange(1, 6)):
        with suppress(TableFull):
            change(writer, rng, next(versions) % 60_000 + 1)
    with suppress(TableFull):
        writer.commit(next(versions))


def fill(writer: TableWriter, rng: random.Random, versions: Iterator[int]) -> None:
    for i in range(APPS):
        writer.put_app(f"a{i}", promised_services(1, 2))
        writer.put_hostname(HOSTS[i].decode(), f"a{i}")
    for _ in range(20):
        churn(writer, rng, versions)


def start_reader(world: World, proc: int, seed: int, stop_fd: int) -> int:
    def read() -> int:
        found, torn, turns = world.worker(proc, seed).read_loop(HOSTS, 1 << 40, stop_fd)
        return 1 if torn else 2 if not found or not turns else 0

    world.root.claim_proc(proc, 1)
    return in_child(read)


def moment(rng: random.Random, least: float, most: float) -> None:
    stop = time.monotonic() + rng.uniform(least, most)
    until(lambda: time.monotonic() > stop, "a random moment", every=0.0005)


def test_one_writer_many_readers(make_world: Callable[..., World]) -> None:
    world = make_world(machines=150)
    rng, versions = random.Random(1), count(1)
    fill(world.writer, rng, versions)
    stop, stopper = os.pipe()
    pids = [start_reader(world, proc, proc, stop) for proc in range(READERS)]
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        churn(world.writer, rng, versions)
    os.write(stopper, b"x")
    assert [status_of(pid) for pid in pids] == [0] * READERS
    assert world.reader().generation > 200
    for fd in (stop, stopper):
        os.close(fd)


def test_readers_and_writers_killed_at_random(make_world: Callable[..., World]) -> None:
    world = make_world(machines=150)
    rng = random.Random(2)
    stop, stopper = os.pipe()

    def write(seed: int, ready: int) -> int:
        own, versions = random.Random(seed), count(seed * 1_000_000)
        writer = TableWriter(world.fds, {}, "yyz", "h", KEY)
        writer.reset()
        fill(writer, own, versions)
        os.write(ready, b"r")
        while True:
            churn(writer, own, versions)

    def start_writer(seed: int) -> int:
        ready = os.pipe()
        pid = in_child(lambda: write(seed, ready[1]))
        assert os.read(ready[0], 1) == b"r"
        for fd in ready:
            os.close(fd)
        return pid

    writer = start_writer(0)
    readers = {proc: start_reader(world, proc, proc, stop) for proc in range(READERS)}
    for turn in range(25):
        moment(rng, 0.005, 0.06)
        generation = world.reader().generation
        if rng.random() < 0.5:
            proc = rng.choice(list(readers))
            os.kill(readers[proc], signal.SIGKILL)
            assert status_of(readers[proc]) == -signal.SIGKILL, "the reader had ended by itself: it saw a torn record"
            world.root.reclaim_proc(proc)
            readers[proc] = start_reader(world, proc, 100 + turn, stop)
        else:
            os.kill(writer, signal.SIGKILL)
            assert status_of(writer) == -signal.SIGKILL
            writer = start_writer(turn + 1)
        assert world.reader().generation >= generation > 0
        assert len(world.reader().apps()) == APPS
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    os.write(stopper, b"x")
    assert {proc: status_of(pid) for proc, pid in readers.items()} == dict.fromkeys(readers, 0)
    for fd in (stop, stopper):
        os.close(fd)


def test_a_reader_without_a_beat_copies_whole_records(make_world: Callable[..., World]) -> None:
    """Control reads while memory is reused under it; its marks make every copy whole."""
    world = make_world(machines=150)
    rng, versions = random.Random(3), count(1)
    fill(world.writer, rng, versions)

    def write() -> int:
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            churn(world.writer, rng, versions)
        return 0

    pid = in_child(write)
    reader, whole = world.reader(), 0
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        for machine in reader.machines():
            version = struct.unpack("=4I", machine["address"])
            assert len(set(version)) == 1
            assert machine["port"] == version[0] & 0xFFFF
            whole += 1
        for app in reader.apps():
            limits = {service["hard_limit"] for service in app["services"]}
            assert len(limits | {service["soft_limit"] for service in app["services"]}) == 1
            assert [p["idle_timeout_ms"] for s in app["services"] for p in s["ports"]] == [
                next(iter(limits)) * 1000
            ] * len(app["services"])
    assert whole > 100

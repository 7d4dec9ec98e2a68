"""The table is input: whatever stands there, look-ups end, find something or nothing, and stay in the segment."""

from __future__ import annotations

import mmap
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.shm.children import in_child
from tests.shm.world import World, port, service, v4


def written(fd: int) -> list[range]:
    """Where the file has pages: everything that was ever written, and little else."""
    found, at = [], 0
    with suppress(OSError):  # ENXIO: no data behind `at`
        while True:
            begin = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, begin, os.SEEK_HOLE)
            found.append(range(begin, at))
    return found


@contextmanager
def scribbling(world: World) -> Iterator[tuple[mmap.mmap, list[range]]]:
    """The active table's bytes, and where they were written."""
    fd = world.fds["table1"]
    with mmap.mmap(fd, os.fstat(fd).st_size) as table:
        yield table, written(fd)


def find(table: mmap.mmap, places: list[range], text: bytes) -> int:
    """Where the text stands."""
    return next(at for place in places if (at := table.find(text, place.start, place.stop)) >= 0)


def look_everywhere(world: World) -> int:
    worker = world.worker()
    worker.enter()
    found = 0
    for host in ("a.test", "b.test", "x.wild.test"):
        found += worker.host_checked(host)
    for number in (80, 81, 5432, 65535):
        worker.raw_port(number)
        worker.http_port(number)
    worker.address(v4("10.0.0.1"))
    worker.leave()
    reader = world.reader()
    reader.usage()
    assert isinstance(reader.apps(), list)
    assert isinstance(reader.machines(), list)
    assert isinstance(reader.hosts(), list)
    peers = world.peers()
    for id in ("m0", "b1", "ams0", "nobody"):
        peers.machine_by_id(id)
    for id in ("host1", "host2", ""):
        peers.host_by_id(id)
    for slot in (0, 1, 2, 1023, 1024):
        peers.host(slot)
        peers.host_slot(slot)
    peers.service_by_port("a.test", 2)
    assert isinstance(world.counters().exposition("yyz", "h"), bytes)
    return found


def fill(world: World) -> None:
    world.app(
        "a",
        service(port(80, "http"), balance="hash"),
        service(port(81), internal_port=2),
        hosts=["a.test", "*.wild.test"],
    )
    world.app("b", service(port(5432)), hosts=["b.test"])
    world.machines("a", 20)
    world.machines("a", 3, "ams", prefix="ams")
    world.machines("b", 2, prefix="b")
    world.machine("far", "b", "ams", host="host2")
    world.host("host1", "yyz", ports=range(1, 65))
    world.host("host2", "ams", roles=["worker"])
    world.writer.put_address(v4("10.0.0.1"), "a")
    world.commit()
    worker = world.worker()
    worker.count_edge(0, 1, connects=1)
    worker.count_machine(0, 1, connect_us=[1])


@pytest.mark.parametrize("seed", range(40))
def test_random_bytes(make_world: Callable[..., World], seed: int) -> None:
    world = make_world(mesh=True)
    fill(world)
    assert look_everywhere(world) == 3
    rng = random.Random(seed)
    with scribbling(world) as (table, places):
        for _ in range(rng.choice((1, 10, 100, 3000))):
            table[rng.choice(rng.choice(places))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        look_everywhere(world)


def test_bytes_that_change_while_they_are_read(make_world: Callable[..., World]) -> None:
    """What was checked once must not be read again from where somebody writes."""
    world = make_world(mesh=True)
    fill(world)

    def scribble() -> int:
        rng = random.Random(1)
        with scribbling(world) as (table, places):
            whole, end = [table[place.start : place.stop] for place in places], time.monotonic() + 0.5
            while time.monotonic() < end:
                for _ in range(200):
                    table[rng.choice(rng.choice(places))] = rng.choice((0, 0x7F, 0xFF))
                for place, were in zip(places, whole, strict=True):
                    table[place.start : place.stop] = were
        return 0

    pid = in_child(scribble)
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        with suppress(UnicodeDecodeError):
            look_everywhere(world)


@pytest.mark.parametrize("byte", [0x00, 0x01, 0x7F, 0x80, 0xFF])
def test_one_byte_everywhere(make_world: Callable[..., World], byte: int) -> None:
    world = make_world(mesh=True)
    fill(world)
    with scribbling(world) as (table, places):
        for place in places:
            table[place.start : place.stop] = bytes([byte]) * len(place)
        assert look_everywhere(world) == 0


class TestHosts:
    """Offsets of a THost: docs/shared-memory.md."""

    SLOT, NPORTS, ID_N, REGION_N, ID = 0, 12, 14, 15, 162

    @pytest.fixture
    def mesh(self, make_world: Callable[..., World]) -> World:
        world = make_world(mesh=True)
        world.app("a", hosts=["a.test"])
        return world

    @pytest.mark.parametrize(("at", "form", "value"), [
        (SLOT, "I", 1), (NPORTS, "H", 65), (NPORTS, "H", 0xFFFF), (ID_N, "B", 32), (ID_N, "B", 255),
        (REGION_N, "B", 16),
    ])  # fmt: skip
    def test_a_record_with_an_absurd_number_is_nobody(self, world: World, at: int, form: str, value: int) -> None:
        world.host("neighbour", ports=range(1, 65))
        world.commit()
        peers = world.peers()
        with scribbling(world) as (table, written_to):
            record = find(table, written_to, b"neighbour") - self.ID
            whole = table[record + at : record + at + struct.calcsize(form)]
            assert peers.host(0) is not None
            struct.pack_into(form, table, record + at, value)
            assert (peers.host(0), peers.host_by_id("neighbour"), world.reader().hosts()) == (None, None, [])
            table[record + at : record + at + len(whole)] = whole
            assert peers.host(0) is not None

    @pytest.mark.parametrize("reference", [0, 1, 63, 0x00FFFFFF, 0xFFFFFFFF])
    def test_a_reference_that_leads_out_of_the_segment_is_nobody(self, world: World, reference: int) -> None:
        world.host("neighbour")
        world.commit()
        with scribbling(world) as (table, _):
            struct.pack_into("I", table, world.peers().places()["host_dir"], reference)
            assert world.peers().host(0) is None
            assert world.reader().hosts() == []

    @pytest.mark.parametrize("word", [0, 1, 0xFFFFFFFF, 0x1F << 32 | 64, (1 << 64) - 1])
    def test_an_index_of_machines_that_leads_out_of_the_segment_finds_nobody(self, mesh: World, word: int) -> None:
        mesh.machine("m", "a")
        mesh.commit()
        assert mesh.peers().machine_by_id("m") == (0, 1)
        with scribbling(mesh) as (table, _):
            struct.pack_into("Q", table, 64, word)
            assert mesh.peers().machine_by_id("m") is None

    @pytest.mark.parametrize("slot", [1, 0x00FFFFFF, 0xFFFFFFFF])
    def test_an_index_that_names_another_slot_finds_nobody(self, mesh: World, slot: int) -> None:
        """The record that the index leads to says itself whose it is."""
        mesh.machine("machine-1", "a")
        mesh.machine("machine-2", "a")
        mesh.commit()
        with scribbling(mesh) as (table, written_to):
            key = find(table, written_to, struct.pack("=II", 0, 9) + b"machine-1")
            struct.pack_into("I", table, key, slot)
            assert mesh.peers().machine_by_id("machine-1") is None
            assert mesh.peers().machine_by_id("machine-2") == (1, 1)

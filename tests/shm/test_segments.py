"""The segments: sealed, sized, and refused by whoever does not share their layout."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Callable

import pytest

from flyproxy._speedups import _testing_shm as door
from flyproxy._speedups.shm import beat
from flyproxy._speedups.shm.table import TableReader
from tests.shm.world import World

F_GET_SEALS = 1034
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1, 2, 4


def test_segments_can_neither_shrink_nor_grow(world: World) -> None:
    for name, fd in world.fds.items():
        assert fcntl.fcntl(fd, F_GET_SEALS) == F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW, name
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 4096)


def test_untouched_segments_take_no_memory() -> None:
    fds = beat.create_segments(apps=10_000, hostnames=100_000, addresses=10_000, machines=1_000_000, procs=64, slots=64)
    try:
        assert sum(os.fstat(fd).st_blocks * 512 for fd in fds.values()) < 1 << 20
        assert sum(os.fstat(fd).st_size for fd in fds.values()) > 1 << 30
    finally:
        for fd in fds.values():
            os.close(fd)


def test_structs_have_the_sizes_that_the_document_draws() -> None:
    assert door.layout() == {
        "Root": 104,
        "owners": 512,
        "beats": 1536,
        "ProcBeat": 256,
        "TableHeader": 136,
        "DirEntry": 8,
        "IndexSlot": 16,
        "KeyBlock": 12,
        "TApp": 80,
        "AppTail": 20,
        "RegionRef": 24,
        "TPort": 24,
        "TService": 100,
        "ServiceTail": 28,
        "TMachine": 128,
        "THost": 212,
        "Wait": 16,
        "AppSeries": 1664,
        "MachineSeries": 1792,
    }


def test_layout_hash_tells_sizes_apart() -> None:
    sizes = {"apps": 10, "hostnames": 10, "addresses": 10, "machines": 10, "procs": 16, "slots": 2}
    one = beat.layout_hash(**sizes)
    assert one == beat.layout_hash(**sizes)
    assert len({one, *(beat.layout_hash(**{**sizes, key: value * 2}) for key, value in sizes.items())}) == 7


def test_the_root_tells_the_hash_of_its_settings(world: World) -> None:
    assert world.root.layout == beat.layout_hash(**world.sizes)


@pytest.mark.parametrize("offset", [0, 8, 16, 28], ids=["magic", "layout hash", "apps", "machines"])
def test_a_root_of_another_layout_is_refused(world: World, offset: int) -> None:
    with mmap.mmap(world.fds["root"], 4096) as root:
        root[offset] ^= 0xFF
    with pytest.raises(ValueError, match=r"layout hash differs.*restart the master"):
        TableReader(world.fds)


def test_a_segment_that_is_too_small_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="smaller than its layout"):
        TableReader({**world.fds, "counters": world.fds["root"]})


def test_a_missing_descriptor_is_named(world: World) -> None:
    with pytest.raises(ValueError, match=r"no descriptor for segment load, logs"):
        TableReader({name: fd for name, fd in world.fds.items() if name not in ("load", "logs")})


def test_a_process_index_that_does_not_exist_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="process index 99"):
        door.Worker(world.fds, 99)


@pytest.mark.parametrize(("name", "value"), [("apps", 0), ("machines", (1 << 23) + 1), ("procs", 65), ("slots", 257)])
def test_sizes_out_of_range_are_refused_by_name(name: str, value: int) -> None:
    sizes = {"apps": 1, "hostnames": 1, "addresses": 1, "machines": 1, "procs": 1, "slots": 1, name: value}
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        beat.create_segments(**sizes)


def test_a_read_only_descriptor_cannot_be_mapped_for_writing(world: World) -> None:
    fd = beat.read_only_fd(world.fds["table0"])
    try:
        with pytest.raises(PermissionError):
            mmap.mmap(fd, 4096)
        with mmap.mmap(fd, 4096, prot=mmap.PROT_READ) as table:
            assert table[:8] == bytes(8)
    finally:
        os.close(fd)


def test_readers_need_no_right_to_write(world: World, make_world: Callable[..., World]) -> None:
    fds = {name: beat.read_only_fd(fd) for name, fd in world.fds.items()}
    try:
        world.app("a", hosts=["a.test"])
        world.commit()
        assert TableReader(fds).lookup_host("a.test") == "a"
        assert beat.Root(fds, False).live() == []
    finally:
        for fd in fds.values():
            os.close(fd)


class TestBeat:
    def test_slots_have_owners(self, world: World) -> None:
        worker = world.worker(3)
        assert [world.root.slot_owner(slot) for slot in range(4)] == [None] * 4
        world.root.set_slot_owner(2, 3)
        assert world.root.slot_owner(2) == 3
        assert worker.slot_owner(2) == 3
        world.root.set_slot_owner(2, None)
        assert world.root.slot_owner(2) is None
        with mmap.mmap(world.fds["root"], 4096) as root:
            assert struct.unpack_from("Q", root, 64) == (2,)  # owner_epoch: raised with every change

    def test_slots_and_indexes_that_do_not_exist_are_named(self, world: World) -> None:
        with pytest.raises(ValueError, match="slot 4 does not exist; there are 4"):
            world.root.set_slot_owner(4, None)
        with pytest.raises(ValueError, match="process index 16 does not exist"):
            world.root.set_slot_owner(0, 16)
        with pytest.raises(ValueError, match="process index -1"):
            world.root.proc(-1)

    def test_a_process_index_is_claimed_once(self, world: World) -> None:
        world.root.claim_proc(5, 4242)
        assert world.root.live() == [5]
        assert world.root.proc(5).pid == 4242
        assert world.root.proc(5).state == "starting"
        with pytest.raises(ValueError, match="in use by pid 4242"):
            world.root.claim_proc(5, 4343)
        world.root.set_proc_state(5, "ready")
        assert world.root.proc(5).state == "ready"
        world.root.reclaim_proc(5)
        assert world.root.live() == []
        assert world.root.proc(5).state == "free"
        world.root.claim_proc(5, 4343)

    def test_all_64_indexes_can_live(self, make_world: Callable[..., World]) -> None:
        world = make_world(procs=64)
        for proc in range(64):
            world.root.claim_proc(proc, 1)
        assert world.root.live() == list(range(64))

    def test_python_beats_move_forward(self, world: World) -> None:
        world.root.claim_proc(0, 1)
        before = world.root.proc(0).python_ns
        world.root.beat_python(0)
        assert world.root.proc(0).python_ns > before

    def test_an_engine_announces_what_it_has_read(self, world: World) -> None:
        worker = world.worker(1)
        world.app("a")
        world.commit()
        world.revision = 41
        world.commit()
        worker.enter()
        assert (world.root.proc(1).revision, world.root.proc(1).generation) == (42, 2)

    def test_reclaiming_wakes_those_who_may_wait(self, world: World) -> None:
        wakes = {proc: os.eventfd(0, os.EFD_NONBLOCK) for proc in (0, 1)}
        try:
            root = beat.Root(world.fds, True, wakes)
            root.claim_proc(0, 1)
            root.claim_proc(1, 1)
            root.reclaim_proc(0)
            assert os.eventfd_read(wakes[1]) == 1
            with pytest.raises(BlockingIOError):
                os.eventfd_read(wakes[0])
        finally:
            for fd in wakes.values():
                os.close(fd)

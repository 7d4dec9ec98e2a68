"""The choice of a machine: nearest first, by load, within limits; "full" only when every machine is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

import pytest

from flyproxy._speedups._testing_shm import Worker
from tests.shm.children import in_child, status_of
from tests.shm.world import World, port, service


def app(world: World, *, soft: int = 0, hard: int = 0, **machines: int) -> Worker:
    """App "a" on a.test with so many machines per region, and a worker that has begun its turn."""
    world.app("a", service(port(80, "http"), soft=soft, hard=hard), hosts=["a.test"])
    for region, count in machines.items():
        world.machines("a", count, region, prefix=region)
    world.commit()
    worker = world.worker()
    worker.enter()
    return worker


class TestRegions:
    def test_the_own_region_takes_all_while_it_has_room(self, world: World) -> None:
        worker = app(world, ams=2, yyz=3, syd=2)
        assert {worker.choose("a.test")[2] for _ in range(200)} == {0}

    def test_the_next_region_takes_over_when_the_nearest_is_full(self, world: World) -> None:
        worker = app(world, hard=2, ams=2, yyz=3, syd=1)
        results = [worker.choose("a.test") for _ in range(14)]
        assert [rank for _, _, rank in results[:12]] == [0] * 6 + [1] * 4 + [2] * 2
        assert [result for result, _, _ in results] == ["chosen"] * 12 + ["full"] * 2

    def test_soft_limits_do_not_cross_regions(self, world: World) -> None:
        worker = app(world, soft=1, ams=2, yyz=2)
        assert [worker.choose("a.test")[2] for _ in range(50)] == [0] * 50


class TestLimits:
    def test_full_is_said_only_when_every_machine_is(self, make_world: Callable[..., World]) -> None:
        world = make_world(machines=500)
        worker = app(world, hard=2, yyz=500)
        assert [worker.choose("a.test")[0] for _ in range(1001)] == ["chosen"] * 1000 + ["full"]
        worker.release("inflight", 123)
        assert worker.choose("a.test")[:2] == ("chosen", 123)

    def test_machines_below_their_soft_limit_are_found_first(self, world: World) -> None:
        worker = app(world, soft=1, hard=3, yyz=20)
        assert sorted(worker.choose("a.test")[1] for _ in range(20)) == list(range(20))
        assert all(worker.sum("inflight", slot) == 1 for slot in range(20))

    def test_above_soft_and_below_hard_still_serves(self, world: World) -> None:
        worker = app(world, soft=1, hard=2, yyz=4)
        assert [worker.choose("a.test")[0] for _ in range(9)] == ["chosen"] * 8 + ["full"]

    def test_no_limits_never_full(self, world: World) -> None:
        worker = app(world, yyz=1)
        assert {worker.choose("a.test")[0] for _ in range(1000)} == {"chosen"}
        assert worker.sum("inflight", 0) == 1000

    def test_limits_hold_over_processes(self, world: World) -> None:
        app(world, hard=5, yyz=3)
        for proc in (1, 2):
            world.root.claim_proc(proc, 1)
        start = os.pipe()

        def choose(proc: int) -> int:
            worker = world.worker(proc, proc)
            worker.enter()
            os.read(start[0], 1)
            return sum(worker.choose("a.test")[0] == "chosen" for _ in range(40))

        pids = [in_child(lambda proc=proc: choose(proc)) for proc in (1, 2)]
        os.write(start[1], b"gg")
        assert sum(status_of(pid) for pid in pids) == 15
        for fd in start:
            os.close(fd)

    @pytest.mark.parametrize("count", [1, 2, 3, 10])
    def test_load_stays_level(self, world: World, count: int) -> None:
        worker = app(world, yyz=count)
        for _ in range(100 * count):
            worker.choose("a.test")
        loads = [worker.sum("inflight", slot) for slot in range(count)]
        assert max(loads) - min(loads) <= 6


class TestTried:
    def test_what_was_tried_is_not_chosen_again(self, world: World) -> None:
        worker = app(world, yyz=3, ams=1)
        tried: list[int] = []
        for expected in (0, 0, 0, 1):
            result, slot, rank = worker.choose("a.test", tried=tried)
            assert (result, rank) == ("chosen", expected)
            assert slot not in tried
            tried.append(slot)
        assert worker.choose("a.test", tried=tried)[:2] == ("none", None)

    def test_one_tried_and_the_rest_full_is_full(self, world: World) -> None:
        worker = app(world, hard=1, yyz=2)
        assert worker.choose("a.test", tried=[0])[:2] == ("chosen", 1)
        assert worker.choose("a.test", tried=[0])[0] == "full"
        assert worker.sum("inflight", 0) == 0

    def test_by_hash_too(self, world: World) -> None:
        world.app("a", service(port(80, "http"), balance="hash"), hosts=["a.test"])
        world.machines("a", 3)
        world.commit()
        worker = world.worker()
        worker.enter()
        tried: list[int] = []
        for _ in range(3):
            tried.append(worker.choose("a.test", key=b"k", tried=tried)[1])
        assert sorted(tried) == [0, 1, 2]
        assert worker.choose("a.test", key=b"k", tried=tried)[0] == "none"


def far_apart(world: World, *, soft: int = 0, hard: int = 0, balance: str = "least") -> Worker:
    """App "a": m0, m1 on host2 (slot 0), m2, m3 on host3 (slot 1), m4 here; ams0 on host4 (slot 2) is further away."""
    world.app("a", service(port(80, "http"), soft=soft, hard=hard, balance=balance), hosts=["a.test"])
    for i, host in enumerate(("host2", "host2", "host3", "host3", "host1")):
        world.machine(f"m{i}", "a", host=host)
    world.machine("ams0", "a", "ams", host="host4")
    for host in ("host2", "host3", "host4"):
        world.host(host, "yyz")
    world.commit()
    worker = world.worker()
    worker.enter()
    return worker


def chosen_of(worker: Worker, turns: int = 200, key: bytes | None = None) -> set[int | None]:
    """The slots that a few choices fall on; each is released at once."""
    slots = set()
    for i in range(turns):
        result, slot, _ = worker.choose("a.test", key=key and b"%s%d" % (key, i))
        slots.add(slot)
        if result == "chosen":
            worker.release("inflight", slot)
    return slots


@pytest.fixture
def mesh(make_world: Callable[..., World]) -> World:
    return make_world(mesh=True)


@pytest.mark.parametrize(("balance", "key"), [("least", None), ("hash", b"k")])
class TestReach:
    """Machines whose host cannot be reached count as tried, those whose host looks down unless nobody else is left."""

    def test_hosts_that_are_up_or_not_measured_are_candidates(self, mesh: World, balance: str, key: bytes) -> None:
        worker = far_apart(mesh, balance=balance)
        mesh.closeness().set(0, "direct", 100, None)
        mesh.closeness().set(1, "via", 100, 2)
        assert chosen_of(worker, key=key) == {0, 1, 2, 3, 4}

    def test_a_host_that_is_down_gets_nothing_until_it_is_back(self, mesh: World, balance: str, key: bytes) -> None:
        worker = far_apart(mesh, balance=balance)
        mesh.closeness().set(0, "down", 0, None)
        assert chosen_of(worker, key=key) == {2, 3, 4}
        mesh.closeness().set(0, "direct", 100, None)
        assert chosen_of(worker, key=key) == {0, 1, 2, 3, 4}

    def test_a_host_without_a_record_gets_nothing(self, mesh: World, balance: str, key: bytes) -> None:
        worker = far_apart(mesh, balance=balance)
        mesh.writer.remove_host("host3")
        mesh.commit()
        worker.enter()
        assert chosen_of(worker, key=key) == {0, 1, 4}

    def test_the_next_region_serves_when_the_nearest_cannot_be_reached(
        self, mesh: World, balance: str, key: bytes
    ) -> None:
        worker = far_apart(mesh, balance=balance)
        mesh.machine("m4", "a", health="critical")
        mesh.commit()
        worker.enter()
        for slot in (0, 1):
            mesh.closeness().set(slot, "down", 0, None)
        assert chosen_of(worker, key=key) == {5}
        assert worker.choose("a.test", key=key)[2] == 1

    def test_who_looks_down_is_tried_when_nobody_else_is_left(self, mesh: World, balance: str, key: bytes) -> None:
        worker = far_apart(mesh, hard=1, balance=balance)
        for _ in range(6):
            assert worker.choose("a.test", key=key)[0] == "chosen"
        assert worker.choose("a.test", key=key)[:2] == ("full", None)
        for slot in range(3):
            mesh.closeness().set(slot, "down", 0, None)
        assert worker.choose("a.test", key=key)[:2] == ("full", None)  # the one here
        assert worker.choose("a.test", key=key, tried=[4])[:2] == ("full", None)
        for slot in range(6):
            worker.release("inflight", slot)
        assert worker.choose("a.test", key=key)[:2] == ("chosen", 4)
        assert worker.choose("a.test", key=key, tried=[4])[0] == "chosen"
        assert sum(worker.sum("inflight", slot) for slot in range(6)) == 2

    def test_soft_limits_look_only_at_those_in_reach(self, mesh: World, balance: str, key: bytes) -> None:
        worker = far_apart(mesh, soft=1, hard=3, balance=balance)
        mesh.closeness().set(1, "down", 0, None)
        results = [worker.choose("a.test", key=key) for _ in range(13)]
        assert [result for result, _, _ in results] == ["chosen"] * 12 + ["full"]
        assert [worker.sum("inflight", slot) for slot in range(6)] == [3, 3, 0, 0, 3, 3]


class TestNobody:
    def test_no_machine_at_all(self, world: World) -> None:
        assert app(world).choose("a.test")[:2] == ("none", None)

    def test_machines_but_none_routable(self, world: World) -> None:
        app(world)
        world.machine("sick", "a", health="critical")
        world.machine("parked", "a", cordoned=True)
        world.commit()
        worker = world.worker()
        worker.enter()
        assert worker.choose("a.test")[:2] == ("unhealthy", None)

    def test_a_refusal_admits_nothing(self, world: World) -> None:
        worker = app(world, hard=1, yyz=2)
        for _ in range(5):
            worker.choose("a.test")
        assert [worker.sum("inflight", slot) for slot in range(2)] == [1, 1]


def test_random_words_spread_evenly(world: World) -> None:
    worker = app(world, yyz=10)
    chosen: Counter[int] = Counter()
    for _ in range(10_000):
        _, slot, _ = worker.choose("a.test")
        worker.release("inflight", slot)
        chosen[slot] += 1
    assert min(chosen.values()) > 850
    assert max(chosen.values()) < 1150

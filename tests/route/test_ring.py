"""Consistent hashing: keys keep their machine, few move when machines come and go, nobody carries much more."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable

import pytest

from flyproxy._speedups import _testing_shm as door
from flyproxy._speedups._testing_shm import Worker
from tests.shm.world import KEY, World, port, service, v4

KEYS = [door.siphash13(KEY, b"client %d" % i) for i in range(20_000)]


def ids(n: int) -> list[bytes]:
    return [f"machine-{i}".encode() for i in range(n)]


def owners(names: list[bytes]) -> dict[int, bytes]:
    """{key: the machine that it prefers}."""
    points = door.ring_points(KEY, names)
    return {key: names[door.ring_walk(points, key, 1)[0]] for key in KEYS}


def hashing(world: World, machines: int, *, hard: int = 0, region: str = "yyz") -> Worker:
    world.app("a", service(port(80, "http"), balance="hash", hard=hard), hosts=["a.test"])
    world.machines("a", machines, region)
    world.commit()
    worker = world.worker()
    worker.enter()
    return worker


class TestRing:
    @pytest.mark.parametrize("n", [2, 5, 20])
    def test_a_machine_that_goes_moves_only_its_own_keys(self, n: int) -> None:
        before = owners(ids(n))
        for gone in range(n):
            rest = [id for i, id in enumerate(ids(n)) if i != gone]
            after = owners(rest)
            moved = {key for key in KEYS if before[key] != after[key]}
            assert moved == {key for key in KEYS if before[key] == ids(n)[gone]}

    @pytest.mark.parametrize("n", [1, 4, 19])
    def test_a_machine_that_comes_takes_about_its_share(self, n: int) -> None:
        before, after = owners(ids(n)), owners(ids(n + 1))
        moved = [key for key in KEYS if before[key] != after[key]]
        assert all(after[key] == ids(n + 1)[-1] for key in moved)
        assert 0.5 < len(moved) / (len(KEYS) / (n + 1)) < 1.5

    @pytest.mark.parametrize("n", [3, 10, 100])
    def test_shares_are_even(self, n: int) -> None:
        share = Counter(owners(ids(n)).values())
        assert max(share.values()) / (len(KEYS) / n) < 1.45
        assert min(share.values()) / (len(KEYS) / n) > 0.4

    def test_a_walk_comes_to_every_machine(self) -> None:
        points = door.ring_points(KEY, ids(30))
        for key in KEYS[:100]:
            assert set(door.ring_walk(points, key, len(points) + 8)) == set(range(30))

    def test_overflow_goes_to_different_machines(self) -> None:
        """Keys of one machine do not all have the same second choice."""
        points = door.ring_points(KEY, ids(20))
        walks = [list(dict.fromkeys(door.ring_walk(points, key, 88)))[:2] for key in KEYS[:2000]]
        seconds = Counter(second for first, second in walks if first == 0)
        assert len(seconds) >= 10

    def test_the_mapping_is_the_same_for_ever(self) -> None:
        """Changing it would move every key of every app on the day of an upgrade."""
        points = door.ring_points(KEY, ids(10))
        assert [door.ring_walk(points, key, 1)[0] for key in KEYS[:24]] == [
            3,
            4,
            1,
            6,
            2,
            2,
            1,
            0,
            9,
            0,
            6,
            1,
            5,
            0,
            2,
            4,
            7,
            8,
            5,
            3,
            8,
            6,
            4,
            4,
        ]

    def test_another_cluster_key_is_another_mapping(self) -> None:
        one, two = (door.ring_points(key, ids(10)) for key in (KEY, KEY[::-1]))
        assert [point >> 24 for point in one] != [point >> 24 for point in two]


class TestChoice:
    def test_the_ring_holds_the_routable_machines_of_the_nearest_region(self, world: World) -> None:
        worker = hashing(world, 5)
        world.machines("a", 4, "ams", prefix="ams")
        world.machine("m3", "a", health="critical")
        world.commit()
        worker.enter()
        assert sorted(worker.ring("a.test")) == sorted([0, 1, 2, 4] * 4)
        for i in range(5):
            world.machine(f"m{i}", "a", health="critical")
        world.commit()
        worker.enter()
        assert set(worker.ring("a.test")) == {5, 6, 7, 8}
        world.machine("m2", "a")
        world.commit()
        worker.enter()
        assert worker.ring("a.test") == [2] * 4

    def test_changes_one_by_one_and_all_at_once_make_the_same_ring(self, make_world: Callable[..., World]) -> None:
        one, two = make_world(machines=200), make_world(machines=200)
        worker = hashing(one, 150)
        for i in range(0, 100, 3):
            one.machine(f"m{i}", "a", health="critical")
            one.commit()
        for i in range(0, 100, 6):
            one.machine(f"m{i}", "a")
            one.commit()
        other = hashing(two, 150)
        for i in range(0, 100, 3):
            two.machine(f"m{i}", "a", health="passing" if i % 6 == 0 else "critical")
        two.commit()
        worker.enter()
        other.enter()
        assert worker.ring("a.test") == other.ring("a.test")
        assert len(set(worker.ring("a.test"))) == 133

    def test_a_service_without_hash_has_no_ring(self, world: World) -> None:
        worker = hashing(world, 3)
        world.app("a", service(port(80, "http")))
        world.commit()
        worker.enter()
        assert worker.ring("a.test") == []

    def test_a_key_keeps_its_machine(self, world: World) -> None:
        worker = hashing(world, 10)
        for key in (b"alice", b"bob", b"carol"):
            slots = set()
            for _ in range(20):
                _, slot, _ = worker.choose("a.test", key=key)
                worker.release("inflight", slot)
                slots.add(slot)
            assert len(slots) == 1

    def test_nobody_carries_more_than_the_bound(self, world: World) -> None:
        """One key asks for everything: its machine takes 1.25 of the average, others the rest."""
        worker = hashing(world, 8)
        for total in range(1, 401):
            assert worker.choose("a.test", key=b"hot")[0] == "chosen"
            loads = [worker.sum("inflight", slot) for slot in range(8)]
            assert max(loads) <= -(-total * 5 // (4 * 8))

    def test_hard_limits_hold_and_then_the_next_region_serves(self, world: World) -> None:
        worker = hashing(world, 3, hard=2)
        world.machines("a", 1, "ams", prefix="ams")
        world.commit()
        worker.enter()
        results = [worker.choose("a.test", key=b"k") for _ in range(9)]
        assert [(result, rank) for result, _, rank in results[:8]] == [("chosen", 0)] * 6 + [("chosen", 1)] * 2
        assert results[8][0] == "full"


class TestKeys:
    def test_ipv6_clients_hash_by_their_64(self, world: World) -> None:
        worker = world.worker()
        one, neighbour, other = (
            ipaddress.IPv6Address(text).packed
            for text in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1")
        )
        assert worker.key_address(one) == worker.key_address(neighbour) != worker.key_address(other)

    def test_ipv4_clients_hash_by_their_address(self, world: World) -> None:
        worker = world.worker()
        assert worker.key_address(v4("192.0.2.1")) != worker.key_address(v4("192.0.2.2"))

    def test_a_key_is_the_siphash_under_the_cluster_key(self, world: World) -> None:
        world.commit()
        worker = world.worker()
        worker.enter()
        assert worker.key(b"alice") == door.siphash13(KEY, b"alice")

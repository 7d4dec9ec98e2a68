"""The hosts of the mesh in the table, and where a machine says that it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flyproxy._speedups._testing_hosts import LIMITS
from flyproxy._speedups.shm.table import TableFull
from tests.shm.world import World, service, v4

HERE, UNKNOWN = "here", "unknown"


@pytest.fixture
def mesh(make_world: Callable[..., World]) -> World:
    """A world whose writer is host1 of a mesh, with an app."""
    world = make_world(machines=200, mesh=True)
    world.app("a", hosts=["a.test"])
    return world


def places(world: World) -> dict[str, int | str | None]:
    """{machine: where it says that it is}, as published."""
    return {machine["id"]: world.peers().host_slot(machine["slot"]) for machine in world.reader().machines()}


class TestRecords:
    def test_readers_find_what_was_put(self, mesh: World) -> None:
        mesh.writer.put_host("host2", "syd", v4("10.9.0.2"), [7001, 7002], 1_700_000_000, ["worker", "edge"], True)
        mesh.writer.put_host("host1", "yyz", v4("10.9.0.1"), [], 5, [])
        mesh.commit()
        peers = mesh.peers()
        assert peers.host_by_id("host2") == peers.host(0) == ("host2", 0, 1, "syd", [7001, 7002], 1_700_000_000, 3)
        assert peers.host_by_id("host1") == ("host1", 1, 1, "yyz", [], 5, 0)
        assert [peers.host_by_id(id) for id in ("host", "host22", "", "x" * 300)] == [None] * 4
        assert [peers.host(slot) for slot in (2, 1023, 1024, 0xFFFFFFFE, 0xFFFFFFFF)] == [None] * 5
        first = {
            "slot": 0,
            "id": "host2",
            "region": "syd",
            "address": v4("10.9.0.2"),
            "ports": [7001, 7002],
            "epoch": 1_700_000_000,
            "roles": ["edge", "worker"],
            "tls": True,
        }
        assert mesh.reader().hosts()[0] == first
        assert [host["id"] for host in mesh.reader().hosts()] == ["host2", "host1"]
        assert [host["tls"] for host in mesh.reader().hosts()] == [True, False]
        assert mesh.reader().usage()["hosts"] == mesh.writer.usage()["hosts"] == 2

    def test_nothing_shows_before_commit(self, mesh: World) -> None:
        mesh.host("host2", epoch=1)
        assert mesh.peers().host(0) is None
        mesh.commit()
        mesh.host("host2", epoch=2)
        assert mesh.peers().host(0)[5] == 1
        mesh.writer.remove_host("host2")
        assert mesh.peers().host(0)[5] == 1
        mesh.commit()
        assert mesh.reader().hosts() == []

    def test_a_new_epoch_keeps_slot_and_generation(self, mesh: World) -> None:
        mesh.host("host2", epoch=1)
        mesh.commit()
        mesh.host("host2", epoch=2, ports=range(1, 65))
        mesh.commit()
        assert mesh.peers().host_by_id("host2") == ("host2", 0, 1, "ams", list(range(1, 65)), 2, 0)

    def test_every_change_gives_its_memory_back(self, mesh: World) -> None:
        mesh.commit()
        before = mesh.writer.usage()["used"]
        for epoch in range(20):
            mesh.host("host2", epoch=epoch)
            mesh.host("host2", epoch=epoch + 1)
            mesh.commit()
            mesh.host("host3")
            mesh.writer.remove_host("host3")
            mesh.writer.remove_host("host2")
            mesh.commit()
        mesh.commit()
        assert mesh.writer.usage()["used"] == before

    @pytest.mark.parametrize(("change", "message"), [
        ({"id": ""}, "needs an id"), ({"id": "x" * 32}, "1 to 31"), ({"region": "x" * 16}, "region"),
        ({"ports": [0]}, r"ports \[0\] of host 'h'"), ({"ports": [65536]}, "from 1 to 65535"),
        ({"ports": list(range(1, 66))}, "at most 64"), ({"epoch": -1}, "epoch -1"), ({"epoch": 1 << 32}, "4294967295"),
        ({"roles": ["boss"]}, "role 'boss' of host 'h' is not one of edge, worker"), ({"ip16": b"1"}, "1 bytes"),
    ])  # fmt: skip
    def test_what_the_table_cannot_hold_is_refused_and_nothing_changes(
        self, mesh: World, change: dict[str, object], message: str
    ) -> None:
        record = {"id": "h", "region": "ams", "ip16": v4("10.0.0.1"), "ports": [1], "epoch": 1, "roles": ["edge"]}
        with pytest.raises(ValueError, match=message):
            mesh.writer.put_host(**{**record, **change})  # type: ignore[arg-type]
        mesh.commit()
        assert mesh.reader().hosts() == []

    def test_the_most_hosts_fit_and_one_more_is_told(self, mesh: World) -> None:
        for i in range(LIMITS["hosts"]):
            mesh.host(f"h{i}")
        with pytest.raises(TableFull, match="all 1024 hosts are in use; no setting raises that; remove") as refusal:
            mesh.host("one-more")
        assert (refusal.value.capacity, refusal.value.setting) == ("hosts", "")
        mesh.commit()
        assert [host["id"] for host in mesh.reader().hosts()] == [f"h{i}" for i in range(LIMITS["hosts"])]
        assert mesh.peers().host_by_id("h1023")[1] == 1023
        mesh.writer.remove_host("h7")
        with pytest.raises(TableFull, match="1 of them by removed hosts that readers may still hold"):
            mesh.host("one-more")
        mesh.commit()
        mesh.host("one-more")
        mesh.commit()
        assert mesh.peers().host(7)[:3] == ("one-more", 7, 2)


class TestSlots:
    def test_a_slot_is_not_given_again_while_a_reader_may_hold_its_record(self, mesh: World) -> None:
        mesh.host("old")
        mesh.commit()
        mesh.worker().enter()
        mesh.writer.remove_host("old")
        mesh.commit()
        mesh.host("new")
        mesh.commit()
        assert mesh.peers().host_by_id("new")[:3] == ("new", 1, 1)
        mesh.worker().leave()
        mesh.host("newer")
        mesh.commit()
        assert mesh.peers().host_by_id("newer")[:3] == ("newer", 0, 2)

    def test_another_host_in_a_slot_begins_with_nothing_measured(self, mesh: World) -> None:
        mesh.host("old")
        mesh.commit()
        mesh.closeness().set(0, "down", 77, None)
        mesh.writer.remove_host("old")
        mesh.commit()
        assert mesh.closeness().get(0)[0] == "down"  # until then nobody asks
        mesh.host("new")
        mesh.commit()
        assert mesh.peers().host_by_id("new")[1] == 0
        assert mesh.closeness().get(0) == ("unknown", 0, None)

    def test_a_new_writer_keeps_slots_generations_and_what_was_measured(self, mesh: World) -> None:
        for id in ("gone", "host2", "host3"):
            mesh.host(id)
        mesh.commit()
        for slot in range(3):
            mesh.closeness().set(slot, "direct", 100 + slot, None)
        mesh.writer = mesh.new_writer()
        for id in ("first", "host3", "host2"):
            mesh.host(id)
        mesh.commit()
        peers = mesh.peers()
        assert [peers.host_by_id(id)[1:3] for id in ("host2", "host3", "first")] == [(1, 1), (2, 1), (3, 1)]
        assert peers.host_by_id("gone") is None
        assert [mesh.closeness().get(slot)[1] for slot in range(1, 4)] == [101, 102, 0]
        mesh.commit()
        mesh.host("late")  # what nobody claimed goes to somebody else, and begins anew
        mesh.commit()
        assert mesh.peers().host_by_id("late")[1:3] == (0, 2)
        assert mesh.closeness().get(0) == ("unknown", 0, None)


class TestWhereMachinesAre:
    def test_by_host_and_by_record(self, mesh: World) -> None:
        for host in ("host1", "", "host2", "host3"):
            mesh.machine(f"on-{host}", "a", host=host)
        mesh.host("host1", "yyz")
        mesh.host("host2")
        mesh.commit()
        assert places(mesh) == {"on-host1": HERE, "on-": HERE, "on-host2": 1, "on-host3": UNKNOWN}

    def test_without_a_mesh_every_machine_is_here_and_none_is_found_by_id(self, world: World) -> None:
        world.machine("m", "a", host="host2")
        world.host("host2")
        world.commit()
        assert places(world) == {"m": HERE}
        assert world.peers().machine_by_id("m") is None

    def test_machines_follow_when_their_host_comes_goes_and_comes_back(self, mesh: World) -> None:
        mesh.machines("a", 3)
        for i in range(100):
            mesh.machine(f"far{i}", "a", "ams", host="host2")
        mesh.machine("other", "a", "ams", host="host3")
        worker = mesh.worker()
        mesh.commit()
        worker.enter()
        lists = worker.candidates("a.test")
        for change, expected in [
            (lambda: mesh.host("host2"), 0),
            (lambda: mesh.host("host2", epoch=9), 0),
            (lambda: mesh.writer.remove_host("host2"), UNKNOWN),
            (lambda: mesh.host("host2"), 0),
        ]:
            change()
            mesh.commit()
            where = places(mesh)
            assert {where[f"far{i}"] for i in range(100)} == {expected}
            assert {where[f"m{i}"] for i in range(3)} == {HERE}
            assert where["other"] == UNKNOWN
            worker.enter()
            assert worker.candidates("a.test") == lists

    def test_a_host_that_goes_and_comes_back_within_one_commit_is_found_again(self, mesh: World) -> None:
        mesh.machine("far", "a", host="host2")
        mesh.host("host2")
        mesh.commit()
        mesh.writer.remove_host("host2")
        mesh.host("host2")
        mesh.commit()
        assert mesh.peers().host(places(mesh)["far"])[0] == "host2"  # type: ignore[arg-type]

    def test_a_machine_moves_between_hosts(self, mesh: World) -> None:
        mesh.host("host2")
        for host, where in (("host2", 0), ("host1", HERE), ("host3", UNKNOWN)):
            mesh.machine("m", "a", host=host)
            mesh.commit()
            assert places(mesh) == {"m": where}
            assert mesh.peers().machine_by_id("m") == (0, 1)

    def test_no_reader_sees_a_machine_on_a_host_that_is_not_there_yet_or_any_more(self, mesh: World) -> None:
        """Within one commit hosts come before machines and go after them; slots wait for readers."""
        reader = mesh.worker()
        for _ in range(50):
            mesh.machine("m", "a", host="host2")
            mesh.host("host2")
            mesh.commit()
            reader.enter()
            where = places(mesh)["m"]
            assert isinstance(where, int)
            mesh.writer.remove_host("host2")
            mesh.host("host4")
            mesh.commit()
            assert places(mesh) == {"m": UNKNOWN}
            assert mesh.peers().host_by_id("host4")[1] != where
            reader.leave()
            mesh.writer.remove_host("host4")
            mesh.commit()

    def test_want_of_memory_leaves_everything_for_the_next_commit(self, make_world: Callable[..., World]) -> None:
        world = make_world(machines=4000, mesh=True)
        world.app("a", hosts=["a.test"])
        for i in range(4000):
            world.machine(f"m{i}", "a", host="host2")
        world.commit()
        stuck = world.worker(7)
        stuck.enter()
        with pytest.raises(TableFull, match="wait for process index 7"):
            for _ in range(500):
                world.host("host2")
                world.commit()
                world.writer.remove_host("host2")
                world.commit()
        generation, before = world.reader().generation, set(places(world).values())
        assert len(before) == 1
        with pytest.raises(TableFull):
            world.commit()
        assert (world.reader().generation, set(places(world).values())) == (generation, before)
        stuck.leave()
        world.host("host2")
        world.commit()
        slot = world.peers().host_by_id("host2")[1]
        assert set(places(world).values()) == {slot}


class TestMachinesById:
    def test_machines_of_every_host_are_found(self, mesh: World) -> None:
        """A host that is asked for another's machine must know whose it is, to say no or to pass it on."""
        mesh.machine("here", "a")
        mesh.machine("nowhere", "a", host="")
        mesh.machine("there", "a", host="host2")
        mesh.machine("lost", "a", host="host3")
        mesh.host("host2")
        peers = mesh.peers()
        assert peers.machine_by_id("here") is None
        mesh.commit()
        assert [peers.machine_by_id(id) for id in ("here", "nowhere", "there", "lost")] == [
            (0, 1), (1, 1), (2, 1), (3, 1),
        ]  # fmt: skip
        assert [peers.machine_by_id(id) for id in ("", "her", "here2", "x" * 5000)] == [None] * 4

    def test_they_go_and_come_back(self, mesh: World) -> None:
        peers = mesh.peers()
        mesh.machine("m", "a")
        mesh.commit()
        mesh.writer.remove_machine("m")
        assert peers.machine_by_id("m") == (0, 1)
        mesh.commit()
        assert peers.machine_by_id("m") is None
        mesh.machine("m", "a")
        mesh.writer.remove_machine("m")
        mesh.commit()
        assert peers.machine_by_id("m") is None
        mesh.machine("m", "a")
        mesh.commit()
        assert peers.machine_by_id("m")[0] in (0, 1)

    def test_a_machine_of_another_app_now_is_found_in_its_new_slot(self, mesh: World) -> None:
        mesh.app("b")
        mesh.machine("m", "a")
        mesh.commit()
        mesh.machine("m", "b")
        mesh.commit()
        assert mesh.peers().machine_by_id("m") == (1, 1)

    def test_health_and_cordon_make_no_difference(self, mesh: World) -> None:
        """It is the worker host that says no, with a reason."""
        mesh.machine("m", "a", health="critical", cordoned=True)
        mesh.commit()
        assert mesh.peers().machine_by_id("m") == (0, 1)

    def test_a_new_writer_finds_them_again(self, mesh: World) -> None:
        mesh.machine("gone", "a")
        mesh.machine("m", "a")
        mesh.commit()
        mesh.writer = mesh.new_writer()
        mesh.app("a")
        mesh.machine("m", "a")
        mesh.commit()
        assert [mesh.peers().machine_by_id(id) for id in ("gone", "m")] == [None, (1, 1)]

    def test_many_come_and_go(self, mesh: World) -> None:
        peers = mesh.peers()
        for step in range(8):
            for i in range(100):
                mesh.machine(f"{step}-{i}", "a")
                mesh.writer.remove_machine(f"{step - 1}-{i}")
            mesh.commit()
            assert all(peers.machine_by_id(f"{step}-{i}") for i in range(100))
            assert not any(peers.machine_by_id(f"{step - 1}-{i}") for i in range(100))


def test_services_are_found_by_internal_port(world: World) -> None:
    world.app("a", service(internal_port=1), service(internal_port=2, ports=[]), hosts=["a.test"])
    world.commit()
    worker, peers = world.worker(), world.peers()
    worker.enter()
    assert [peers.service_by_port("a.test", n) for n in (1, 2)] == [worker.service("a.test", i)[:2] for i in range(2)]
    assert [peers.service_by_port("a.test", n) for n in (0, 3, 65535)] == [None] * 3

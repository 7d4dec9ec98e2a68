"""The writer over time: ids and generations, grace periods, restarts, and a model of it all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flyproxy._speedups.shm.table import TableFull, TableWriter
from tests.shm.world import KEY, World, port, service, v4


def slot_of(world: World, id: str) -> tuple[int, int]:
    """(slot, generation) as published."""
    return next((m["slot"], m["generation"]) for m in world.reader().machines() if m["id"] == id)


class TestIds:
    def test_a_slot_goes_to_another_machine_with_the_next_generation(self, world: World) -> None:
        world.app("a", hosts=["a.test"])
        world.machine("old", "a")
        world.commit()
        worker = world.worker()
        worker.enter()
        assert worker.machine(0, 1)[0] == "old"
        worker.leave()
        world.writer.remove_machine("old")
        world.commit()
        world.machine("new", "a")
        world.commit()
        worker.enter()
        assert slot_of(world, "new") == (0, 2)
        assert worker.machine(0, 1) is None
        assert worker.machine(0, 2)[0] == "new"

    def test_a_slot_is_not_given_again_while_a_reader_may_hold_its_list(self, world: World) -> None:
        world.app("a", hosts=["a.test"])
        world.machine("old", "a")
        world.commit()
        reader = world.worker()
        reader.enter()
        reader.hold("a.test")
        world.writer.remove_machine("old")
        world.commit()
        world.machine("new", "a")
        world.commit()
        assert slot_of(world, "new")[0] != 0
        assert reader.held_candidates() == [[0]]

    @pytest.mark.parametrize("kind", ["inflight", "open"])
    def test_a_slot_is_not_given_again_while_something_is_counted_under_it(self, world: World, kind: str) -> None:
        worker = world.worker()
        world.app("a")
        world.machine("old", "a")
        world.commit()
        worker.admit(kind, 0, 0)
        world.writer.remove_machine("old")
        world.commit()
        world.machine("new", "a")
        world.commit()
        assert slot_of(world, "new") == (1, 1)
        worker.release(kind, 0)
        world.machine("newer", "a")
        world.commit()
        assert slot_of(world, "newer") == (0, 2)

    def test_all_slots_in_use_by_removed_machines_is_told(self, make_world: Callable[..., World]) -> None:
        world = make_world(machines=1)
        worker = world.worker()
        world.app("a")
        with pytest.raises(TableFull, match="removed machines still have connections"):
            for i in range(200):
                world.machine(f"m{i}", "a")
                world.commit()
                worker.admit("open", slot_of(world, f"m{i}")[0], 0)
                world.writer.remove_machine(f"m{i}")
                world.commit()
        worker.release("open", 7)
        world.machine("again", "a")
        world.commit()
        assert slot_of(world, "again") == (7, 2)

    def test_an_app_id_goes_to_another_app_with_the_next_generation(self, world: World) -> None:
        world.app("a", hosts=["x.test"])
        world.commit()
        worker = world.worker()
        worker.enter()
        assert worker.host("x.test") == ("a", 0, 1)
        worker.leave()
        world.writer.remove_hostname("x.test")
        world.writer.remove_app("a")
        world.commit()
        world.app("b", hosts=["x.test"])
        world.commit()
        worker.enter()
        assert worker.host("x.test") == ("b", 0, 2)
        assert worker.app(0, 1) is None
        assert worker.app(0, 2) == ("b", 0, 2)

    def test_a_machine_that_changes_its_app_is_another_one(self, world: World) -> None:
        world.app("a", hosts=["a.test"])
        world.app("b", hosts=["b.test"])
        world.machine("m", "a")
        world.commit()
        world.machine("m", "b")
        world.commit()
        worker = world.worker()
        worker.enter()
        assert worker.candidates("a.test") == []
        assert worker.candidates("b.test") == [[1]]
        assert worker.machine(0, 1) is None

    def test_changes_of_a_machine_that_was_never_published_leave_nothing(self, world: World) -> None:
        world.commit()
        before = world.writer.usage()["used"]
        for _ in range(3):
            world.app("a")
            world.machine("m", "a", port=1)
            world.machine("m", "a", port=2)
            world.writer.put_hostname("h.test", "a")
            world.writer.put_hostname("h.test", "b")
            world.writer.remove_hostname("h.test")
            world.writer.remove_machine("m")
            world.writer.remove_app("a")
            world.commit()
        assert world.writer.usage()["used"] == before
        assert world.reader().machines() == []


class TestReset:
    def fill(self, world: World) -> None:
        world.app("a", service(port(80, "http"), internal_port=1), service(port(81), internal_port=2), hosts=["a.test"])
        world.machines("a", 3)

    def test_readers_stay_on_the_old_table_until_the_commit(self, world: World) -> None:
        self.fill(world)
        world.commit()
        worker = world.worker()
        world.writer.reset()
        world.app("b", hosts=["b.test"])
        worker.enter()
        assert worker.host("a.test") is not None
        assert worker.host("b.test") is None
        worker.hold("a.test")
        world.commit()
        assert worker.held_candidates() == [[0, 1, 2]]  # its turn goes on in the segment that it began in
        assert worker.enter() == (2, 2)
        assert worker.host("a.test") is None
        assert worker.host("b.test") is not None

    def test_a_new_writer_keeps_ids_generations_and_so_budgets(self, world: World) -> None:
        world.app("gone", hosts=["gone.test"])
        self.fill(world)
        world.commit()
        worker = world.worker()
        worker.enter()
        app, services = worker.host("a.test"), [worker.service("a.test", i)[:3] for i in range(2)]
        worker.admit("inflight", 1, 0)
        world.writer = world.new_writer()
        world.app("first", hosts=["first.test"])
        world.machine("first", "first")
        self.fill(world)
        world.commit()
        worker.enter()
        assert worker.host("a.test") == app
        assert [worker.service("a.test", i)[:3] for i in range(2)] == services
        assert worker.candidates("a.test") == [[0, 1, 2]]
        assert worker.host("first.test")[1] not in (0, 1)  # 0 was "gone": nobody's until every reader has moved on
        assert worker.candidates("first.test") == [[3]]
        assert {m["id"]: m["in_flight"] for m in world.reader().machines()}["m1"] == 1

    def test_ids_that_nobody_claims_come_back_with_the_next_generation(self, world: World) -> None:
        self.fill(world)
        world.commit()
        world.writer = world.new_writer()
        world.commit()
        world.app("b", hosts=["b.test"])
        world.machine("x", "b")
        world.commit()
        worker = world.worker()
        worker.enter()
        assert worker.host("b.test") == ("b", 0, 2)
        assert slot_of(world, "x") == (0, 2)

    def test_a_machine_that_is_another_apps_now_gets_another_slot(self, world: World) -> None:
        self.fill(world)
        world.commit()
        world.writer = world.new_writer()
        world.app("b")
        world.machine("m1", "b")
        world.commit()
        assert slot_of(world, "m1") == (3, 1)

    def test_generations_go_on(self, world: World) -> None:
        for expected in range(1, 6):
            world.writer = world.new_writer()
            world.commit()
            assert world.reader().generation == expected

    def test_it_waits_for_readers_of_the_segment_and_gives_up_in_the_end(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("flyproxy._speedups.shm.table_writer.READERS_WAIT_S", 0.05)
        world.commit()
        stuck = world.worker(3)
        stuck.enter()
        world.writer.reset()  # it reads the active segment
        world.commit()  # and now the one that is not
        with pytest.raises(TimeoutError, match="process index 3 still reads the former one"):
            world.writer.reset()
        stuck.leave()
        world.writer.reset()

    def test_it_does_not_wait_for_the_dead(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flyproxy._speedups.shm.table_writer.READERS_WAIT_S", 0.05)
        world.commit()
        world.worker(3).enter()
        world.writer.reset()
        world.commit()
        world.root.reclaim_proc(3)
        world.writer.reset()

    def test_a_writer_that_died_half_way_left_the_active_table_whole(self, world: World) -> None:
        self.fill(world)
        world.commit()
        pid = os.fork()
        if pid == 0:
            dying = TableWriter(world.fds, {}, "yyz", "host1", KEY)
            dying.reset()
            dying.put_app("a", [service()])
            for i in range(50):
                dying.put_machine(f"x{i}", "a", v4("10.0.0.1"), 1, "yyz", "h", "passing", False)
            os._exit(0)
        os.waitpid(pid, 0)
        worker = world.worker()
        worker.enter()
        assert worker.candidates("a.test") == [[0, 1, 2]]
        world.writer = world.new_writer()
        self.fill(world)
        world.commit()
        worker.enter()
        assert worker.candidates("a.test") == [[0, 1, 2]]


class TableModel(RuleBasedStateMachine):
    """Any sequence of changes, commits and restarts: readers find the join of the records as of the last commit."""

    apps = st.sampled_from(["one", "two", "three"])
    hosts = st.sampled_from(["a.test", "b.test", "*.c.test", "x.c.test"])
    ids = st.sampled_from([f"m{i}" for i in range(6)])
    regions = st.sampled_from(["yyz", "ams", ""])
    health = st.sampled_from(["passing", "critical", "unknown"])
    peers = st.sampled_from(["host2", "host3"])

    def __init__(self) -> None:
        super().__init__()
        self.world = World(apps=4, hostnames=4, addresses=4, machines=6, mesh=True)
        self.worker = self.world.worker()
        kinds = ("apps", "hosts", "addresses", "machines", "peers")
        self.records: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
        self.order: list[str] = []
        self.published_order: list[str] = []
        self.published: dict[str, dict[str, Any]] = {kind: {} for kind in self.records}
        self.clean = True

    def teardown(self) -> None:
        self.world.close()

    @rule(app=apps, limit=st.integers(1, 3), balance=st.sampled_from(["least", "hash"]))
    def put_app(self, app: str, limit: int, balance: str) -> None:
        self.world.app(app, service(port(80, "http"), hard=limit, balance=balance))
        self.records["apps"][app] = limit

    @rule(app=apps)
    def remove_app(self, app: str) -> None:
        self.world.writer.remove_app(app)
        self.records["apps"].pop(app, None)

    @rule(host=hosts, app=apps)
    def put_host(self, host: str, app: str) -> None:
        self.world.writer.put_hostname(host, app)
        self.records["hosts"][host] = app

    @rule(host=hosts)
    def remove_host(self, host: str) -> None:
        self.world.writer.remove_hostname(host)
        self.records["hosts"].pop(host, None)

    @rule(number=st.integers(1, 4), app=st.none() | apps)
    def put_address(self, number: int, app: str | None) -> None:
        self.world.writer.put_address(v4(f"10.0.0.{number}"), app)
        self.records["addresses"][number] = app

    @rule(number=st.integers(1, 4))
    def remove_address(self, number: int) -> None:
        self.world.writer.remove_address(v4(f"10.0.0.{number}"))
        self.records["addresses"].pop(number, None)

    @rule(
        id=ids, app=apps, region=regions, health=health, cordoned=st.booleans(), number=st.integers(1, 9),
        host=peers | st.sampled_from(["host1", ""]),
    )  # fmt: skip
    def put_machine(self, id: str, app: str, region: str, health: str, cordoned: bool, number: int, host: str) -> None:
        self.world.machine(id, app, region, health, cordoned=cordoned, port=number, host=host)
        self.records["machines"][id] = (app, region, health != "critical" and not cordoned, number, host)

    @rule(id=peers, epoch=st.integers(1, 3))
    def put_peer(self, id: str, epoch: int) -> None:
        self.world.host(id, epoch=epoch)
        self.records["peers"][id] = epoch

    @rule(id=peers)
    def remove_peer(self, id: str) -> None:
        self.world.writer.remove_host(id)
        self.records["peers"].pop(id, None)

    @rule(order=st.lists(regions, max_size=2))
    def set_order(self, order: list[str]) -> None:
        self.world.writer.set_region_order(order)
        self.order = order

    @rule(id=ids)
    def remove_machine(self, id: str) -> None:
        self.world.writer.remove_machine(id)
        self.records["machines"].pop(id, None)

    @rule()
    def commit(self) -> None:
        self.world.commit()
        self.published = {kind: dict(records) for kind, records in self.records.items()}
        self.published_order = self.order

    @rule()
    def restart(self) -> None:
        self.world.writer = self.world.new_writer()
        self.records = {kind: {} for kind in self.records}
        self.order = []

    @rule()
    def turn(self) -> None:
        self.worker.enter()

    @precondition(lambda self: self.worker.epoch())
    @rule()
    def sleep(self) -> None:
        self.worker.leave()

    @invariant()
    def readers_find_what_was_committed(self) -> None:
        self.worker.enter()
        apps, machines = self.published["apps"], self.published["machines"]
        names = {
            slot: (id, port)
            for slot, id, port in ((m["slot"], m["id"], m["port"]) for m in self.world.reader().machines())
        }
        assert dict(names.values()) == {id: record[3] for id, record in machines.items()}
        self.check_where(machines, names)
        for host in ("a.test", "b.test", "x.c.test", "y.c.test", "c.test"):
            hosts = self.published["hosts"]
            app = hosts.get(host)
            if app not in apps and host.endswith(".c.test"):
                app = hosts.get("*.c.test")
            found = self.worker.host(host)
            assert (found[0] if found else None) == (app if app in apps else None)
            if found:
                self.check_lists(host, found[0], apps[found[0]], machines, names)
        for number in range(1, 5):
            owner = self.published["addresses"].get(number, "unknown")
            kind, found = self.worker.address(v4(f"10.0.0.{number}"))
            assert kind == ("shared" if owner is None else "app" if owner in apps else "unknown")
        self.worker.leave()

    def check_where(self, machines: dict[str, Any], names: dict[int, Any]) -> None:
        """Each machine names its host's record, and is found by its id."""
        peers, known = self.world.peers(), self.published["peers"]
        assert {host["id"]: host["epoch"] for host in self.world.reader().hosts()} == known
        for slot, (id, _) in names.items():
            host, where = machines[id][4], peers.host_slot(slot)
            if isinstance(where, int):
                where = peers.host(where)[0]  # type: ignore[index]
            assert where == ("here" if host in ("", "host1") else host if host in known else "unknown")
            found = peers.machine_by_id(id)
            assert found is not None and found[0] == slot

    def check_lists(self, host: str, app: str, limit: int, machines: dict[str, Any], names: dict[int, Any]) -> None:
        mine = {id: record for id, record in machines.items() if record[0] == app}
        routable: dict[str, set[str]] = {}
        for id, (_, region, ok, *_) in mine.items():
            if ok:
                routable.setdefault(region, set()).add(id)
        order = ["yyz", *self.published_order]
        nearest_first = sorted(
            routable, key=lambda region: (order.index(region) if region in order else len(order), region)
        )
        assert [{names[slot][0] for slot in slots} for slots in self.worker.candidates(host)] == [
            routable[region] for region in nearest_first
        ]
        record = self.worker.service(host)
        assert (record[4], record[5], record[6]) == (limit, len(mine), sum(map(len, routable.values())))
        assert {names[slot][0] for slot in self.worker.ring(host)} in (
            set(),
            routable[nearest_first[0]] if nearest_first else set(),
        )


TestTableModel = TableModel.TestCase
TestTableModel.settings = settings(derandomize=True, max_examples=120, stateful_step_count=40, deadline=None)


def test_a_writer_that_ends_in_a_garbage_cycle_gives_its_memory_back():
    """Run in a child: its end used to touch parts that the collector had emptied."""
    code = """
import gc, os
from flyproxy._speedups.shm.beat import create_segments
from flyproxy._speedups.shm.table import TableWriter
for _ in range(20):
    fds = create_segments(apps=16, hostnames=16, addresses=16, machines=16, procs=16, slots=1)
    class Holder:
        pass
    holder = Holder()
    holder.itself, holder.writer = holder, TableWriter(fds, {}, "loc", "host", b"k" * 16)
    holder.writer.reset()
    holder.writer.put_hostname("a.example", "a")
    holder.writer.commit(1)
    del holder
    gc.collect()
    for fd in fds.values():
        os.close(fd)
try:
    TableWriter({}, {}, "loc", "host", b"short")
except ValueError:
    print("whole")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (0, "whole\n"), ended.stderr

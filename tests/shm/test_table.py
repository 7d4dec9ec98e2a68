"""Look-ups: what the writer puts is what readers find, by every way that leads to it."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from flyproxy._speedups import _testing_shm as door
from flyproxy._speedups.shm.table import TableFull, TableWriter
from tests.shm.world import KEY, World, port, service, v4


def name(found: tuple[str, int, int] | None) -> str | None:
    return found[0] if found else None


class TestHosts:
    def test_exact_names_win_over_wildcards(self, world: World) -> None:
        world.app("exact", hosts=["a.example.com"])
        world.app("wild", hosts=["*.example.com"])
        world.commit()
        worker = world.worker()
        worker.enter()
        assert name(worker.host("a.example.com")) == "exact"
        assert name(worker.host("b.example.com")) == "wild"

    @pytest.mark.parametrize("host", ["example.com", "a.b.example.com", ".example.com", "", "com", "*", "x" * 254])
    def test_a_wildcard_is_exactly_one_label(self, world: World, host: str) -> None:
        world.app("wild", hosts=["*.example.com"])
        world.commit()
        worker = world.worker()
        worker.enter()
        assert worker.host(host) is None

    def test_names_of_every_length(self, world: World) -> None:
        names = [("a" * n + ".b")[-n:] if n > 2 else "abc"[:n] for n in (1, 2, 8, 9, 63, 64, 120, 253)]
        world.app("a", hosts=names)
        world.commit()
        worker = world.worker()
        worker.enter()
        assert [name(worker.host(host)) for host in names] == ["a"] * len(names)

    def test_a_host_moves_from_one_app_to_another_at_commit(self, world: World) -> None:
        world.app("one", hosts=["h.test"])
        world.app("two")
        world.commit()
        worker = world.worker()
        world.writer.put_hostname("h.test", "two")
        worker.enter()
        assert name(worker.host("h.test")) == "one"
        world.commit()
        worker.enter()
        assert name(worker.host("h.test")) == "two"

    @pytest.mark.parametrize("host", ["", "A.test", "a*.test", "*.*.test", "a.*", "ü.test", "x" * 254])
    def test_names_that_cannot_be_a_host_are_refused(self, world: World, host: str) -> None:
        with pytest.raises(ValueError, match="hostname"):
            world.writer.put_hostname(host, "a")

    def test_thousands_of_names_come_and_go(self, make_world: Callable[..., World]) -> None:
        world = make_world(hostnames=5000)
        world.app("a")
        worker = world.worker()
        for step in range(12):
            for i in range(step * 400, step * 400 + 400):
                world.writer.put_hostname(f"h{i}.test", "a")
            for i in range(step * 400 - 400, step * 400):
                world.writer.remove_hostname(f"h{i}.test")
            world.commit()
            worker.enter()
            assert all(worker.host(f"h{i}.test") for i in range(step * 400, step * 400 + 400))
            assert not any(worker.host(f"h{i}.test") for i in range(step * 400))


class TestAddressesAndPorts:
    def test_addresses_of_both_families(self, world: World) -> None:
        six = ipaddress.IPv6Address("2001:db8::1").packed
        world.app("a")
        world.writer.put_address(v4("192.0.2.1"), "a")
        world.writer.put_address(six, "a")
        world.writer.put_address(v4("192.0.2.2"), None)
        world.writer.put_address(v4("192.0.2.3"), "undeclared")
        world.commit()
        worker = world.worker()
        worker.enter()
        assert (worker.address(v4("192.0.2.1"))[0], name(worker.address(v4("192.0.2.1"))[1])) == ("app", "a")
        assert name(worker.address(six)[1]) == "a"
        assert worker.address(v4("192.0.2.2")) == ("shared", None)
        assert worker.address(v4("192.0.2.3")) == ("unknown", None)
        assert worker.address(v4("192.0.2.9")) == ("unknown", None)
        assert [world.reader().lookup_address(v4(f"192.0.2.{i}")) for i in (1, 2, 9)] == ["a", "", None]

    def test_ports_and_ranges(self, world: World) -> None:
        web, api = port(80, "http", force_https=True), port(443, "tls", "http", pristine=True, h2_backend=True)
        raw = port(5000, "proxy_proto", end=5999, proxy_version=2, idle_timeout=1.5, headers_read_timeout=0.25)
        world.app("a", service(web, api), service(raw, internal_port=5432), hosts=["a.test"])
        world.commit()
        worker = world.worker()
        worker.enter()
        assert worker.port("a.test", 80) == (80, 80, 1, 1, 0, 0, 0, 0, 0, 0)
        assert worker.port("a.test", 443) == (443, 443, 3, 0, 1, 0, 0, 0, 0, 1)
        assert worker.port("a.test", 5000) == worker.port("a.test", 5999) == (5000, 5999, 4, 0, 0, 2, 1, 1500, 250, 0)
        assert [worker.port("a.test", n) for n in (1, 79, 81, 4999, 6000, 65535)] == [None] * 6

    def test_a_raw_port_has_one_user_or_none_is_told(self, world: World) -> None:
        worker = world.worker()
        world.app("one", service(port(5432)))
        world.app("web", service(port(8000, "http")))
        world.app("secure", service(port(9000, "tls"), port(9001, "pg_tls")))
        world.commit()
        worker.enter()
        assert [name(worker.raw_port(n)) for n in (5432, 8000, 9000, 9001, 1)] == ["one", None, None, None, None]
        world.app("two", service(port(5000, end=6000)))
        world.commit()
        worker.enter()
        assert [name(worker.raw_port(n)) for n in (5432, 5433)] == [None, "two"]
        world.writer.remove_app("one")
        world.commit()
        worker.enter()
        assert name(worker.raw_port(5432)) == "two"

    def test_http_ports_are_those_that_any_app_serves(self, world: World) -> None:
        world.app("one", service(port(80, "http"), port(90)))
        world.app("two", service(port(80, "http"), port(443, "tls", "http")))
        world.commit()
        worker = world.worker()
        worker.enter()
        assert [worker.http_port(n) for n in (80, 90, 443, 81)] == [True, False, True, False]
        world.writer.remove_app("one")
        world.app("two", service(port(90, "http")))
        world.commit()
        worker.enter()
        assert [worker.http_port(n) for n in (80, 90, 443)] == [False, True, False]

    @pytest.mark.parametrize(("bad", "message"), [
        (service(port(0)), "0-0 is not within"), (service(port(90, end=80)), "ends before it starts"),
        (service(port(80), port(70, end=90)), "named once"), (service(port(80, "smtp")), "'smtp' is not one of"),
        (service(hard=-1), "hard_limit"), (service(balance="best"), "'best' is not one of"),
        (service(balance="hash", balance_key="body:x"), "'body' is not one of"),
        (service(balance="hash", balance_key="header:"), "must have 1 to 63"),
    ])  # fmt: skip
    def test_what_the_table_cannot_hold_is_refused_and_nothing_changes(
        self, world: World, bad: dict[str, object], message: str
    ) -> None:
        world.app("a", service(port(7)), hosts=["a.test"])
        with pytest.raises(ValueError, match=message):
            world.app("a", bad)
        world.commit()
        worker = world.worker()
        worker.enter()
        assert worker.port("a.test", 7) is not None


class TestMachines:
    def test_only_routable_machines_are_listed_nearest_region_first(self, world: World) -> None:
        world.app("a", hosts=["a.test"])
        for region in ("syd", "yyz", "ams"):
            world.machines("a", 2, region, prefix=region)
        world.machine("sick", "a", health="critical")
        world.machine("new", "a", health="unknown")
        world.machine("parked", "a", cordoned=True)
        world.commit()
        worker = world.worker()
        worker.enter()
        slots = {machine["id"]: machine["slot"] for machine in world.reader().machines()}
        listed = [["yyz0", "yyz1", "new"], ["ams0", "ams1"], ["syd0", "syd1"]]
        assert worker.candidates("a.test") == [[slots[id] for id in region] for region in listed]
        assert worker.service("a.test")[5:] == (9, 7, 3)

    def test_a_machine_changes_region_health_and_cordon(self, world: World) -> None:
        world.app("a", hosts=["a.test"])
        world.machines("a", 3)
        worker = world.worker()
        for region, health, cordoned, lists in [
            ("ams", "passing", False, [[0, 2], [1]]),
            ("ams", "critical", False, [[0, 2]]),
            ("yyz", "critical", False, [[0, 2]]),
            ("yyz", "passing", False, [[0, 2, 1]]),
            ("yyz", "passing", True, [[0, 2]]),
            ("yyz", "unknown", False, [[0, 2, 1]]),
        ]:  # fmt: skip
            world.machine("m1", "a", region, health, cordoned=cordoned)
            world.commit()
            worker.enter()
            assert worker.candidates("a.test") == lists
            assert worker.machine(1, 1) == (
                "m1",
                8080,
                ["unknown", "passing", "critical"].index(health),
                cordoned,
                region,
            )

    def test_long_lists_become_short_and_long_again(self, make_world: Callable[..., World]) -> None:
        world = make_world(machines=200)
        world.app("a", hosts=["a.test"])
        worker = world.worker()
        for count in (200, 64, 65, 3, 66, 200):
            for i in range(200):
                world.machine(f"m{i}", "a", health="passing" if i < count else "critical")
            world.commit()
            worker.enter()
            assert sorted(worker.candidates("a.test")[0]) == list(range(count))
            worker.leave()

    def test_a_changed_record_alone_keeps_the_lists(self, world: World) -> None:
        world.app("a", hosts=["a.test"])
        world.machines("a", 3)
        world.commit()
        world.machine("m1", "a", port=9999)
        world.commit()
        worker = world.worker()
        worker.enter()
        assert worker.candidates("a.test") == [[0, 1, 2]]
        assert worker.machine(1, 1)[1] == 9999

    def test_services_share_the_machines_and_keep_their_ids_by_internal_port(self, world: World) -> None:
        world.app("a", service(port(80, "http"), internal_port=1), service(port(81), internal_port=2), hosts=["a.test"])
        world.machines("a", 2)
        world.commit()
        worker = world.worker()
        worker.enter()
        one, two = worker.service("a.test", 0), worker.service("a.test", 1)
        assert worker.candidates("a.test", 0) == worker.candidates("a.test", 1) == [[0, 1]]
        assert worker.service_by_id(two[0], two[1]) == two
        assert worker.service_by_id(two[0], two[1] + 1) is None
        world.app("a", service(port(82), internal_port=3), service(port(81), internal_port=2))
        world.commit()
        worker.enter()
        assert worker.service("a.test", 1)[:3] == two[:3]
        assert worker.service("a.test", 0)[0] not in (one[0], two[0])
        assert worker.service_by_id(one[0], one[1]) is None

    @pytest.mark.parametrize(("change", "message"), [
        ({"id": ""}, "needs an id"), ({"id": "x" * 40}, "machine id"), ({"port": 65536}, "port 65536"),
        ({"region": "x" * 16}, "region"), ({"health": "well"}, "'well' is not one of"), ({"address": b"1"}, "1 bytes"),
        ({"app": ""}, "app ''"), ({"app": "x" * 64}, "1 to 63"),
    ])  # fmt: skip
    def test_records_that_the_table_cannot_hold_are_refused(
        self, world: World, change: dict[str, object], message: str
    ) -> None:
        record = {"id": "m", "app": "a", "region": "yyz", "health": "passing", **change}
        with pytest.raises(ValueError, match=message):
            world.machine(**record)  # type: ignore[arg-type]


class TestCommit:
    def test_nothing_shows_before_commit(self, world: World) -> None:
        worker = world.worker()
        world.app("a", hosts=["a.test"])
        world.machines("a", 2)
        worker.enter()
        assert worker.host("a.test") is None
        assert worker.enter() == (0, 0)
        world.commit()
        assert worker.enter() == (1, 1)
        assert name(worker.host("a.test")) == "a"

    def test_records_may_come_in_any_order(self, world: World) -> None:
        world.writer.put_hostname("a.test", "a")
        world.machines("a", 2)
        world.commit()
        worker = world.worker()
        worker.enter()
        assert worker.host("a.test") is None
        world.app("a")
        world.commit()
        worker.enter()
        assert worker.candidates("a.test") == [[0, 1]]

    def test_a_removed_app_comes_back_with_all_that_names_it(self, world: World) -> None:
        world.app("a", hosts=["a.test"])
        world.machines("a", 2)
        world.commit()
        world.writer.remove_app("a")
        world.commit()
        worker = world.worker()
        worker.enter()
        assert worker.host("a.test") is None
        world.app("a")
        world.commit()
        worker.enter()
        assert worker.candidates("a.test") == [[0, 1]]

    def test_an_app_that_nothing_names_gives_up_its_place(self, make_world: Callable[..., World]) -> None:
        world = make_world(apps=1)
        for i in range(200):
            world.app(f"a{i}", hosts=["a.test"])
            world.commit()
            world.writer.remove_hostname("a.test")
            world.writer.remove_app(f"a{i}")
            world.commit()
        assert world.writer.usage()["apps"] == 0

    def test_commit_wakes_every_living_engine(self, world: World) -> None:
        world.wakes.update({proc: os.eventfd(0, os.EFD_NONBLOCK) for proc in (0, 1)})
        world.writer = world.new_writer()
        world.worker(1)
        world.commit()
        assert os.eventfd_read(world.wakes[1]) == 1
        with pytest.raises(BlockingIOError):
            os.eventfd_read(world.wakes[0])

    def test_the_writer_wants_a_reset_first(self, world: World) -> None:
        writer = TableWriter(world.fds, {}, "yyz", "h", KEY)
        with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
            writer.put_app("a", [])

    def test_generation_and_age_move(self, world: World) -> None:
        reader = world.reader()
        assert (reader.generation, reader.published_ns) == (0, 0)
        world.commit()
        first = reader.published_ns
        world.commit()
        assert reader.generation == 2
        assert reader.published_ns > first > 0


class TestFull:
    def test_each_capacity_names_its_setting_and_leaves_the_table_as_it_was(
        self, make_world: Callable[..., World]
    ) -> None:
        world = make_world(apps=2, hostnames=2, addresses=2, machines=2)
        worker = world.worker()
        for i in range(2):
            world.app(f"a{i}", hosts=[f"h{i}.test"])
            world.writer.put_address(v4(f"10.0.0.{i}"), f"a{i}")
            world.machine(f"m{i}", f"a{i}")
        world.commit()
        for what, attempt in {
            "apps": lambda: world.app("a2"),
            "hostnames": lambda: world.writer.put_hostname("h2.test", "a0"),
            "addresses": lambda: world.writer.put_address(v4("10.0.0.9"), "a0"),
            "machines": lambda: world.machine("m2", "a0"),
        }.items():
            with pytest.raises(TableFull, match=rf"all 2 {what} are in use; raise \[table\] {what} ") as refusal:
                attempt()
            assert (refusal.value.capacity, refusal.value.setting) == (what, f"[table] {what}")
        world.commit()
        worker.enter()
        assert [name(worker.host(f"h{i}.test")) for i in range(3)] == ["a0", "a1", None]
        assert [worker.candidates(f"h{i}.test") for i in range(2)] == [[[0]], [[1]]]
        assert world.reader().usage()["refused"] == 4
        world.writer.remove_machine("m1")
        world.machine("m2", "a0")  # room again at once: spare slots bridge the grace period
        world.commit()

    def test_memory_held_by_a_stuck_reader_is_bounded_told_and_given_back(
        self, make_world: Callable[..., World]
    ) -> None:
        world = make_world(machines=4000)
        world.app("a", hosts=["a.test"])
        world.machines("a", 4000)
        world.commit()
        stuck = world.worker(7)
        stuck.enter()
        stuck.hold("a.test")
        before = stuck.held_candidates()
        with pytest.raises(TableFull, match=r"wait for process index 7\); raise \[table\] machines or apps"):
            for i in range(20_000):
                world.machine("m0", "a", health="critical" if i % 2 else "passing")
                world.machine("m1", "a", health="critical" if i % 2 else "passing")
                world.commit()
        assert stuck.held_candidates() == before == [list(range(4000))]
        generation = world.reader().generation
        with pytest.raises(TableFull):
            world.commit()
        assert world.reader().generation == generation
        stuck.leave()
        world.commit()
        assert world.writer.usage()["waiting"] == 0
        assert world.writer.usage()["used"] < 2 << 20


def test_reader_copies_whole_apps(world: World) -> None:
    world.app(
        "a", service(port(80, "http"), soft=5, hard=10, balance="hash", balance_key="header:X-Key", half_close=True)
    )
    world.machine("m", "a")
    world.commit()
    world.worker().admit("inflight", 0, 0)
    [app] = world.reader().apps()
    [web] = app.pop("services")
    assert app == {"name": "a", "id": 0, "generation": 1, "machines": 1, "routable": 1}
    assert web["key"] == "x-key"
    assert (web["soft_limit"], web["hard_limit"], web["balance"], web["half_close"]) == (5, 10, "hash", True)
    assert web["regions"] == [("yyz", [0])]
    assert web["ports"][0]["handlers"] == ["http"]
    [machine] = world.reader().machines()
    assert machine == {
        "id": "m",
        "app": "a",
        "address": v4("10.0.0.1"),
        "port": 8080,
        "region": "yyz",
        "host": "host1",
        "health": "passing",
        "cordoned": False,
        "slot": 0,
        "generation": 1,
        "in_flight": 1,
    }


def test_siphash_is_the_one_that_python_uses() -> None:
    code = "import sys; print([hash(bytes(range(n))) for n in range(1, 40)])"
    out = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "0"}, capture_output=True, check=True, text=True
    )
    ours = [door.siphash13(bytes(16), bytes(range(n))) for n in range(1, 40)]
    assert sys.hash_info.algorithm == "siphash13"
    assert [value & 0xFFFFFFFFFFFFFFFF for value in eval(out.stdout)] == ours

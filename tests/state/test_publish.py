"""The publisher: order, orphans, refusals; against a table that insists on the order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyproxy.apps.model import VERSION, App, Port, Service
from flyproxy.state.guard import Place, Update
from flyproxy.state.publish import Publisher, WantedPort
from flyproxy.state.records import Health, Hostname, Ip, Record
from flyproxy.units import ip16
from tests.state.fakes import FakeFull, FakeTable, gone, host, http_app, machine, put


class Notes:
    def __init__(self) -> None:
        self.touched: list[Place] = []
        self.bad: dict[Place, str] = {}

    def touching(self, place: Place) -> None:
        self.touched.append(place)

    def refused(self, place: Place, reason: str) -> None:
        self.bad[place] = reason

    def taken(self, place: Place) -> None:
        self.bad.pop(place, None)


def publisher(machines: int = 10_000) -> tuple[Publisher, FakeTable, Notes]:
    table, notes = FakeTable(machines), Notes()
    return Publisher(table, notes, (FakeFull,)), table, notes


HOST = Hostname(VERSION, "hello.example", "hello")
IP = Ip(VERSION, "192.0.2.1", "hello")
SHARED = Ip(VERSION, "192.0.2.2", None)
BELONGINGS: list[Record] = [HOST, IP, machine("m", "hello")]


def test_apps_go_in_before_what_names_them_whatever_the_order_of_the_batch() -> None:
    one, table, _ = publisher()
    one.apply([put(record) for record in [*BELONGINGS, SHARED, http_app("hello")]])
    one.commit(7)
    assert table.commits == [7]
    assert table.view["hostnames"] == {"hello.example": "hello"}
    assert table.view["addresses"] == {ip16("192.0.2.1"): "hello", ip16("192.0.2.2"): None}
    assert table.view["machines"].keys() == {"m"}


def test_orphans_follow_when_their_app_comes_and_wait_again_when_it_goes() -> None:
    one, table, _ = publisher()
    one.apply([put(record) for record in BELONGINGS])
    assert (table.hostnames, table.addresses, table.machines) == ({}, {}, {})
    one.apply([put(http_app("hello"))])
    assert len(table.hostnames) == len(table.addresses) == len(table.machines) == 1
    one.apply([gone(http_app("hello"))])
    assert table.apps == table.hostnames == table.addresses == table.machines == {}
    one.apply([put(http_app("hello"))])
    assert len(table.hostnames) == len(table.addresses) == len(table.machines) == 1


def test_what_goes_to_another_app_leaves_the_first() -> None:
    one, table, _ = publisher()
    one.apply([put(record) for record in [*BELONGINGS, http_app("hello"), http_app("world")]])
    one.apply([put(Hostname(VERSION, "hello.example", "world")), put(machine("m", "nobody"))])
    assert table.hostnames == {"hello.example": "world"}
    assert table.machines == {}
    one.apply([gone(http_app("hello"))])
    assert table.hostnames == {"hello.example": "world"}


def test_of_several_updates_of_a_record_in_one_batch_the_last_counts() -> None:
    one, table, _ = publisher()
    one.apply([put(http_app("a")), gone(http_app("a")), gone(http_app("b")), put(http_app("b"))])
    assert table.apps.keys() == {"b"}


def test_health_reaches_the_machine_before_and_after_it() -> None:
    one, table, _ = publisher()
    sick = Health(VERSION, "m", "critical")
    one.apply([put(sick, scope="r-ams"), put(http_app("hello")), put(machine("m", "hello"))])
    assert table.machines["m"][-2:] == ("critical", False)
    one.apply([put(Health(VERSION, "m", "passing"), scope="r-ams")])
    assert table.machines["m"][-2:] == ("passing", False)
    one.apply([gone(sick, scope="r-ams")])
    assert table.machines["m"][-2:] == ("unknown", False)


def test_a_machine_that_moves_to_another_region_stays_one_machine() -> None:
    one, table, _ = publisher()
    one.apply([put(http_app("hello")), put(machine("m", "hello"))])
    one.apply([gone(machine("m", "hello")), put(machine("m", "hello", region="syd"))])
    assert table.machines["m"][3] == "syd"
    one.apply([put(Health(VERSION, "m", "critical"), scope="r-syd")])
    assert table.machines["m"][-2] == "critical"


def test_a_machine_that_finds_no_room_is_told_and_gets_in_when_there_is_some() -> None:
    one, table, notes = publisher(machines=2)
    one.apply([put(http_app("hello")), *[put(machine(f"m{n}", "hello")) for n in range(3)]])
    assert notes.bad == {("r-ams", "machine.m2"): "the table holds no more machines; raise table.machines"}
    assert table.machines.keys() == {"m0", "m1"}
    one.apply([gone(machine("m0", "hello"))])
    assert table.machines.keys() == {"m1", "m2"}
    assert notes.bad == {}


def test_an_app_takes_the_place_of_another_in_one_batch_of_a_full_table() -> None:
    table, notes = FakeTable(apps=1), Notes()
    one = Publisher(table, notes, (FakeFull,))
    one.apply([put(record) for record in [http_app("hello"), *BELONGINGS]])
    one.commit(1)
    world = [http_app("world"), Hostname(VERSION, "world.example", "world"), machine("w", "world")]
    one.apply([gone(http_app("hello")), *[put(record) for record in world]])
    one.commit(2)
    assert table.view["apps"].keys() == {"world"} and table.commits == [1, 2, 2]
    assert table.view["hostnames"] == {"world.example": "world"} and table.view["machines"].keys() == {"w"}
    assert notes.bad == {} and one.no_room == {}


def test_udp_is_kept_out_of_the_table_and_hard_limits_and_options_arrive() -> None:
    one, table, _ = publisher()
    services = (
        Service("udp", 53, (Port(53, 53),)),
        Service("tcp", 8080, (Port(80, 90, ("http",), True, True, 2, 3, 4, h2_backend=True),), balance="hash",
                balance_key="cookie:c"),
    )
    one.apply([put(App(VERSION, "hello", services))])
    assert table.apps["hello"] == [{
        "internal_port": 8080, "concurrency": "connections", "soft_limit": 20, "hard_limit": 0, "balance": "hash",
        "balance_key": "cookie:c", "half_close": False, "ports": [{
            "start": 80, "end": 90, "handlers": ["http"], "force_https": True, "pristine": True, "proxy_version": 2,
            "idle_timeout": 3, "headers_read_timeout": 4, "h2_backend": True,
        }],
    }]


def test_hosts_of_the_mesh_come_change_and_go_and_are_there_before_machines() -> None:
    one, table, _ = publisher()
    one.apply([put(machine("m", "hello")), put(host("h1")), put(http_app("hello"))])
    assert table.calls == ["put_app hello", "put_host h1", "put_machine m"]
    assert table.hosts == {"h1": ("ams", ip16("10.9.0.1"), [7443, 7444], 1_800_000_000, ["edge", "worker"], False)}
    one.apply([put(host("h1", address="10.9.0.2", epoch=1_800_000_001))])
    assert table.hosts["h1"][1:4:2] == (ip16("10.9.0.2"), 1_800_000_001)
    one.apply([gone(host("h1"))])
    assert table.hosts == {}


def test_wanted_ports_are_those_of_the_apps_in_the_table() -> None:
    one, _, _ = publisher()
    one.apply([
        put(http_app("a", port=443, handlers=("tls", "http"))), put(http_app("b", port=8443, handlers=("pg_tls",))),
        put(http_app("c", port=443)), put(App(VERSION, "u", (Service("udp", 53, (Port(53, 53),)),))),
    ])
    assert one.wanted_ports() == [WantedPort(443, None, ["a", "c"]), WantedPort(8443, "waiting: tls", ["b"])]
    assert one.apps_changed
    one.apps_changed = False
    one.apply([put(machine("m", "a"))])
    assert not one.apps_changed
    one.apply([gone(http_app("c"))])
    assert one.wanted_ports()[0] == WantedPort(443, "waiting: tls", ["a"])
    assert one.apps_changed


def test_every_record_is_announced_before_the_writer_sees_it() -> None:
    one, table, notes = publisher()
    table.breaks_on = {"m"}
    one.apply([put(http_app("hello"))])
    with pytest.raises(RuntimeError):
        one.apply([put(machine("m", "hello"))])
    assert notes.touched[-1] == ("r-ams", "machine.m")


APPS = [http_app(name) for name in "ab"]
THINGS: list[Record] = [
    *APPS, *[http_app(name, port=81) for name in "ab"],
    *[Hostname(VERSION, f"{host}.example", app) for host in "xy" for app in "ab"],
    *[Ip(VERSION, "192.0.2.1", app) for app in ("a", "b", None)],
    *[machine(id, app) for id in "mn" for app in "ab"],
]
EVENTS = st.lists(st.lists(st.tuples(st.sampled_from(THINGS), st.booleans()), max_size=4), max_size=12)


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_after_any_history_the_table_holds_exactly_what_has_an_app(batches: list[list[tuple[Record, bool]]]) -> None:
    one, table, _ = publisher()
    wanted: dict[Place, Any] = {}
    for batch in batches:
        updates: list[Update] = []
        for record, add in batch:
            update = put(record) if add else gone(record)
            updates.append(update)
            wanted.pop(update.place, None)
            if add:
                wanted[update.place] = record
        one.apply(updates)
        apps = {record.name for record in wanted.values() if isinstance(record, App)}
        served = [record for record in wanted.values() if getattr(record, "app", None) in {*apps, None}]
        assert table.apps.keys() == apps
        assert table.hostnames == {one.host: one.app for one in served if isinstance(one, Hostname)}
        assert table.addresses == {ip16(one.address): one.app for one in served if isinstance(one, Ip)}
        assert table.machines.keys() == {one.id for one in served if hasattr(one, "cordoned")}

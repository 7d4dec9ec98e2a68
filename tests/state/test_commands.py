"""Commands: idempotent, refused before anything changes, and with codes that scripts can rely on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from flyproxy.apps.model import VERSION, App
from flyproxy.state import commands, views
from flyproxy.state.commands import CommandError
from flyproxy.state.sqlite import SqliteStore
from tests.state.conformance import run
from tests.state.fakes import http_app

Work = Callable[[SqliteStore], Coroutine[Any, Any, None]]


@pytest.fixture
def with_store(tmp_path: Path) -> Callable[[Work], None]:
    def do(work: Work) -> None:
        async def opened() -> None:
            store = SqliteStore(str(tmp_path / "state.db"))
            try:
                await work(store)
            finally:
                await store.close()
        run(opened())
    return do


async def add(store: SqliteStore, app: str = "hello", address: str = "10.0.0.1", **more: Any) -> commands.Revision:
    return await commands.add_machine(store, app, address, **{"port": 0, "region": "ams", "host": "h1", **more})


async def refused(work: Coroutine[Any, Any, Any]) -> str:
    with pytest.raises(CommandError) as error:
        await work
    assert error.value.message
    assert error.value.fix
    assert error.value.where
    return error.value.code


def test_everything_twice_changes_once(with_store: Callable[[Work], None]) -> None:
    async def work(store: SqliteStore) -> None:
        steps: list[Callable[[], Coroutine[Any, Any, commands.Revision]]] = [
            lambda: commands.apply_app(store, http_app("hello")),
            lambda: add(store), lambda: add(store, id="m1", port=9000),
            lambda: commands.cordon(store, "m1"), lambda: commands.uncordon(store, "m1"),
            lambda: commands.set_health(store, "m1", "critical", "refused"),
            lambda: commands.add_hostname(store, "Hello.Example.", "hello"),
            lambda: commands.add_hostname(store, "*.hello.example", "hello"),
            lambda: commands.add_ip(store, "::ffff:192.0.2.1", "hello"),
            lambda: commands.share_ip(store, "192.0.2.2"),
            lambda: commands.remove_ip(store, "192.0.2.1"), lambda: commands.remove_hostname(store, "hello.example"),
            lambda: commands.remove_machine(store, "m1"), lambda: commands.remove_app(store, "hello"),
        ]
        for number, step in enumerate(steps):
            first, second = await step(), await step()
            assert (first.changed, second.changed) == (True, False), number
            assert second >= first
        world = await views.load_world(store)
        assert (world.apps, world.machines, world.hostnames) == ({}, {}, {})
    with_store(work)


def test_what_names_an_app_that_is_not_there_is_refused(with_store: Callable[[Work], None]) -> None:
    async def work(store: SqliteStore) -> None:
        before = (await store.snapshot("g")).cursor.revision
        assert await refused(add(store)) == "app-not-found"
        assert await refused(commands.add_hostname(store, "a.example", "hello")) == "app-not-found"
        assert await refused(commands.add_ip(store, "192.0.2.1", "hello")) == "app-not-found"
        assert await refused(commands.add_ip(store, "192.0.2.1", "No Name!")) == "app-not-found"
        for missing in (commands.cordon(store, "m"), commands.set_health(store, "m", "passing")):
            assert await refused(missing) == "machine-not-found"
        assert (await store.snapshot("g")).cursor.revision == before
    with_store(work)


def test_what_belongs_to_another_app_is_not_taken_from_it(with_store: Callable[[Work], None]) -> None:
    async def work(store: SqliteStore) -> None:
        for name in ("hello", "world"):
            await commands.apply_app(store, http_app(name))
        await commands.add_hostname(store, "a.example", "hello")
        await commands.add_ip(store, "192.0.2.1", "hello")
        await commands.share_ip(store, "192.0.2.2")
        await add(store, id="m1")
        assert await refused(commands.add_hostname(store, "A.example", "world")) == "hostname-taken"
        assert await refused(commands.add_ip(store, "192.0.2.1", "world")) == "ip-taken"
        assert await refused(commands.share_ip(store, "192.0.2.1")) == "ip-taken"
        assert await refused(commands.add_ip(store, "192.0.2.2", "world")) == "ip-taken"
        assert await refused(add(store, app="world", id="m1")) == "machine-taken"
        await commands.remove_hostname(store, "a.example")
        await commands.add_hostname(store, "a.example", "world")
    with_store(work)


@pytest.mark.parametrize(("code", "make"), [
    ("invalid-hostname", lambda store: commands.add_hostname(store, "a b", "hello")),
    ("invalid-hostname", lambda store: commands.remove_hostname(store, "http://a.example/")),
    ("invalid-ip", lambda store: commands.add_ip(store, "300.0.0.1", "hello")),
    ("invalid-ip", lambda store: commands.share_ip(store, "0.0.0.0")),
    ("invalid-machine", lambda store: add(store, address="nowhere")),
    ("invalid-machine", lambda store: add(store, address="0.0.0.0")),
    ("invalid-machine", lambda store: add(store, port=70000)),
    ("invalid-machine", lambda store: add(store, id="Bad Id")),
    ("invalid-machine", lambda store: add(store, id="x" * 40)),
    ("invalid-machine", lambda store: add(store, region="Amsterdam!")),
    ("invalid-machine", lambda store: add(store, host="a host")),
    ("invalid-machine", lambda store: commands.remove_machine(store, "Bad Id")),
    ("invalid-app", lambda store: commands.apply_app(store, http_app("hello", port=70000))),
    ("invalid-app", lambda store: commands.apply_app(store, App(VERSION, "hello", (), ("k" * 70000,)))),
    ("invalid-app", lambda store: commands.remove_app(store, "no name")),
])
def test_bad_values_are_refused_with_a_code_before_anything_changes(
    with_store: Callable[[Work], None], code: str, make: Callable[[SqliteStore], Coroutine[Any, Any, Any]]
) -> None:
    async def work(store: SqliteStore) -> None:
        before = await commands.apply_app(store, http_app("hello"))
        assert await refused(make(store)) == code
        assert (await store.snapshot("g")).cursor.revision == before
    with_store(work)


def test_removing_an_app_takes_all_that_names_it_and_nothing_else(with_store: Callable[[Work], None]) -> None:
    async def work(store: SqliteStore) -> None:
        for name in ("hello", "world"):
            await commands.apply_app(store, http_app(name))
            await commands.add_hostname(store, f"{name}.example", name)
            for region in ("ams", "syd"):
                await add(store, app=name, id=f"{name}-{region}", region=region)
                await commands.set_health(store, f"{name}-{region}", "passing")
        await commands.add_ip(store, "192.0.2.1", "hello")
        await commands.share_ip(store, "192.0.2.2")
        assert (await commands.remove_app(store, "hello")).changed
        world = await views.load_world(store)
        assert world.apps.keys() == {"world"}
        assert world.hostnames == {"world.example": "world"}
        assert world.ips == {"192.0.2.2": None}
        assert world.machines.keys() == {"world-ams", "world-syd"}
        left = [key for scope in ("r-ams", "r-syd") for key in list((await store.snapshot(scope)).values)]
        assert len(left) == 4
        assert all("world" in key for key in left)
    with_store(work)


def test_a_machine_may_move_and_keeps_its_cordon(with_store: Callable[[Work], None]) -> None:
    async def work(store: SqliteStore) -> None:
        await commands.apply_app(store, http_app("hello"))
        await add(store, id="m1")
        await commands.cordon(store, "m1")
        await add(store, id="m1", region="syd", address="10.0.0.2")
        found = await commands.require_machine(store, "m1")
        assert (found.region, found.address, found.cordoned) == ("syd", "10.0.0.2", True)
        assert list((await store.snapshot("r-ams")).values) == []
    with_store(work)


def test_machines_without_an_id_are_named_after_their_place(with_store: Callable[[Work], None]) -> None:
    async def work(store: SqliteStore) -> None:
        await commands.apply_app(store, http_app("hello"))
        for port in (9000, 9000, 9001):
            await add(store, port=port)
        machines = (await views.load_world(store)).machines
        assert len(machines) == 2
        assert all(len(id) == 14 and int(id, 16) >= 0 for id in machines)
    with_store(work)


def test_two_who_change_a_machine_at_once_both_succeed(tmp_path: Path) -> None:
    async def work() -> None:
        stores = [SqliteStore(str(tmp_path / "state.db")) for _ in range(3)]
        await commands.apply_app(stores[0], http_app("hello"))
        await add(stores[0], id="m1")
        await asyncio.gather(*[commands.cordon(store, "m1", bool(n % 2)) for n in range(4) for store in stores])
        assert (await commands.require_machine(stores[0], "m1")).id == "m1"
        for store in stores:
            await store.close()
    run(work())


def test_two_who_want_the_same_host_name_get_one_answer_each(tmp_path: Path) -> None:
    async def work() -> None:
        stores = [SqliteStore(str(tmp_path / "state.db")) for _ in range(2)]
        for name in ("a", "b"):
            await commands.apply_app(stores[0], http_app(name))
        results = await asyncio.gather(
            commands.add_hostname(stores[0], "x.example", "a"), commands.add_hostname(stores[1], "x.example", "b"),
            return_exceptions=True,
        )
        assert sorted(type(result).__name__ for result in results) == ["CommandError", "Revision"]
        for store in stores:
            await store.close()
    run(work())


def test_a_bad_record_can_be_replaced_and_removed(with_store: Callable[[Work], None]) -> None:
    async def work(store: SqliteStore) -> None:
        await store.put("g", "app.hello", b"garbage")
        await store.put("g", "host.a.example", b"garbage")
        assert (await commands.apply_app(store, http_app("hello"))).changed
        assert (await commands.add_hostname(store, "a.example", "hello")).changed
        assert (await commands.remove_hostname(store, "a.example")).changed
    with_store(work)


def test_the_views_have_the_shapes_that_outsiders_rely_on(with_store: Callable[[Work], None]) -> None:
    async def work(store: SqliteStore) -> None:
        await commands.apply_app(store, http_app("hello", port=443, handlers=("tls", "http")))
        await commands.apply_app(store, http_app("world"))
        await add(store, id="m1", port=9000)
        await commands.set_health(store, "m1", "critical")
        await commands.add_hostname(store, "a.example", "hello")
        await commands.share_ip(store, "192.0.2.2")
        await store.put("r-ams", "machine.bad", b"garbage")
        world = await views.load_world(store)
        hello, plain = views.apps(world)
        assert hello == {
            "name": "hello", "hostnames": ["a.example"], "ignored_keys": [],
            "services": [{
                "protocol": "tcp", "internal_port": 8080, "balance": "least", "balance_key": "ip", "half_close": False,
                "ports": [{"port": 443, "handlers": ["tls", "http"], "state": "waiting: tls"}],
                "concurrency": {"type": "connections", "soft_limit": 20, "hard_limit": None},
            }],
        }
        assert plain["services"][0]["ports"][0]["state"] == "unknown"
        assert views.machines(world, "hello") == views.machines(world) == [{
            "id": "m1", "app": "hello", "address": "10.0.0.1", "port": 9000, "region": "ams", "host": "h1",
            "health": "critical", "cordoned": False, "in_flight": None,
        }]
        assert views.machines(world, "world") == []
        assert views.hostnames(world) == [{"hostname": "a.example", "app": "hello"}]
        assert views.ips(world) == [{"address": "192.0.2.2", "app": None, "shared": True}]
    with_store(work)

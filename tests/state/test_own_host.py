"""A host's own record: there when a session begins, kept as it is, and never fought over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from flyproxy.state import commands, own_host
from flyproxy.state.own_host import OwnHost
from flyproxy.state.records import Host, encode
from flyproxy.state.session import Session
from flyproxy.state.sqlite import SqliteStore
from flyproxy.state.views import load_world
from flyproxy.units import ip16
from tests.state.conformance import PATIENCE, run
from tests.state.fakes import FakeFull, FakeTable, host

H1 = host("h1")
KEY = ("g", "node.h1")


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was logged as an error."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("flyproxy.log.error", lambda event, message, **more: told.append({"event": event, **more}))
    return told


def with_session(folder: Path, test: Callable[..., Any], own: Host = H1, round_trips: Any = dict) -> None:
    """Runs ``test(store, table, until)`` beside a session of ``own``."""
    async def work() -> None:
        store, table = SqliteStore(str(folder / "state.db")), FakeTable()
        session = Session(store, table, (FakeFull,), str(folder), "ams", lambda message: None, own, round_trips)
        task = asyncio.create_task(session.run())

        async def until(condition: Callable[[], Any]) -> None:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    if task.done():
                        task.result()
                    await asyncio.sleep(0.002)

        try:
            await test(store, table, until)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store.close()
    run(work())


def test_a_session_writes_its_host_and_serves_it(tmp_path: Path) -> None:
    async def test(store: SqliteStore, table: FakeTable, until: Any) -> None:
        await until(lambda: table.view.get("hosts"))
        assert (await load_world(store)).hosts == {"h1": H1}
        assert table.view["hosts"]["h1"][2] == [7443, 7444]
    with_session(tmp_path, test)


@pytest.mark.parametrize("there", [
    host("h1", epoch=H1.epoch - 1), host("h1", epoch=H1.epoch - 1, address="10.9.9.9"), host("h1", region="syd"),
    structs.replace(H1, tls=True),
])
def test_what_is_older_or_its_own_is_replaced(tmp_path: Path, there: Host) -> None:
    async def test(store: SqliteStore, table: FakeTable, until: Any) -> None:
        expected = ("ams", ip16("10.9.0.1"), [7443, 7444], H1.epoch, ["edge", "worker"], False)
        await until(lambda: table.view.get("hosts") == {"h1": expected})
        assert (await load_world(store)).hosts == {"h1": H1}

    async def before() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        await store.put(*KEY, encode(there))
        await store.close()
    run(before())
    with_session(tmp_path, test)


def test_a_removed_or_spoilt_record_is_written_again(tmp_path: Path) -> None:
    async def test(store: SqliteStore, table: FakeTable, until: Any) -> None:
        await until(lambda: table.view.get("hosts"))
        for spoil in (lambda: commands.remove_host(store, "h1"), lambda: store.put(*KEY, b"[1,")):
            revision = await spoil()
            async with asyncio.timeout(PATIENCE):
                while (found := await store.get(*KEY)) is None or found[1] <= revision:
                    await asyncio.sleep(0.002)
            assert found[0] == encode(H1)
    with_session(tmp_path, test)


@pytest.mark.parametrize("other", [
    host("h1", address="10.9.9.9", epoch=H1.epoch + 1), host("h1", address="10.9.9.9"),
    host("h1", epoch=H1.epoch + 1),
])
def test_a_newer_host_of_the_same_name_keeps_the_record_and_the_older_one_says_so(
    tmp_path: Path, errors: list[dict[str, Any]], other: Host
) -> None:
    async def test(store: SqliteStore, table: FakeTable, until: Any) -> None:
        await until(lambda: table.view.get("hosts"))
        revision = await store.put(*KEY, encode(other))
        await until(lambda: errors)
        assert [(one["event"], one["address"]) for one in errors] == [("host-id-taken", other.address)]
        assert await store.get(*KEY) == (encode(other), revision)
        await until(lambda: table.commits[-1] >= revision)
    with_session(tmp_path, test)


def test_of_two_that_begin_at_once_one_has_the_record_and_neither_writes_for_ever(
    tmp_path: Path, errors: list[dict[str, Any]]
) -> None:
    async def work() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        rivals = [H1, structs.replace(H1, address="10.9.9.9", epoch=H1.epoch + 1)]
        tasks = [asyncio.create_task(OwnHost(store, one).run()) for one in rivals]
        async with asyncio.timeout(PATIENCE):
            while (await load_world(store)).hosts.get("h1") != rivals[1]:
                await asyncio.sleep(0.002)
        _, revision = await store.get(*KEY) or (b"", 0)
        assert revision <= 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()
    run(work())


def test_a_store_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_host, "RETRY", 0.01)
    (tmp_path / "state.db").write_bytes(b"no database " * 500)

    async def work() -> None:
        store, told = SqliteStore(str(tmp_path / "state.db")), asyncio.Event()
        monkeypatch.setattr("flyproxy.log.warning", lambda event, message, **more: told.set())
        task = asyncio.create_task(OwnHost(store, H1).run())
        async with asyncio.timeout(PATIENCE):
            await told.wait()
            (tmp_path / "state.db").unlink()
            while not (await load_world(store)).hosts:
                await asyncio.sleep(0.002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()
    run(work())


def test_the_regions_order_follows_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyproxy.state.session.LOOK_AT_CLOSENESS", 0.01)
    measured = {"syd": 200_000, "fra": 10_000}

    async def test(store: SqliteStore, table: FakeTable, until: Any) -> None:
        await until(lambda: list(table.view.get("regions", ())) == ["fra", "syd"])
        commits = len(table.commits)
        measured["syd"] = 5_000
        await until(lambda: list(table.view["regions"]) == ["syd", "fra"])
        assert len(table.commits) > commits
        measured.clear()
        await until(lambda: list(table.view["regions"]) == [])
    with_session(tmp_path, test, round_trips=lambda: dict(measured))

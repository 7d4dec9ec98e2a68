"""The session: from a real store to a table, through restarts, failures, bad records and full tables."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from flyproxy.apps.model import VERSION
from flyproxy.state import commands, last_good, report
from flyproxy.state.records import Hostname, encode
from flyproxy.state.session import Session
from flyproxy.state.sqlite import SqliteStore
from tests.state.conformance import PATIENCE, run
from tests.state.fakes import FakeFull, FakeTable, http_app


class Running:
    """A session on ``folder`` and what it said and did."""

    def __init__(self, folder: Path, machines: int = 10_000) -> None:
        self.folder = folder
        self.store = SqliteStore(str(folder / "state.db"))
        self.table = FakeTable(machines)
        self.sent: list[dict[str, Any]] = []
        self.session = Session(self.store, self.table, (FakeFull,), str(folder), "ams", self.sent.append)
        self.task = asyncio.ensure_future(self.session.run())

    async def until(self, condition: Callable[[], Any]) -> Any:
        async with asyncio.timeout(PATIENCE):
            while not (value := condition()):
                if self.task.done():
                    self.task.result()
                await asyncio.sleep(0.002)
        return value

    async def served(self, revision: int) -> None:
        await self.until(lambda: self.session.revision >= revision)

    def messages(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.sent if message["t"] == kind]

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        await self.store.close()


@contextlib.asynccontextmanager
async def running(folder: Path, machines: int = 10_000) -> AsyncIterator[Running]:
    one = Running(folder, machines)
    try:
        yield one
    finally:
        await one.stop()


def test_an_empty_store_is_a_table_too(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as one:
            await one.until(lambda: one.messages("ready"))
            assert one.table.commits == [0]
            assert one.messages("ports") == [{"t": "ports", "ports": []}]
            assert one.sent[0] == {"t": "ready"}
    run(work())


def test_what_was_in_the_store_is_served_with_the_first_commit(tmp_path: Path) -> None:
    async def work() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        await commands.apply_app(store, http_app("hello"))
        last = 0
        for region in ("ams", "syd", "nrt"):
            last = await commands.add_machine(store, "hello", "10.0.0.1", region=region, host="h", id=f"m-{region}")
        await store.close()
        async with running(tmp_path) as one:
            await one.until(lambda: one.messages("ready"))
            assert one.table.commits == [last]
            assert one.table.view["machines"].keys() == {"m-ams", "m-syd", "m-nrt"}
    run(work())


def test_changes_reach_the_table_and_the_revision_says_when(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as one:
            writer = SqliteStore(str(tmp_path / "state.db"))
            await one.served(await commands.apply_app(writer, http_app("hello", port=8080)))
            assert one.table.view["apps"].keys() == {"hello"}
            await one.until(lambda: one.messages("ports")[-1]["ports"])
            assert one.messages("ports")[-1]["ports"] == [{"port": 8080, "waiting": None, "apps": ["hello"]}]
            await one.served(await commands.add_hostname(writer, "a.example", "hello"))
            assert one.table.view["hostnames"] == {"a.example": "hello"}
            for region in ("ams", "syd"):
                revision = await commands.add_machine(writer, "hello", "10.0.0.1", region=region, host="", id=region)
                await one.served(revision)
                assert region in one.table.view["machines"]
            await one.served(await commands.cordon(writer, "syd"))
            assert one.table.view["machines"]["syd"][-1] is True
            await one.served(await commands.remove_app(writer, "hello"))
            assert not any(one.table.view.values())
            assert one.messages("ports")[-1]["ports"] == []
            await writer.close()
    run(work())


def test_case_101_bad_records_are_quarantined_and_reported_while_the_last_good_ones_serve(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as one:
            good = await commands.apply_app(one.store, http_app("hello"))
            await one.served(good)
            for key, value in {
                "app.hello": b"[1,", "app.big": b"[" * 65536, "app.new": b'[9,"new"]', "app.typed": b'[1,7]',
                "host.x": b'[1,"y","hello"]',
            }.items():
                last = await one.store.put("g", key, value)
            await one.served(last)
            assert one.table.view["apps"].keys() == {"hello"}
            told = await one.until(lambda: len((now := report.read(str(tmp_path))).quarantined) == 5 and now)
            reasons = {entry.key: entry.reason for entry in told.quarantined}
            assert "truncated" in reasons["app.hello"]
            assert "version 9" in reasons["app.new"]
            assert "Expected `str`" in reasons["app.typed"]
            assert "belongs to" in reasons["host.x"]
            await one.served(await commands.apply_app(one.store, http_app("hello", port=81)))
            await one.until(lambda: report.read(str(tmp_path)).quarantined_now == 4)
        async with running(tmp_path) as again:
            await again.until(lambda: again.messages("ready"))
            assert again.table.view["apps"]["hello"][0]["ports"][0]["start"] == 81
            assert report.read(str(tmp_path)).quarantined_now == 4
    run(work())


def test_a_start_serves_the_last_known_good_files_when_the_store_is_gone(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as one:
            await one.served(await commands.apply_app(one.store, http_app("hello")))
        for path in tmp_path.glob("state.db*"):
            if path.is_file():
                path.unlink()
        (tmp_path / "state.db").write_bytes(b"no database " * 500)
        async with running(tmp_path) as one:
            await one.until(lambda: one.messages("ready"))
            assert one.table.view["apps"].keys() == {"hello"}
            (tmp_path / "state.db").unlink()
            await commands.apply_app(one.store, http_app("world"))
            await one.until(lambda: one.table.view["apps"].keys() == {"hello", "world"})
    run(work())


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scopes whose failing was logged."""
    scopes: list[str] = []
    monkeypatch.setattr(
        "flyproxy.log.error", lambda event, message, **fields: scopes.append(fields.get("scope", "")))
    return scopes


def test_nothing_is_published_when_there_is_neither_store_nor_file(tmp_path: Path, failures: list[str]) -> None:
    async def work() -> None:
        (tmp_path / "state.db").write_bytes(b"no database " * 500)
        async with running(tmp_path) as one:
            await one.until(lambda: len(failures) == 2)
            assert one.sent == []
            assert one.table.commits == []
            (tmp_path / "state.db").unlink()
            await one.until(lambda: one.messages("ready"))
    run(work())


def test_a_start_goes_on_from_the_files_and_sees_what_was_deleted_meanwhile(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as one:
            for n in range(30):
                await commands.apply_app(one.store, http_app(f"a{n}"))
            await one.served((await one.store.snapshot("g")).cursor.revision)
        store = SqliteStore(str(tmp_path / "state.db"))
        for n in range(25):
            await commands.remove_app(store, f"a{n}")
        last = await commands.apply_app(store, http_app("new"))
        await store.close()
        async with running(tmp_path) as one:
            await one.served(last)
            assert one.table.view["apps"].keys() == {*(f"a{n}" for n in range(25, 30)), "new"}
            assert report.read(str(tmp_path)).held_now == 0
    run(work())


def test_a_store_that_was_emptied_by_mistake_takes_nothing_away(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as one:
            for n in range(30):
                await commands.apply_app(one.store, http_app(f"a{n}"))
            await one.served((await one.store.snapshot("g")).cursor.revision)
            for path in tmp_path.glob("state.db*"):
                if path.is_file():
                    path.unlink()
            await one.until(lambda: report.read(str(tmp_path)).held_now == 30)
            assert len(one.table.view["apps"]) == 30
            await commands.apply_app(one.store, http_app("new"))
            await one.until(lambda: "new" in one.table.view["apps"])
            await commands.remove_app(one.store, "a0")
            await one.until(lambda: "a0" not in one.table.view["apps"])
            assert len(one.table.view["apps"]) == 30
    run(work())


def test_a_full_table_is_told_with_the_setting_and_cured_by_room(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path, machines=2) as one:
            await commands.apply_app(one.store, http_app("hello"))
            for n in range(3):
                last = await commands.add_machine(one.store, "hello", "10.0.0.1", region="ams", host="", id=f"m{n}")
            await one.served(last)
            told = await one.until(lambda: report.read(str(tmp_path)).quarantined)
            assert (told[0].key, told[0].no_room) == ("machine.m2", True)
            assert "raise table.machines" in told[0].reason
            await one.served(await commands.remove_machine(one.store, "m0"))
            assert one.table.view["machines"].keys() == {"m1", "m2"}
            await one.until(lambda: report.read(str(tmp_path)).quarantined_now == 0)
    run(work())


def test_a_commit_that_finds_no_memory_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyproxy.state.session.COMMIT_AGAIN", 0.02)
    async def work() -> None:
        async with running(tmp_path) as one:
            await one.until(lambda: one.messages("ready"))
            one.table.failing_commits = 2
            revision = await commands.apply_app(one.store, http_app("hello"))
            await one.served(revision)
            assert one.table.view["apps"].keys() == {"hello"}
            assert one.table.failing_commits == 0
    run(work())


def test_a_record_that_kills_the_process_twice_is_skipped_the_third_time(tmp_path: Path) -> None:
    async def start() -> Running:
        one = Running(tmp_path)
        one.table.breaks_on = {"poison.example"}
        return one

    async def work() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        await commands.apply_app(store, http_app("hello"))
        await commands.add_hostname(store, "poison.example", "hello")
        await commands.add_hostname(store, "sound.example", "hello")
        for _ in range(2):
            one = await start()
            with pytest.raises(ExceptionGroup):
                await one.until(lambda: False)
            await one.store.close()
        one = await start()
        await one.until(lambda: one.messages("ready"))
        assert one.table.view["hostnames"] == {"sound.example": "hello"}
        (entry,) = report.read(str(tmp_path)).quarantined
        assert (entry.key, "crashed" in entry.reason) == ("host.poison.example", True)
        one.table.breaks_on = set()
        await commands.remove_hostname(store, "poison.example")
        await one.served(await commands.add_hostname(store, "poison.example", "hello"))
        assert "poison.example" in one.table.view["hostnames"]
        await one.stop()
        await store.close()
    run(work())


def test_a_full_disk_costs_the_files_and_not_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*ignored: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flyproxy.state.session.SAVE_EVERY", 0.01)
    monkeypatch.setattr("flyproxy.state.last_good.write_whole", full)
    monkeypatch.setattr("flyproxy.state.report.write_whole", full)
    async def work() -> None:
        async with running(tmp_path) as one:
            await one.served(await commands.apply_app(one.store, http_app("hello")))
            await one.served(await one.store.put("g", "app.bad", b"garbage"))
            await one.served(await commands.apply_app(one.store, http_app("world")))
            assert one.table.view["apps"].keys() == {"hello", "world"}
            assert last_good.load(str(tmp_path), "g") == (None, [])
            monkeypatch.undo()
            await one.served(await one.store.put("g", "app.worse", b"garbage"))
            await one.until(lambda: report.read(str(tmp_path)).quarantined_now == 2)
        assert last_good.load(str(tmp_path), "g")[0] is not None
    run(work())


def test_orphans_wait_for_their_app_across_commits(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as one:
            record = encode(Hostname(VERSION, "a.example", "late"))
            await one.served(await one.store.put("g", "host.a.example", record))
            assert one.table.view["hostnames"] == {}
            await one.served(await commands.apply_app(one.store, http_app("late")))
            assert one.table.view["hostnames"] == {"a.example": "late"}
            assert report.read(str(tmp_path)).quarantined == []
    run(work())


def test_a_failing_store_leaves_the_table_and_comes_back(tmp_path: Path, failures: list[str]) -> None:
    async def work() -> None:
        async with running(tmp_path) as one:
            await one.served(await commands.apply_app(one.store, http_app("hello")))
            other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
            other.execute("ALTER TABLE kv RENAME TO hidden")
            await one.until(lambda: sorted(failures) == ["g", "r-ams"])
            assert not one.task.done()
            assert one.table.view["apps"].keys() == {"hello"}
            other.execute("ALTER TABLE hidden RENAME TO kv")
            other.close()
            await one.served(await commands.apply_app(one.store, http_app("world")))
            assert one.table.view["apps"].keys() == {"hello", "world"}
    run(work())


def test_the_last_known_good_files_are_written_while_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyproxy.state.session.SAVE_EVERY", 0.02)
    async def work() -> None:
        async with running(tmp_path) as one:
            revision = await commands.apply_app(one.store, http_app("hello"))
            def saved() -> bool:
                found, _ = last_good.load(str(tmp_path), "g")
                return found is not None and found.cursor.revision >= revision
            await one.until(saved)
    run(work())

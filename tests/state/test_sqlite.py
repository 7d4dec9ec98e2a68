"""The SQLite store: conformance, and what is its own: permissions, errors, other processes, crashes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flyproxy.state.sqlite import SqliteStore
from flyproxy.state.store import StateStore, StoreError
from tests.state.conformance import PATIENCE, StoreConformance, run, watching


class TestSqlite(StoreConformance):
    def opened(self, place: Any) -> SqliteStore:
        return SqliteStore(str(place / "state.db"))

    async def expire_cursors(self, store: StateStore) -> None:
        assert isinstance(store, SqliteStore)
        await store.compact(keep=0)

    def replace(self, place: Path) -> None:
        for path in place.glob("state.db*"):
            if path.is_file():
                path.unlink()


def test_the_database_and_its_folder_of_sockets_are_private(tmp_path: Path) -> None:
    async def work() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        await store.put("g", "k", b"v")
        async with watching(store, "g") as watched:
            await watched.next()
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        await store.close()
        assert modes["state.db"] == modes["state.db-wal"] == modes["state.db-shm"] == 0o600
        assert modes["state.db.wake"] == 0o700
    run(work())


def test_what_root_makes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    assert os.geteuid() == 0, "this test changes the owner of a folder; run it as root: sudo make test"
    os.chown(tmp_path, 65534, 65534)
    async def work() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        await store.put("g", "k", b"v")
        async with watching(store, "g") as watched:
            await watched.next()
            assert {path.stat().st_uid for path in tmp_path.iterdir()} == {65534}
        await store.close()
    run(work())


def test_a_full_disk_changes_nothing_and_is_told(tmp_path: Path) -> None:
    async def work() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        await store.put("g", "k", b"before")
        pages = store._writing.value("PRAGMA page_count")
        store._writing.value(f"PRAGMA max_page_count={pages}")
        with pytest.raises(StoreError) as full:
            for n in range(100):
                await store.put("g", f"big{n}", bytes(60000))
        assert full.value.code == "store-full"
        assert "free space" in full.value.fix
        assert full.value.where.endswith("state.db")
        assert (await store.get("g", "k") or (b"",))[0] == b"before"
        store._writing.value("PRAGMA max_page_count=1000000")
        await store.put("g", "k", b"after")
        await store.close()
    run(work())


def test_a_database_locked_for_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyproxy.state.database.BUSY_MS", 50)
    async def work() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        await store.put("g", "k", b"v")
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError) as busy:
            await store.put("g", "k", b"w")
        assert busy.value.code == "store-busy"
        assert await store.get("g", "k") is not None, "readers do not wait for writers"
        other.rollback()
        other.close()
        await store.put("g", "k", b"w")
        await store.close()
    run(work())


@pytest.mark.parametrize(("content", "code"), [(b"no database " * 400, "store-corrupt"), (None, "store-unreachable")])
def test_a_file_that_is_no_database_and_a_missing_folder_are_told(
    tmp_path: Path, content: bytes | None, code: str
) -> None:
    path = tmp_path / "folder" / "state.db"
    if content is not None:
        path.parent.mkdir()
        path.write_bytes(content)
    async def work() -> None:
        store = SqliteStore(str(path))
        for attempt in (store.snapshot("g"), store.get("g", "k"), store.put("g", "k", b"v")):
            with pytest.raises(StoreError) as error:
                await attempt
            assert error.value.code == code
            assert str(path) in str(error.value)
        await store.close()
    run(work())


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=99")
    async def work() -> None:
        store = SqliteStore(str(path))
        with pytest.raises(StoreError) as newer:
            await store.snapshot("g")
        assert newer.value.code == "store-newer"
        await store.close()
    run(work())


def test_a_commit_without_a_poke_is_noticed(tmp_path: Path) -> None:
    async def work() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        other = SqliteStore(str(tmp_path / "state.db"))
        other._pokes.folder = str(tmp_path / "nowhere")
        async with watching(store, "g") as watched:
            await watched.next()
            await other.put("g", "k", b"v")
            await watched.until(bool)
        await store.close()
        await other.close()
    run(work())


def test_a_poke_wakes_the_watch_before_it_would_look_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flyproxy.state.sqlite.POLL", PATIENCE * 10)
    async def work() -> None:
        store, other = (SqliteStore(str(tmp_path / "state.db")) for _ in range(2))
        async with watching(store, "g") as watched:
            await watched.next()
            for n in range(3):
                await other.put("g", f"k{n}", b"v")
                await watched.until(lambda changes, n=n: len(changes) == n + 1)  # type: ignore[misc]
        await store.close()
        await other.close()
    run(work())


def test_sockets_of_dead_readers_are_cleared_away(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, sys\n"
        "from flyproxy.state.sqlite import SqliteStore\n"
        "async def main():\n"
        "    store = SqliteStore(sys.argv[1])\n"
        "    await store.subscribe('x', print)\n"
        "    os._exit(0)\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "state.db"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=PATIENCE * 3)
    assert len(list((tmp_path / "state.db.wake").iterdir())) == 1
    async def work() -> None:
        store = SqliteStore(str(path))
        await store.put("g", "k", b"v")
        await store.close()
    run(work())
    assert list((tmp_path / "state.db.wake").iterdir()) == []


def test_writers_killed_at_full_speed_leave_a_sound_database(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from flyproxy.state.sqlite import SqliteStore\n"
        "async def main():\n"
        "    store = SqliteStore(sys.argv[1])\n"
        "    n = 0\n"
        "    while True:\n"
        "        print(await store.put('g', f'k{n % 7}', bytes(5000)), flush=True)\n"
        "        n += 1\n"
        "asyncio.run(main())\n"
    )
    path, last = tmp_path / "state.db", 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            answered = [int(writer.stdout.readline()) for _ in range(20)]
            writer.kill()
            answered += [int(line) for line in writer.stdout.read().splitlines() if line]
        assert answered[0] > last
        last = answered[-1]
    async def work() -> None:
        store = SqliteStore(str(path))
        assert store._reading.value("PRAGMA integrity_check") == "ok"
        snapshot = await store.snapshot("g")
        assert snapshot.cursor.revision >= last
        assert snapshot.cursor.revision == max(revision for _, revision in snapshot.values.values())
        await store.close()
    run(work())


def test_keys_with_a_time_to_live_do_not_outlive_the_boot(tmp_path: Path) -> None:
    async def work() -> None:
        before = SqliteStore(str(tmp_path / "state.db"))
        before._boot = "an earlier boot"
        await before.put("g", "lock", b"me", ttl=1e6)
        await before.close()
        store = SqliteStore(str(tmp_path / "state.db"))
        assert await store.get("g", "lock") is None
        async with watching(store, "g") as watched:
            await watched.until(bool)
            assert [(change.key, change.value) for change in watched.changes] == [("lock", None)]
        await store.close()
    run(work())


def test_a_cancelled_write_leaves_the_store_usable(tmp_path: Path) -> None:
    async def work() -> None:
        store = SqliteStore(str(tmp_path / "state.db"))
        await store.put("g", "k", b"v")
        writes = [asyncio.ensure_future(store.put("g", f"k{n}", b"v")) for n in range(20)]
        await asyncio.sleep(0)
        for write in writes:
            write.cancel()
        await asyncio.gather(*writes, return_exceptions=True)
        assert await store.put("g", "k", b"w") > 1
        assert store._writing.value("PRAGMA integrity_check") == "ok"
        await store.close()
    run(work())

"""The store for one host: a SQLite file that the daemon and ``flyproxyctl --offline`` share.

Reads are done at once, in the loop's thread: with a write-ahead log they wait for nobody. Writes wait for other writers
and for the disk, so they go through one thread of their own, in order. After a commit the other processes are poked; a
reader that missed that sees it at its next look, at most POLL seconds later.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from flyproxy.state.database import Database, boot_id, store_error
from flyproxy.state.poke import MAX_MESSAGE, Pokes
from flyproxy.state.store import Batch, Change, Conflict, Cursor, CursorExpired, Snapshot, StoreError

POLL = 0.2
BATCH = 1000
MAX_VALUE = 64 << 10
TOMBSTONES_KEPT = 24 * 3600.0
COMPACT_EVERY = 3600.0

T = TypeVar("T")
_KEY = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", re.ASCII)
_LIVE = "value IS NOT NULL AND (expires IS NULL OR (boot = ? AND expires > ?))"


class SqliteStore:
    """A StateStore. Belongs to one event loop."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._boot = boot_id()
        self._reading = Database(path)
        self._writing = Database(path)
        self._thread = ThreadPoolExecutor(1, "store-writer")
        self._pokes = Pokes(path)
        self._callbacks: list[tuple[str, Callable[[str, bytes], None]]] = []
        self._wakes: set[asyncio.Event] = set()
        self._look: asyncio.Task[None] | None = None
        self._closed = False

    async def snapshot(self, scope: str, prefix: str = "") -> Snapshot:
        with self._reading.transaction("DEFERRED") as connection:
            cursor = _cursor(connection)
            rows = connection.execute(
                f"SELECT key, value, revision FROM kv WHERE scope = ? AND key >= ? AND key < ? AND {_LIVE}",
                (scope, prefix, prefix + "\x7f", self._boot, _now()),
            )
            return Snapshot({key: (value, revision) for key, value, revision in rows}, cursor)

    async def get(self, scope: str, key: str) -> tuple[bytes, int] | None:
        with self._reading.transaction("DEFERRED") as connection:
            return self._current(connection, scope, key)

    async def watch(self, scope: str, cursor: Cursor) -> AsyncIterator[Batch]:
        self._start()
        wake = asyncio.Event()
        self._wakes.add(wake)
        first = True
        try:
            while not self._closed:
                wake.clear()
                batch, more = self._changes(scope, cursor)
                if first or batch.cursor.revision > cursor.revision:
                    yield batch
                first, cursor = False, batch.cursor
                if not more:
                    await wake.wait()
        finally:
            self._wakes.discard(wake)

    async def put(
        self, scope: str, key: str, value: bytes, *, prev: int | None = None, ttl: float | None = None
    ) -> int:
        _check_key(scope, key)
        if len(value) > MAX_VALUE:
            raise StoreError("record-too-large", f"{key} has {len(value)} bytes, at most {MAX_VALUE} are kept",
                             self.path, "make the record smaller")
        return await self._write(scope, key, value, prev, ttl)

    async def delete(self, scope: str, key: str, *, prev: int | None = None) -> int:
        _check_key(scope, key)
        return await self._write(scope, key, None, prev, None)

    async def publish(self, topic: str, data: bytes) -> None:
        if len(data) > MAX_MESSAGE:
            raise ValueError(f"{len(data)} bytes are more than the {MAX_MESSAGE} of a message")
        self._pokes.send(topic.encode() + b"\0" + data)

    async def subscribe(self, prefix: str, callback: Callable[[str, bytes], None]) -> None:
        self._start()
        self._callbacks.append((prefix, callback))

    async def close(self) -> None:
        self._closed = True
        self._wake_all()
        if self._look is not None:
            self._look.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._look
        self._pokes.close()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._writing.close)
        self._thread.shutdown()
        self._reading.close()

    async def compact(self, keep: float = TOMBSTONES_KEPT) -> None:
        """Clears away tombstones older than ``keep`` seconds; readers that are further behind start over."""
        await self._in_thread(lambda: self._compact(keep))

    def _current(self, connection: sqlite3.Connection, scope: str, key: str) -> tuple[bytes, int] | None:
        row: tuple[bytes, int] | None = connection.execute(
            f"SELECT value, revision FROM kv WHERE scope = ? AND key = ? AND {_LIVE}", (scope, key, self._boot, _now())
        ).fetchone()
        return row

    def _changes(self, scope: str, cursor: Cursor) -> tuple[Batch, bool]:
        """The next changes after ``cursor``, and whether there are more."""
        with self._reading.transaction("DEFERRED") as connection:
            now = _cursor(connection)
            horizon = connection.execute("SELECT value FROM meta WHERE name = 'horizon'").fetchone()[0]
            if now.epoch != cursor.epoch or not horizon <= cursor.revision <= now.revision:
                raise CursorExpired(f"cursor {cursor.revision} of epoch {cursor.epoch} in scope {scope}")
            rows = connection.execute(
                "SELECT key, value, revision FROM kv WHERE scope = ? AND revision > ? ORDER BY revision LIMIT ?",
                (scope, cursor.revision, BATCH),
            )
            changes = [Change(*row) for row in rows]
        if len(changes) < BATCH:
            return Batch(changes, now), False
        return Batch(changes, Cursor(now.epoch, changes[-1].revision, now.saved)), True

    async def _write(self, scope: str, key: str, value: bytes | None, prev: int | None, ttl: float | None) -> int:
        def write() -> int:
            with self._writing.transaction("IMMEDIATE") as connection:
                if prev is not None:
                    current = self._current(connection, scope, key)
                    if prev != (found := current[1] if current else 0):
                        raise Conflict(key, found)
                return self._store(connection, scope, key, value, ttl)

        revision = await self._in_thread(write)
        self._pokes.send()
        return revision

    def _store(
        self, connection: sqlite3.Connection, scope: str, key: str, value: bytes | None, ttl: float | None
    ) -> int:
        revision: int = connection.execute(
            "UPDATE meta SET value = value + 1 WHERE name = 'revision' RETURNING value"
        ).fetchone()[0]
        expires, boot = (_now() + ttl, self._boot) if ttl is not None else (None, None)
        connection.execute(
            "INSERT OR REPLACE INTO kv(scope, key, revision, value, at, expires, boot) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (scope, key, revision, value, time.time(), expires, boot),
        )
        return revision

    def _expire(self) -> bool:
        """Turns what has outlived its time into tombstones; True when there was any."""
        with self._writing.transaction("IMMEDIATE") as connection:
            rows = connection.execute(
                "SELECT scope, key FROM kv WHERE expires IS NOT NULL AND (boot <> ? OR expires <= ?)",
                (self._boot, _now()),
            ).fetchall()
            for scope, key in rows:
                self._store(connection, scope, key, None, None)
            return bool(rows)

    def _compact(self, keep: float) -> None:
        with self._writing.transaction("IMMEDIATE") as connection:
            stale, old = "FROM kv WHERE value IS NULL AND at <= ?", (time.time() - keep,)
            newest = connection.execute(f"SELECT max(revision) {stale}", old).fetchone()[0]
            if newest is not None:
                connection.execute(f"DELETE {stale}", old)
                connection.execute("UPDATE meta SET value = max(value, ?) WHERE name = 'horizon'", (newest,))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        # One thread, so a caller that was cancelled leaves no half transaction for the next one to find.
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _start(self) -> None:
        if self._look is None:
            try:
                self._reading.connection()
                self._pokes.listen(self._message)
            except OSError as error:
                raise store_error(error, self.path) from error
            self._look = asyncio.get_running_loop().create_task(self._keep_looking())

    def _message(self, data: bytes) -> None:
        if not data:
            self._wake_all()
            return
        topic, separator, content = data.partition(b"\0")
        name = topic.decode(errors="replace")
        for prefix, callback in self._callbacks:
            if separator and name.startswith(prefix):
                callback(name, content)

    def _wake_all(self) -> None:
        for wake in self._wakes:
            wake.set()

    async def _keep_looking(self) -> None:
        """Notices commits whose poke was lost, files that were replaced, and keys whose time is up."""
        seen, compacted, expiry = None, _now(), 0.0
        while True:
            try:
                version = (self._reading.value("PRAGMA data_version"), self._reading.identity)
                if version != seen:
                    seen = version
                    self._wake_all()
                    expiry = self._next_expiry()
                if _now() >= expiry and await self._in_thread(self._expire):
                    self._pokes.send()
                if _now() >= compacted + COMPACT_EVERY:
                    compacted = _now()
                    await self.compact()
            except StoreError:
                # The watches hit the same error and tell their readers.
                seen, expiry = None, float("inf")
                self._wake_all()
            await asyncio.sleep(min(POLL, max(0.001, expiry - _now())))

    def _next_expiry(self) -> float:
        foreign = self._reading.value(
            "SELECT 1 FROM kv WHERE expires IS NOT NULL AND boot <> ? LIMIT 1", self._boot
        )
        soonest = self._reading.value("SELECT min(expires) FROM kv WHERE expires IS NOT NULL")
        return 0.0 if foreign else float("inf") if soonest is None else float(soonest)


def _cursor(connection: sqlite3.Connection) -> Cursor:
    meta = dict(connection.execute("SELECT name, value FROM meta WHERE name IN ('epoch', 'revision')"))
    return Cursor(meta["epoch"], meta["revision"], time.time())


def _check_key(scope: str, key: str) -> None:
    for text in (scope, key):
        if len(text) > 320 or _KEY.fullmatch(text) is None:
            raise ValueError(f"{text[:80]!r} is not a key: words of a-z, 0-9, _ and -, joined by dots")


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)

"""One connection to the SQLite file: opening it, what it holds, and what its errors mean.

    kv    the newest value of each key; value NULL is a tombstone; revisions come from one counter over all scopes
    meta  epoch (new with every new file), revision (the counter), horizon (tombstones up to it may be gone)

Write-ahead logging, so readers never wait for a writer; it needs a local disk. ``synchronous=FULL``: a commit that was
answered outlives a power cut. Deadlines of keys are CLOCK_BOOTTIME of one boot: no change of the wall clock moves
them, and whoever held a lock did not live through a restart of the machine.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flyproxy.state.files import make_file
from flyproxy.state.store import StoreError

SCHEMA = 1
APPLICATION = 0x666C7970  # "flyp"
BUSY_MS = 5000
WAL_TRIES, WAL_PAUSE_S = 50, 0.02

_TABLES = (
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE kv(scope TEXT, key TEXT, revision INTEGER NOT NULL, value BLOB, at REAL NOT NULL, expires REAL,"
    " boot TEXT, PRIMARY KEY(scope, key)) WITHOUT ROWID",
    "CREATE UNIQUE INDEX kv_revision ON kv(scope, revision)",
    "CREATE INDEX kv_expires ON kv(expires) WHERE expires IS NOT NULL",
    "CREATE INDEX kv_tombstones ON kv(at) WHERE value IS NULL",
    "INSERT INTO meta VALUES ('revision', 0), ('horizon', 0)",
)

_MEANINGS = {
    sqlite3.SQLITE_FULL: ("store-full", "free space on this disk; nothing was changed"),
    sqlite3.SQLITE_BUSY: ("store-busy", "another process holds the database; end it if it hangs (see fuser)"),
    sqlite3.SQLITE_LOCKED: ("store-busy", "another process holds the database; end it if it hangs (see fuser)"),
    sqlite3.SQLITE_CORRUPT: ("store-corrupt", "move the file away and apply the apps again, or restore a backup"),
    sqlite3.SQLITE_NOTADB: ("store-corrupt", "this is no SQLite file; move it away, or name another in [state] url"),
    sqlite3.SQLITE_CANTOPEN: ("store-unreachable", "check that the folder exists and that this user may write it"),
    sqlite3.SQLITE_PERM: ("store-unreachable", "check that this user may read and write the file"),
    sqlite3.SQLITE_READONLY: ("store-unreachable", "check that this user may write the file and its folder"),
    sqlite3.SQLITE_IOERR: ("store-io", "check the disk: dmesg"),
}


def store_error(error: sqlite3.Error | OSError, path: str) -> StoreError:
    """The same, as operators should see it."""
    if isinstance(error, OSError):
        return StoreError("store-unreachable", error.strerror or str(error), path,
                          "check that the folder exists and that this user may write it")
    number = getattr(error, "sqlite_errorcode", 0) & 0xFF
    code, fix = _MEANINGS.get(number, ("store-failed", "see the message"))
    return StoreError(code, str(error), path, fix)


class Database:
    """A connection that notices when the file under it was replaced. Not for two threads at once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self.identity = (0, 0)

    def connection(self) -> sqlite3.Connection:
        """The open connection, made anew when another file stands at the path. Raises StoreError."""
        try:
            if self._connection is not None and self.identity == self._on_disk():
                return self._connection
            self.close()
            make_file(self.path)
            self.identity = self._on_disk()
            self._connection = self._open()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise store_error(error, self.path) from error
        return self._connection

    @contextlib.contextmanager
    def transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        """A transaction, ``DEFERRED`` to read or ``IMMEDIATE`` to write; rolled back on any error."""
        connection = self.connection()
        try:
            connection.execute(f"BEGIN {kind}")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.rollback()
            raise store_error(error, self.path) from error

    def value(self, sql: str, *parameters: Any) -> Any:
        """The first column of the first row, None when there is none. Raises StoreError."""
        try:
            row = self.connection().execute(sql, parameters).fetchone()
        except sqlite3.Error as error:
            raise store_error(error, self.path) from error
        return row[0] if row else None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _on_disk(self) -> tuple[int, int]:
        with contextlib.suppress(FileNotFoundError):
            stat = os.stat(self.path)
            return stat.st_dev, stat.st_ino
        return (0, 0)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
        try:
            if _to_wal(connection) != "wal":
                raise StoreError("store-unreachable", "this file system has no shared memory for SQLite's log",
                                 self.path, "put the state folder on a local disk: [paths] state")
            connection.execute("PRAGMA synchronous=FULL")
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if self._schema(connection) == SCHEMA:
            return
        connection.execute("BEGIN IMMEDIATE")
        found = self._schema(connection)
        if found == 0:
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute("INSERT INTO meta VALUES ('epoch', ?)", (secrets.token_hex(8),))
            connection.execute(f"PRAGMA user_version={SCHEMA}")
            connection.execute(f"PRAGMA application_id={APPLICATION}")
        connection.commit()
        if found > SCHEMA:
            raise StoreError("store-newer", f"the file has schema {found}, this version reads {SCHEMA}", self.path,
                             "run the newer flyproxy, or move the file away and apply the apps again")

    @staticmethod
    def _schema(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def boot_id() -> str:
    """Names this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _to_wal(connection: sqlite3.Connection) -> str:
    """The journal mode after the switch. Two that open a new file at once may both be told that it is locked: SQLite
    does not wait there, since waiting could deadlock (sqlite3_busy_handler), so it is tried again."""
    for _ in range(WAL_TRIES):
        try:
            return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(WAL_PAUSE_S)
    return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])

"""The interface of a state store. Every backend passes tests/state/conformance.py; nothing else is promised of one.

Revisions are comparable only within one scope and epoch. A watch delivers every change after its cursor, in order, the
newest value of a key only; if it cannot (the store was replaced, or tombstones were already cleared away) it raises
CursorExpired, and the caller takes a snapshot. A deleted key leaves a tombstone, so that whoever comes back learns
of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, Protocol

import msgspec


class Change(NamedTuple):
    """A key and its newest value, None when deleted, at a revision."""

    key: str
    value: bytes | None
    revision: int


class Cursor(msgspec.Struct, frozen=True):
    """How far a reader has come in one scope; ``saved`` is the wall clock's time, for people."""

    epoch: str
    revision: int
    saved: float


class Batch(NamedTuple):
    """Changes, and the cursor after them. Empty: alive and caught up to the cursor."""

    changes: list[Change]
    cursor: Cursor


class Snapshot(NamedTuple):
    """Everything that a scope holds: key → (value, revision)."""

    values: dict[str, tuple[bytes, int]]
    cursor: Cursor


class StoreError(Exception):
    """The store cannot do it now. ``code`` is stable, ``fix`` says what an operator can do."""

    def __init__(self, code: str, message: str, where: str, fix: str) -> None:
        super().__init__(f"{message} ({where}); {fix}")
        self.code = code
        self.message = message
        self.where = where
        self.fix = fix


class Conflict(Exception):
    """Somebody else has changed the key; ``revision`` is what it has now, 0 when it does not exist."""

    def __init__(self, key: str, revision: int) -> None:
        super().__init__(f"{key} is at revision {revision}")
        self.key = key
        self.revision = revision


class CursorExpired(Exception):
    """The changes after this cursor are no longer known; take a snapshot."""


class StateStore(Protocol):
    """Keys are dot-separated words of ``a-z 0-9 _ -``; values at most 64 KiB. All calls may raise StoreError."""

    async def snapshot(self, scope: str, prefix: str = "") -> Snapshot:
        """Everything in ``scope``, or what is below ``prefix`` ("app."), and the cursor to watch from."""

    async def get(self, scope: str, key: str) -> tuple[bytes, int] | None:
        """The value of one key and its revision."""

    def watch(self, scope: str, cursor: Cursor) -> AsyncIterator[Batch]:
        """Changes after ``cursor``, for ever. Raises CursorExpired."""

    async def put(
        self, scope: str, key: str, value: bytes, *, prev: int | None = None, ttl: float | None = None
    ) -> int:
        """Writes and returns the revision. ``prev`` None: whatever is there; 0: only if nothing is; N: only over
        revision N; else raises Conflict. After ``ttl`` seconds the key deletes itself."""

    async def delete(self, scope: str, key: str, *, prev: int | None = None) -> int:
        """Writes a tombstone, also over nothing, and returns its revision. ``prev`` as for put."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Tells whoever listens now; at most once, may be lost."""

    async def subscribe(self, prefix: str, callback: Callable[[str, bytes], None]) -> None:
        """Calls ``callback(topic, data)`` for what is published under ``prefix``."""

    async def close(self) -> None:
        """Ends all watches; nothing may be called after it."""
